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
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from proxy.admit import sums
from proxy.admit.inserts import Inserts
from proxy.admit.place import StateProblem
from proxy.admit.records import COLUMNS, Position, Values
from proxy.admit.tally import Tally
from proxy.exchange import Row

T = TypeVar("T")

sqlite3.register_adapter(bool, int)  # without these two, each such value is asked in vain how it would like to be kept
NOTHING: dict[None, None] = {}
sqlite3.register_adapter(type(None), NOTHING.get)  # None, and of C: it is asked thrice a row

SCHEMA_VERSION = 3
SUMS_AS_TABLE = 2  # the version that had its sums in one table, by four columns
# Rows wait for company, or until there is enough of it for a transaction: so long at most, and where so many wait, so long after the
# transaction before. To wake a thread is dear where little goes on. A query does not wait
GATHER_S, COMPANY, COMPANY_S = 1.0, 128, 0.2
RETRY_S = 1.0
AT_ONCE = 512  # rows of one transaction: their pages have room in the cache, and go to the disk once
MOST_WAITING = 200_000  # rows not yet indexed; beyond it the ledger counts as unavailable

IS_NAMED = "(id < request_id || '/' OR id >= request_id || '0')"  # the request, by its caller: else its rows are "<request_id>/<number>"
INDEXES = {
    "rows_spent": "rows (at, cost_nanousd, attempt)",
    "rows_asked": f"rows (request_id) WHERE {IS_NAMED}",
    "rows_jobs": "rows (parent_id) WHERE kind = 'job'",
}
JSON_COLUMNS = frozenset({"usage_detail", "price_row"})
TYPES = get_type_hints(Row)


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
        self._inserts, self._tally = Inserts(day_of), Tally()
        self._connection = _connect(path)
        self._queue: queue.SimpleQueue[Batch | Task] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self.given = self.taken = 0  # rows; each written by one thread alone
        self._done = 0.0  # when the last transaction was, monotonic
        self.was_behind = False  # when rows were put last; only then can it be so now
        self._is_closing = self._has_gap = False
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
        waiting = self.given - self.taken
        self.was_behind = waiting > MOST_WAITING
        self._queue.put((rows, position))
        if waiting < COMPANY or self._hurry.is_set():
            return
        if waiting >= AT_ONCE or time.monotonic() >= self._done + COMPANY_S:  # their memory is of use again the sooner
            self._hurry.set()

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

    async def sum_up(self) -> int:
        """Sums rows, as `sums.advance`; those that were just written need not be read for it."""
        return await asyncio.wrap_future(self.submit(self._tally.advance))

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
        """In parts of AT_ONCE rows. Up to `safe` all is in; a row beyond it that is in too is not taken again by a replay."""
        rows: list[Values] = []
        safe: Position | None = None
        for some, position in batches:
            rows += some
            while len(rows) > AT_ONCE:
                self._take(rows[:AT_ONCE], safe)
                del rows[:AT_ONCE]
            safe = position
        if batches:
            self._take(rows, safe)

    def _take(self, rows: list[Values], position: Position | None) -> None:
        """As one transaction, tried until it is done."""
        is_tame = False
        while not self._has_gap:  # beyond a gap nothing may be taken for indexed
            try:
                self._write(rows, position, is_tame)
                break
            except (sqlite3.Error, OverflowError, UnicodeError):  # a full disk, or a value that SQLite cannot hold
                if is_tame and self._is_closing:
                    self._has_gap = True  # the next start takes the rows from the journal
                elif is_tame:
                    time.sleep(RETRY_S)
                is_tame = True
        self.taken += len(rows)
        self._done = time.monotonic()

    def _write(self, rows: list[Values], position: Position | None, is_tame: bool) -> None:
        connection = self._connection
        connection.execute("BEGIN")
        try:
            new, last, chunks = 0, 0, []
            for chunk in self._inserts.of(rows, is_tame=is_tame):
                done = connection.execute(chunk.statement, chunk.bound)
                new, last = new + done.rowcount, done.lastrowid or 0
                chunks.append(chunk)
            if position is not None:
                connection.execute("INSERT OR REPLACE INTO indexed VALUES (1, ?, ?)", position)
            connection.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            raise
        if new == len(rows) and not is_tame:
            self._tally.add(chunks, new, last)
            if self._tally.is_full:
                with suppress(sqlite3.Error):  # these rows are in, and will be read
                    self._tally.post(connection)


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
        if version == SUMS_AS_TABLE:
            _move_sums(connection)
        connection.executescript(_schema())
        if not version:
            mend(connection)
        _add_columns(connection)
    except sqlite3.Error as problem:
        raise StateProblem(f"the ledger index {path} cannot be used: {problem}") from problem
    return connection


def _move_sums(connection: sqlite3.Connection) -> None:
    """All at once, as what is not moved is found by nobody: a second or two for each million sums."""
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {sums.MOVE} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")
    except sqlite3.Error:
        connection.rollback()
        raise


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
    for name in ("rows_at", "rows_named"):
        connection.execute(f"DROP INDEX IF EXISTS {name}")


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
