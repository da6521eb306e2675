"""The ledger grows old: what goes is in the archive first, once, and the sums stay. An older ledger is taken over."""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import sqlite3
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sluice import ROOT

from proxy.admit import archive, retention, sums, upkeep
from proxy.admit.ledger import pruned_of, read_rows, read_usage, usage_of
from proxy.admit.periods import Calendar
from proxy.admit.records import values_of
from proxy.admit.sqlite import Index, is_old, read_only
from proxy.admit.upkeep import Upkeep

NOON = 1_795_262_400 * 10**9  # 2026-11-21T12:00:00Z
HOUR = 3600 * 10**9
DAY = 24 * HOUR
DAY_S = 24 * 3600.0
ROOMY = 10**12

V1 = """
    CREATE TABLE rows (n INTEGER PRIMARY KEY, day TEXT NOT NULL, {columns}, UNIQUE (id));
    CREATE INDEX rows_at ON rows (at);
    CREATE TABLE keys (digest BLOB PRIMARY KEY, name TEXT NOT NULL, record TEXT NOT NULL);
    CREATE TABLE indexed (one INTEGER PRIMARY KEY CHECK (one = 1), segment INTEGER, "offset" INTEGER);
    PRAGMA user_version = 1;
"""


@dataclass
class Kept:
    ledger_keep_s: float
    ledger_max_bytes: int


class Keeping:
    """An index in a directory, its upkeep, and what that said."""

    def __init__(self, folder, clock, keep_s=400 * DAY_S, size=ROOMY):
        self.path = folder / "ledger.sqlite"
        self.index = Index(self.path, Calendar("UTC").day_of)
        self.kept = Kept(keep_s, size)
        self.told = []
        self.upkeep = Upkeep(self.index, lambda: self.kept, clock, lambda level, event, **fields: self.told.append((level, event, fields)))

    def put(self, *rows):
        self.index.put([values_of(row) for row in rows], (1, 0))

    async def turn(self):
        await self.upkeep._begin()
        await self.upkeep.turn()

    def ask(self, query):
        return self.index.submit(query).result()

    def left(self):
        return [id for (id,) in self.ask(lambda connection: connection.execute("SELECT id FROM rows ORDER BY at, n").fetchall())]

    def cost(self, by="caller", since=None, until=None):
        return {it[by]: it["cost_nanousd"] for it in self.ask(lambda connection: usage_of(connection, by, since, until))}


@pytest.fixture
def keeping(tmp_path, clock):
    opened = []

    def keep(**how):
        (tmp_path / "state").mkdir(exist_ok=True)
        opened.append(Keeping(tmp_path / "state", clock, **how))
        return opened[-1]

    yield keep
    for one in opened:
        if one.index._thread.is_alive():
            one.index.close()


def archived(folder):
    """File → its rows."""
    return {it.name: [json.loads(line) for line in gzip.decompress(it.read_bytes()).splitlines()] for it in sorted(folder.glob("*"))}


async def test_rows_older_than_the_policy_keeps_go_to_a_file_of_their_day_whole_and_the_sums_stay(tmp_path, keeping, row):
    ledger = keeping(keep_s=DAY_S)
    old = row("a/1", at=NOON - 3 * DAY, usage_detail={"tokens": [1, {"π": None}]}, first_byte_ms=None)
    ledger.put(old, row("b/1", at=NOON - 2 * DAY), row("c/1", at=NOON - 3 * DAY + 1), row("d/1"))
    before = {by: ledger.cost(by) for by in ("caller", "day", "model")}
    await ledger.turn()
    assert ledger.left() == ["d/1"]
    assert {by: ledger.cost(by) for by in before} == before
    found = archived(tmp_path / "state" / "archive")
    assert {name: [it["id"] for it in rows] for name, rows in found.items()} == {
        "ledger-2026-11-18.jsonl.gz": ["a/1", "c/1"],
        "ledger-2026-11-19.jsonl.gz": ["b/1"],
    }
    (first, _) = found["ledger-2026-11-18.jsonl.gz"]
    assert first == {name: getattr(old, name) for name in first} and list(first) == [*old._fields]
    assert {(it.stat().st_mode & 0o777) for it in (tmp_path / "state" / "archive").iterdir()} == {0o600}
    assert ledger.ask(pruned_of) == NOON - 2 * DAY
    assert ledger.upkeep.pruned_rows == 3


async def test_a_ledger_larger_than_the_policy_allows_loses_its_oldest_rows_also_within_a_day(tmp_path, keeping, row, monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 50)
    ledger = keeping()
    ledger.put(*(row(f"u{number}/1", at=NOON + number, usage_note="x" * 1000) for number in range(1000)))
    await ledger.turn()
    whole = ledger.ask(retention.size)
    ledger.kept = Kept(400 * DAY_S, whole // 2)
    await ledger.turn()
    left = ledger.left()
    assert ledger.ask(retention.size) <= whole // 2 and 300 < len(left) < 600
    assert left == [f"u{number}/1" for number in range(1000 - len(left), 1000)]
    assert [it["id"] for it in archived(tmp_path / "state" / "archive")["ledger-2026-11-21.jsonl.gz"]] == [
        f"u{number}/1" for number in range(1000 - len(left))
    ]
    assert ledger.cost() == {"bob": 1000 * 700}


async def test_the_newest_row_stays_so_that_no_number_is_given_twice(keeping, row):
    ledger = keeping(size=1)
    ledger.put(*(row(f"u{number}/1", at=NOON + number) for number in range(10)))
    await ledger.turn()
    assert ledger.left() == ["u9/1"]
    ledger.put(row("late/1", at=NOON - DAY), row("next/1", at=NOON + 99))
    await ledger.turn()
    assert ledger.left() == ["next/1"]
    assert ledger.cost() == {"bob": 12 * 700}
    assert ledger.ask(lambda connection: connection.execute("SELECT n FROM rows").fetchall()) == [(12,)]


async def test_a_file_gives_its_pages_back_to_the_disk(tmp_path, keeping, row):
    ledger = keeping()
    ledger.put(*(row(f"u{number}/1", at=NOON + number, usage_note="x" * 5000) for number in range(2000)))
    await ledger.turn()
    ledger.ask(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    before = ledger.path.stat().st_size
    ledger.kept = Kept(400 * DAY_S, 1)
    await ledger.turn()
    ledger.ask(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    assert ledger.path.stat().st_size < before / 4


@pytest.mark.parametrize("where", ["the export", "the sync", "the delete"])
async def test_a_crash_leaves_each_row_in_the_ledger_or_in_the_archive_and_in_one_of_them(tmp_path, keeping, row, monkeypatch, where):
    monkeypatch.setattr(retention, "CHUNK", 3)
    ledger = keeping(keep_s=DAY_S)
    ledger.put(*(row(f"u{number}/1", at=NOON - 2 * DAY + number * HOUR * 5) for number in range(8)), row("new/1"))
    real = {"the export": (archive, "append"), "the sync": (os, "fsync"), "the delete": (retention, "forget")}[where]
    going = getattr(*real)
    times = iter(range(100))

    def fails_now_and_then(*given):
        done = going(*given) if where == "the export" else None  # written, and nobody learns of it
        if next(times) % 2:
            raise OSError(5, "the power went")
        return done if where == "the export" else going(*given)

    with monkeypatch.context() as patch:
        patch.setattr(*real, fails_now_and_then)
        for _ in range(4):
            with suppress(OSError):
                await ledger.turn()
    again = keeping(keep_s=DAY_S)
    await again.upkeep._begin()  # what a start does first
    for _ in range(2):
        found = [it["id"] for rows in archived(tmp_path / "state" / "archive").values() for it in rows]
        assert sorted(found + again.left()) == sorted([*(f"u{number}/1" for number in range(8)), "new/1"])
        await again.turn()
    assert again.left() == [f"u{number}/1" for number in (5, 6, 7)] + ["new/1"]


async def test_an_archive_that_cannot_be_written_keeps_every_row_and_says_so(tmp_path, keeping, row, monkeypatch):
    monkeypatch.setattr(upkeep, "AGAIN_S", 0.01)
    ledger = keeping(keep_s=DAY_S)
    ledger.put(row("a/1", at=NOON - 3 * DAY), row("b/1"))
    (tmp_path / "state" / "archive").write_text("a file in its place")
    ledger.upkeep.start()
    async with asyncio.timeout(20):
        while ledger.upkeep.failures < 2:
            await asyncio.sleep(0.01)
        assert ledger.left() == ["a/1", "b/1"]
        assert ledger.told[0][:2] == ("error", "ledger not pruned")
        (tmp_path / "state" / "archive").unlink()
        while ledger.left() != ["b/1"]:
            await asyncio.sleep(0.01)
    await ledger.upkeep.stop()


async def test_a_file_that_is_not_ours_or_was_cut_short_is_left_as_it_is(tmp_path, keeping, row):
    folder = tmp_path / "state" / "archive"
    folder.mkdir(parents=True)
    theirs = folder / "ledger-2026-11-18.jsonl.gz"
    theirs.write_bytes(b"somebody else's")
    ledger = keeping(keep_s=DAY_S)
    ledger.put(row("a/1", at=NOON - 3 * DAY), row("new/1"))
    await ledger.turn()
    ours = folder / "ledger-2026-11-18.2.jsonl.gz"
    assert theirs.read_bytes() == b"somebody else's"
    os.truncate(ours, 5)
    ledger.put(row("b/1", at=NOON - 3 * DAY))
    ledger.put(row("newer/1"))
    await ledger.turn()
    assert ours.stat().st_size == 5
    third = json.loads(gzip.decompress((folder / "ledger-2026-11-18.3.jsonl.gz").read_bytes()))
    assert third["id"] == "b/1"
    third_file = folder / "ledger-2026-11-18.3.jsonl.gz"
    third_file.unlink()  # taken away to another place
    ledger.put(row("c/1", at=NOON - 3 * DAY), row("newest/1"))
    await ledger.turn()
    assert json.loads(gzip.decompress(third_file.read_bytes()))["id"] == "c/1"


async def test_commands_that_read_while_rows_go_see_every_cost_once(tmp_path, keeping, row, monkeypatch):
    monkeypatch.setattr(retention, "CHUNK", 10)
    monkeypatch.setattr(sums, "STEP", 50)
    ledger = keeping(size=1)
    ledger.put(*(row(f"u{number}/1", at=NOON + number * HOUR // 100) for number in range(500)))
    ledger.ask(lambda connection: None)
    seen, over = [], threading.Event()

    def read():
        while not over.is_set():
            seen.append(sum(it["cost_nanousd"] for it in read_usage(tmp_path / "state", "model").rows))

    reader = threading.Thread(target=read)
    reader.start()
    await ledger.turn()
    over.set()
    reader.join()
    assert ledger.left() == ["u499/1"]
    assert set(seen) == {500 * 700}


QUARTER = HOUR // 4
MIDNIGHT = NOON - 12 * HOUR
KATHMANDU = Calendar("Asia/Kathmandu")  # its days begin at 18:15 UTC


@settings(max_examples=400)
@given(
    ats=st.lists(st.integers(-200, 100) | st.sampled_from([midnight + it for midnight in (-119, -23, 73) for it in range(-2, 4)]),
                 min_size=4, max_size=12),
    pruned=st.sampled_from([0, 2, 5, 12, 12, 12]),
    is_folded=st.booleans(),
    asked=st.tuples(st.integers(-200, 100), st.integers(-200, 100) | st.none()),
    to=st.sampled_from([HOUR, DAY, "local day", "local day", None]),
)  # fmt: skip
def test_hours_and_days_of_any_time_zone_stay_exact_when_their_rows_are_gone(row, ats, pruned, is_folded, asked, to):
    index = Index(None, KATHMANDU.day_of)
    instants = [MIDNIGHT + at * QUARTER for at in ats]
    index.put([values_of(row(f"u{number}/1", at=at)) for number, at in enumerate(instants[1:])], (1, 0))
    index.submit(sums.advance).result()
    index.put([values_of(row("late/1", at=instants[0]))], (1, 1))
    index.put([values_of(row("last/1", at=NOON + 9 * DAY))], (1, 2))

    def prune(connection):
        sums.advance(connection)
        for _ in range(pruned):
            chunk = retention.due(connection, NOON + 8 * DAY, ROOMY)
            if chunk is not None:
                retention.forget(connection, replace(chunk, last=chunk.first), None, 0)
        while is_folded and sums.fold(connection):
            pass
        return pruned_of(connection)

    gone = index.submit(prune).result()

    def bound(at):
        """Where rows are left any instant will do; of what is gone, whole hours until they are folded, then whole days."""
        if at is None or (to is None and MIDNIGHT + at * QUARTER > gone + HOUR):
            return None if at is None else MIDNIGHT + at * QUARTER
        if to == "local day":
            return KATHMANDU.at(MIDNIGHT + at * QUARTER).day.start_ns
        unit = DAY if is_folded or to is None else to
        return (MIDNIGHT + at * QUARTER) // unit * unit

    since, until = map(bound, asked)
    for by, name_of in (("caller", lambda at: "bob"), ("day", KATHMANDU.day_of)):
        found = index.submit(lambda connection, by=by: usage_of(connection, by, since, until)).result()
        expected = Counter(
            name_of(at) for at in [*instants, NOON + 9 * DAY] if (since is None or at >= since) and (until is None or at < until)
        )
        assert {it[by]: it["attempts"] for it in found} == expected
    index.close()


def written_by_issue_2(path, rows, index):
    """The ledger of a Sluice before sums, with the very rows."""
    connection = sqlite3.connect(path, isolation_level=None)
    columns = index.submit(lambda it: [(found[1], found[2]) for found in it.execute("PRAGMA table_info(rows)")]).result()
    connection.executescript(V1.format(columns=", ".join(f'"{name}" {kind}' for name, kind in columns[2:])))
    for row in rows:
        bound = next(index._inserts.of([values_of(row)], is_tame=False)).bound
        connection.execute(f"INSERT INTO rows VALUES (NULL, {', '.join('?' * len(bound))})", bound)
    connection.close()


async def test_a_ledger_of_an_older_version_opens_at_once_and_is_summed_in_the_background(tmp_path, keeping, row, monkeypatch):
    monkeypatch.setattr(sums, "STEP", 100)
    monkeypatch.setattr(upkeep, "TELL_S", 0.0)
    (tmp_path / "state").mkdir()
    memory = Index(None, Calendar("UTC").day_of)
    rows = [row(f"u{number}/1", at=NOON - 10 * DAY + number * HOUR, caller=f"c{number % 3}") for number in range(250)]
    written_by_issue_2(tmp_path / "state" / "ledger.sqlite", rows, memory)
    memory.close()
    from_beside = read_usage(tmp_path / "state", "caller", NOON - 5 * DAY).rows
    ledger = keeping()
    assert ledger.ask(is_old)
    expected = [it for it in from_beside if it["caller"]]
    assert ledger.ask(lambda connection: usage_of(connection, "caller", NOON - 5 * DAY)) == expected
    ledger.put(row("new/1", caller="c1"))
    with_new = ledger.ask(lambda connection: usage_of(connection, "caller", NOON - 5 * DAY))
    assert with_new != expected
    await ledger.turn()
    assert not ledger.ask(is_old) and ledger.ask(sums.unsummed) == 0
    assert ledger.ask(lambda connection: usage_of(connection, "caller", NOON - 5 * DAY)) == with_new
    said = [event for _, event, _ in ledger.told]
    assert said[0].startswith("ledger of an older version") and said.count("ledger being summed") >= 2
    assert len(read_rows(tmp_path / "state", 1000).rows) == 251


async def test_a_ledger_without_a_newer_column_gets_it(tmp_path, clock, row):
    first = Keeping(tmp_path, clock)
    first.put(row("a/1"))
    first.index.close()
    connection = sqlite3.connect(first.path)
    connection.execute("ALTER TABLE rows DROP COLUMN overhead_ms")
    connection.close()
    again = Keeping(tmp_path, clock)
    again.put(row("b/1"))
    again.index.close()
    shown = read_only(first.path, lambda connection: connection.execute("SELECT id, overhead_ms FROM rows").fetchall())
    assert shown == [("a/1", None), ("b/1", 0.5)]


PRUNES = """
import asyncio, sys, time
from pathlib import Path
from proxy.admit import retention
from proxy.admit.sqlite import Index
from proxy.admit.upkeep import Upkeep

class Kept:
    ledger_keep_s, ledger_max_bytes = 86400.0, 10**12

class Clock:
    now_ns, monotonic = staticmethod(lambda: int(sys.argv[2])), staticmethod(time.monotonic)

async def main():
    upkeep = Upkeep(Index(Path(sys.argv[1]), str), Kept, Clock, lambda *_, **__: None)
    await upkeep._begin()
    print("begun", flush=True)
    await upkeep.turn()
    print("done", flush=True)

retention.CHUNK = 7
asyncio.run(main())
"""


async def test_kill_9_while_rows_are_pruned_loses_none_and_doubles_none(tmp_path, keeping, row):
    ledger = keeping()
    ids = [f"u{number}/1" for number in range(3000)]
    ledger.put(*(row(id, at=NOON - 4 * DAY + number * HOUR // 60) for number, id in enumerate(ids)), row("new/1"))
    await ledger.turn()
    ledger.index.close()
    kills = 0
    for patience in (0.0, 0.02, 0.05, 0.1, 0.2, 0.4):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PRUNES, str(ledger.path), str(NOON), stdout=-1, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert await process.stdout.readline() == b"begun\n"
        await asyncio.sleep(patience)
        if process.returncode is None:
            process.kill()
            kills += 1
        await process.communicate()
    assert kills
    again = keeping(keep_s=DAY_S)
    await again.turn()
    found = [it["id"] for rows in archived(tmp_path / "state" / "archive").values() for it in rows]
    assert sorted(found + again.left()) == sorted([*ids, "new/1"])
    assert again.cost() == {"bob": 3001 * 700}
