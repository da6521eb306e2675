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
from proxy.admit.posting import ADDED, ALIKE, Group, Line, Lines, Posting

MOST = 16_384  # lines: some 4 MB, and 20 ms to add them to the sums
MOST_ROWS = 2 * MOST  # as many a question may have to read
MOST_GROUPS = 512  # each takes statements of its own; with more of them the rows are read
NOWHERE = -1

_AT, _DAY, _CALLER = map(NAMES.index, ("at", "day", "caller"))
_ALIKE = tuple(map(NAMES.index, ALIKE))
_ADDED = tuple(map(NAMES.index, ADDED))


class Tally:
    """Of one connection, in its thread."""

    def __init__(self) -> None:
        self._sums: dict[Group, Lines] = {}
        self._after = self._through = NOWHERE  # numbers of rows
        self._posting = Posting()

    @property
    def is_full(self) -> bool:
        """Should what it has be posted now?"""
        return self._through - self._after >= MOST_ROWS or sum(map(len, self._sums.values())) >= MOST

    def add(self, chunks: list[Chunk], rows: int, last: int) -> None:
        """Rows that are in the ledger, each for the first time, the last of them with this number."""
        if not rows or last - rows != self._through or len(self._sums) > MOST_GROUPS:
            return
        try:
            for chunk in chunks:
                self._take(chunk)
        except TypeError:  # what no Sluice writes
            self._forget()
        else:
            self._through = last

    def post(self, connection: sqlite3.Connection) -> None:
        """Adds what it has to the sums. Raises sqlite3.Error; then the rows are read."""
        found, after, through = self._sums, self._after, self._through
        self._forget()
        if found:
            self._posting.add(connection, after, through, found)
            self._after = self._through = through

    def advance(self, connection: sqlite3.Connection) -> int:
        """As `sums.advance`. Raises sqlite3.Error."""
        self.post(connection)
        waiting = sums.advance(connection)
        self._after = self._through = NOWHERE if waiting else sums.mark(connection, "summed")
        return waiting

    def _forget(self) -> None:
        self._sums, self._after, self._through = {}, NOWHERE, NOWHERE

    def _take(self, chunk: Chunk) -> None:
        columns, hour = chunk.columns, chunk.first // sums.HOUR_NS
        alike, added = [columns[it] for it in _ALIKE], [columns[it] for it in _ADDED]
        if not chunk.is_placed or chunk.last // sums.HOUR_NS != hour:
            whens = zip(columns[_AT], columns[_DAY], zip(*alike, strict=True), strict=True)
            groups = [self._lines(at // sums.HOUR_NS, day, each) for at, day, each in whens]
            return _add(zip(groups, columns[_CALLER], columns[_AT], repeat(1), *added, strict=False))
        lines = self._lines(hour, columns[_DAY][0], tuple([it[0] for it in alike]))
        if chunk.is_alike:  # as one
            return _add([(lines, columns[_CALLER][0], chunk.first, len(columns[0]), *map(sum, added))])
        return _add(zip(repeat(lines), columns[_CALLER], columns[_AT], repeat(1), *added, strict=False))

    def _lines(self, hour: int, day: str, alike: tuple[Any, ...]) -> Lines:
        return self._sums.setdefault((hour, day, alike), {})


def _add(rows: Iterable[tuple[Any, ...]]) -> None:
    for lines, caller, at, count, input, cached, written, output, reasoning, cost in rows:
        line: Line | None = lines.get(caller)
        if line is None:
            lines[caller] = [0, at, count, input, cached, written, output, reasoning, cost]
            continue
        if at < line[1]:
            line[1] = at
        line[2] += count
        line[3] += input
        line[6] += output
        line[8] += cost
        if cached or written or reasoning:
            line[4] += cached
            line[5] += written
            line[7] += reasoning
