"""Reads a state's journal back at the start: counters from the newest snapshot on, and the rows that the index lacks.

Changes no segment. A torn tail and what is damaged in the middle are copied aside, and what stands behind the damage counts.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy.admit.counters import Counters
from proxy.admit.journal import HEADER, read_frames, segments
from proxy.admit.place import StateProblem
from proxy.admit.records import COLUMNS, ClockMark, Fold, Position, Values
from proxy.admit.snapshots import Snapshot, check_version, read_snapshot, snapshots

UNKNOWN = ClockMark()


@dataclass(slots=True)
class Replayed:
    next_number: int = 1
    previous: int = 0  # the newest segment that can be read
    torn_bytes: int = 0
    damaged_bytes: int = 0
    clock: ClockMark = UNKNOWN
    rows: list[tuple[list[Values], Position]] = field(default_factory=list)  # in order; each list with the position behind it


@dataclass(slots=True)
class Segment:
    number: int
    path: Path
    begin: int  # of its records, behind its head
    columns: tuple[str, ...]  # empty: the head is damaged
    previous: int | None  # None: version 1, or the head is damaged
    clock: ClockMark
    snapshot: Snapshot | None  # of version 1


def replay(folder: Path, counters: Counters, indexed: Position) -> Replayed:
    """Brings `counters` to where the last whole record left them. `indexed`: rows up to here are in the index.

    Raises OSError, and StateProblem where no snapshot, or not all segments since, can be read: nobody's budget begins anew unasked.
    """
    found = Replayed()
    files = segments(folder)
    found.next_number = max([indexed[0], *(number for number, _ in (*files, *snapshots(folder)))]) + 1
    read = [it for number, path in files if (it := _head(number, path, found)) is not None]
    base = _base(folder, read)
    if base is None:
        if files or snapshots(folder):
            raise StateProblem(f"the journal in {folder} is damaged: restore it, or move it aside to begin with empty counters")
        return found
    _check_chain(folder, base, read)
    as_of = _restore(counters, base)
    columns = base.columns
    for segment in read:
        columns = segment.columns or columns
        fold = Fold(counters, columns, as_of)
        rows: list[Values] = []
        end = 0
        for record, end in _read(segment, found):
            at = segment.number, end
            if at > indexed and (row := fold.row_of(record)) is not None:
                rows.append(row)
            if at > base.begin:
                fold.apply(record, at)
        if rows:
            found.rows.append((rows, (segment.number, end)))
        latest = max(found.clock.latest_ns, segment.clock.latest_ns, fold.latest_ns)
        found.clock = ClockMark(segment.clock.boot_id, segment.clock.anchor_ns, latest)
    found.previous = max((it.number for it in read), default=0)
    return found


def _base(folder: Path, read: list[Segment]) -> Snapshot | None:
    """The newest snapshot that is whole; nothing at all, where the first segment ever is still here."""
    own = [it.snapshot for it in read if it.snapshot is not None]
    beside = [it for _, path in reversed(snapshots(folder)) if (it := read_snapshot(path)) is not None][:1]
    first = [Snapshot(COLUMNS, (it.number, 0)) for it in read if it.previous == 0]
    return max([*first, *own, *beside], key=lambda it: it.begin, default=None)


def _check_chain(folder: Path, base: Snapshot, read: list[Segment]) -> None:
    """Every segment names the one before it: none that counts may be missing."""
    numbers = {it.number for it in read}
    wanted = {base.begin[0]} | {it.previous for it in read if it.number > base.begin[0] and it.previous is not None}
    if missing := sorted(wanted - numbers):
        raise StateProblem(f"the journal in {folder} lacks its segment {missing[0]}: restore it, or move all aside to begin empty")


def _restore(counters: Counters, base: Snapshot) -> dict[tuple[str, str], Position]:
    fold = Fold(counters, base.columns, {})
    for _, (limit, name, rings, spend) in base.accounts:
        counters.restore(limit, name, rings, spend)
    for record in base.holds:
        counters.hold_again(record[1], fold.hold_of(record))
    return {(account[0], account[1]): at for at, account in base.accounts if at > base.begin}


# -- one segment ---------------------------------------------------------------------------------------------------------


def _head(number: int, path: Path, found: Replayed) -> Segment | None:
    """None for a segment of which nothing can be read: it is kept aside. Raises OSError, StateProblem."""
    data = path.read_bytes()
    first = next(_records(data), None)
    if first is None:
        found.torn_bytes += _aside(path.with_suffix(".torn"), data)
        return None
    begin, head, end = first
    if head[0] == "seg":
        check_version(path, head[1])
        _, _, columns, previous, boot_id, anchor_ns, latest_ns = head
        return Segment(number, path, end, tuple(columns), previous, ClockMark(boot_id, anchor_ns, latest_ns), None)
    if head[:2] == ["snap", 1]:
        _, _, columns, accounts, holds = head
        at = number, end
        snapshot = Snapshot(columns, at, holds, [(at, it) for it in accounts])
        return Segment(number, path, end, tuple(columns), None, UNKNOWN, snapshot)
    return Segment(number, path, begin, (), None, UNKNOWN, None)


def _read(segment: Segment, found: Replayed) -> Iterator[tuple[list[Any], int]]:
    """Its records, each with the offset behind it; one at a time, as all of them are ten times the file. Raises OSError."""
    data, path = segment.path.read_bytes(), segment.path
    good, damaged = 0, b""
    for begin, record, end in _records(data):
        damaged += data[good:begin]
        good = end
        if begin >= segment.begin:
            for one in record[1:] if record[0] == "b" else (record,):
                yield one, end
    found.damaged_bytes += _aside(path.with_suffix(".damaged"), damaged)
    found.torn_bytes += _aside(path.with_suffix(".torn"), data[good:])


def _records(data: bytes) -> Iterator[tuple[int, list[Any], int]]:
    """Where each record begins, itself, and where it ends. Behind damage it goes on at the next whole record."""
    at = 0
    while at < len(data):
        for payload, end in read_frames(data, at):
            try:
                record = orjson.loads(payload)
            except orjson.JSONDecodeError:
                break
            yield at, record, end
            at = end
        at = _next_record(data, at + 1)


def _next_record(data: bytes, at: int) -> int:
    """The offset of the next whole record, or the end."""
    while (found := data.find(b'["', at + HEADER.size)) >= 0:
        begin = found - HEADER.size
        if next(read_frames(data, begin), None) is not None:
            return begin
        at = begin + 1
    return len(data)


def _aside(path: Path, data: bytes) -> int:
    if data:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as aside:
            aside.write(data)
    return len(data)
