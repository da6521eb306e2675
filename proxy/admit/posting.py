"""Adds what a tally holds to the sums, the lines of many callers by one statement. Reads no row of the ledger.

The number that a caller has in `whos` stays at hand: with many callers, to look it up costs as much as to add the line.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain, compress
from operator import itemgetter
from typing import Any, TypeVar

from proxy.admit import sums
from proxy.admit.inserts import CHUNKS
from proxy.admit.sums import FIGURES, SHIFT, WHO, added

T = TypeVar("T")

MOST_KNOWN = 131_072  # callers whose number is at hand: some 60 bytes each
MOST_KINDS = 64  # of statements whose text is at hand
PLACE = 8  # callers that take as much as what is kept once for all of a team, tier, provider, model and end

ADDED = (*(name for name in FIGURES if name.endswith("_tokens")), "cost_nanousd")  # columns of a row
ALIKE = (*WHO[1:], "kind", "status", "usage_source")  # with hour, day and caller, all that lines are told apart by
_TOLD = ("end", *ALIKE[len(WHO) - 1 :])  # of these FIGURES are made, and of ADDED
_PLACED = len(WHO) - 1

Group = tuple[int, str, tuple[Any, ...]]  # hour, day, ALIKE
Line = list[int]  # its key (0: not known yet), the earliest, how many rows, ADDED
Lines = dict[Any, Line]  # by caller
Known = dict[Any, int]  # by caller

_MADE = {name: "cost_nanousd" if name.endswith("_nanousd") else "rows" for name in FIGURES if name not in ADDED}
_FACTORS = f"""SELECT {", ".join(f"IFNULL({FIGURES[name]}, 0)" for name in _MADE)}
    FROM (SELECT {", ".join(f'? AS "{name}"' for name in _TOLD)}, 1 AS cost_nanousd)"""
_MATCH = " AND ".join(f'"{name}" = ?{number}' for number, name in enumerate(WHO[1:], 1))
_COLUMNS = ("key", "first", "rows", *ADDED)  # of a Line
_NAMES = ", ".join(f'"{name}"' for name in WHO[1:])


class Posting:
    """Of one connection, in its thread."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Known] = {}  # by WHO without the caller

    def add(self, connection: sqlite3.Connection, after: int, through: int, groups: Mapping[Group, Lines]) -> None:
        """All rows from `after`, where the mark of the sums must be, `through` another; else nothing is done. Raises sqlite3.Error,
        and then has changed nothing."""
        known, self._known = self._known, {}  # known again once it is committed
        if sum(map(len, known.values())) + PLACE * len(known) > MOST_KNOWN:
            known.clear()
        with suppress(OverflowError, UnicodeError, sqlite3.IntegrityError):  # what cannot be held as it is: of that the rows are read
            with sums.writing(connection):
                if sums.mark(connection, "summed") == after:
                    for group, lines in groups.items():
                        _post(connection, group, lines, known)
                    sums.set_mark(connection, "summed", through)
            self._known = known


def _post(connection: sqlite3.Connection, group: Group, lines: Lines, known: dict[tuple[Any, ...], Known]) -> None:
    """In the order of the table: so each of its pages is at hand once. What is none in all lines of a statement it leaves as it is."""
    hour, day, alike = group
    placed = tuple(["" if it is None else it for it in alike[:_PLACED]])
    whos = known.setdefault(placed, {})
    if not lines.keys() <= whos.keys():
        _meet(connection, placed, [caller for caller in lines if caller not in whos], whos)
    factors = connection.execute(_FACTORS, alike[_PLACED - 1 :]).fetchone()
    base = sums.slot_of(connection, hour, day) << SHIFT
    for caller, line in lines.items():
        line[0] = base + whos[caller]
    for some in _parts(sorted(lines.values(), key=itemgetter(0))):
        columns = [*zip(*some, strict=True)]
        used = [True, True, True, *map(any, columns[3:])]
        connection.execute(_adding(len(some), factors, *used), [*chain.from_iterable(compress(columns, used))])


def _meet(connection: sqlite3.Connection, placed: tuple[Any, ...], callers: list[Any], whos: Known) -> None:
    """Finds the numbers of those callers, and gives one to each that has none."""
    for some in _parts(callers):
        bound = [*placed, *("" if it is None else it for it in some)]
        found = connection.execute(_finding(len(some)), bound).fetchone()
        if None in found:
            connection.execute(_meeting(len(some)), bound)
            found = connection.execute(_finding(len(some)), bound).fetchone()
        whos.update(zip(some, found, strict=True))


def _parts(them: Sequence[T]) -> Iterator[Sequence[T]]:
    """Of few lengths, as for each there is a statement."""
    at = 0
    for size in CHUNKS:
        while at + size <= len(them):
            yield them[at : at + size]
            at += size


@lru_cache(MOST_KINDS)
def _adding(count: int, factors: tuple[int, ...], *used: bool) -> str:
    """Wants the columns of the lines that are used, one after another."""
    begin = {name: at * count + 1 for at, name in enumerate(compress(_COLUMNS, used))}
    made = {name: column for (name, column), factor in zip(_MADE.items(), factors, strict=True) if factor}
    figures = {name: made.get(name, name) for name in FIGURES if name in made or name not in _MADE}
    into = {"key": "key", "first": "first"} | {name: column for name, column in figures.items() if column in begin}
    lines = [", ".join([f"?{begin[column] + line}" for column in into.values()]) for line in range(count)]
    return f"INSERT INTO totals ({', '.join(into)}) VALUES ({'), ('.join(lines)}) {added([*into][2:])}"


@lru_cache(len(CHUNKS))
def _finding(count: int) -> str:
    return "SELECT " + ", ".join(f"(SELECT who FROM whos WHERE caller = ?{len(WHO) + number} AND {_MATCH})" for number in range(count))


@lru_cache(len(CHUNKS))
def _meeting(count: int) -> str:
    placed = ", ".join(f"?{number}" for number in range(1, len(WHO)))
    return f"INSERT OR IGNORE INTO whos (caller, {_NAMES}) VALUES " + ", ".join(f"(?{len(WHO) + it}, {placed})" for it in range(count))
