"""Accounts as a snapshot has them: those alike side by side, a column to a figure. Forgets nothing itself and reads no clock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress, repeat
from operator import itemgetter
from typing import Any

from proxy.admit.accounts import Account, Balance, Moment, RateKind, Window
from proxy.admit.windows import NS, Bucket, Ring

LATELY_NS = 600 * NS

_last = itemgetter(0)

# Kind, seconds, and of each account the last event, the sum, and the buckets before the newest: see `Ring`
Windows = tuple[RateKind, int, list[tuple[int, int, list[Bucket] | None]]]
Columns = tuple[list[str], list[Windows], list[tuple[str, list[int]]]]  # names, windows, and by period what is settled
Windowed = tuple[RateKind, int, Sequence[Sequence[int]]]  # kind, seconds and buckets of one account
Told = tuple[str, str, Sequence[Windowed], Sequence[tuple[str, int]]]  # as `Counters.restore` takes it


class Alike:
    """Accounts of one limit that have the same windows and periods. Raises KeyError if they have not."""

    def __init__(self, names: list[str], rings: list[dict[Window, Ring]], spend: list[dict[str, Balance]]) -> None:
        self.names = names
        self.windows = [(*key, [(it.last, it.total, it.older) for it in [some[key] for some in rings]]) for key in rings[0]]
        self.money = [(id, [some[id].settled for some in spend]) for id in spend[0]]

    @property
    def columns(self) -> Columns:
        return self.names, self.windows, self.money

    def may_be_past(self, now: Moment) -> bool:
        """Is there one, perhaps, that `is_past`?"""
        first = [(min(map(_last, figures)), now.ns - period_s * NS) for _, period_s, figures in self.windows]
        if any(now.periods.is_past(id) for id, _ in self.money) or any(last <= min(over, now.ns - LATELY_NS) for last, over in first):
            return True
        is_over = not first or any(last <= over for last, over in first)
        return is_over and (not self.money or any(0 in settled for _, settled in self.money))


def alike(book: Mapping[str, Account], names: Sequence[str]) -> list[Alike]:
    """Of these names, those that there are."""
    found = [*map(book.get, names)]
    names, accounts = [*compress(names, found)], [it for it in found if it]
    rings, spend = [it.rings for it in accounts], [it.spend for it in accounts]
    if len({*map(len, rings)}) == len({*map(len, spend)}) == 1:
        with suppress(KeyError):
            return [Alike(names, rings, spend)]
    kinds = [*zip(map(frozenset, rings), map(frozenset, spend), strict=True)]
    apart = []
    for kind in dict.fromkeys(kinds):
        some = [it == kind for it in kinds]
        apart.append(Alike([*compress(names, some)], [*compress(rings, some)], [*compress(spend, some)]))
    return apart


def is_past(account: Account, now: Moment) -> bool:
    """Does nothing count here any more, or is something past? A window that was over only lately is not: its caller may well be back."""
    counts = False
    for ring in account.rings.values():
        if ring.last > now.ns - ring.period_ns:
            counts = True
        elif not ring.is_empty and ring.last < now.ns - LATELY_NS:
            return True
    for id, it in account.spend.items():
        if not it.held and now.periods.is_past(id):
            return True
        counts = counts or it.settled != 0
    return not counts


def rows_of(limit: str, as_of_ns: int, columns: Sequence[Any]) -> Iterator[Told]:
    """Account by account, what counted then; none of those on which nothing did."""
    names, windows, money = columns
    keys = [(kind, period_s, as_of_ns - period_s * NS) for kind, period_s, _ in windows]
    ids = [id for id, _ in money]
    figures = zip(*[rows for _, _, rows in windows], strict=True) if windows else repeat(())
    settled = zip(*[column for _, column in money], strict=True) if money else repeat(())
    for name, some, sums in zip(names, figures, settled, strict=False):
        rings = [(key[0], key[1], _buckets(*it)) for key, it in zip(keys, some, strict=True) if it[0] > key[2]]
        spend = [(id, nanousd) for id, nanousd in zip(ids, sums, strict=True) if nanousd]
        if rings or spend:
            yield limit, name, rings, spend


def _buckets(last: int, total: int, older: Sequence[Sequence[int]] | None) -> Sequence[Sequence[int]]:
    return [*older, (last, total - sum([count for _, count in older]))] if older else [(last, total)]
