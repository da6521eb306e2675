"""Whatever a policy makes weaker than the default or than itself elsewhere, as sentences. Judges nothing, lists all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from proxy.policy.exceptions import entities, guard_of
from proxy.policy.model import PolicyModel
from proxy.policy.model_limits import Numbers
from proxy.policy.model_rules import Guard, Rule
from proxy.policy.plan import ENTITIES, Rate, Rulebook, Spend

RANK = {"off": 0, "flag": 1, "mask": 2, "block": 3}


def weakenings(rulebook: Rulebook, model: PolicyModel) -> Iterator[str]:
    """One sentence each, in the order of the file."""
    yield from _server(model)
    yield from _callers(rulebook, model)
    for name in ("unmetered", "unknown_price"):
        if (verdict := getattr(model, name)) in ("allow", "flag"):
            yield f"{name}: {verdict} lets calls of unknown cost through a spend limit"
    for limit in model.limits:
        if limit.missing == "shared":
            yield f"limit {limit.name}: missing: shared lets calls pass that do not say who they are counted on"
    if model.guard is not None:
        yield from _guard("guard", model.guard)
    for index, rule in enumerate(model.rules):
        yield from _rule(f"rule {index + 1}", rule, model.rules[index + 1 :], model)


def _server(model: PolicyModel) -> Iterator[str]:
    if "hosts" in model.server.model_fields_set and model.server.hosts is None:
        yield "server.hosts: off accepts any Host (DNS rebinding)"
    for name, provider in model.providers.items():
        if provider.allow_private:
            yield f"providers.{name}.allow_private lets calls go to private addresses, also without TLS"


def _callers(rulebook: Rulebook, model: PolicyModel) -> Iterator[str]:
    callers = model.callers
    if callers.keys or callers.jwt:
        for door, tier in (("anonymous", rulebook.callers.anonymous), ("pass_through", rulebook.callers.pass_through)):
            if tier is not None:
                yield f"callers.{door} is allowed although keys or issuers exist"
    for key in callers.keys:
        tier = key.tier or callers.default_tier
        for name in _loosened(key.overrides, model.tiers.get(tier or "", Numbers())):
            yield f"callers.keys {key.name}: overrides.{name} takes the place of tier {tier}'s"
    for issuer in callers.jwt:
        if not issuer.audience:
            yield f"callers.jwt {issuer.name}: no audience, so that its tokens for other services are accepted"


def _loosened(own: Numbers, tier: Numbers) -> Iterator[str]:
    """The numbers of a tier for which a key's own are not surely as tight."""
    for name, value in own.given.items():
        amounts = _amounts(value)
        if any(period not in amounts or amounts[period] > amount for period, amount in _amounts(tier.given.get(name)).items()):
            yield name


def _amounts(value: tuple[Rate, ...] | tuple[Spend, ...] | int | None) -> Mapping[str | int, int]:
    """By period."""
    if isinstance(value, tuple):
        return {
            one.period if isinstance(one, Spend) else one.period_s: one.nanousd if isinstance(one, Spend) else one.count for one in value
        }
    return {} if value is None else {"": value}


def _guard(where: str, guard: Guard) -> Iterator[str]:
    if guard.on_error == "pass":
        yield f"{where}.on_error: pass lets a call through uninspected when the guard fails"
    if guard.uninspected == "pass":
        yield f"{where}.uninspected: pass lets images, audio and files through unseen and unmarked"
    if guard.ignore:
        yield f"{where}.ignore exempts {', '.join(guard.ignore)}"


def _rule(where: str, rule: Rule, later: tuple[Rule, ...], model: PolicyModel) -> Iterator[str]:
    if "guard" in rule.model_fields_set:
        base = guard_of(model).entities
        own = rule.guard
        over = {"default": "off"} if own is None else own.pii
        now = entities(model.guard.pii if model.guard else {}, over)  # type: ignore[arg-type]  # literals, widened by the display above
        weaker = [entity for entity in ENTITIES if RANK[now.get(entity, "off")] < RANK[base.get(entity, "off")]]
        if weaker:
            yield f"{where}: guard is weaker than the policy's for {', '.join(weaker)}"
        if own is not None:
            yield from _guard(f"{where}: guard", own)
    if rule.allow is not None:
        for name in sorted(rule.allow.model_fields_set):
            if any(other.allow is not None and name in other.allow.model_fields_set for other in later):
                yield f"{where}: allow.{name} takes the place of what later rules allow"
