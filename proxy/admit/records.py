"""The journal's records as bytes, and their fold back into counters. Does no I/O; takes any value a provider may have sent.

A record is a JSON list: `["e", at, charges]` a call began · `["h", id, at, tokens, nanousd, charges, row]` a hold, the row of most as
`exchange.Begun` since version 3; behind that, since version 4, `at, charges` of its call, where it says too that this began ·
`["x", id, nanousd]` it has grown to so much · `["s", id, tokens, nanousd, row]` settled · `["v", id, row]` voided · `["w", row]` a row
without a hold · `["d", id, job, later, row]` held for a job from now on · `["n"]` nothing.
A segment begins with `["seg", version, columns, number of the one before, boot id, anchor, latest]`; in version 1 with a snapshot,
`["snap", 1, columns, accounts, open holds]`. Snapshots are files of their own since (`snapshots`).
`["b", record, record…]` is some in one, which `replay` takes apart: what was settled between two writes; in version 3, that a call
began, and its hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson

from proxy.admit.accounts import Hold
from proxy.admit.counters import Charge, Counters
from proxy.exchange import Row, crashed

VERSION = 4
COLUMNS = Row._fields
MOST = 2**53  # no attempt has more of anything ($9,007,199): what a provider claims beyond is cut, so that sums stay integers
NOTHING = b'["n"]'

Values = Sequence[Any]  # of a row, in the order of COLUMNS
Position = tuple[int, int]  # in the journal: segment number, offset
Entry = tuple[str, int, orjson.Fragment]  # a call's uid, when it began, and where its request was counted

_INPUT, _OUTPUT, _COST, _AT = map(COLUMNS.index, ("input_tokens", "output_tokens", "cost_nanousd", "at"))
_HELD = ("held_nanousd", "cost_nanousd")  # of an attempt that nobody settles


@dataclass(frozen=True, slots=True)
class ClockMark:
    """What a process tells the next one about time: within one boot of the machine the monotonic clock goes on."""

    boot_id: str = ""  # of the machine; "" is unknown
    anchor_ns: int = 0  # with the monotonic clock: the instant that rates count by
    latest_ns: int = 0  # wall clock, the latest that was seen


def values_of(row: Values) -> Values:
    """The same as JSON has it, and of what is beyond all reason as much as counts."""
    if row[_COST] > MOST or row[_INPUT] > MOST or row[_OUTPUT] > MOST:
        return [min(it, MOST) if type(it) is int and name != "at" else it for name, it in zip(COLUMNS, row, strict=True)]
    return row if type(row) is tuple else row[:]  # JSON has no other


def encode(record: object) -> bytes:
    """Compact JSON. What JSON cannot hold (lone surrogates, integers beyond 64 bits, odd types) is made plain, never an error."""
    try:
        return orjson.dumps(record, default=plain)
    except TypeError:
        return orjson.dumps(tame(record))


def together(records: Sequence[tuple[object, ...]]) -> bytes:
    """One of them, or all as one."""
    try:
        return orjson.dumps(records[0] if len(records) == 1 else ("b", *records), default=plain)
    except TypeError:  # each by itself: what is odd in one changes no other
        each = [encode(it) for it in records]
        return each[0] if len(each) == 1 else b'["b",%b]' % b",".join(each)


def plain(value: object) -> object:
    if type(value) is MappingProxyType:  # every intent holds one
        return value.copy()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    if isinstance(value, Row):
        return values_of(value)
    raise TypeError


def tame(value: object, depth: int = 50) -> object:
    """The nearest thing that JSON and SQLite can hold."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        return max(-MOST, min(value, 2**63 - 1))
    if type(value) is orjson.Fragment:
        value = orjson.loads(orjson.dumps(value))
    if isinstance(value, Mapping | list | tuple):
        if not depth:
            return "…"
        if isinstance(value, Mapping):
            return {str(tame(str(key))): tame(it, depth - 1) for key, it in value.items()}
        return [tame(it, depth - 1) for it in value]
    return (value if isinstance(value, str) else str(value)).encode("utf-8", "replace").decode()


def uncount_record(at: int, charges: Sequence[Charge]) -> bytes:
    """Undoes the entry made at that instant."""
    return encode(("u", at, list(map(tuple, charges))))


def entry_record(entry: Entry) -> bytes:
    return encode(("e", *entry[1:]))


def hold_record(
    id: str, at: int, tokens: int, nanousd: int, charges: orjson.Fragment | Iterable[Charge], row: Values, entry: Entry | None = None
) -> bytes:
    """`charges`: or what they are as JSON, where that is at hand. `entry`: of its call, where no other record says it."""
    said = charges if type(charges) is orjson.Fragment else [tuple(it) for it in charges]
    return encode(("h", id, at, tokens, nanousd, said, row, *(entry[1:] if entry else ())))


def segment_record(previous: int, clock: ClockMark) -> bytes:
    return encode(("seg", VERSION, COLUMNS, previous, clock.boot_id, clock.anchor_ns, clock.latest_ns))


class Fold:
    """Applies the records of one segment, in order. `row_of` alone is for segments older than the snapshot used.

    `as_of`: the position up to which an account of the snapshot stands already; an account without one stands from the beginning.
    """

    def __init__(self, counters: Counters, columns: Sequence[str], as_of: Mapping[tuple[str, str], Position]) -> None:
        self._counters, self._as_of = counters, as_of
        self._columns = tuple(columns)
        self._at = self._columns.index("at")
        self.latest_ns = 0  # of the attempts, wall clock

    def row_of(self, record: list[Any]) -> Values | None:
        """The ledger row that a record writes, if any; an open intent writes none."""
        if record[0] not in ("s", "v", "w", "d") or record[-1] is None:
            return None
        return self._in_order(record[-1])

    def apply(self, record: list[Any], position: Position) -> None:
        match record:
            case ["e", int(at), charges]:
                self._counters.count_requests(self._new(_read_charges(charges), position), at)
            case ["u", int(at), charges]:
                self._counters.uncount_requests(self._new(_read_charges(charges), position), at)
            case ["h", str(), _, _, _, _, row, *entry]:
                self._hold(record, row, entry, position)
            case ["x", str(id), int(nanousd)]:
                if (open_ := self._counters.release(id)) is not None:
                    self._counters.hold_again(id, grown(open_, nanousd))
            case ["d", str(id), str(job), later, _]:
                if (open_ := self._counters.release(id)) is not None and job not in self._counters.holds:
                    self._counters.hold_again(job, self._deferred(job, open_, later))
            case ["s", str(id), int(tokens), int(nanousd), _]:
                self._close(id, tokens, nanousd, position)
            case ["v", str(id), _]:
                self._close(id, 0, 0, position)
            case _:
                pass

    def _hold(self, record: list[Any], row: Values, entry: list[Any], position: Position) -> None:
        if entry:
            self.apply(["e", *entry], position)
        hold = self.hold_of(record)
        self._counters.count_tokens(self._new(hold.charges, position), hold.tokens, hold.at)
        self._counters.hold_again(record[1], hold)
        self.latest_ns = max(self.latest_ns, row[0][_AT] if _is_begun(row) else row[self._at])

    def _close(self, id: str, tokens: int, nanousd: int, position: Position) -> None:
        hold = self._counters.release(id)
        if hold is not None:
            self._counters.settle(hold, self._new(hold.charges, position), tokens, nanousd)

    def _deferred(self, job: str, hold: Hold, later: list[Any]) -> Hold:
        record = hold_record(job, hold.at, hold.tokens, hold.nanousd, hold.charges, self._in_order(later))
        return Hold(hold.at, hold.tokens, hold.nanousd, hold.charges, record)

    def _new(self, charges: tuple[Charge, ...], position: Position) -> Sequence[Charge]:
        """Those whose account does not stand at this position yet."""
        if not self._as_of:
            return charges
        return [it for it in charges if position > self._as_of.get((it.limit, it.account), (0, 0))]

    def hold_of(self, record: list[Any]) -> Hold:
        _, id, at, tokens, nanousd, charges, row, *_ = record
        found = _read_charges(charges)
        return Hold(at, tokens, nanousd, found, hold_record(id, at, tokens, nanousd, found, self._in_order(row)))

    def _in_order(self, row: list[Any]) -> Values:
        if self._columns == COLUMNS or _is_begun(row):
            return row
        named = dict(zip(self._columns, row, strict=False))
        return [named.get(name) for name in COLUMNS]


def grown(hold: Hold, nanousd: int) -> Hold:
    """The same hold of so much money, its intent and its row included."""
    intent = hold.intent
    if intent:
        _, id, at, tokens, _, charges, *_ = orjson.loads(intent)
        row = [nanousd if name in _HELD else it for name, it in zip(COLUMNS, row_held(hold), strict=True)]
        intent = encode(("h", id, at, tokens, nanousd, charges, row))
    return Hold(hold.at, hold.tokens, nanousd, hold.charges, intent)


def row_held(hold: Hold) -> Values:
    """The row that an intent carries for the case that nobody lives to settle it."""
    row = orjson.loads(hold.intent)[6]
    return values_of(crashed(row, hold.nanousd) if _is_begun(row) else row)


def _is_begun(row: Sequence[Any]) -> bool:
    """Is it an `exchange.Begun`?"""
    return type(row[0]) is list


def _read_charges(charges: list[Any]) -> tuple[Charge, ...]:
    return tuple(Charge(limit, account, tuple(rates), tuple(periods)) for limit, account, rates, periods in charges)
