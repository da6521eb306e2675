"""What of the ledger may go, by age and size, and how it goes: in small steps, oldest first, sums stay. Touches no file of the archive."""

from __future__ import annotations

import sqlite3
from contextlib import suppress
from dataclasses import dataclass

from proxy.admit.records import COLUMNS
from proxy.admit.sqlite import JSON_COLUMNS
from proxy.admit.sums import FOR_EVER, mark

CHUNK = 2000  # rows of one step, and of one sync: some 20 ms each to read and to delete, without the interpreter lock
FREE_PAGES = 256  # of the file, kept for what comes; and a sixteenth of it

_RANGE = "day = :day AND at >= :first AND at <= :last AND +n <= :top"


@dataclass(frozen=True, slots=True)
class Chunk:
    """The oldest rows, all of one day: those begun from `first` to `last` (ns, both included) and numbered up to `top`."""

    day: str
    first: int
    last: int
    top: int

    @property
    def values(self) -> dict[str, object]:
        return {"day": self.day, "first": self.first, "last": self.last, "top": self.top}


def size(connection: sqlite3.Connection) -> int:
    """Bytes of the database that hold something."""
    pages, free, page = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size"))
    return int((pages - free) * page)


def due(connection: sqlite3.Connection, oldest_ns: int, max_bytes: int) -> Chunk | None:
    """What goes next: what began before `oldest_ns`, or the oldest there is while the database is larger than `max_bytes`.

    Rows that are not summed yet stay, and the newest row, so that no number is given twice.
    """
    before = FOR_EVER if size(connection) > max_bytes else oldest_ns
    newest = connection.execute("SELECT MAX(n) FROM rows").fetchone()[0] or 0
    top = min(mark(connection, "summed"), newest - 1)
    oldest = connection.execute("SELECT day, at FROM rows WHERE at < ? AND +n <= ? ORDER BY at LIMIT 1", (before, top)).fetchone()
    if oldest is None:
        return None
    day, first = oldest
    begun = Chunk(day, first, before - 1, top)
    some = f"SELECT at FROM rows WHERE {_RANGE} ORDER BY at LIMIT {CHUNK}"
    last = connection.execute(f"SELECT MAX(at) FROM ({some})", begun.values).fetchone()[0]
    return Chunk(begun.day, begun.first, last, top)


def text_of(connection: sqlite3.Connection, chunk: Chunk) -> bytes:
    """Its rows, whole, a line of JSON each; made by SQLite, so that the interpreter is not held up."""
    pairs = ", ".join(f"'{name}', {_json(name)}" for name in COLUMNS)
    query = f"SELECT group_concat(line, char(10)) FROM (SELECT json_object({pairs}) AS line FROM rows WHERE {_RANGE} ORDER BY at, n)"
    text: str = connection.execute(query, chunk.values).fetchone()[0]
    return text.encode() + b"\n"


def _json(name: str) -> str:
    if name in JSON_COLUMNS:
        return f'CASE WHEN json_valid("{name}") THEN json("{name}") ELSE "{name}" END'
    return "json(CASE WHEN streamed THEN 'true' ELSE 'false' END)" if name == "streamed" else f'"{name}"'


def archived(connection: sqlite3.Connection) -> dict[str, int]:
    """Files of the archive, and how many bytes of each hold rows that are gone from here."""
    return dict(connection.execute("SELECT file, bytes FROM archived"))


def begin_file(connection: sqlite3.Connection, name: str) -> None:
    """On the disk when it returns: whatever a crash leaves of this file is known to be ours."""
    connection.execute("INSERT OR REPLACE INTO archived VALUES (?, 0)", (name,))
    connection.execute("PRAGMA wal_checkpoint(FULL)")


def forget(connection: sqlite3.Connection, chunk: Chunk, file: str | None, length: int) -> int:
    """Deletes the rows, and notes in the same transaction how long the file is that has them; how many went."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        gone = connection.execute(f"DELETE FROM rows WHERE {_RANGE}", chunk.values).rowcount
        pruned = max(chunk.last, mark(connection, "pruned"))
        connection.execute("INSERT OR REPLACE INTO marks VALUES ('pruned', ?)", (pruned,))
        if file is not None:
            connection.execute("INSERT OR REPLACE INTO archived VALUES (?, ?)", (file, length))
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return gone


def give_back(connection: sqlite3.Connection) -> bool:
    """Gives some free pages back to the disk; are there more? A file begun by an older Sluice keeps them for later rows."""
    pages, free, kind = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "auto_vacuum"))
    spare = free - max(FREE_PAGES, pages // 16)
    if kind != 2 or spare <= 0:
        return False
    connection.execute(f"PRAGMA incremental_vacuum({min(spare, FREE_PAGES)})").fetchall()
    return bool(spare > FREE_PAGES)
