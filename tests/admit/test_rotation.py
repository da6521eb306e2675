"""Segments and snapshots under kill -9 at any step, under damage, from an older version, and without a stall."""

from __future__ import annotations

import asyncio
import collections
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.admit.columns import rows_of
from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import Journal, framed, read_frames, segments
from proxy.admit.place import StateProblem
from proxy.admit.snapshots import SLICE, is_due, snapshots
from proxy.ports import Intent

HERE = Path(__file__).parent
ENVIRONMENT = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
COST, HELD = 400, 1000  # as in `killed.py`


@pytest.fixture(scope="module")
def killed():
    process = subprocess.Popen(
        [sys.executable, HERE / "killed.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT, bufsize=0
    )
    yield process
    process.stdin.close()
    process.wait(10)
    process.stdout.close()


async def read(path: str) -> tuple[list[dict], dict[str, int], dict[str, int]]:
    """Rows, money by caller, requests by caller: of the state as it opens again."""

    class Clock:
        now_ns = staticmethod(lambda: 1_795_262_400 * 10**9)
        monotonic = staticmethod(lambda: 1000.0)
        monotonic_ns = staticmethod(lambda: 1000 * 10**9)

    state = await EmbeddedState.open(Path(path), clock=Clock(), time_zone="UTC", max_keys=10)
    try:
        money = {account: settled + held for _, account, _, settled, held in state.contributions()}
        requests = {name: account.ring(("requests", 60)).total for name, account in state._counters.books.get("each", {}).items()}
        return await state.rows(100_000), money, requests
    finally:
        await state.close()


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(st.integers(1, 40) | st.integers(1, 150), min_size=1, max_size=4),
    is_torn=st.booleans(),
    durability=st.sampled_from(["process", "disk"]),
    times=st.sampled_from([0, 2, 5]),
)
def test_killed_at_any_step_of_a_rotation_nothing_is_lost_and_nothing_counted_twice(killed, steps, is_torn, durability, times):
    path = tempfile.mkdtemp(prefix="sluice-")
    try:
        held, settled = set(), set()
        for step in steps:
            killed.stdin.write(json.dumps([path, step, is_torn, durability, times]).encode() + b"\n")
            while (line := killed.stdout.readline()) != b"over\n":
                word, _, id = line.decode().strip().partition(" ")
                {"held": held, "settled": settled, "open": set()}[word].add(id)
        rows, money, requests = asyncio.run(read(path))
        by_id = {row["request_id"]: row for row in rows}
        assert len(by_id) == len(rows)
        assert held <= by_id.keys()
        assert all((by_id[id]["end"], by_id[id]["cost_nanousd"]) == ("done", COST) for id in settled)
        assert {(row["end"], row["cost_nanousd"]) for row in rows} <= {("done", COST), ("crashed", HELD)}
        spent = collections.Counter()
        for row in rows:
            spent[f"caller={row['caller']}"] += row["cost_nanousd"]
        assert money == spent
        count = collections.Counter(f"caller={row['caller']}" for row in rows)
        assert all(count[name] <= requests[name] for name in count)
    finally:
        shutil.rmtree(path)


def small_segments(monkeypatch) -> None:
    monkeypatch.setattr("proxy.admit.storage.Journal", lambda *a, **of: Journal(*a, **of, segment_bytes=3000))


def no_snapshots(monkeypatch) -> None:
    """As if every process died before its first was written."""
    monkeypatch.setattr("proxy.admit.storage.Snapshots.begin", lambda self: None)


def told_of(state: EmbeddedState) -> dict[str, object]:
    counters, now = state._counters, state.now()
    told = [(limit, columns) for limit, names in counters.accounts() for columns in counters.told(limit, names, now)]
    return {row[1]: row for limit, columns in told for row in rows_of(limit, now.ns, columns)}


async def opened(path: Path, clock) -> EmbeddedState:
    return await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)


async def written(path: Path, clock, claims, intent, row, calls: int = 30) -> None:
    """A state that was killed: `calls` of 1000, every second settled at 400."""
    state = await opened(path / "alive", clock)
    for number in range(calls):
        await state.hold(intent(f"c{number}/1", claims, nanousd=1000))
        if number % 2:
            state.settle(f"c{number}/1", 0, 400, row(f"c{number}/1", cost_nanousd=400))
    await state.rows()
    shutil.copytree(path / "alive", path / "state")
    await state.close()


async def test_what_is_damaged_in_the_middle_is_kept_aside_and_all_behind_it_counts(tmp_path, clock, claim, intent, row, monkeypatch):
    no_snapshots(monkeypatch)
    claims = (claim(spend=("day", 10**9)),)
    await written(tmp_path, clock, claims, intent, row)
    ((_, path),) = segments(tmp_path / "state")
    data = path.read_bytes()
    frames = list(read_frames(data))
    hurt = next(at for at, (payload, _) in enumerate(frames) if payload.startswith(b'["h","c10/1"'))
    begin, end = frames[hurt - 1][1], frames[hurt][1]
    path.write_bytes(data[: begin + 20] + b"\0" * 40 + data[begin + 60 :])
    state = await opened(tmp_path / "state", clock)
    assert (state.recovery.damaged_bytes, state.recovery.torn_bytes, state.recovery.crashed) == (end - begin, 0, 14)
    assert path.with_suffix(".damaged").stat().st_size == end - begin
    assert state.held_spend(["tier free"]) == {"tier free": 14 * 1000 + 15 * 400}
    await state.close()
    state = await opened(tmp_path / "state", clock)
    assert state.recovery.damaged_bytes == 0
    assert state.held_spend(["tier free"]) == {"tier free": 14 * 1000 + 15 * 400}
    await state.close()


async def test_a_segment_whose_head_is_damaged_counts_from_its_first_whole_record(tmp_path, clock, claim, intent, row, monkeypatch):
    small_segments(monkeypatch)
    no_snapshots(monkeypatch)
    claims = (claim(spend=("day", 10**9)),)
    await written(tmp_path, clock, claims, intent, row)
    files = segments(tmp_path / "state")
    assert len(files) > 4
    damaged = files[2][1].read_bytes()
    files[2][1].write_bytes(b"\xff" * 30 + damaged[30:])
    state = await opened(tmp_path / "state", clock)
    assert state.recovery.damaged_bytes == len(next(read_frames(damaged))[0]) + 8
    assert state.held_spend(["tier free"]) == {"tier free": 15 * 1400}
    await state.close()


async def test_without_one_of_its_segments_a_state_does_not_open(tmp_path, clock, claim, intent, row, monkeypatch):
    small_segments(monkeypatch)
    no_snapshots(monkeypatch)
    await written(tmp_path, clock, (claim(spend=("day", 10**9)),), intent, row)
    number, path = segments(tmp_path / "state")[2]
    path.unlink()
    with pytest.raises(StateProblem, match=f"lacks its segment {number}: restore it"):
        await opened(tmp_path / "state", clock)
    segments(tmp_path / "state")[0][1].unlink()
    with pytest.raises(StateProblem, match="is damaged"):
        await opened(tmp_path / "state", clock)


async def test_a_snapshot_that_is_not_whole_is_passed_over_while_its_segments_are_there(tmp_path, clock, claim, intent, row, monkeypatch):
    small_segments(monkeypatch)
    monkeypatch.setattr("proxy.admit.storage.forget_before", lambda *_: None)
    await written(tmp_path, clock, (claim(spend=("day", 10**9)),), intent, row)
    for number, path in snapshots(tmp_path / "state"):
        data = path.read_bytes()
        path.write_bytes(data[:-1] if number % 2 else data[:30] + b"?" + data[31:])
    state = await opened(tmp_path / "state", clock)
    assert state.held_spend(["tier free"]) == {"tier free": 15 * 1400}
    await state.close()


async def test_a_state_of_a_newer_sluice_is_left_alone(tmp_path, clock, claim, intent, row):
    await written(tmp_path, clock, (claim(spend=("day", 10**9)),), intent, row)
    number, _ = segments(tmp_path / "state")[-1]
    newer = tmp_path / "state" / f"journal-{number + 1:08d}.log"
    newer.write_bytes(framed(b'["seg",99,["at"],%d,"",0,0]' % number))
    with pytest.raises(StateProblem, match=r"newer Sluice \(version 99, known 4\)"):
        await opened(tmp_path / "state", clock)
    newer.rename(tmp_path / "state" / f"snapshot-{number + 1:08d}.snap").write_bytes(
        framed(b'["snap",99,["at"],%d,9]' % number) + framed(b'["end",1]')
    )
    with pytest.raises(StateProblem, match="newer Sluice"):
        await opened(tmp_path / "state", clock)


async def test_a_state_of_the_version_before_opens_as_it_stood(tmp_path, clock, claim):
    """`kept/journal-of-version-1.log` was written by the code of that time: four requests of 1000, two settled at 700; killed."""
    (tmp_path / "state").mkdir()
    shutil.copy(HERE / "kept" / "journal-of-version-1.log", tmp_path / "state" / "journal-00000002.log")
    state = await opened(tmp_path / "state", clock)
    assert state.recovery.crashed == 2
    assert [(it["request_id"], it["end"], it["cost_nanousd"]) for it in await state.rows()] == [
        ("a1", "done", 700), ("a2", "crashed", 1000), ("b", "crashed", 1000),
    ]  # fmt: skip
    claims = (claim(spend=("day", 10**6), requests=10, tokens=1000),)
    left = {it.kind: it.remaining for it in state.standings(claims)}
    assert left == {"requests": 6, "tokens": 1000 - 15 - 15 - 100 - 100, "spend": 10**6 - 3400}
    await state.close()
    state = await opened(tmp_path / "state", clock)
    assert {it.kind: it.remaining for it in state.standings(claims)} == left
    await state.close()


async def test_a_state_whose_holds_have_whole_rows_opens_as_it_stood(tmp_path, clock, claim):
    """`kept/journal-of-version-2.log` was written by the code of that time: three requests of 1000, one settled at 700; killed."""
    (tmp_path / "state").mkdir()
    shutil.copy(HERE / "kept" / "journal-of-version-2.log", tmp_path / "state" / "journal-00000001.log")
    claims = (claim(spend=("day", 10**6), requests=10, tokens=1000),)
    for crashed in (2, 0):
        state = await opened(tmp_path / "state", clock)
        assert state.recovery.crashed == crashed
        assert [(it["request_id"], it["end"], it["cost_nanousd"], it["usage_note"]) for it in await state.rows()] == [
            ("a1", "done", 700, ""), ("a2", "crashed", 1000, "unconfirmed"), ("b", "crashed", 1000, "unconfirmed"),
        ]  # fmt: skip
        left = {it.kind: it.remaining for it in state.standings(claims)}
        assert left == {"requests": 7, "tokens": 1000 - 15 - 100 - 100, "spend": 10**6 - 2700}
        await state.close()


async def test_a_snapshot_whose_accounts_are_rows_opens_as_it_stood(tmp_path, clock, claim):
    """Written by the code of version 3: of bob two requests settled, one open, another settled behind the snapshot; one of ann."""
    (tmp_path / "state").mkdir()
    shutil.copy(HERE / "kept" / "snapshot-of-version-3.snap", tmp_path / "state" / "snapshot-00000002.snap")
    shutil.copy(HERE / "kept" / "journal-behind-snapshot-of-version-3.log", tmp_path / "state" / "journal-00000002.log")
    for crashed in (1, 0):
        state = await opened(tmp_path / "state", clock)
        assert state.recovery.crashed == crashed
        for name, requests, tokens, nanousd in (("bob", 4, 15 + 25 + 100 + 35, 700 + 800 + 1000 + 900), ("ann", 1, 20, 300)):
            claims = (claim(account=f"caller={name}", spend=("day", 10**6), requests=10, tokens=1000),)
            left = [it.remaining for it in state.standings(claims)]
            assert left == [10 - requests, 1000 - tokens, 10**6 - nanousd]
        await state.close()


async def test_a_state_whose_entries_stand_beside_their_holds_opens_as_it_stood(tmp_path, clock, claim):
    """`kept/journal-of-version-3.log` was written by the code of that time: four requests of 1000, one settled at 700, one grown by 250,
    one void; killed."""
    (tmp_path / "state").mkdir()
    shutil.copy(HERE / "kept" / "journal-of-version-3.log", tmp_path / "state" / "journal-00000001.log")
    claims = (claim(spend=("day", 10**6), requests=10, tokens=1000),)
    for crashed in (2, 0):
        state = await opened(tmp_path / "state", clock)
        assert state.recovery.crashed == crashed
        assert [(it["request_id"], it["end"], it["cost_nanousd"], it["overhead_ms"]) for it in await state.rows()] == [
            ("a1", "done", 700, 0.5), ("a2", "crashed", 1000, 1.235), ("b", "crashed", 1250, 1.235),
        ]  # fmt: skip
        left = {it.kind: it.remaining for it in state.standings(claims)}
        assert left == {"requests": 6, "tokens": 1000 - 15 - 100 - 100, "spend": 10**6 - 700 - 1000 - 1250}
        await state.close()


async def test_an_attempt_that_has_begun_has_its_whole_row_after_a_crash_from_journal_or_snapshot(tmp_path, clock, claim, row):
    claims = (claim(spend=("day", 10**6)),)
    price = orjson.Fragment(b'{"name":"gpt-4o"}')
    state = await opened(tmp_path / "alive", clock)
    for id, nanousd, tokens in (("u/1", 500, 34), ("grown/1", 500, 34), ("odd/1", 500, 2**70)):
        head = row(id, model="lone \ud800" if id == "odd/1" else "gpt-4o", at=clock.now_ns())[:13]
        await state.hold(Intent(id, id, claims, 46, nanousd, (head, 12, tokens, price, 7, 1.23456, True)))
    assert await state.extend("grown/1", claims, 250)
    await state.rows()
    shutil.copytree(tmp_path / "alive", tmp_path / "killed")
    await state._storage._snapshots.write()
    shutil.copytree(tmp_path / "alive", tmp_path / "killed later")
    await state.close()
    for name in ("killed", "killed later"):
        again = await opened(tmp_path / name, clock)
        rows = {it["request_id"]: it for it in await again.rows()}
        plain, larger, odd = rows["u"], rows["grown"], rows["odd"]
        crashed = row(
            "u/1", at=clock.now_ns(), status=None, end="crashed", input_tokens=12, cached_input_tokens=0, output_tokens=34,
            reasoning_tokens=0, usage_detail={}, usage_source="estimate", usage_note="unconfirmed", cost_nanousd=500, held_nanousd=500,
            price_row={"name": "gpt-4o"}, policy_generation=7, duration_ms=0.0, first_byte_ms=None, overhead_ms=1.235,
        )  # fmt: skip
        assert plain == {name: getattr(crashed, name) for name in plain} and len(plain) == len(crashed) - 1
        assert (larger["cost_nanousd"], larger["held_nanousd"], larger["end"]) == (750, 750, "crashed")
        assert (odd["output_tokens"], odd["model"], odd["price_row"]) == (2**53, "lone ?", {"name": "gpt-4o"})
        assert again.held_spend(["tier free"]) == {"tier free": 500 + 750 + 500}
        await again.close()


async def test_a_journal_moved_aside_begins_empty_and_its_rows_are_not_taken_for_known(tmp_path, clock, claim, intent, row):
    claims = (claim(spend=("day", 10**9)),)
    await written(tmp_path, clock, claims, intent, row)
    for _, path in (*segments(tmp_path / "state"), *snapshots(tmp_path / "state")):
        path.unlink()
    state = await opened(tmp_path / "state", clock)
    assert state.held_spend(["tier free"]) == {}
    await state.hold(intent("new/1", claims, nanousd=5))
    state.settle("new/1", 0, 5, row("new/1", cost_nanousd=5))
    await asyncio.sleep(0)
    shutil.copytree(tmp_path / "state", tmp_path / "killed", ignore=shutil.ignore_patterns("ledger*"))
    shutil.copy(tmp_path / "alive" / "ledger.sqlite", tmp_path / "killed")  # the index of before: that row is not in it
    await state.close()
    state = await opened(tmp_path / "killed", clock)
    assert "new" in [it["request_id"] for it in await state.rows()]
    await state.close()


async def test_calls_go_on_while_a_snapshot_of_many_accounts_is_written(tmp_path, clock, claim, intent):
    state = await EmbeddedState.open(tmp_path / "alive", clock=clock, time_zone="UTC", max_keys=10**6)
    for number in range(3000):
        await state.enter(f"u{number}", (claim(account=f"caller={number}", requests=10**6),))
    state._journal.position()
    state._journal.rotate()
    claims, calls = (claim("other", spend=("total", 10**9)),), 0
    async with asyncio.timeout(60):
        while [number for number, _ in snapshots(tmp_path / "alive")] != [2]:
            await state.hold(intent(f"c{calls}/1", claims, nanousd=1))
            await asyncio.sleep(0)  # as a call, which waits for its provider
            calls += 1
    assert calls > 3000 / SLICE, "one at least between two slices"
    while len(segments(tmp_path / "alive")) > 1:
        await state.rows(1)
    shutil.copytree(tmp_path / "alive", tmp_path / "killed")
    await state.close()
    state = await EmbeddedState.open(tmp_path / "killed", clock=clock, time_zone="UTC", max_keys=10**6)
    assert state.recovery.crashed == calls
    assert len(state._counters.books["tier free"]) == 3000
    await state.close()


def test_a_snapshot_is_due_once_the_journal_behind_the_last_is_so_many_times_its_size_or_long(tmp_path, monkeypatch):
    monkeypatch.setattr("proxy.admit.snapshots.TIMES", 5)
    monkeypatch.setattr("proxy.admit.snapshots.MOST_BYTES", 10_000)

    def wrote(kind: str, number: int, size: int) -> bool:
        (tmp_path / f"{'journal' if kind == 'log' else 'snapshot'}-{number:08d}.{kind}").write_bytes(b"x" * size)
        return is_due(tmp_path)

    assert wrote("log", 1, 10), "there is none yet"
    assert not wrote("snap", 2, 100)
    assert not wrote("log", 2, 300), "what stands before it does not count"
    assert not wrote("log", 3, 199)
    assert wrote("log", 4, 1)
    assert not wrote("snap", 3, 10_000), "the newest counts"
    assert not wrote("log", 5, 9_799)
    assert wrote("log", 6, 1), "as long as a start may take"


async def test_a_snapshot_is_as_rare_as_it_is_large_and_a_start_reads_all_segments_since(tmp_path, clock, claim, intent, row, monkeypatch):
    small_segments(monkeypatch)
    state = await EmbeddedState.open(tmp_path / "alive", clock=clock, time_zone="UTC", max_keys=10**6)
    begun = []
    for number in range(400):
        claims = (claim(account=f"caller={number}", spend=("day", 10**9), requests=10, tokens=10**6),)
        await state.enter(f"c{number}", claims)
        await state.hold(intent(f"c{number}/1", claims, nanousd=1000, tokens=20))
        state.settle(f"c{number}/1", 10, 400, row(f"c{number}/1", cost_nanousd=400))
        state.leave(f"c{number}")
        while any(it.get_name() == "sluice snapshot" for it in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        begun = [*begun, *(it for it, _ in snapshots(tmp_path / "alive") if it not in begun)]
    await state.rows(1)
    last, (newest, _) = begun[-1], segments(tmp_path / "alive")[-1]
    assert 3 < len(begun) < newest / 4
    assert begun[-1] - begun[-2] > begun[1] - begun[0]
    assert [it for it, _ in segments(tmp_path / "alive")] == [*range(last, newest + 1)], "none is missing, and none is there for nothing"
    shutil.copytree(tmp_path / "alive", tmp_path / "killed")
    before = told_of(state)
    await state.close()
    state = await EmbeddedState.open(tmp_path / "killed", clock=clock, time_zone="UTC", max_keys=10**6)
    assert told_of(state) == before
    assert state.held_spend(["tier free"]) == {"tier free": 400 * 400}
    await state.close()


async def test_a_snapshot_that_finds_no_room_leaves_the_segments_and_nothing_else(tmp_path, clock, claim, intent, row, no_file_larger_than):
    claims = (claim(spend=("day", 10**9)),)
    state = await opened(tmp_path, clock)
    for number in range(300):
        await state.hold(intent(f"c{number}/1", claims, nanousd=1))
    with no_file_larger_than(20_000):  # less than its holds
        state._journal.rotate()
        for _ in range(300):
            await asyncio.sleep(0.001)
        assert list(tmp_path.glob("snapshot-*.new")) == []
    assert [number for number, _ in segments(tmp_path)] == [1, 2]
    state._journal.rotate()
    async with asyncio.timeout(20):
        while [number for number, _ in segments(tmp_path)] != [3]:
            await state.rows(1)
    await state.close()
