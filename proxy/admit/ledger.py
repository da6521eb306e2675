"""Questions to the ledger: rows and sums, also from beside a running process. Never writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import orjson

from proxy.admit.journal import read_frames, segments
from proxy.admit.place import LEDGER, StateProblem
from proxy.admit.records import COLUMNS
from proxy.admit.sqlite import JSON_COLUMNS, indexed, read_only

T = TypeVar("T")

Grouping = Literal["caller", "model", "team", "day", "provider", "tier"]
SHOWN = tuple(name for name in COLUMNS if name != "id")

SUMS = """
    SUM(kind IN ('first', 'turn')) AS requests, SUM(kind <> 'refusal') AS attempts, SUM(kind = 'refusal') AS refusals,
    SUM(input_tokens) AS input_tokens, SUM(cached_input_tokens) AS cached_input_tokens, SUM(cache_write_tokens) AS cache_write_tokens,
    SUM(output_tokens) AS output_tokens, SUM(reasoning_tokens) AS reasoning_tokens, SUM(cost_nanousd) AS cost_nanousd,
    SUM(CASE WHEN "end" <> 'done' OR status >= 400 THEN cost_nanousd ELSE 0 END) AS failed_cost_nanousd,
    SUM(CASE WHEN usage_source IN ('estimate', 'counted') THEN cost_nanousd ELSE 0 END) AS estimated_cost_nanousd
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """What another process's ledger says, and how many rows its journal holds that are not in the answer yet."""

    rows: list[dict[str, Any]]
    behind: int


def rows_of(connection: sqlite3.Connection, limit: int, since_ns: int | None, caller: str | None) -> list[dict[str, Any]]:
    """The newest `limit` rows, oldest of them first. `since_ns`: begun at or after this instant."""
    names = ", ".join(f'"{name}"' for name in SHOWN)
    where, values = _where(since_ns, None, caller)
    found = connection.execute(f"SELECT {names} FROM rows {where} ORDER BY at DESC, n DESC LIMIT ?", (*values, limit)).fetchall()
    return [_shown(row) for row in reversed(found)]


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    shown = dict(zip(SHOWN, row, strict=True))
    for name in JSON_COLUMNS:
        if shown[name] is not None:
            shown[name] = orjson.loads(shown[name])
    shown["streamed"] = bool(shown["streamed"])
    return shown


def usage_of(
    connection: sqlite3.Connection, by: Grouping, since_ns: int | None = None, until_ns: int | None = None
) -> list[dict[str, Any]]:
    """Sums per `by`, the dearest first (days in order). Nano-dollars; `failed_cost_nanousd` is what broken and failed
    attempts cost, `estimated_cost_nanousd` what rests on our own count; both are part of `cost_nanousd`."""
    if by not in get_args(Grouping):
        raise ValueError(f"by: {', '.join(get_args(Grouping))}")
    where, values = _where(since_ns, until_ns, None)
    order = "1" if by == "day" else "cost_nanousd DESC, attempts DESC, 1"
    cursor = connection.execute(f'SELECT "{by}", {SUMS} FROM rows {where} GROUP BY 1 ORDER BY {order}', values)
    names = [it[0] for it in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in cursor]


def _where(since_ns: int | None, until_ns: int | None, caller: str | None) -> tuple[str, list[object]]:
    asked = [('"at" >= ?', since_ns), ('"at" < ?', until_ns), ('"caller" = ?', caller)]
    used = [(text, value) for text, value in asked if value is not None]
    return ("WHERE " + " AND ".join(text for text, _ in used) if used else ""), [value for _, value in used]


# -- from beside the process that owns the state -------------------------------------------------------------------------


def read_rows(path: Path, limit: int = 100, since_ns: int | None = None, caller: str | None = None) -> Reading:
    """`rows_of` the state in the directory `path`. Raises StateProblem."""
    return _read(path, lambda connection: rows_of(connection, limit, since_ns, caller))


def read_usage(path: Path, by: Grouping, since_ns: int | None = None, until_ns: int | None = None) -> Reading:
    """`usage_of` the state in the directory `path`. Raises StateProblem, ValueError."""
    return _read(path, lambda connection: usage_of(connection, by, since_ns, until_ns))


def _read(path: Path, query: Callable[[sqlite3.Connection], list[dict[str, Any]]]) -> Reading:
    if not (path / LEDGER).exists():
        raise StateProblem(f"there is no ledger in {path}")

    def ask(connection: sqlite3.Connection) -> Reading:
        connection.execute("BEGIN")  # rows and position of one moment
        return Reading(query(connection), _behind(path, indexed(connection)))

    try:
        return read_only(path / LEDGER, ask)
    except (sqlite3.Error, OSError) as problem:
        raise StateProblem(f"the ledger in {path} cannot be read: {problem}") from problem


def _behind(path: Path, position: tuple[int, int]) -> int:
    """Rows of the journal beyond `position`."""
    count = 0
    for number, file in segments(path):
        if number < position[0]:
            continue
        for payload, end in read_frames(file.read_bytes()):
            if (number, end) > position and payload[:4] in (b'["s"', b'["v"', b'["w"'):
                count += orjson.loads(payload)[-1] is not None
    return count
