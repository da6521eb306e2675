"""The journal's records as bytes, and their fold back into counters. Does no I/O; takes any value a provider may have sent.

A record is a JSON list: `["e", at, charges]` a call began · `["h", id, at, tokens, nanousd, charges, row]` a hold ·
`["s", id, tokens, nanousd, row]` settled · `["v", id, row]` voided · `["w", row]` a row without a hold · `["n"]` nothing.
A segment begins with `["snap", version, columns, accounts, open holds]`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any

import orjson

from proxy.admit.counters import Charge, Counters, Hold, Moment
from proxy.exchange import Row

VERSION = 1
COLUMNS = tuple(it.name for it in fields(Row))
MOST = 2**53  # no attempt has more of anything ($9,007,199): what a provider claims beyond is cut, so that sums stay integers
NOTHING = b'["n"]'

Values = Sequence[Any]  # of a row, in the order of COLUMNS

_values = attrgetter(*COLUMNS)


def values_of(row: Row) -> Values:
    values: Values = _values(row)
    if row.cost_nanousd > MOST or row.input_tokens > MOST or row.output_tokens > MOST:
        return [min(it, MOST) if type(it) is int and name != "at" else it for name, it in zip(COLUMNS, values, strict=True)]
    return values


def encode(record: object) -> bytes:
    """Compact JSON. What JSON cannot hold (lone surrogates, integers beyond 64 bits, odd types) is made plain, never an error."""
    try:
        return orjson.dumps(record, default=_plain)
    except TypeError:
        return orjson.dumps(tame(record))


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    raise TypeError


def tame(value: object, depth: int = 50) -> object:
    """The nearest thing that JSON and SQLite can hold."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return max(-MOST, min(value, 2**63 - 1))
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            return "…"
        if isinstance(value, Mapping):
            return {str(tame(str(key))): tame(it, depth - 1) for key, it in value.items()}
        return [tame(it, depth - 1) for it in value]
    return (value if isinstance(value, str) else str(value)).encode("utf-8", "replace").decode()


def entry_record(at: int, charges: Sequence[Charge]) -> bytes:
    return encode(("e", at, _charges(charges)))


def uncount_record(at: int, charges: Sequence[Charge]) -> bytes:
    """Undoes the entry made at that instant."""
    return encode(("u", at, _charges(charges)))


def hold_record(id: str, at: int, tokens: int, nanousd: int, charges: Sequence[Charge], row: Values) -> bytes:
    return encode(("h", id, at, tokens, nanousd, _charges(charges), row))


def snapshot_record(counters: Counters, now: Moment) -> bytes:
    """All that the segments before it say, so that they may go once their rows are indexed."""
    holds = [orjson.Fragment(hold.intent) for hold in counters.holds.values()]
    accounts = encode(list(counters.snapshot(now)))
    return orjson.dumps(("snap", VERSION, COLUMNS, orjson.Fragment(accounts), holds))


def _charges(charges: Iterable[Charge]) -> list[tuple[object, ...]]:
    return [(it.limit, it.account, it.rates, it.periods) for it in charges]


class Fold:
    """Applies the records of one segment, in order. `row_of` alone is for segments older than the snapshot used."""

    def __init__(self, counters: Counters, columns: Sequence[str]) -> None:
        self._counters = counters
        self._columns = tuple(columns)

    def row_of(self, record: list[Any]) -> Values | None:
        """The ledger row that a record writes, if any; an open intent writes none."""
        if record[0] not in ("s", "v", "w") or record[-1] is None:
            return None
        return self._in_order(record[-1])

    def apply(self, record: list[Any]) -> None:
        match record:
            case ["e", int(at), charges]:
                self._counters.count_requests(_read_charges(charges), at)
            case ["u", int(at), charges]:
                self._counters.uncount_requests(_read_charges(charges), at)
            case ["h", str(id), *_]:
                self._counters.hold(id, self._hold(record))
            case ["s", str(id), int(tokens), int(nanousd), _]:
                self._counters.close(id, tokens, nanousd)
            case ["v", str(id), _]:
                self._counters.close(id, 0, 0)
            case _:
                pass

    def restore(self, snapshot: list[Any]) -> None:
        for limit, name, rings, spend in snapshot[3]:
            self._counters.restore(limit, name, rings, spend)
        for record in snapshot[4]:
            self._counters.hold_again(record[1], self._hold(record))

    def _hold(self, record: list[Any]) -> Hold:
        _, id, at, tokens, nanousd, charges, row = record
        found = _read_charges(charges)
        return Hold(at, tokens, nanousd, found, hold_record(id, at, tokens, nanousd, found, self._in_order(row)))

    def _in_order(self, row: list[Any]) -> Values:
        if self._columns == COLUMNS:
            return row
        named = dict(zip(self._columns, row, strict=False))
        return [named.get(name) for name in COLUMNS]


def is_snapshot(record: list[Any]) -> bool:
    return record[:2] == ["snap", VERSION]


def row_held(hold: Hold) -> Values:
    """The row that an intent carries for the case that nobody lives to settle it."""
    values: Values = orjson.loads(hold.intent)[-1]
    return values


def _read_charges(charges: list[Any]) -> tuple[Charge, ...]:
    return tuple(Charge(limit, account, tuple(rates), tuple(periods)) for limit, account, rates, periods in charges)
