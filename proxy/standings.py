"""How a caller stands on its limits, for replies, metrics and alerts. Counts nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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

    @property
    def is_told(self) -> bool:
        """Money has no place in headers that count, and what others use of a shared account is not this caller's to know."""
        return self.kind != "spend" and not self.is_shared


class Terms:
    """Those of all standings of a call, in order. Shared by many calls and known by identity: what follows from them is worked out once.

    How a row of their figures is laid out (`Standings.row`): what remains of the tightest rate, and when it resets; then of each that
    replies tell, in order, what remains of it and, where it has a window, in how many seconds it resets; then the same of the others.
    """

    __slots__ = ("each", "first", "is_plain", "left", "looks", "told", "until", "width")

    def __init__(self, each: tuple[Term, ...]) -> None:
        self.each = each
        self.first = 0 if each else None
        self.left = [0] * len(each)  # by the number of each: where in a row its figures are
        self.until: list[int | None] = [None] * len(each)
        width, self.told = 2, 0
        for n, it in sorted(enumerate(each), key=lambda one: not one[1].is_told):
            self.left[n] = width
            width += 1
            if it.window_s and it.kind != "spend":
                self.until[n] = width
                width += 1
            if it.is_told:
                self.told = width  # up to here replies tell it; 0: nothing
        self.width = width
        # Its number, where it is, what its shares are of (of nothing, none is left), and is it a rate?
        looks = [(n, self.left[n], it.allowed or inf, it.is_rate) for n, it in enumerate(each)]
        is_one = len({it.limit for it in each}) == 1
        if is_one:  # whichever is the tightest, that limit is: rates alone are compared
            looks = [it for it in looks if it[3]]
        self.looks = tuple(looks)
        # One limit of the caller's own, that allows something of all
        self.is_plain = is_one and not any([it.is_shared or not it.allowed for it in each])

    def tightest(self, row: list[int]) -> tuple[int | None, int | None]:
        """The number of the tightest, or of any where all are of one limit; and that of the tightest rate. What remains may be below 0
        in `row`: not of these any more."""
        first, rate = self.first, None
        least = scarcest = inf
        for n, at, amount, is_rate in self.looks:
            share = row[at] / amount
            if share <= least:
                if row[at] < 0:
                    row[at], share = 0, 0.0
                if share < least:
                    first, least = n, share
            if is_rate and share < scarcest:
                rate, scarcest = n, share
        return first, rate


class Standings:
    """How a caller stands on several terms. `row`: the figures, laid out as `Terms` says; of money and of what is not the tightest, what
    remains may be below 0 there. `first`: the number of the tightest, or of any where all are of one limit; `rate`: that of the tightest
    rate. `ends`: by number, when each resets where its row does not tell (Unix seconds)."""

    __slots__ = ("ends", "first", "now_s", "rate", "row", "terms")

    terms: Terms  # these are told by whoever makes it, `standing_at` mostly
    row: list[int]
    now_s: int
    ends: Sequence[int | None]
    first: int | None
    rate: int | None

    @classmethod
    def found(cls, terms: Terms, row: list[int], now_s: int, ends: Sequence[int | None]) -> Standings:
        """Of a row that lacks the figures of its tightest rate. What remains of rates and money may be below 0."""
        standings = standing_at(terms, row, now_s, ends, *terms.tightest(row))
        if (rate := standings.rate) is not None:
            row[0], row[1] = row[terms.left[rate]], standings.resets_at(rate)
        return standings

    @classmethod
    def of(cls, told: Iterable[Standing], now_s: int) -> Standings:
        """`now_s`: Unix seconds."""
        told = tuple(told)
        terms = terms_of(tuple([Term(it.limit, it.kind, it.allowed, it.window_s, it.is_shared) for it in told]))
        row = [0] * terms.width
        for it, left, until in zip(told, terms.left, terms.until, strict=True):
            row[left] = max(0, it.remaining)
            if until is not None:
                row[until] = max(0, it.resets_at - now_s)
        return cls.found(terms, row, now_s, [it.resets_at for it in told])

    def resets_at(self, number: int) -> int:
        """When that one does, in Unix seconds."""
        end, until = self.ends[number], self.terms.until[number]
        return end if end is not None else self.now_s if until is None else self.now_s + self.row[until]

    def __iter__(self) -> Iterator[Standing]:
        left = self.terms.left
        for n, it in enumerate(self.terms.each):
            yield Standing(it.limit, it.kind, it.allowed, max(0, self.row[left[n]]), self.resets_at(n), it.window_s, it.is_shared)


def standing_at(terms: Terms, row: list[int], now_s: int, ends: Sequence[int | None], first: int | None, rate: int | None) -> Standings:
    """A function, as a class that has an __init__ is called through C, and that is dearer by a quarter."""
    standings = Standings()
    standings.terms = terms
    standings.row = row
    standings.now_s = now_s
    standings.ends = ends
    standings.first = first
    standings.rate = rate
    return standings


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def terms_of(each: tuple[Term, ...]) -> Terms:
    return Terms(each)


NO_STANDINGS = Standings.of((), 0)
