"""The algorithm of admission: every dimension of every claim is checked, and the worst failing one is the refusal.

Changes nothing itself; the same answers for any store that keeps `Counters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from proxy.admit.accounts import Account, Moment, RateKind
from proxy.admit.counters import Counters
from proxy.admit.lines import Where, standings_on
from proxy.admit.periods import NS
from proxy.admit.shape import shape_of
from proxy.policy.plan import Claim, Rate, Spend
from proxy.standings import Standings


class Why(IntEnum):
    """Reasons to refuse, mildest first: the worst one answers, so that waiting for it is never in vain."""

    IN_FLIGHT = 1
    RATE = 2
    BUDGET = 3
    LARGER = 4  # than the whole limit: never fits
    ZERO = 5  # a limit of 0 refuses every call


@dataclass(frozen=True, slots=True)
class Denied:
    """One failing dimension. `left` and `want` are in the dimension's unit; `wait_ns` 0 where waiting is no help."""

    why: Why
    claim: Claim
    kind: str  # requests | tokens | spend | concurrency
    bound: Rate | Spend | int
    want: int
    left: int
    wait_ns: int = 0
    until_ns: int = 0  # end of the period of a budget; 0: never

    @property
    def weight(self) -> tuple[int, int]:
        return self.why, self.wait_ns


EMPTY = Account()


def denied_entry(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> Denied | None:
    """Why a call may not begin: its request and its slot."""
    return worst(_entry(counters, claims, names, now))


def denied_hold(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment, tokens: int, nanousd: int) -> Denied | None:
    """Why an attempt may not leave: its tokens (estimate) and its money (upper bound, nano-dollars)."""
    return worst(_attempt(counters, claims, names, now, tokens, nanousd))


def worst(found: Sequence[Denied]) -> Denied | None:
    """The one that answers."""
    return max(found, key=lambda it: it.weight, default=None)


def _entry(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> list[Denied]:
    found = []
    for claim, name in zip(claims, names, strict=True):
        limit = claim.limit
        account = counters.find(limit.name, name) or EMPTY
        for rate in limit.requests:
            if no := _rate(claim, account, "requests", rate, 1, now):
                found.append(no)
        most = limit.concurrency
        if most is not None and account.in_flight >= most:
            found.append(Denied(Why.IN_FLIGHT if most else Why.ZERO, claim, "concurrency", most, 1, 0, _slot_wait(account)))
    return found


def _slot_wait(account: Account) -> int:
    """An estimate: slots come free one by one, each after the average stay."""
    return account.stay_ns // account.in_flight if account.in_flight else 0


def _attempt(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment, tokens: int, nanousd: int) -> list[Denied]:
    found = []
    for claim, name in zip(claims, names, strict=True):
        limit = claim.limit
        account = counters.find(limit.name, name) or EMPTY
        for rate in limit.tokens:
            if no := _rate(claim, account, "tokens", rate, tokens, now):
                found.append(no)
        for spend in limit.spend:
            if no := _spend(claim, account, spend, nanousd, now):
                found.append(no)
    return found


def _rate(claim: Claim, account: Account, kind: RateKind, rate: Rate, want: int, now: Moment) -> Denied | None:
    if rate.count == 0:
        return Denied(Why.ZERO, claim, kind, rate, want, 0)
    ring = account.rings.get((kind, rate.period_s))
    if ring is None:
        return Denied(Why.LARGER, claim, kind, rate, want, rate.count) if want > rate.count else None
    wait = ring.wait_ns(want, rate.count, now.ns)
    if wait == 0:
        return None
    if not want:  # how much the call will want is not known yet: told when any that fits the limit does
        wait = ring.empty_at(now.ns) - now.ns
    left = max(0, rate.count - ring.used(now.ns))
    return Denied(Why.LARGER if wait is None else Why.RATE, claim, kind, rate, want, left, wait or 0)


def _spend(claim: Claim, account: Account, spend: Spend, want: int, now: Moment) -> Denied | None:
    """I1: settled + held + want ≤ limit, or no."""
    span = now.periods.span(spend.period)
    balance = account.spend.get(span.id)
    used = balance.settled + balance.held if balance else 0
    if spend.nanousd and used + want <= spend.nanousd:
        return None
    why = Why.ZERO if not spend.nanousd else Why.LARGER if want > spend.nanousd else Why.BUDGET
    return Denied(why, claim, "spend", spend, want, max(0, spend.nanousd - used), until_ns=span.end_ns)


def standings(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> Standings:
    """How a caller stands for reply headers."""
    accounts = [counters.find(claim.limit.name, name) or Account() for claim, name in zip(claims, names, strict=True)]
    where = Where(shape_of(tuple([it.limit for it in claims]), now.periods), accounts)
    return standings_on(where, now.ns, *divmod(now.ns + now.skew_ns, NS))
