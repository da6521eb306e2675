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

    __slots__ = ("each", "looks")

    def __init__(self, each: tuple[Term, ...]) -> None:
        self.each = each
        # Of each: where its figures begin in `Standings.row`, what its shares are of (of nothing, none is left), and is it a rate?
        self.looks = tuple([(3 * at, it.allowed or inf, it.is_rate) for at, it in enumerate(each)])


class Standings:
    """How a caller stands on several terms. `row`: of each in turn what remains and when it resets, as `Standing` has them, and in how
    many seconds that is (0: nobody asks, of money and slots). `shares`: of each which share remains. `first`: where the figures of the
    tightest begin in the row; `rate`: those of the tightest rate."""

    __slots__ = ("first", "rate", "row", "shares", "terms")

    def __init__(self, terms: Terms, row: list[int]) -> None:
        """What remains may be below 0."""
        first = rate = None
        least = scarcest = inf
        shares: list[float] = []
        for at, amount, is_rate in terms.looks:
            share = row[at] / amount
            if share <= least:
                if row[at] < 0:
                    row[at], share = 0, 0.0
                if share < least:
                    first, least = at, share
            if is_rate and share < scarcest:
                rate, scarcest = at, share
            shares.append(share)
        self.terms, self.row, self.shares, self.first, self.rate = terms, row, shares, first, rate

    @classmethod
    def of(cls, told: Iterable[Standing], now_s: int) -> Standings:
        """`now_s`: Unix seconds."""
        each: list[Term] = []
        row: list[int] = []
        for it in told:
            each.append(Term(it.limit, it.kind, it.allowed, it.window_s, it.is_shared))
            row += (it.remaining, it.resets_at, max(0, it.resets_at - now_s))
        return cls(terms_of(tuple(each)), row)

    def __iter__(self) -> Iterator[Standing]:
        for it, remaining, resets_at in zip(self.terms.each, self.row[::3], self.row[1::3], strict=True):
            yield Standing(it.limit, it.kind, it.allowed, remaining, resets_at, it.window_s, it.is_shared)


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def terms_of(each: tuple[Term, ...]) -> Terms:
    return Terms(each)


NO_STANDINGS = Standings.of((), 0)
