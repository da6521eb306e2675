"""Sums of the ledger's rows per hour, so that a question need not read the rows. Asks and answers in SQL alone.

Rows are summed up to a mark, in order of arrival, by one transaction that moves the mark: each row once. What stands beyond the mark
and what a question takes of an hour is read from the rows. `first` is the earliest row of a sum: all of the sum is told apart by day,
so where the rows are gone a sum counts if its first row does, and days that begin within an hour stay exact. A sum's key is one number,
of its hour and day (`hours`) and of whose it is (`whos`): what is found by one is added to in a third of the time; `sums` shows them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

HOUR_NS = 3600 * 10**9
FOR_EVER = 2**63 - 1
STEP = 16_384  # rows of one transaction: some 40 ms, without the interpreter lock
MANY, ROOM_KIB = 4096, 16_384  # callers and ends; with more of them such a step has so much of pages at hand: the sums of some 100,000
WHO = ("caller", "team", "tier", "provider", "model", "end")  # with the day, all that sums are told apart by
SHIFT = 32  # bits of a key that say whose it is; those above them say which hour and day
FAILED = "(\"end\" <> 'done' OR status >= 400) IS TRUE"

FIGURES = {
    "requests": "kind IN ('first', 'turn')",
    "attempts": "kind <> 'refusal'",
    "refusals": "kind = 'refusal'",
    "failed_attempts": f"kind <> 'refusal' AND {FAILED}",
    **{f"{name}_tokens": f"{name}_tokens" for name in ("input", "cached_input", "cache_write", "output", "reasoning")},
    "cost_nanousd": "cost_nanousd",
    "failed_cost_nanousd": f"CASE WHEN {FAILED} THEN cost_nanousd ELSE 0 END",
    "estimated_cost_nanousd": "CASE WHEN usage_source IN ('estimate', 'counted') THEN cost_nanousd ELSE 0 END",
}

_WHO = ", ".join(f'"{name}"' for name in WHO)
_NAMES = ", ".join(FIGURES)
_FRESH = ", ".join(f"COALESCE(\"{name}\", '')" for name in WHO)


def added(names: Iterable[str]) -> str:
    """How an INSERT of sums with these FIGURES ends: what stands there already is added to."""
    return "ON CONFLICT DO UPDATE SET first = MIN(first, excluded.first)" + "".join(f", {it} = {it} + excluded.{it}" for it in names)


_ADD = added(FIGURES)
_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL DEFAULT 0" for name in FIGURES)
_OWNER = f"(key & {(1 << SHIFT) - 1})"
_SPAN = f"key >= slot << {SHIFT} AND key < (slot + 1) << {SHIFT}"

SCHEMA = f"""
    CREATE TABLE IF NOT EXISTS marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS whos (who INTEGER PRIMARY KEY, {", ".join(f'"{name}" TEXT NOT NULL' for name in WHO)}, UNIQUE ({_WHO}));
    CREATE TABLE IF NOT EXISTS hours (slot INTEGER PRIMARY KEY, hour INTEGER NOT NULL, day TEXT NOT NULL, UNIQUE (hour, day));
    CREATE TABLE IF NOT EXISTS totals (key INTEGER PRIMARY KEY, first INTEGER NOT NULL, {_COLUMNS});
    CREATE VIEW IF NOT EXISTS sums AS
        SELECT hour, day, {_OWNER} AS who, first, {_NAMES} FROM hours CROSS JOIN totals WHERE {_SPAN};
"""
MOVE = f"""
    ALTER TABLE sums RENAME TO older;
    {SCHEMA}
    INSERT INTO hours (hour, day) SELECT DISTINCT hour, day FROM older ORDER BY hour, day;
    INSERT INTO totals SELECT slot << {SHIFT} | who, first, {_NAMES} FROM hours CROSS JOIN older USING (hour, day) ORDER BY slot, who;
    DROP TABLE older;
"""  # where `sums` is a table
_MARK = "(SELECT COALESCE(MAX(value), 0) FROM marks WHERE name = 'summed')"
_LINES = (
    f"SELECT at / {HOUR_NS} AS hour, day, "
    + ", ".join(f'COALESCE("{name}", \'\') AS "{name}"' for name in WHO)
    + ", "
    + ", ".join(f"{figure} AS {name}" for name, figure in FIGURES.items())
    + " FROM rows"
)  # as the sums are, one line for each row; a + keeps SQLite from the index of that column
_NAMED = ", ".join(f'"{name}" AS its_{name}' for name in WHO)
_MATCH = " AND ".join(f"its_{name} = COALESCE(\"{name}\", '')" for name in WHO)
_STEP = "n > :after AND n <= :through"
_COUNT = f"SELECT COUNT(*) FROM rows WHERE {_STEP}"
_SUM = f"""INSERT INTO totals SELECT slot << {SHIFT} | who, at, {", ".join(f"IFNULL({figure}, 0)" for figure in FIGURES.values())}
    FROM rows CROSS JOIN (SELECT slot, hour, day AS its_day FROM hours) CROSS JOIN (SELECT who, {_NAMED} FROM whos)
    WHERE {_STEP} AND hour = at / {HOUR_NS} AND its_day = day AND {_MATCH} AND who > :met {_ADD}"""
_BEGIN = f"INSERT OR IGNORE INTO hours (hour, day) SELECT DISTINCT at / {HOUR_NS}, day FROM rows WHERE {_STEP}"
_MEET = f"INSERT OR IGNORE INTO whos ({_WHO}) SELECT {_FRESH} FROM rows WHERE {_STEP}"
_MET = "SELECT COALESCE(MAX(who), 0) FROM whos"
_GONE = f"key >= :slot << {SHIFT} AND key < (:slot + 1) << {SHIFT}"
_FOLD = (
    f"INSERT INTO totals SELECT :into << {SHIFT} | {_OWNER}, first, {_NAMES} FROM totals WHERE {_GONE} {_ADD}",
    f"DELETE FROM totals WHERE {_GONE}",
    "DELETE FROM hours WHERE slot = :slot",
)


def mark(connection: sqlite3.Connection, name: str) -> int:
    """`summed`: rows up to this number are in the sums. `pruned`: of the time up to this instant (ns) rows may be
    gone. `folded`: sums of hours up to this one were added to their day's."""
    found = connection.execute("SELECT value FROM marks WHERE name = ?", (name,)).fetchone()
    return int(found[0]) if found else 0


def set_mark(connection: sqlite3.Connection, name: str, value: int) -> None:
    connection.execute("INSERT OR REPLACE INTO marks VALUES (?, ?)", (name, value))


def unsummed(connection: sqlite3.Connection) -> int:
    """How many rows wait to be summed; at most, as numbers may be missing."""
    last = connection.execute("SELECT MAX(n) FROM rows").fetchone()[0] or 0
    return max(0, int(last) - mark(connection, "summed"))


def advance(connection: sqlite3.Connection, least: int = 1) -> int:
    """Sums the next STEP rows, if `least` wait; how many still wait. Raises sqlite3.Error, and then has changed nothing."""
    after, waiting = mark(connection, "summed"), unsummed(connection)
    if waiting < least:
        return waiting
    step = min(STEP, waiting)
    with writing(connection):
        _sum(connection, after, after + step)
    return waiting - step


def _sum(connection: sqlite3.Connection, after: int, through: int) -> None:
    """Each row is looked up once; only if some are of nobody met before are these met first, and then theirs are added."""
    values = {"after": after, "through": through, "met": 0}
    waiting: int = connection.execute(_COUNT, values).fetchone()[0]
    connection.execute(_BEGIN, values)
    if connection.execute(_SUM, values).rowcount < waiting:
        values["met"] = connection.execute(_MET).fetchone()[0]
        connection.execute(_MEET, values)
        connection.execute(_SUM, values)
    set_mark(connection, "summed", through)


def fold(connection: sqlite3.Connection) -> bool:
    """Adds the sums of one hour to those of the first hour (UTC) of its day, if the day's rows are all gone; is there more to do?"""
    gone = mark(connection, "pruned") // HOUR_NS // 24 * 24
    begun = mark(connection, "folded")
    query = "SELECT MIN(hour) FROM hours WHERE hour > ? AND hour < ? AND hour % 24 <> 0"
    hour = connection.execute(query, (begun, gone)).fetchone()[0]
    if hour is None:
        return False
    with _at_once(connection):
        for slot, day in connection.execute("SELECT slot, day FROM hours WHERE hour = ?", (hour,)).fetchall():
            for statement in _FOLD:
                connection.execute(statement, {"slot": slot, "into": slot_of(connection, hour // 24 * 24, day)})
        set_mark(connection, "folded", hour)
    return True


def slot_of(connection: sqlite3.Connection, hour: int, day: str) -> int:
    """The number of an hour of a day, which it is given here if it has none."""
    connection.execute("INSERT OR IGNORE INTO hours (hour, day) VALUES (?, ?)", (hour, day))
    slot: int = connection.execute("SELECT slot FROM hours WHERE hour = ? AND day = ?", (hour, day)).fetchone()[0]
    return slot


@contextmanager
def writing(connection: sqlite3.Connection) -> Iterator[None]:
    """What is added to the sums here is added whole, or not at all."""
    with _roomy(connection), _at_once(connection):
        yield


@contextmanager
def _at_once(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _roomy(connection: sqlite3.Connection) -> Iterator[None]:
    """Of many callers each page is wanted again and again: it stays at hand until all is summed. Of few, the memory is worth more."""
    if connection.execute(_MET).fetchone()[0] <= MANY:
        yield
        return
    usual: int = connection.execute("PRAGMA cache_size").fetchone()[0]
    connection.execute(f"PRAGMA cache_size = {-ROOM_KIB}")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA cache_size = {usual}")


# -- questions -----------------------------------------------------------------------------------------------------------


def figures(since_ns: int | None, until_ns: int | None, pruned_ns: int) -> tuple[str, dict[str, int]]:
    """A FROM clause, and its values: `hour`, `day`, WHO ('' for none) and FIGURES of all that began in [since, until).

    Each line is a sum or a row, all of one moment. `pruned_ns`: the mark of that name.
    """
    since, until = (min(max(0, it), FOR_EVER) for it in (since_ns or 0, FOR_EVER if until_ns is None else until_ns))
    first, last = since // HOUR_NS, until // HOUR_NS
    parts: dict[int, tuple[int, int]] = {}  # of hours that are not asked for whole, and whose rows are there
    if since % HOUR_NS and since > pruned_ns:
        parts[first] = since, min(until, (first + 1) * HOUR_NS)
    if until < FOR_EVER and last * HOUR_NS > pruned_ns:
        parts.setdefault(last, (max(since, last * HOUR_NS), until))
    low = first if since > pruned_ns else first - 24  # sums of a day whose rows are gone stand in its first hour
    lines = [
        f"SELECT hour, day, {_WHO}, {_NAMES} FROM sums JOIN whos USING (who) WHERE hour >= {low} AND hour <= {last}"
        f" AND first >= :since AND first < :until AND hour NOT IN ({', '.join(map(str, parts))})",
        f"{_LINES} WHERE n > {_MARK} AND +at >= :since AND +at < :until",
        *(f"{_LINES} WHERE +n <= {_MARK} AND at >= {start} AND at < {end}" for start, end in parts.values() if start < end),
    ]
    return f"({' UNION ALL '.join(lines)})", {"since": since, "until": until}


def row_figures(since_ns: int | None, until_ns: int | None) -> tuple[str, dict[str, int]]:
    """`figures` of a ledger without sums: each line is a row."""
    return f"({_LINES} WHERE at >= :since AND at < :until)", {"since": since_ns or 0, "until": FOR_EVER if until_ns is None else until_ns}
