"""`rules:` compiled: the settings of one call, where per setting the first matching rule that names it wins. Decides no target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from proxy.exchange import Allow
from proxy.policy.limits import at_limit
from proxy.policy.lookup import Index, Table
from proxy.policy.match import Test, compile_match
from proxy.policy.plan import ENTITIES, Action, BreakerRules, Facts, GuardRules, RetryRules

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel
    from proxy.policy.model_rules import Breaker, Guard, Retry, Rule

MAX_KEPT = 4096  # combinations of matching rules remembered
NEVER_OPENS = BreakerRules(failure_ratio=2.0, consecutive=2**31)  # no share is above 1
GUARD_KEYS = ("restore", "ignore", "uninspected", "on_error")
GUARD_OFF = MappingProxyType({"restore": True, "ignore": (), "uninspected": "flag", "on_error": "block", "pii": {}})  # an empty `Guard`
RETRY_KEYS = ("attempts", "backoff", "budget", "on_errors")
ALLOW_KEYS = ("models", "providers", "regions", "tiers")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the policy and its rules say of one call, but for its targets and limits."""

    guard: GuardRules
    retry: RetryRules
    timeouts: Mapping[str, float]  # what rules name, seconds
    fallback: Table[tuple[str, ...]]
    allow: Allow
    send_to: str | None
    at_limit: Mapping[str, Any]  # what rules name, as fields of a `Limit`


class Exceptions:
    """All rules of one policy."""

    def __init__(self, model: PolicyModel) -> None:
        self._said = [named(rule) for rule in model.rules]
        matchers = [compile_match(rule.match) for rule in model.rules]
        self._index: Index[tuple[int, Test]] = Index()
        for number, matcher in enumerate(matchers):
            self._index.add(matcher, (number, matcher.test))
        self._base = _base(model)
        self.plain = _settings(self._base)
        self._kept: dict[tuple[int, ...], Settings] = {(): self.plain}
        self.reads = frozenset().union(*(matcher.reads for matcher in matchers))
        self.reads_body = not self.reads.isdisjoint({"model", "end_user"})
        self.moves = any("send_to" in said for said in self._said)

    def settings(self, facts: Facts) -> Settings:
        """For a call whose model is known, as far as it names one."""
        if not self._said:
            return self.plain
        matching = tuple([number for number, test in self._index.candidates(facts) if test(facts)])
        found = self._kept.get(matching)
        if found is None:
            found = self._joined(matching)
            if len(self._kept) < MAX_KEPT:
                self._kept[matching] = found
        return found

    def _joined(self, matching: tuple[int, ...]) -> Settings:
        joined: dict[str, object] = {}
        for index in reversed(matching):
            joined.update(self._said[index])
        return _settings({**self._base, **joined})


def named(rule: Rule) -> Mapping[str, object]:
    """Every setting that this rule names, as "guard.pii" → its value. Off names all of its feature's."""
    given = rule.model_fields_set
    found: dict[str, object] = {}
    if "guard" in given:
        found |= _guard(rule.guard)
    if "retry" in given:
        found |= _retry(rule.retry)
    if rule.timeouts is not None:
        found |= {f"timeouts.{name}": getattr(rule.timeouts, name) for name in rule.timeouts.model_fields_set}
    if rule.allow is not None:
        found |= {f"allow.{name}": getattr(rule.allow, name) for name in ALLOW_KEYS if getattr(rule.allow, name) is not None}
    if "fallback" in given:
        found["fallback"] = Table(dict(rule.fallback or {}))
    if rule.send_to is not None:
        found["send_to"] = rule.send_to
    if rule.at_limit is not None:
        found |= {f"at_limit.{name}": value for name, value in at_limit(rule.at_limit, rule.at_limit.model_fields_set).items()}
    return MappingProxyType(found)


def breaker_of(part: Breaker | None) -> BreakerRules:
    """Off never opens."""
    if part is None:
        return NEVER_OPENS
    return BreakerRules(part.window, part.min_requests, part.failure_ratio, part.consecutive, *part.open)


def guard_of(model: PolicyModel) -> GuardRules:
    """Of calls that no rule matches."""
    return _settings(_base(model)).guard


def _guard(part: Guard | None) -> dict[str, object]:
    if part is None:
        return {"guard.pii": MappingProxyType({"default": "off"})}
    found: dict[str, object] = {f"guard.{key}": getattr(part, key) for key in GUARD_KEYS if key in part.model_fields_set}
    if "pii" in part.model_fields_set:
        found["guard.pii"] = part.pii
    return found


def _retry(part: Retry | None) -> dict[str, object]:
    if part is None:
        return {"retry.attempts": 1}
    return {f"retry.{name}": getattr(part, name) for name in part.model_fields_set}


def _base(model: PolicyModel) -> Mapping[str, object]:
    guard, retry = GUARD_OFF if model.guard is None else vars(model.guard), model.retry
    found: dict[str, object] = {f"guard.{key}": guard[key] for key in GUARD_KEYS}
    found |= {"guard.base": guard["pii"], "fallback": Table(dict(model.fallback or {}))}
    if retry is not None:
        found |= {f"retry.{name}": getattr(retry, name) for name in RETRY_KEYS}
    return MappingProxyType(found | ({"retry.attempts": 1} if retry is None else {}))


def _settings(said: Mapping[str, object]) -> Settings:
    timeouts = {key.removeprefix("timeouts."): value for key, value in said.items() if key.startswith("timeouts.")}
    allow = {name: said.get(f"allow.{name}") for name in ALLOW_KEYS}
    return Settings(
        _guard_rules(said),
        _retry_rules(said),
        cast(Mapping[str, float], timeouts),
        cast(Table[tuple[str, ...]], said["fallback"]),
        Allow(**cast(Mapping[str, tuple[str, ...] | None], allow)),
        cast(str | None, said.get("send_to")),
        MappingProxyType({key.removeprefix("at_limit."): value for key, value in said.items() if key.startswith("at_limit.")}),
    )


def entities(base: Mapping[str, Action], over: Mapping[str, Action] = MappingProxyType({})) -> dict[str, Action]:
    """Entity → action; a rule that names `default` replaces the base, else it changes what it names."""
    said: Mapping[str, Action] = over if "default" in over else {**base, **over}
    default = said.get("default", "off")
    every = {entity: said.get(entity, default) for entity in ENTITIES}
    return {entity: action for entity, action in every.items() if action != "off"}


def _guard_rules(said: Mapping[str, object]) -> GuardRules:
    found = entities(cast(Mapping[str, Action], said["guard.base"]), cast(Mapping[str, Action], said.get("guard.pii", {})))
    rest = {key: said[f"guard.{key}"] for key in GUARD_KEYS}
    rest["restore"] = bool(rest["restore"]) and "mask" in found.values()
    return replace(GuardRules(), entities=MappingProxyType(found), **rest)  # type: ignore[arg-type]  # the model has checked each value


def _retry_rules(said: Mapping[str, object]) -> RetryRules:
    rules = RetryRules(attempts=cast(int, said["retry.attempts"]))
    if "retry.backoff" in said:
        low, high = cast(tuple[float, float], said["retry.backoff"])
        rules = replace(rules, backoff_min_s=low, backoff_max_s=high)
    if "retry.budget" in said:
        rules = replace(rules, budget=cast(float, said["retry.budget"]))
    if "retry.on_errors" in said:
        rules = replace(rules, on_errors=frozenset(cast(tuple[str, ...], said["retry.on_errors"])))
    return rules
