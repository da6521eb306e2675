"""The ledger's rows in the order they were committed, for what is sent elsewhere, and a note of how far that is. Sends nothing itself."""

from __future__ import annotations

import asyncio
import sqlite3
from typing import Any

import orjson

from proxy.admit.ledger import SHOWN
from proxy.admit.sqlite import JSON_COLUMNS, Index, read_only
from proxy.admit.sums import mark

NAMES = ("n", "id", "day", *SHOWN)
_COLUMNS = ", ".join(f'"{name}"' for name in NAMES)


class Outgoing:
    """`name` says where to: each place has a note of its own, and a new one gets every row that is still there."""

    def __init__(self, index: Index, name: str) -> None:
        self._index, self._name = index, f"sent {name}"
        self._sent: int | None = None  # the number of the last row; None: not read yet

    async def unsent(self, limit: int) -> tuple[list[dict[str, Any]], int]:
        """At most `limit` rows after the last one noted, with `n`, `id` and `day` beside what the ledger shows, and how many more there
        may be. What the writer has not committed yet comes later: it is not hurried for this."""
        if self._sent is None:
            self._sent = await asyncio.wrap_future(self._index.submit(lambda connection: mark(connection, self._name)))
        after, path = self._sent, self._index.path

        def look(connection: sqlite3.Connection) -> tuple[list[dict[str, Any]], int]:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM rows WHERE n > ? ORDER BY n LIMIT ?", (after, limit)).fetchall()
            newest = connection.execute("SELECT MAX(n) FROM rows").fetchone()[0] or 0
            return [_row(row) for row in rows], max(0, newest - (rows[-1][0] if rows else after))

        if path is None:
            return await asyncio.wrap_future(self._index.submit(look))
        return await asyncio.to_thread(read_only, path, look)

    async def note(self, number: int) -> None:
        """All up to the row of this number are sent."""

        def keep(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (self._name, number))

        await asyncio.wrap_future(self._index.submit(keep))
        self._sent = number

    async def committed(self) -> None:
        """Back when every row written before this call can be read."""
        await asyncio.wrap_future(self._index.submit(lambda _: None))


def _row(values: tuple[Any, ...]) -> dict[str, Any]:
    row = dict(zip(NAMES, values, strict=True))
    for name in JSON_COLUMNS:
        if row[name] is not None:
            row[name] = orjson.Fragment(row[name])  # as it stands: it goes out as JSON
    row["streamed"] = bool(row["streamed"])
    return row
