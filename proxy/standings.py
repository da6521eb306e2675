"""How a caller stands on its limits, for replies, metrics and alerts. Counts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from math import inf
from typing import NamedTuple

from proxy.exchange import value

MILLION = 1_000_000


@value(frozen=True, slots=True)
class Standing:
    """How a caller stands against one claim: for `x-ratelimit-*` and `x-sluice-limit`."""

    limit: str
    kind: str  # requests | tokens | spend | concurrency
    allowed: int
    remaining: int
    resets_at: int  # Unix seconds; 0: never
    window_s: int
    is_shared: bool = False  # the account is not the caller's alone: replies name no amounts

    def reaches(self, share: float) -> bool:
        """Is so much of it (0.8) used and held?"""
        return self.remaining <= self.floor(share)

    def floor(self, share: float) -> int:
        """The most that may remain where so much is used and held."""
        return self.allowed * (MILLION - round(share * MILLION)) // MILLION


class Term(NamedTuple):
    """What is the same of a `Standing` for all who stand there."""

    limit: str
    kind: str
    allowed: int
    window_s: int
    is_shared: bool

    @property
    def is_rate(self) -> bool:
        """Does it count within a window, and for the caller alone?"""
        return self.kind in ("requests", "tokens") and not self.is_shared


class Terms:
    """Those of all standings of a call, in order. Shared by many calls and known by identity: what follows from them is worked out once."""

    __slots__ = ("each", "first", "looks")

    def __init__(self, each: tuple[Term, ...]) -> None:
        self.each = each
        self.first = 0 if each else None
        # Its number, what its shares are of (of nothing, none is left), and is it a rate?
        looks = [(at, it.allowed or inf, it.is_rate) for at, it in enumerate(each)]
        if len({it.limit for it in each}) == 1:  # whichever is the tightest, that limit is: rates alone are compared
            looks = [it for it in looks if it[2]]
        self.looks = tuple(looks)


class Standings:
    """How a caller stands on several terms. `row`: of each what remains, then of each when it resets, as `Standing` has them, then of each
    in how many seconds that is (0: nobody asks, of money and slots). `first`: the number of the tightest, or of any where all are of one
    limit; `rate`: that of the tightest rate."""

    __slots__ = ("first", "rate", "row", "terms")

    def __init__(self, terms: Terms, row: list[int]) -> None:
        """What remains of rates and money may be below 0."""
        first, rate = terms.first, None
        least = scarcest = inf
        for at, amount, is_rate in terms.looks:
            share = row[at] / amount
            if share <= least:
                if row[at] < 0:
                    row[at], share = 0, 0.0
                if share < least:
                    first, least = at, share
            if is_rate and share < scarcest:
                rate, scarcest = at, share
        self.terms = terms
        self.row = row
        self.first = first
        self.rate = rate

    @classmethod
    def of(cls, told: Iterable[Standing], now_s: int) -> Standings:
        """`now_s`: Unix seconds."""
        each: list[Term] = []
        left: list[int] = []
        resets: list[int] = []
        for it in told:
            each.append(Term(it.limit, it.kind, it.allowed, it.window_s, it.is_shared))
            left.append(max(0, it.remaining))
            resets.append(it.resets_at)
        return cls(terms_of(tuple(each)), [*left, *resets, *[max(0, at - now_s) for at in resets]])

    def __iter__(self) -> Iterator[Standing]:
        each = self.terms.each
        for at, it in enumerate(each):
            yield Standing(it.limit, it.kind, it.allowed, max(0, self.row[at]), self.row[at + len(each)], it.window_s, it.is_shared)


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def terms_of(each: tuple[Term, ...]) -> Terms:
    return Terms(each)


NO_STANDINGS = Standings.of((), 0)
