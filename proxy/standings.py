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


class Terms:
    """Those of all standings of a call, in order. Shared by many calls and known by identity: what follows from them is worked out once."""

    __slots__ = ("amounts", "each")

    def __init__(self, each: tuple[Term, ...]) -> None:
        self.each = each
        self.amounts = tuple(enumerate([it.allowed or inf for it in each]))  # of nothing, no share is left


class Standings:
    """How a caller stands on several terms: what remains of each and when it resets, as `Standing` has them; and which share remains."""

    __slots__ = ("remaining", "resets_at", "shares", "terms")

    def __init__(self, terms: Terms, left: list[int], resets_at: list[int]) -> None:
        """`left` may be below 0."""
        self.terms, self.remaining, self.resets_at = terms, left, resets_at
        shares: list[float] = []
        for at, amount in terms.amounts:
            if left[at] < 0:
                left[at] = 0
            shares.append(left[at] / amount)
        self.shares = shares

    @classmethod
    def of(cls, told: Iterable[Standing]) -> Standings:
        told = tuple(told)
        terms = terms_of(tuple([Term(it.limit, it.kind, it.allowed, it.window_s, it.is_shared) for it in told]))
        return cls(terms, [it.remaining for it in told], [it.resets_at for it in told])

    def __iter__(self) -> Iterator[Standing]:
        for it, remaining, resets_at in zip(self.terms.each, self.remaining, self.resets_at, strict=True):
            yield Standing(it.limit, it.kind, it.allowed, remaining, resets_at, it.window_s, it.is_shared)


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def terms_of(each: tuple[Term, ...]) -> Terms:
    return Terms(each)


NO_STANDINGS = Standings.of(())
