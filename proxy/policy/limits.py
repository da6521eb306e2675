"""Tiers, teams and `limits:` compiled to claims: which limits one call must satisfy, on which accounts. Counts nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from proxy.exchange import NOTHING, Caller
from proxy.policy.lookup import Index
from proxy.policy.match import Test, compile_match, fact
from proxy.policy.plan import Claim, Degrade, Facts, Limit
from proxy.refusal import Refusal

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel
    from proxy.policy.model_limits import AtLimit, LimitEntry

Account = Callable[[Facts], str]
NONE = "(none)"
OWN = frozenset({"caller", "key"})  # an account of one caller alone: refusals may name its amounts
AT_LIMIT_KEYS = ("status", "degrade", "stop_streams")
SENT = ("end_user", "header:", "claim:")  # what a request must carry itself: `missing:` decides
ESCAPES = str.maketrans({",": "%2C", "|": "%7C", "%": "%25", **{chr(code): f"%{code:02X}" for code in range(32)}})


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit with the test that finds its calls and the account it is counted on."""

    limit: Limit
    test: Test
    account: Account
    is_early: bool


class Limits:
    """All limits of one policy, indexed so that a call meets those it could match."""

    def __init__(self, model: PolicyModel, *, moves: bool) -> None:
        self._at_limit = at_limit(model.at_limit, AT_LIMIT_KEYS)
        self._tiers = {name: self._limit(f"tier {name}", numbers.given, ("caller",)) for name, numbers in model.tiers.items()}
        self._teams = {
            name: self._limit(f"team {name}", team.given, ("team",), team.at_limit, team.contact) for name, team in model.teams.items()
        }
        self._no_tier = self._limit("tier (none)", {}, ("caller",))
        self.reads: frozenset[str] = frozenset()
        self._bounds: Index[Bound] = Index()
        for entry in model.limits:
            self._add(entry, late=_late(model, moves))
        self.reads_body = any(not bound.is_early for bound in self._bounds)
        self.counts_output = any(limit.tokens or limit.spend for limit in self.all)

    @property
    def all(self) -> tuple[Limit, ...]:
        """Every limit the policy names."""
        return (*self._tiers.values(), *self._teams.values(), *(bound.limit for bound in self._bounds))

    def claims(self, facts: Facts, *, early: bool, at_limit: Mapping[str, Any] = NOTHING) -> tuple[Claim, ...]:
        """What this call must satisfy; `early`: only what headers decide; `at_limit`: what rules say of it, as `at_limit` gives it.

        Raises Refusal 403 `unknown_tier`, `unknown_team`, 400 `missing_end_user`.
        """
        caller = facts.caller
        claims = self._of_tier(caller)
        if caller.team is not None:
            team = self._teams.get(caller.team)
            if team is None:
                raise _unknown("team")
            if _counts(team):
                claims.append(Claim(team, f"team={caller.team.translate(ESCAPES)}"))
        for bound in self._bounds.candidates(facts):
            if (bound.is_early or not early) and bound.test(facts):
                claims.append(Claim(bound.limit, bound.account(facts)))
        if caller.kind == "pass_through":
            claims = [_unbounded(claim) for claim in claims]
        if at_limit:
            claims = [Claim(replace(claim.limit, **at_limit), claim.account) for claim in claims]
        return tuple(claims)

    def _of_tier(self, caller: Caller) -> list[Claim]:
        limit = self._no_tier
        if caller.tier is not None:
            known = self._tiers.get(caller.tier)
            if known is None:
                raise _unknown("tier")
            limit = known
        if caller.overrides:
            numbers: dict[str, Any] = dict(caller.overrides)
            limit = replace(limit, **numbers)
        return [Claim(limit, f"caller={caller.name.translate(ESCAPES)}")] if _counts(limit) else []

    def _limit(
        self, name: str, given: Mapping[str, Any], per: tuple[str, ...], own: AtLimit | None = None, contact: str | None = None
    ) -> Limit:
        said = self._at_limit if own is None else {**self._at_limit, **at_limit(own, own.model_fields_set)}
        return Limit(
            name,
            per,
            requests=given.get("requests") or (),
            tokens=given.get("tokens") or (),
            spend=given.get("spend") or (),
            concurrency=given.get("concurrency"),
            contact=contact,
            is_shared=not OWN & set(per),
            is_unbounded=any(one in ("ip", "end_user") or one.startswith("header:") for one in per),
            **said,
        )

    def _add(self, entry: LimitEntry, *, late: frozenset[str]) -> None:
        limit = self._limit(f"limit {entry.name}", entry.given, entry.per, entry.at_limit)
        matcher = compile_match(entry.match)
        reads = matcher.reads | set(entry.per)
        self.reads |= reads
        self._bounds.add(matcher, Bound(limit, matcher.test, _account(entry), not late & reads))


def _late(model: PolicyModel, moves: bool) -> frozenset[str]:
    """What headers alone do not tell: the model, an end user in the body, the provider where a rule may move the call."""
    late = {"model"}
    if any(source.startswith("body:") for source in model.callers.end_user):
        late.add("end_user")
    return frozenset(late | {"provider"} if moves else late)


def at_limit(part: AtLimit, named: Iterable[str]) -> dict[str, Any]:
    """What these keys of an `at_limit:` say, as fields of a `Limit`."""
    degrade = part.degrade
    said = {
        "status": ("money_status", part.status),
        "degrade": ("degrade", None if degrade is None else Degrade(degrade.from_, MappingProxyType(dict(degrade.models)))),
        "stop_streams": ("stop_streams", part.stop_streams),
    }
    return dict(said[name] for name in named)


def _counts(limit: Limit) -> bool:
    return bool(limit.requests or limit.tokens or limit.spend) or limit.concurrency is not None


def _unbounded(claim: Claim) -> Claim:
    return Claim(replace(claim.limit, is_unbounded=True), claim.account) if OWN & set(claim.limit.per) else claim


def _unknown(kind: str) -> Refusal:
    message = f"this caller's {kind} is not declared in `{kind}s:` of the policy; declare it there or change the key or token"
    return Refusal(403, f"unknown_{kind}", message, should_retry=False)


def _account(entry: LimitEntry) -> Account:
    if entry.per == ("total",) or entry.per == ("instance",):
        return lambda facts, name=entry.per[0]: name  # type: ignore[misc]  # mypy cannot type a default in a lambda
    parts = tuple(partial(_part, per, fact(per), entry.missing == "deny" and per.startswith(SENT), entry.name) for per in entry.per)
    if len(parts) == 1:
        return parts[0]
    return lambda facts: ",".join(part(facts) for part in parts)


def _part(per: str, read: Callable[[Facts], str | None], is_needed: bool, limit: str, facts: Facts) -> str:
    value = read(facts)
    if value is None or value == "":
        if is_needed:
            raise _missing(per, limit)
        return f"{per}={NONE}"
    if len(value) > 128:
        value = "sha256:" + hashlib.sha256(value.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    return f"{per}={value.translate(ESCAPES)}"


def _missing(per: str, limit: str) -> Refusal:
    what = {"end_user": "who the end user is (see `callers: {end_user: …}` of the policy)"}.get(per, f"the {per.replace(':', ' ')}")
    return Refusal(
        400,
        "missing_end_user",
        f"limit {limit} is counted per {per}: the request must say {what}",
        should_retry=False,
        limit=f"limit {limit}",
    )
