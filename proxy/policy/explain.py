"""What a policy means, as data for `sluice check`: who meets which limits, what is weaker, which bytes change. Renders nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from proxy.exchange import NANO
from proxy.policy.document import Document
from proxy.policy.exceptions import guard_of
from proxy.policy.match import covers, glob
from proxy.policy.model import PolicyModel
from proxy.policy.model_limits import Numbers
from proxy.policy.model_match import AllowPart, Match
from proxy.policy.plan import GuardRules, Limit, Rulebook
from proxy.policy.problems import path_text
from proxy.policy.spelt import allows_of, degrades_of, spelt_models
from proxy.policy.weakened import weakenings

PERIODS = {60: "min", 3600: "hour", 86400: "day"}
CLUSTER = "+cluster://"
PART = 100  # of a limit: what a grant is at most, beyond what a call needs at once


@dataclass(frozen=True, slots=True)
class CallerLine:
    """One row of the table callers by limits, guard and targets."""

    caller: str
    tier: str
    team: str
    limits: tuple[str, ...]
    guard: str
    targets: str


@dataclass(frozen=True, slots=True)
class Explained:
    """Everything that `sluice check` prints of a clean policy."""

    callers: tuple[CallerLine, ...]
    counted: tuple[str, ...]  # where each limit is counted
    covers: Mapping[str, tuple[str, ...]]  # model name of the policy → known models it covers
    weakenings: tuple[str, ...]
    changes: tuple[str, ...]  # bytes that the policy claims to change
    warnings: tuple[str, ...]


def explain(rulebook: Rulebook, document: Document, known_models: Iterable[str] = ()) -> Explained:
    """`known_models`: the names of the price table, to say what each name of the policy covers."""
    model = document.model
    known = sorted(set(known_models))
    names = sorted(spelt_models(model) | _globs(model))
    return Explained(
        callers=tuple(_callers(rulebook, model)),
        counted=tuple(_counted(rulebook)),
        covers={name: tuple(one for one in known if covers(name)(one)) for name in names},
        weakenings=tuple(weakenings(rulebook, model)),
        changes=tuple(_changes(rulebook, model)),
        warnings=rulebook.warnings,
    )


def numbers_text(limit: Limit) -> str:
    """ "10 requests/min, $5/day, 2 at once"."""
    said = [f"{rate.count:,} requests/{PERIODS[rate.period_s]}" for rate in limit.requests]
    said += [f"{rate.count:,} tokens/{PERIODS[rate.period_s]}" for rate in limit.tokens]
    said += [f"{money(spend.nanousd)}/{spend.period}" for spend in limit.spend]
    if limit.concurrency is not None:
        said.append(f"{limit.concurrency} at once")
    return ", ".join(said) or "no numbers"


def money(nanousd: int) -> str:
    """Exact dollars: $5, $0.50, $0.000001."""
    whole, rest = divmod(nanousd, NANO)
    decimals = f"{rest:09d}".rstrip("0")
    return f"${whole:,}" + (f".{decimals.ljust(2, '0')}" if decimals else "")


def guard_text(guard: GuardRules) -> str:
    """ "mask email, phone; block iban", or off."""
    by_action: dict[str, list[str]] = {}
    for entity, action in guard.entities.items():
        by_action.setdefault(action, []).append(entity)
    return "; ".join(f"{action} {', '.join(entities)}" for action, entities in by_action.items()) or "off"


def match_text(match: Match) -> str:
    """ "team=medical, model=gpt-4o", or every call."""
    parts = [f"{key}={'|'.join(patterns)}" for key, patterns in match.fields_asked.items()]
    if match.not_ is not None:
        parts.append(f"not ({match_text(match.not_)})")
    return ", ".join(parts) or "every call"


@dataclass(frozen=True, slots=True)
class _Who:
    """A caller of the policy, or many: then `tier` and `team` are "claim org" or "its own", with ", else <default>"."""

    name: str
    tier: str | None
    team: str | None = None
    allow: AllowPart | None = None
    overrides: Numbers | None = None
    own: str | None = None  # the provider whose key it brings


def _callers(rulebook: Rulebook, model: PolicyModel) -> Iterator[CallerLine]:
    callers = model.callers
    default = callers.default_tier
    for key in callers.keys:
        who = _Who(key.name, key.tier or default, key.team, key.allow, key.overrides, key.own_provider_key)
        yield _line(rulebook, model, who)
    for issuer in callers.jwt:
        tier = f"claim {issuer.claims.tier.from_}, else {default or 'none'}" if issuer.claims.tier else default
        team = f"claim {issuer.claims.team.from_}" if issuer.claims.team else None
        yield _line(rulebook, model, _Who(f"{issuer.name}:*", tier, team, issuer.allow))
    yield _line(rulebook, model, _Who("(keys minted into the state)", f"its own, else {default or 'none'}", "its own"))
    for name, door in (("anonymous", rulebook.callers.anonymous), ("pass-through:*", rulebook.callers.pass_through)):
        if door is not None:
            yield _line(rulebook, model, _Who(name, door or default))


def _line(rulebook: Rulebook, model: PolicyModel, who: _Who) -> CallerLine:
    limits = tuple(_limits(rulebook, model, who))
    return CallerLine(who.name, who.tier or "-", who.team or "-", limits, _guard(model, who), "; ".join(_targets(model, who)))


def _limits(rulebook: Rulebook, model: PolicyModel, who: _Who) -> Iterator[str]:
    limits = {limit.name: limit for limit in rulebook.limits}
    first, is_open, default = (who.tier or "").partition(", else ")
    limit = limits.get(f"tier {default if is_open else first}")
    numbers = f"{limit.name}: {numbers_text(limit)}" if limit is not None else ""
    if is_open and model.tiers:
        yield "those of its tier" + (f", else {numbers}" if numbers else "")
    elif numbers:
        yield numbers
    if who.overrides is not None and who.overrides.given:
        yield "overrides: " + numbers_text(_limit_of(who.overrides))
    if who.team is not None and who.team not in model.teams and any(is_limiting(limits[f"team {name}"]) for name in model.teams):
        yield "those of its team"
    elif (limit := limits.get(f"team {who.team}")) is not None and is_limiting(limit):
        yield f"{limit.name}: {numbers_text(limit)}"
    for entry in model.limits:
        if _may_match(entry.match, who):
            limit = limits[f"limit {entry.name}"]
            yield f"{limit.name} ({match_text(entry.match)}; per {', '.join(entry.per)}): {numbers_text(limit)}"


def _limit_of(numbers: Numbers) -> Limit:
    return Limit("", (), numbers.requests or (), numbers.tokens or (), numbers.spend or (), numbers.concurrency)


def is_limiting(limit: Limit) -> bool:
    """A team or tier may have no number at all."""
    return bool(limit.requests or limit.tokens or limit.spend) or limit.concurrency is not None


def _may_match(match: Match, who: _Who) -> bool:
    """Could calls of this caller match? What only a call shows (model, path, claims) may."""
    asked = match.fields_asked
    about = (("caller", who.name), ("tier", who.tier), ("team", who.team))
    return all(key not in asked or any(_may_be(pattern, value) for pattern in asked[key]) for key, value in about)


def _may_be(pattern: str, value: str | None) -> bool:
    """`value` may stand for many: "corp:*", "claim org", "its own", "(keys minted …)"."""
    if value is None:
        return False
    is_open = value.startswith(("claim ", "its own", "("))
    return is_open or glob(pattern)(value) or (value.endswith("*") and pattern.startswith(value[:-1]))


def _guard(model: PolicyModel, who: _Who) -> str:
    rules = [index + 1 for index, rule in enumerate(model.rules) if "guard" in rule.model_fields_set and _may_match(rule.match, who)]
    return "; ".join([guard_text(guard_of(model)), *(f"rule {number} may differ" for number in rules)])


def _targets(model: PolicyModel, who: _Who) -> Iterator[str]:
    pass_through = "the provider's, by its own key" if who.name.startswith("pass-through") else "as the call names"
    yield f"own key of {who.own}" if who.own else pass_through
    yield from _allowed("", who.allow)
    if (team := model.teams.get(who.team or "")) is not None:
        yield from _allowed(f"team {who.team}: ", team.allow)
    elif who.team is not None and any(team.allow.model_fields_set for team in model.teams.values()):
        yield "what its team allows"
    for number, rule in enumerate(model.rules, 1):
        if _may_match(rule.match, who):
            yield from _allowed(f"rule {number} ({match_text(rule.match)}): ", rule.allow)
            if rule.send_to is not None:
                yield f"rule {number} ({match_text(rule.match)}): to {rule.send_to}"
    yield from (f"{name} then {', '.join(targets)}" for name, targets in (model.fallback or {}).items())


def _allowed(whose: str, allow: AllowPart | None) -> Iterator[str]:
    for what in ("models", "providers", "regions"):
        if (names := getattr(allow, what, None)) is not None:
            yield f"{whose}only {what} {', '.join(names) or '(none)'}"


def _counted(rulebook: Rulebook) -> Iterator[str]:
    for limit in filter(is_limiting, rulebook.limits):
        place = f"counted in this sidecar only{_times(limit)}"
        if limit.per == ("instance",):
            place = "counted in each process, as it says"
        elif CLUSTER in rulebook.state:
            place = _on_cluster(limit)
        elif rulebook.state.startswith("redis"):
            place = "counted by all sidecars together, in the shared state"
        yield f"{limit.name} (per {', '.join(limit.per)}): {place}"


def _times(limit: Limit) -> str:
    """What a fleet without a shared state would allow."""
    if limit.is_shared and limit.spend:
        amounts = ", ".join(f"{money(spend.nanousd)}/{spend.period}" for spend in limit.spend)
        return f": N replicas may spend N x {amounts}; use a shared state"
    return ": N replicas allow N times as much; use a shared state" if limit.is_shared else ""


def _on_cluster(limit: Limit) -> str:
    """Where the accounts of a limit live, and what their grants can cost (admit/fleet/spaces.py and grants.py)."""
    per = set(limit.per)
    if "team" in per:
        return "counted by all sidecars together, in the slot of the team"
    if per & {"caller", "key"}:
        return "counted by all sidecars together, in the slot of the caller's team, else of the caller"
    bounds = [f"{money(spend.nanousd // PART)} of {money(spend.nanousd)}/{spend.period}" for spend in limit.spend]
    bounds += [f"{rate.count // PART:,} of {rate.count:,} requests/{PERIODS[rate.period_s]}" for rate in limit.requests]
    bounds += [f"{rate.count // PART:,} of {rate.count:,} tokens/{PERIODS[rate.period_s]}" for rate in limit.tokens]
    bounds += [] if limit.concurrency is None else [f"{limit.concurrency // PART:,} of {limit.concurrency:,} at once"]
    return (
        f"granted to each sidecar in parts, as it crosses slots: never over; granted and unused at most {', '.join(bounds)} in each sidecar"
    )


def _changes(rulebook: Rulebook, model: PolicyModel) -> Iterator[str]:
    if rulebook.pricing.inject_max_tokens:
        yield f"generating requests that name no max_tokens: {rulebook.pricing.default_max_tokens:,} is written in"
    asking = [name for name, provider in rulebook.providers.items() if provider.asks_stream_usage]
    yield f"chat streams to {', '.join(asking)}: stream_options.include_usage is asked for, and its extra chunk taken out again"
    yield "cookies are stripped both ways"
    rules = [rule.guard for rule in model.rules if rule.guard is not None]
    if guard_of(model).rewrites or any("mask" in part.pii.values() for part in rules):
        yield "personal data is masked in requests" + (" and restored in answers" if guard_of(model).restore else "")
    for name, provider in rulebook.providers.items():
        yield from _provider_changes(name, [header.decode() for header, _ in provider.set_headers], sorted(provider.remove_headers))
        if provider.credentials:
            yield f"{name}: callers' keys are swapped for {', '.join(credential.name for credential in provider.credentials)}"
        if provider.models:
            yield f"{name}: model names become {', '.join(f'{ours} -> {theirs}' for ours, theirs in provider.models.items())}"
    yield from _at_limit(rulebook, model)
    for index, rule in enumerate(model.rules):
        if rule.send_to:
            yield f"rule {index + 1} sends {match_text(rule.match)} to {rule.send_to}"


def _at_limit(rulebook: Rulebook, model: PolicyModel) -> Iterator[str]:
    for path, degrade in degrades_of(model).items():
        for name, cheaper in degrade.models.items():
            yield f"{path_text(path)}: from {degrade.from_ * 100:g}% of the money on, {name} is answered by {cheaper}"
    if any(limit.stop_streams for limit in rulebook.limits) or any(rule.at_limit and rule.at_limit.stop_streams for rule in model.rules):
        yield "streamed answers end early where the money ends (stop_streams); those that may are passed on uncompressed, event by event"


def _provider_changes(name: str, set_headers: list[str], removed: list[str]) -> Iterator[str]:
    if set_headers:
        yield f"{name}: sets {', '.join(set_headers)}"
    if removed:
        yield f"{name}: removes {', '.join(removed)}"


def _globs(model: PolicyModel) -> frozenset[str]:
    matches = [entry.match for entry in model.limits] + [rule.match for rule in model.rules]
    patterns = {one for match in matches for one in match.model or ()}
    for allow in allows_of(model):
        patterns |= set(allow.models or ())
    return frozenset(one for one in patterns if "*" in one)
