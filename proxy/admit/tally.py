"""Sums of the rows that were just written, in memory, until it is the turn of `sums`. May forget them: then the rows are read.

It has the rows right behind the mark of `sums`, without a gap; they are added by the transaction that moves the mark over them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from itertools import repeat
from typing import Any

from proxy.admit import sums
from proxy.admit.inserts import NAMES, Chunk

MOST = 4096  # of an hour; with more callers the rows are read
NOWHERE = -1

_AT = NAMES.index("at")
_ALIKE = tuple(map(NAMES.index, sums.ALIKE))
_ADDED = tuple(map(NAMES.index, sums.ADDED))

Sums = dict[tuple[object, ...], list[int]]  # by what they are alike in: the earliest, how many, and ADDED


class Tally:
    """Of one connection, in its thread."""

    def __init__(self) -> None:
        self._sums: dict[int, Sums] = {}  # by hour
        self._after = self._through = NOWHERE  # numbers of rows

    def add(self, chunks: list[Chunk], rows: int, last: int) -> None:
        """Rows that are in the ledger, each for the first time, the last of them with this number."""
        if not rows or last - rows != self._through:
            return
        hours = {at // sums.HOUR_NS for chunk in chunks for at in (chunk.first, chunk.last)}
        them = self._sums.setdefault(min(hours), {})
        if len(hours) > 1 or len(them) > MOST or len(self._sums) > 2:
            return
        try:
            for chunk in chunks:
                _add(them, chunk)
        except TypeError:  # what no Sluice writes
            self._forget()
        else:
            self._through = last

    def advance(self, connection: sqlite3.Connection) -> int:
        """As `sums.advance`. Raises sqlite3.Error."""
        found, after, through = self._sums, self._after, self._through
        self._forget()
        if found:
            lines = ((hour, alike, so_far) for hour, them in found.items() for alike, so_far in them.items())
            sums.add(connection, after, through, lines)
        waiting = sums.advance(connection)
        if not waiting:
            self._after = self._through = sums.mark(connection, "summed")
        return waiting

    def _forget(self) -> None:
        self._sums, self._after, self._through = {}, NOWHERE, NOWHERE


def _add(them: Sums, chunk: Chunk) -> None:
    columns = chunk.columns
    alike, added = [columns[it] for it in _ALIKE], [columns[it] for it in _ADDED]
    lines: Iterable[tuple[Any, ...]]
    if chunk.is_alike:  # as one
        lines = [(tuple([it[0] for it in alike]), chunk.first, len(columns[0]), *map(sum, added))]
    else:
        lines = zip(zip(*alike, strict=True), columns[_AT], repeat(1), *added, strict=False)
    find = them.get
    for key, at, count, input, cached, written, output, reasoning, cost in lines:
        so_far = find(key)
        if so_far is None:
            them[key] = [at, count, input, cached, written, output, reasoning, cost]
            continue
        if at < so_far[0]:
            so_far[0] = at
        so_far[1] += count
        so_far[2] += input
        so_far[5] += output
        so_far[7] += cost
        if cached or written or reasoning:
            so_far[3] += cached
            so_far[4] += written
            so_far[6] += reasoning
