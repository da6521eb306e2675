"""Questions to the ledger: rows and sums, also from beside a running process. Never writes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import orjson

from proxy.admit.journal import read_frames, segments
from proxy.admit.place import LEDGER, StateProblem
from proxy.admit.records import COLUMNS
from proxy.admit.sqlite import IS_NAMED, JSON_COLUMNS, indexed, read_only
from proxy.admit.sums import FIGURES, figures, mark, row_figures

T = TypeVar("T")

Grouping = Literal["caller", "model", "team", "day", "provider", "tier"]
SHOWN = tuple(name for name in COLUMNS if name != "id")

SUMS = ", ".join(f"SUM({name}) AS {name}" for name in FIGURES if name != "failed_attempts")
TOKENS = ", ".join(f"SUM({name}) AS {name}" for name in FIGURES if name.endswith("_tokens"))
CALL = "rtrim(id, '0123456789')"  # of "<call uid>/<attempt>": what all attempts of a call begin with


@dataclass(frozen=True, slots=True)
class Reading:
    """What another process's ledger says, and how many rows its journal holds that are not in the answer yet."""

    rows: list[dict[str, Any]]
    behind: int
    pruned_ns: int = 0  # up to this instant rows are gone to the archive; sums stay


def rows_of(connection: sqlite3.Connection, limit: int, since_ns: int | None, caller: str | None) -> list[dict[str, Any]]:
    """The newest `limit` rows, oldest of them first. `since_ns`: begun at or after this instant."""
    names = ", ".join(f'"{name}"' for name in SHOWN)
    where, values = _where(since_ns, None, caller)
    found = connection.execute(f"SELECT {names} FROM rows {where} ORDER BY at DESC, n DESC LIMIT ?", (*values, limit))
    return [_shown(row) for row in found][::-1]


def _shown(row: tuple[Any, ...]) -> dict[str, Any]:
    shown = dict(zip(SHOWN, row, strict=True))
    for name in JSON_COLUMNS:
        if shown[name] is not None:
            shown[name] = orjson.loads(shown[name])
    shown["streamed"] = bool(shown["streamed"])
    return shown


def figures_of(connection: sqlite3.Connection, ids: Collection[str]) -> dict[str, tuple[int, int]]:
    """Attempt id → tokens (input and output) and nano-dollars of its row; ids without a row are left out."""
    found: dict[str, tuple[int, int]] = {}
    asked = list(ids)
    for at in range(0, len(asked), 500):
        some = asked[at : at + 500]
        query = f"SELECT id, input_tokens + output_tokens, cost_nanousd FROM rows WHERE id IN ({', '.join('?' * len(some))})"
        found.update({id: (tokens, nanousd) for id, tokens, nanousd in connection.execute(query, some)})
    return found


def usage_of(
    connection: sqlite3.Connection, by: Grouping, since_ns: int | None = None, until_ns: int | None = None
) -> list[dict[str, Any]]:
    """Sums per `by`, the dearest first (days in order). Nano-dollars; `failed_cost_nanousd` is what broken and failed
    attempts cost, `estimated_cost_nanousd` what rests on our own count; both are part of `cost_nanousd`."""
    if by not in get_args(Grouping):
        raise ValueError(f"by: {', '.join(get_args(Grouping))}")
    order = "1" if by == "day" else "cost_nanousd DESC, attempts DESC, 1"
    source, values = _figures(connection, since_ns, until_ns)
    return _dicts(connection.execute(f'SELECT NULLIF("{by}", \'\') AS "{by}", {SUMS} FROM {source} GROUP BY 1 ORDER BY {order}', values))


def failed_of(connection: sqlite3.Connection, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
    """What attempts cost that broke or that the provider refused, by provider, model and end; the dearest first."""
    source, values = _figures(connection, since_ns, until_ns)
    query = f"""SELECT provider, NULLIF(model, '') AS model, "end", SUM(failed_attempts) AS attempts,
        SUM(failed_cost_nanousd) AS cost_nanousd FROM {source} GROUP BY 1, 2, 3 HAVING SUM(failed_attempts) > 0
        ORDER BY cost_nanousd DESC, attempts DESC, 1, 2, 3"""
    return _dicts(connection.execute(query, values))


def billed_of(
    connection: sqlite3.Connection, provider: str | None = None, since_ns: int | None = None, until_ns: int | None = None
) -> list[dict[str, Any]]:
    """What a provider's bill should say, per provider, model and UTC day: attempts, tokens by kind, cost, and what of it is estimated."""
    source, values = _figures(connection, since_ns, until_ns)
    query = f"""SELECT provider, NULLIF(model, '') AS model, date(hour * 3600, 'unixepoch') AS day, SUM(attempts) AS attempts, {TOKENS},
        SUM(cost_nanousd) AS cost_nanousd, SUM(estimated_cost_nanousd) AS estimated_cost_nanousd FROM {source}
        WHERE :provider IS NULL OR provider = :provider GROUP BY 1, 2, 3 HAVING SUM(attempts) > 0 ORDER BY 3, 1, 2"""
    return _dicts(connection.execute(query, {**values, "provider": provider}))


def dearest_of(
    connection: sqlite3.Connection, limit: int = 10, since_ns: int | None = None, until_ns: int | None = None
) -> list[dict[str, Any]]:
    """The calls that cost most, all their attempts together; `at`, caller and model are those of the first attempt."""
    where, values = _where(since_ns, until_ns, None)
    where = where or "WHERE true"
    # a call of one attempt is among the dearest first attempts, or there are `limit` calls that cost as much
    query = f"""
        WITH calls (call) AS (
            SELECT {CALL} FROM rows WHERE n IN (SELECT n FROM rows {where} AND attempt = 1 ORDER BY cost_nanousd DESC LIMIT ?)
            UNION SELECT {CALL} FROM rows {where} AND attempt > 1
        )
        SELECT request_id, MIN(at) AS at, caller, team, provider, model,
            SUM(kind <> 'refusal') AS attempts, SUM(cost_nanousd) AS cost_nanousd
        FROM calls JOIN rows ON id >= call AND id < substr(call, 1, length(call) - 1) || '0' GROUP BY call
        ORDER BY cost_nanousd DESC, 2 LIMIT ?"""
    return _dicts(connection.execute(query, (*values, limit, *values, limit)))


def attempts_of(connection: sqlite3.Connection, request_id: str) -> list[dict[str, Any]]:
    """All rows of the calls with this id (a caller may have given it to several), and of the jobs that belong to them; in order, and with
    the `id` of the attempt, which tells the calls apart."""
    names = ", ".join(f'"{name}"' for name in SHOWN)
    query = f"""SELECT id, {names} FROM rows WHERE n IN (
            SELECT n FROM rows WHERE id >= :asked || '/' AND id < :asked || '0' AND request_id = :asked
            UNION SELECT n FROM rows WHERE request_id = :asked AND {IS_NAMED}
            UNION SELECT n FROM rows WHERE kind = 'job' AND parent_id >= :asked || '/' AND parent_id < :asked || '0'
        ) ORDER BY at, n"""
    return [{"id": row[0], **_shown(row[1:])} for row in connection.execute(query, {"asked": request_id})]


def pruned_of(connection: sqlite3.Connection) -> int:
    """Up to which instant (ns) rows are gone to the archive; 0: none are. Sums stay."""
    return mark(connection, "pruned") if _has_sums(connection) else 0


def _figures(connection: sqlite3.Connection, since_ns: int | None, until_ns: int | None) -> tuple[str, dict[str, int]]:
    if _has_sums(connection):
        return figures(since_ns, until_ns, mark(connection, "pruned"))
    return row_figures(since_ns, until_ns)


def _has_sums(connection: sqlite3.Connection) -> bool:
    """False: written by an older Sluice, which no newer one has opened since."""
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] > 1)


def _dicts(cursor: sqlite3.Cursor) -> list[dict[str, Any]]:
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


def read_dearest(path: Path, limit: int = 10, since_ns: int | None = None, until_ns: int | None = None) -> Reading:
    """`dearest_of` the state in the directory `path`. Raises StateProblem."""
    return _read(path, lambda connection: dearest_of(connection, limit, since_ns, until_ns))


def read_failed(path: Path, since_ns: int | None = None, until_ns: int | None = None) -> Reading:
    """`failed_of` the state in the directory `path`. Raises StateProblem."""
    return _read(path, lambda connection: failed_of(connection, since_ns, until_ns))


def read_attempts(path: Path, request_id: str) -> Reading:
    """`attempts_of` the state in the directory `path`. Raises StateProblem."""
    return _read(path, lambda connection: attempts_of(connection, request_id))


def read_billed(path: Path, provider: str | None = None, since_ns: int | None = None, until_ns: int | None = None) -> Reading:
    """`billed_of` the state in the directory `path`. Raises StateProblem."""
    return _read(path, lambda connection: billed_of(connection, provider, since_ns, until_ns))


def _read(path: Path, query: Callable[[sqlite3.Connection], list[dict[str, Any]]]) -> Reading:
    if not (path / LEDGER).exists():
        raise StateProblem(f"there is no ledger in {path}")

    def ask(connection: sqlite3.Connection) -> Reading:
        return Reading(query(connection), _behind(path, indexed(connection)), pruned_of(connection))

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
            if (number, end) > position and payload[:4] in (b'["s"', b'["v"', b'["w"', b'["d"'):
                count += orjson.loads(payload)[-1] is not None
    return count
