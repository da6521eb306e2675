"""Names that must lead somewhere: tiers, teams, providers, targets, issuers. Finds all that do not; knows no keys minted into the state."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from proxy.policy.builtin import BUILT_IN
from proxy.policy.match import glob
from proxy.policy.model import PolicyModel
from proxy.policy.model_match import AllowPart, Match
from proxy.policy.names_providers import Homes, check_provider, check_target, families_of
from proxy.policy.problems import Path
from proxy.policy.spelt import degrades_of
from proxy.policy.wording import did_you_mean

Finding = tuple[Path, str]


@dataclass(frozen=True, slots=True)
class Declared:
    """What the file declares, whatever else is wrong with it."""

    tiers: frozenset[str]
    teams: frozenset[str]
    providers: frozenset[str]
    homes: Homes
    callers: frozenset[str]
    issuers: frozenset[str]
    warnings: list[Finding] = field(default_factory=list)


def check_names(model: PolicyModel, data: Mapping[str, object]) -> tuple[list[Finding], list[Finding]]:
    """(errors, warnings); `data` is the file as read, so that an entry that is wrong in itself still declares its name."""
    declared = Declared(
        tiers=frozenset(_keys(data.get("tiers"))),
        teams=frozenset(_keys(data.get("teams"))),
        providers=frozenset(_keys(data.get("providers"))) | frozenset(BUILT_IN),
        homes=families_of(model),
        callers=frozenset(key.name for key in model.callers.keys),
        issuers=frozenset(_issuers(data.get("callers"))),
    )
    errors = [*_callers(model, declared), *_teams_and_limits(model, declared), *_targets(model, declared), *_rules(model, declared)]
    errors += _degrades(model, declared)
    return errors, declared.warnings


def _keys(data: object) -> Iterator[str]:
    if isinstance(data, dict):
        yield from data


def _issuers(callers: object) -> Iterator[str]:
    entries = callers.get("jwt") if isinstance(callers, dict) else None
    for entry in entries if isinstance(entries, tuple) else (entries,):
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            yield entry["name"]


def _known(path: Path, name: str | None, names: Iterable[str], what: str) -> Iterator[Finding]:
    """An exact name must be among `names`; a glob must match one of them."""
    if name is None or name in (known := sorted(names)):
        return
    if "*" in name:
        if not any(glob(name)(one) for one in known):
            yield path, f"matches no {what} of this policy"
    else:
        yield path, f"no {what} of this name is declared{did_you_mean(name, known)}"


def _twice(names: Iterable[tuple[Path, str | None]], what: str) -> Iterator[Finding]:
    seen: set[str] = set()
    for path, name in names:
        if name is not None and name in seen:
            yield path, f"two {what} of this name; each needs its own"
        elif name is not None:
            seen.add(name)


def _callers(model: PolicyModel, declared: Declared) -> Iterator[Finding]:
    callers = model.callers
    for door in ("anonymous", "pass_through", "default_tier"):
        if (tier := getattr(callers, door)) != "deny":
            yield from _known(("callers", door), tier, declared.tiers, "tier")
    at: Path = ("callers", "keys")
    yield from _twice((((*at, index, "name"), key.name) for index, key in enumerate(callers.keys)), "keys")
    yield from _twice((((*at, index, "hash"), key.hash) for index, key in enumerate(callers.keys)), "callers with one key: hashes")
    for index, key in enumerate(callers.keys):
        yield from _known((*at, index, "tier"), key.tier, declared.tiers, "tier")
        yield from _known((*at, index, "team"), key.team, declared.teams, "team")
        yield from _known((*at, index, "own_provider_key"), key.own_provider_key, declared.homes, "provider")
        yield from _allow((*at, index, "allow"), key.allow, declared)
    at = ("callers", "jwt")
    yield from _twice((((*at, index, "name"), jwt.name) for index, jwt in enumerate(callers.jwt)), "issuers")
    yield from _twice((((*at, index, "issuer"), jwt.issuer) for index, jwt in enumerate(callers.jwt)), "entries for one issuer: issuers")
    for index, jwt in enumerate(callers.jwt):
        yield from _allow((*at, index, "allow"), jwt.allow, declared)
        for claim, names in (("tier", declared.tiers), ("team", declared.teams)):
            mapped = getattr(jwt.claims, claim)
            for value, name in ((mapped.map if mapped else None) or {}).items():
                yield from _known((*at, index, "claims", claim, "map", value), name, names, claim)


def _allow(path: Path, allow: AllowPart, declared: Declared) -> Iterator[Finding]:
    for index, name in enumerate(allow.providers or ()):
        yield from _known((*path, "providers", index), name, declared.providers, "provider")
    for index, name in enumerate(allow.tiers or ()):
        yield from _known((*path, "tiers", index), name, declared.tiers, "tier")


def _teams_and_limits(model: PolicyModel, declared: Declared) -> Iterator[Finding]:
    for name, team in model.teams.items():
        yield from _allow(("teams", name, "allow"), team.allow, declared)
    yield from _twice(((("limits", index, "name"), limit.name) for index, limit in enumerate(model.limits)), "limits")
    for index, limit in enumerate(model.limits):
        yield from _match(("limits", index, "match"), limit.match, declared)
        if "end_user" in limit.per and not model.callers.end_user:
            yield ("limits", index, "per"), "per: end_user needs `callers: {end_user: [header:…]}`, which says who that is"
        if any(one.startswith("claim:") for one in limit.per) and not declared.issuers:
            yield ("limits", index, "per"), "per: claim:… needs an issuer under `callers: {jwt: …}`"


def _match(path: Path, match: Match, declared: Declared) -> Iterator[Finding]:
    kinds = {"team": declared.teams, "tier": declared.tiers, "provider": declared.providers}
    for key, patterns in match.fields_asked.items():
        for index, name in enumerate(patterns):
            if key in kinds:
                yield from _known((*path, key, index), name, kinds[key], key)
            elif key in ("caller", "key") and "*" not in name:
                yield from _caller((*path, key, index), name, declared)
        if key.startswith("claim:") and not declared.issuers:
            yield (*path, key), "no call carries claims: no issuer stands under `callers: {jwt: …}`"
    if match.not_ is not None:
        yield from _match((*path, "not"), match.not_, declared)


def _caller(path: Path, name: str, declared: Declared) -> Iterator[Finding]:
    issuer, colon, _ = name.partition(":")
    if colon and issuer != "pass-through":
        yield from _known(path, issuer, declared.issuers, "JWT issuer")
    elif not colon and name not in declared.callers and name != "anonymous":
        near = did_you_mean(name, declared.callers)
        declared.warnings.append((path, f"no key of this file has this name{near}; one minted with `sluice keys new` may"))


def _targets(model: PolicyModel, declared: Declared) -> Iterator[Finding]:
    for name, entry in model.providers.items():
        yield from check_provider(name, entry)
    if model.default_provider not in declared.homes and model.default_provider not in model.providers:
        yield from _known(("default_provider",), model.default_provider, declared.homes, "provider")
    for key, targets in (model.fallback or {}).items():
        for index, target in enumerate(targets):
            yield from check_target(("fallback", key, index), target, declared.homes, (key,))


def _degrades(model: PolicyModel, declared: Declared) -> Iterator[Finding]:
    for at, degrade in degrades_of(model).items():
        for name, cheaper in degrade.models.items():
            path = (*at, "models", name)
            yield from check_target(path, cheaper, declared.homes, (name,))
            seen, after = {name}, cheaper
            while after not in seen and after in degrade.models:
                seen.add(after)
                after = degrade.models[after]
            if after == name:
                yield path, "leads back to itself: of two models one is the cheaper"


def _rules(model: PolicyModel, declared: Declared) -> Iterator[Finding]:
    for index, rule in enumerate(model.rules):
        at: Path = ("rules", index)
        yield from _match((*at, "match"), rule.match, declared)
        if rule.allow is not None:
            yield from _allow((*at, "allow"), rule.allow, declared)
        for key, targets in (rule.fallback or {}).items():
            for place, target in enumerate(targets):
                yield from check_target((*at, "fallback", key, place), target, declared.homes, (key,))
        if rule.send_to is not None:
            asked = [f"{provider}/" for provider in rule.match.provider or ()] or list(rule.match.model or ())
            yield from check_target((*at, "send_to"), rule.send_to, declared.homes, asked)
