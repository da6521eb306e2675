"""The embedded state as its neighbours see it: files, lock, keys, ledger."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import sys

import pytest
from support.standing import held

from proxy.admit import EmbeddedState, StateProblem, keys_offline, read_rows, read_usage
from proxy.admit.journal import framed, segments
from proxy.admit.keyring import Kept
from proxy.exchange import Allow
from proxy.policy.plan_callers import KeyRecord

DAY = 86400 * 10**9
NOON = 1_795_262_400 * 10**9


@pytest.fixture(params=["memory", "files"])
async def state(request, tmp_path, clock):
    path = tmp_path / "state" if request.param == "files" else None
    state = await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
    yield state
    await state.close()


async def test_a_row_comes_back_as_it_was_written(state, row):
    written = row("u/1", usage_detail={"a": {"b": [1, 2.5, None, "ü"]}}, team=None, price_row=None, first_byte_ms=None)
    state.write(written)
    (found,) = await state.rows()
    assert found == {name: getattr(written, name) for name in written._fields if name != "id"}
    assert list(found)[:4] == ["request_id", "attempt", "kind", "parent_id"]


async def test_a_question_sees_all_that_was_settled_before_it(state, intent, row):
    for number in range(200):
        await state.hold(intent(f"c{number}/1"))
        state.settle(f"c{number}/1", 0, 1, row(f"c{number}/1"))
        if number % 50 == 0:
            assert len(await state.rows(1000)) == number + 1


async def test_rows_are_the_newest_with_the_newest_last(state, row):
    for number in range(10):
        state.write(row(f"c{number}/1", at=NOON + number, caller="bob" if number % 2 else "eve"))
    assert [it["request_id"] for it in await state.rows(3)] == ["c7", "c8", "c9"]
    assert [it["request_id"] for it in await state.rows(since_ns=NOON + 6)] == ["c6", "c7", "c8", "c9"]
    assert [it["request_id"] for it in await state.rows(2, NOON + 1, "eve")] == ["c6", "c8"]


async def test_what_no_json_can_hold_is_made_plain_and_never_stops_the_ledger(state, row):
    state.write(row("bad/1", model="\ud800", usage_detail={"n": 2**70, "x": {1, 2}, 3: object}, output_tokens=-(2**70)))
    deep: dict[str, object] = {}
    for _ in range(2000):
        deep = {"d": deep}
    state.write(row("deep/1", usage_detail=deep))
    state.write(row("good/1"))
    assert [it["request_id"] for it in await state.rows()] == ["bad", "deep", "good"]
    assert [it["model"] for it in await state.rows()] == ["?", "gpt-4o", "gpt-4o"]


async def test_sums_by_caller_model_team_day_and_provider(state, row):
    state.write(row("a/1", at=NOON, caller="bob", team="ops", cost_nanousd=100))
    state.write(row("b/1", at=NOON + DAY, caller="bob", cost_nanousd=50, end="upstream_cut", usage_source="counted"))
    state.write(row("b/2", at=NOON + DAY, caller="bob", cost_nanousd=7, kind="retry", status=500, provider="azure"))
    state.write(row("c/1", at=NOON, caller="eve", cost_nanousd=0, kind="refusal", end="refused:rate_limited", input_tokens=0, status=429))
    bob, eve = await state.usage("caller")
    assert bob == {
        "caller": "bob", "requests": 2, "attempts": 3, "refusals": 0, "input_tokens": 30, "cached_input_tokens": 6, "cache_write_tokens": 0,
        "output_tokens": 15, "reasoning_tokens": 3, "cost_nanousd": 157, "failed_cost_nanousd": 57, "estimated_cost_nanousd": 50,
    }  # fmt: skip
    assert (eve["requests"], eve["attempts"], eve["refusals"]) == (0, 0, 1)
    assert [(it["day"], it["cost_nanousd"]) for it in await state.usage("day")] == [("2026-11-21", 100), ("2026-11-22", 57)]
    assert [(it["team"], it["cost_nanousd"]) for it in await state.usage("team")] == [("ops", 100), (None, 57)]
    assert {it["provider"] for it in await state.usage("provider", since_ns=NOON + 1)} == {"openai", "azure"}
    assert [it["model"] for it in await state.usage("model", until_ns=NOON + 1)] == ["gpt-4o"]
    with pytest.raises(ValueError, match="caller, model"):
        await state.usage('caller" --')


async def test_of_one_callers_flood_of_refusals_a_thousand_and_ten_a_second_are_kept_and_the_rest_counted(state, clock, row):
    for number in range(1100):
        state.write(row(f"a{number}/1", kind="refusal", caller="eve"))
    state.write(row("served/1", caller="eve"))
    assert (len(await state.rows(5000)), state.refusal_rows_dropped) == (1001, 100)
    state.write(row("b/1", kind="refusal", caller="bob"))
    assert len(await state.rows(5000, caller="bob")) == 1, "what eve does costs bob no row"
    clock.pass_s(1)
    for number in range(20):
        state.write(row(f"c{number}/1", kind="refusal", caller="eve"))
    assert (len(await state.rows(5000)), state.refusal_rows_dropped) == (1012, 110)


async def test_a_flood_of_callers_shares_one_allowance_until_they_fall_silent(state, clock, row):
    for number in range(3000):
        state.write(row(f"a{number}/1", kind="refusal", caller=f"one of many {number}"))
    assert state.refusal_rows_dropped == 1000
    clock.pass_s(101)
    state.write(row("b/1", kind="refusal", caller="late"))
    assert state.refusal_rows_dropped == 1000


async def test_a_key_is_found_by_its_digest_with_all_it_may(state):
    record = KeyRecord("bob", b"d" * 32, "free", "ops", Allow(models=("gpt-*",)), {"concurrency": 3}, 5)
    assert state.keys.ring.find(b"d" * 32) is None
    await state.keys.add(record)
    assert (state.keys.ring.find(b"d" * 32), [kept.record for kept in state.keys.all()]) == (record, [record])


def add_offline(path, record):
    with keys_offline(path) as keys:
        keys.change(lambda _: [Kept(record, 1)])


async def test_keys_secret_and_ledger_outlive_the_process(tmp_path, clock, row):
    path = tmp_path / "deep" / "state"
    record = KeyRecord("bob", b"d" * 32, allow=Allow(regions=("eu",)))
    add_offline(path, KeyRecord("first", b"1" * 32))
    state = await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
    secret = state.secret
    await state.keys.add(record)
    state.write(row("u/1"))
    with pytest.raises(StateProblem, match="locked"):
        add_offline(path, KeyRecord("late", b"2" * 32))
    await state.close()
    add_offline(path, KeyRecord("last", b"3" * 32))
    state = await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
    assert state.secret == secret
    assert len(secret) == 32
    assert [kept.record.name for kept in state.keys.all()] == ["bob", "first", "last"]
    assert state.keys.ring.find(b"d" * 32) == record
    assert len(await state.rows()) == 1
    assert (state.recovery.crashed, state.recovery.torn_bytes) == (0, 0)
    await state.close()
    assert not [file for file in (path, *path.iterdir()) if file.stat().st_mode & 0o077]


async def test_two_states_in_memory_know_nothing_of_each_other(clock, row):
    one, two = [await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9) for _ in range(2)]
    one.write(row("u/1"))
    assert (len(await one.rows()), await two.rows(), one.secret == two.secret) == (1, [], False)
    await one.close()
    await two.close()


async def test_a_second_process_is_told_who_holds_the_state(tmp_path, clock):
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    with pytest.raises(StateProblem, match=f"locked by process {os.getpid()}:"):
        await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    await state.close()
    await (await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)).close()


async def test_a_state_that_cannot_be_used_says_why_in_one_line(tmp_path, clock):
    async def problem(path) -> str:
        with pytest.raises(StateProblem) as caught:
            await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "file").write_text("")
    assert await problem(tmp_path / "file") == f"the state {tmp_path}/file is a file: give a directory"
    assert await problem(tmp_path / "file" / "below") == f"the state {tmp_path}/file/below cannot be written: Not a directory"
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "secret").write_bytes(b"short")
    assert "is damaged" in await problem(tmp_path / "short")
    (tmp_path / "odd" / "secret").mkdir(parents=True)
    assert await problem(tmp_path / "odd") == f"the state {tmp_path}/odd cannot be written: Is a directory"
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / "ledger.sqlite").write_bytes(b"no database at all" * 100)
    assert "cannot be used: file is not a database" in await problem(tmp_path / "index")
    (tmp_path / "newer").mkdir()
    with sqlite3.connect(tmp_path / "newer" / "ledger.sqlite") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    assert "newer Sluice" in await problem(tmp_path / "newer")
    (tmp_path / "journal" / "journal.new").mkdir(parents=True)
    assert "cannot be written: Is a directory" in await problem(tmp_path / "journal")
    (tmp_path / "journal" / "journal.new").rmdir()
    await (await EmbeddedState.open(tmp_path / "journal", clock=clock, time_zone="UTC", max_keys=9)).close()  # no lock was left behind


def test_a_directory_without_permission_is_one_clear_line(tmp_path):
    """As another user, since root may write anywhere; where we are not root, as ourselves."""
    tmp_path.chmod(0o555)
    code = (
        "import os, sys; sys.path[:0] = [sys.argv[2]]\n"
        "from pathlib import Path; from proxy.admit import StateProblem, keys_offline\n"
        "os.geteuid() or os.setuid(65534)\n"
        "try:\n with keys_offline(Path(sys.argv[1]) / 'state'): pass\n"
        "except StateProblem as problem: print(problem)"
    )
    for parent in tmp_path.parents:
        if parent.stat().st_uid == os.geteuid() and parent.name.startswith("pytest"):
            parent.chmod(0o755)
    done = subprocess.run([sys.executable, "-c", code, tmp_path, os.getcwd()], capture_output=True, text=True, check=False)
    assert done.stdout == f"the state {tmp_path}/state cannot be written: Permission denied\n", done.stderr


async def test_a_command_beside_the_process_reads_and_says_how_far_behind_it_is(tmp_path, clock, row, monkeypatch):
    monkeypatch.setattr("proxy.admit.sqlite.GATHER_S", 5.0)
    with pytest.raises(StateProblem, match="no ledger"):
        read_rows(tmp_path / "state")
    state = await EmbeddedState.open(tmp_path / "state", clock=clock, time_zone="UTC", max_keys=9)
    state.write(row("a/1"))
    await state.rows()
    state.write(row("b/1"))
    for _ in range(3):
        await asyncio.sleep(0)
    (tmp_path / "state" / "journal-00000000.log").write_bytes(framed(b'["w",["old"]]'))  # indexed long ago, to be removed
    reading = await asyncio.to_thread(read_rows, tmp_path / "state")
    assert ([it["request_id"] for it in reading.rows], reading.behind) == (["a"], 1)
    await state.rows()
    reading = await asyncio.to_thread(read_usage, tmp_path / "state", "caller")
    assert ([it["attempts"] for it in reading.rows], reading.behind) == ([2], 0)
    await state.close()
    assert read_rows(tmp_path / "state", 1, NOON, "bob").behind == 0
    (tmp_path / "state" / "ledger.sqlite").write_bytes(b"no database" * 100)
    with pytest.raises(StateProblem, match="cannot be read"):
        read_rows(tmp_path / "state")


async def test_a_clean_stop_leaves_one_small_segment(tmp_path, clock, intent, row, claim):
    claims = (claim(spend=("day", 10**9)),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    for number in range(100):
        await state.hold(intent(f"c{number}/1", claims, nanousd=9))
        state.settle(f"c{number}/1", 0, 9, row(f"c{number}/1"))
    await state.close()
    ((_, path),) = segments(tmp_path)
    assert path.stat().st_size < 1000
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    assert state.held_spend(["tier free"]) == {"tier free": 900}
    await state.close()


async def test_a_cancelled_hold_that_is_voided_leaves_nothing(tmp_path, clock, intent, row, claim):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9, durability="disk")
    task = asyncio.ensure_future(state.hold(intent("u/1", claims, nanousd=90)))
    other = asyncio.ensure_future(state.hold(intent("v/1", claims, nanousd=10)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    state.void("u/1", None)
    await other
    assert (await held(state, intent("w/1", claims)))[0].remaining == 90
    assert await state.rows() == []
    await state.close()


async def test_rates_count_on_over_a_restart_and_a_clock_put_back(tmp_path, new_clock, claim):
    claims = (claim(requests=1),)
    for wall, refused in ((NOON, False), (NOON + 59 * 10**9, True), (NOON - DAY, True), (NOON - DAY + 61 * 10**9, False)):
        state = await EmbeddedState.open(tmp_path, clock=new_clock(wall), time_zone="UTC", max_keys=9)
        try:
            state.peek(claims)
            assert not refused
            await state.enter(f"u{wall}", claims)
        except Exception as no:
            assert refused, no
        await state.close()


async def test_a_request_that_went_back_is_free_again_once_and_after_a_kill_too(tmp_path, clock, claim):
    claims = (claim(requests=2, concurrency=5),)
    state = await EmbeddedState.open(tmp_path / "one", clock=clock, time_zone="UTC", max_keys=9)
    await state.enter("u", claims)
    await state.enter("v", claims)
    for uid in ("v", "v", "nobody"):
        state.uncount(uid)
    assert [(it.kind, it.remaining) for it in state.standings(claims)] == [("requests", 1), ("concurrency", 3)]
    await state.rows()  # what is written is written
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    await state.close()
    again = await EmbeddedState.open(tmp_path / "two", clock=clock, time_zone="UTC", max_keys=9)
    assert [(it.kind, it.remaining) for it in again.standings(claims)] == [("requests", 1), ("concurrency", 5)]
    await again.close()


async def test_a_row_in_an_older_layout_is_read_by_its_names(tmp_path, clock, intent, claim, monkeypatch):
    """A journal written before a column was added."""
    from proxy.admit import records

    claims = (claim(spend=("day", 100)),)
    with monkeypatch.context() as older:
        older.setattr(records, "COLUMNS", tuple(reversed(records.COLUMNS)))
        older.setattr(records, "values_of", lambda row: [getattr(row, name) for name in records.COLUMNS])
        state = await EmbeddedState.open(tmp_path / "a", clock=clock, time_zone="UTC", max_keys=9)
        await state.hold(intent("u/1", claims, nanousd=60))
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        await state.close()
    state = await EmbeddedState.open(tmp_path / "b", clock=clock, time_zone="UTC", max_keys=9)
    assert [(it["request_id"], it["cost_nanousd"]) for it in await state.rows()] == [("u", 60)]
    await state.close()
