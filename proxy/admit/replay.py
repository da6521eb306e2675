"""Reads a state's journal back at the start: counters from the newest snapshot on, and the rows that the index lacks.

Changes no segment; a torn tail is copied aside.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from proxy.admit.counters import Counters
from proxy.admit.journal import Position, read_frames, segments
from proxy.admit.place import StateProblem
from proxy.admit.records import Fold, Values, is_snapshot


@dataclass(slots=True)
class Replayed:
    next_number: int = 1
    torn_bytes: int = 0
    rows: list[tuple[list[Values], Position]] = field(default_factory=list)  # in order; each list with the position behind it


def replay(folder: Path, counters: Counters, indexed: Position) -> Replayed:
    """Brings `counters` to where the last whole record left them. `indexed`: rows up to here are in the index.

    Raises OSError, and StateProblem where there are segments and none can be read: nobody's budget begins anew unasked.
    """
    found = Replayed()
    files = segments(folder)
    read = [_read(path, found) for _, path in files]
    whole = [at for at, records in enumerate(read) if records and is_snapshot(records[0][0])]
    if files and not whole:
        raise StateProblem(f"the journal in {folder} is damaged: restore it, or move it aside to begin with empty counters")
    for at in whole:
        number, records = files[at][0], read[at]
        fold = Fold(counters, records[0][0][2])
        if at == whole[-1]:
            fold.restore(records[0][0])
        rows: list[Values] = []
        for record, end in records[1:]:
            if (number, end) > indexed and (row := fold.row_of(record)) is not None:
                rows.append(row)
            if at == whole[-1]:
                fold.apply(record)
        if rows:
            found.rows.append((rows, (number, records[-1][1])))
    if files:
        found.next_number = files[-1][0] + 1
    return found


def _read(path: Path, found: Replayed) -> list[tuple[list[Any], int]]:
    data = path.read_bytes()
    records, good = [], 0
    for payload, end in read_frames(data):
        try:
            record = orjson.loads(payload)
        except orjson.JSONDecodeError:
            break
        records.append((record, end))
        good = end
    if torn := data[good:]:
        found.torn_bytes += len(torn)
        with os.fdopen(os.open(path.with_suffix(".torn"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as aside:
            aside.write(torn)
    return records
