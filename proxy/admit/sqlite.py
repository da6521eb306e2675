"""The journal's index: rows and keys in SQLite, written by one thread in batches. Never touched from the event loop."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from proxy.admit import sums
from proxy.admit.place import StateProblem
from proxy.admit.records import COLUMNS, Position, Values, encode, tame
from proxy.exchange import Row

T = TypeVar("T")

sqlite3.register_adapter(bool, int)  # without these two, each such value is asked in vain how it would like to be kept
NOTHING: dict[None, None] = {}
sqlite3.register_adapter(type(None), NOTHING.get)  # None, and of C: it is asked thrice a row

SCHEMA_VERSION = 2
GATHER_S = 0.2  # rows wait this long for company; a query does not
RETRY_S = 1.0
CHUNKS = (64, 8, 1)  # rows of one statement: the interpreter lock is let go once for all; few kinds, as SQLite keeps each compiled
MOST_PRICES = 256  # whose text is at hand
MOST_WAITING = 200_000  # rows not yet indexed; beyond it the ledger counts as unavailable

IS_NAMED = "substr(id, 1, length(request_id) + 1) <> request_id || '/'"  # the request, by its caller
INDEXES = {
    "rows_spent": "rows (at, cost_nanousd, attempt)",
    "rows_named": f"rows (request_id) WHERE {IS_NAMED}",
    "rows_jobs": "rows (parent_id) WHERE kind = 'job'",
}
JSON_COLUMNS = frozenset({"usage_detail", "price_row"})
TYPES = get_type_hints(Row)
DETAIL, PRICE, AT = COLUMNS.index("usage_detail"), COLUMNS.index("price_row"), COLUMNS.index("at")


def _schema() -> str:
    columns = ", ".join(f'"{name}" {_affinity(name)}' for name in COLUMNS)
    return f"""
        CREATE TABLE IF NOT EXISTS rows (n INTEGER PRIMARY KEY, day TEXT NOT NULL, {columns}, UNIQUE (id));
        CREATE TABLE IF NOT EXISTS keys (digest BLOB PRIMARY KEY, name TEXT NOT NULL, record TEXT NOT NULL);
        CREATE TABLE IF NOT EXISTS indexed (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER, "offset" INTEGER);
        {sums.SCHEMA}
        CREATE TABLE IF NOT EXISTS archived (file TEXT PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID;
        PRAGMA user_version = {SCHEMA_VERSION};
    """


def _affinity(column: str) -> str:
    first, *_ = get_args(TYPES[column]) or (TYPES[column],)  # of `int | None`: int
    return {int: "INTEGER", bool: "INTEGER", float: "REAL"}.get(first, "TEXT")


@lru_cache(len(CHUNKS))
def _insert(count: int) -> str:
    names = ", ".join(f'"{name}"' for name in ("day", *COLUMNS))
    one = "(" + ", ".join("?" * (len(COLUMNS) + 1)) + ")"
    return f"INSERT OR IGNORE INTO rows ({names}) VALUES " + ", ".join([one] * count)


Batch = tuple[list[Values], Position]  # rows, and where the journal has the last of them


@dataclass(frozen=True, slots=True)
class Task:
    """Something for the writer to do once all rows before it are committed; None ends it."""

    work: Callable[[sqlite3.Connection], Any] | None
    done: Future[Any]


class Index:
    """Rows go in by `put`, once each, whatever is replayed; `day_of` names the day of an instant in the policy's zone."""

    def __init__(self, path: Path | None, day_of: Callable[[int], str]) -> None:
        """Raises StateProblem. `None`: in memory."""
        self.path = path
        self._day_of = day_of
        self._connection = _connect(path)
        self._queue: queue.SimpleQueue[Batch | Task] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self.given = self.taken = 0  # rows; each written by one thread alone
        self.was_behind = False  # when rows were put last; only then can it be so now
        self._is_closing = self._has_gap = False
        # Most calls of a model share one price row (`meter.row`): its text, by its identity, which is nobody else's while it stands here
        self._prices: dict[int, tuple[object, str]] = {}
        self._thread = threading.Thread(target=self._run, name="sluice-ledger", daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Rows that wait to be indexed; the journal has them."""
        return self.given - self.taken

    @property
    def is_behind(self) -> bool:
        """So far that no more should come."""
        return self.given - self.taken > MOST_WAITING

    def put(self, rows: list[Values], position: Position) -> None:
        self.given += len(rows)
        self.was_behind = self.is_behind
        self._queue.put((rows, position))

    def submit(self, work: Callable[[sqlite3.Connection], T] | None) -> Future[T]:
        """Runs on the writer's thread after all that was put before."""
        done: Future[T] = Future()
        self._queue.put(Task(work, done))
        self._hurry.set()
        return done

    def when_safe(self, work: Callable[[], object]) -> None:
        """Runs on the writer's thread once all rows before are on the disk; never if some were given up."""

        def safe(connection: sqlite3.Connection) -> None:
            if not self._has_gap:
                connection.execute("PRAGMA wal_checkpoint(FULL)")
                work()

        self.submit(safe)

    async def ask(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """A query that sees every row put before it; on a connection of its own, so that a long one delays no row."""
        path = self.path
        if path is None:
            return await asyncio.wrap_future(self.submit(query))
        await asyncio.wrap_future(self.submit(lambda _: None))
        return await asyncio.to_thread(read_only, path, query)

    def close(self) -> None:
        """Commits what was put (on a failing disk: tries once; the journal has it) and ends the thread. Blocks."""
        self._is_closing = True
        self.submit(None).result()
        self._thread.join()
        self._connection.close()

    # -- the writer's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            items = [self._queue.get()]
            if isinstance(items[0], tuple):
                self._hurry.wait(GATHER_S)
            self._hurry.clear()
            with suppress(queue.Empty):
                while True:
                    items.append(self._queue.get_nowait())
            if self._do(items):
                return

    def _do(self, items: list[Batch | Task]) -> bool:
        waiting: list[Batch] = []
        for item in items:
            if isinstance(item, tuple):
                waiting.append(item)
                continue
            self._commit(waiting)
            waiting = []
            if item.work is None:
                item.done.set_result(None)
                return True
            if item.done.set_running_or_notify_cancel():
                try:
                    item.done.set_result(item.work(self._connection))
                except Exception as problem:  # the asker's, whatever it is: this thread must live on
                    item.done.set_exception(problem)
        self._commit(waiting)
        return False

    def _commit(self, batches: list[Batch]) -> None:
        if not batches:
            return
        rows = [row for some, _ in batches for row in some]
        is_tame = False
        while not self._has_gap:  # beyond a gap nothing may be taken for indexed
            try:
                self._write(rows, batches[-1][1], is_tame)
                break
            except (sqlite3.Error, OverflowError, UnicodeError):  # a full disk, or a value that SQLite cannot hold
                if is_tame and self._is_closing:
                    self._has_gap = True  # the next start takes the rows from the journal
                elif is_tame:
                    time.sleep(RETRY_S)
                is_tame = True
        self.taken += len(rows)

    def _write(self, rows: list[Values], position: Position, is_tame: bool) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            at = 0
            for size in CHUNKS:
                while at + size <= len(rows):
                    connection.execute(_insert(size), self._bound(rows[at : at + size], is_tame))
                    at += size
            connection.execute("INSERT OR REPLACE INTO indexed VALUES (1, ?, ?)", position)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise

    def _bound(self, rows: list[Values], is_tame: bool) -> list[Any]:
        """The values of these rows, one after the other."""
        bound: list[Any] = []
        for row in rows:
            values = [self._day_of(row[AT]), *row]
            if (detail := row[DETAIL]) is not None:
                values[DETAIL + 1] = encode(detail).decode()
            if (price := row[PRICE]) is not None:
                known = self._prices.get(id(price))
                values[PRICE + 1] = known[1] if known is not None else self._price(price)
            bound += map(_storable, values) if is_tame else values
        return bound

    def _price(self, price: object) -> str:
        if len(self._prices) >= MOST_PRICES:
            self._prices.clear()
        text = encode(price).decode()
        self._prices[id(price)] = price, text
        return text


def _storable(value: object) -> object:
    tamed = tame(value)
    return encode(tamed).decode() if isinstance(tamed, list | dict) else tamed


def _connect(path: Path | None) -> sqlite3.Connection:
    try:
        connection = sqlite3.connect(path or ":memory:", isolation_level=None, check_same_thread=False)
        if path is not None:
            path.chmod(0o600)
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a new file; an old one stays as it is
            connection.executescript("PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA cache_size = -512")  # KiB
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StateProblem(f"{path} was written by a newer Sluice (schema {version}, known {SCHEMA_VERSION})")
        connection.executescript(_schema())
        if not version:
            mend(connection)
        _add_columns(connection)
    except sqlite3.Error as problem:
        raise StateProblem(f"the ledger index {path} cannot be used: {problem}") from problem
    return connection


def _add_columns(connection: sqlite3.Connection) -> None:
    """Those that the rows of an older Sluice do not have."""
    there = {found[1] for found in connection.execute("PRAGMA table_info(rows)")}
    for name in COLUMNS:
        if name not in there:
            connection.execute(f'ALTER TABLE rows ADD COLUMN "{name}" {_affinity(name)}')


def mend(connection: sqlite3.Connection) -> None:
    """Makes the indexes that an older Sluice's ledger lacks: a second or two for each million rows."""
    for name, what in INDEXES.items():
        connection.execute(f"CREATE INDEX IF NOT EXISTS {name} ON {what}")
    connection.execute("DROP INDEX IF EXISTS rows_at")


def is_old(connection: sqlite3.Connection) -> bool:
    """Does it want mending?"""
    there = {found[0] for found in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    return not there.issuperset(INDEXES)


def read_only(path: Path, query: Callable[[sqlite3.Connection], T]) -> T:
    """All that one query asks is of one moment."""
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
    try:
        connection.execute("BEGIN")
        return query(connection)
    finally:
        connection.close()


def indexed(connection: sqlite3.Connection) -> Position:
    """Up to where the journal's rows are in."""
    found: Position | None = connection.execute('SELECT segment, "offset" FROM indexed').fetchone()
    return found or (0, 0)
