"""Ledger rows as statements of SQLite: what is the same in all rows of one is bound once, in a form made for that. Writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from proxy.admit.records import COLUMNS, Values, encode, tame

CHUNKS = (64, 8, 1)  # rows of one statement: the interpreter lock is let go once for all; few kinds, as SQLite keeps each compiled
MOST_PRICES = 256  # whose text is at hand
NAMES = ("day", *COLUMNS)
AT, DETAIL, PRICE = map(NAMES.index, ("at", "usage_detail", "price_row"))

Shared = tuple[int, ...]  # columns, by number: equal in all rows of a statement
_SELDOM: Shared = tuple(map(NAMES.index, (
    "day", "attempt", "kind", "parent_id", "provider", "operation", "credential", "status", "end", "cached_input_tokens",
    "cache_write_tokens", "reasoning_tokens", "usage_source", "usage_note", "price_row", "policy_generation", "streamed",
)))  # fmt: skip
_PLACED: Shared = tuple(map(NAMES.index, ("team", "tier", "model")))
_CALLER: Shared = (NAMES.index("caller"),)
_MORE = (_SELDOM, _PLACED, _CALLER)  # from form to form
FORMS: tuple[Shared, ...] = tuple(itertools.accumulate(_MORE, initial=()))
_OTHERS = {shared: [column for column in range(len(NAMES)) if column not in shared] for shared in FORMS}


@lru_cache(len(FORMS) + len(CHUNKS))
def insert(count: int, shared: Shared = ()) -> str:
    """Wants the values of the shared columns, then those of the others, row by row."""
    fixed = {column: f"?{number}" for number, column in enumerate(shared, 1)}
    one = ", ".join([fixed.get(column, "?%d") for column in range(len(NAMES))])
    others = range(len(shared) + 1, len(shared) + 1 + count * (len(NAMES) - len(shared)))
    names = ", ".join([f'"{name}"' for name in NAMES])
    return f"INSERT OR IGNORE INTO rows ({names}) VALUES ({'), ('.join([one] * count)})" % tuple(others)


@dataclass(slots=True)
class Chunk:
    """Some rows, by columns as in NAMES; and the statement, with what it wants bound."""

    columns: list[Sequence[Any]]
    first: int  # the earliest, and the latest
    last: int
    statement: str = ""
    bound: list[Any] = field(default_factory=list)
    is_placed: bool = False  # all are of one day, team, model, end
    is_alike: bool = False  # and of one caller


class Inserts:
    """`day_of` names the day of an instant in the policy's zone."""

    def __init__(self, day_of: Callable[[int], str]) -> None:
        self._day_of = day_of
        # Most calls of a model share one price row (`meter.row`): its text, by its identity, which is nobody else's while it stands here
        self._prices: dict[int, tuple[object, str]] = {}

    def of(self, rows: list[Values], *, is_tame: bool) -> Iterator[Chunk]:
        """`is_tame`: every value is made one that SQLite can hold."""
        at = 0
        for size in CHUNKS:
            while at + size <= len(rows):
                chunk = self._chunk(rows[at : at + size])
                columns = chunk.columns
                shared = () if is_tame or size != CHUNKS[0] else _shared(columns)
                bound = [columns[column][0] for column in shared]
                bound += itertools.chain.from_iterable(zip(*[columns[column] for column in _OTHERS[shared]], strict=True))
                chunk.statement, chunk.bound = insert(size, shared), list(map(_storable, bound)) if is_tame else bound
                chunk.is_placed, chunk.is_alike = shared in FORMS[-2:], shared is FORMS[-1]
                yield chunk
                at += size

    def _chunk(self, rows: list[Values]) -> Chunk:
        columns: list[Sequence[Any]] = [(), *zip(*rows, strict=True)]
        instants, prices = columns[AT], columns[PRICE]
        first, last = min(instants), max(instants)
        day = self._day_of(first)
        columns[0] = [day] * len(rows) if day == self._day_of(last) else list(map(self._day_of, instants))
        columns[DETAIL] = [None if detail is None else encode(detail).decode() for detail in columns[DETAIL]]
        if len(set(map(id, prices))) == 1:
            columns[PRICE] = [self._price(prices[0])] * len(rows)
        else:
            columns[PRICE] = list(map(self._price, prices))
        return Chunk(columns, first, last)

    def _price(self, price: object) -> str | None:
        if price is None:
            return None
        known = self._prices.get(id(price))
        if known is None:
            if len(self._prices) >= MOST_PRICES:
                self._prices.clear()
            known = self._prices[id(price)] = price, encode(price).decode()
        return known[1]


def _shared(columns: list[Sequence[Any]]) -> Shared:
    """The longest form that these fit."""
    found: Shared = ()
    count = len(columns[0])
    for form, more in zip(FORMS[1:], _MORE, strict=True):
        for number in more:
            column = columns[number]
            if column.count(column[0]) != count:
                return found
        found = form
    return found


def _storable(value: object) -> object:
    tamed = tame(value)
    return encode(tamed).decode() if isinstance(tamed, list | dict) else tamed
