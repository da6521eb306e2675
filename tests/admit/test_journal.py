"""The journal on a real disk: damaged tails, no room, segments."""

from __future__ import annotations

import asyncio
import shutil
import struct

import pytest
from support.standing import held

from proxy.admit.counters import Counters
from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import Journal, JournalDown, framed, read_frames, segments
from proxy.admit.place import StateProblem
from proxy.admit.records import NOTHING
from proxy.admit.replay import replay
from proxy.admit.snapshots import snapshots
from proxy.refusal import Refusal


@pytest.fixture
def journal_in(tmp_path):
    def begin(**of) -> Journal:
        return Journal(
            tmp_path, 1, 0, head=lambda previous: b'["seg",%d]' % previous, wrote=of.get("wrote", lambda *_: None),
            rotated=lambda: None, doubted=of.get("doubted", lambda: None), is_on_disk=of.get("is_on_disk", False),
            segment_bytes=of.get("segment_bytes", 1 << 20),
        )  # fmt: skip

    return begin


async def test_a_tail_torn_at_any_byte_loses_that_record_alone(tmp_path, clock, claim, intent, row, told, ticks):
    state = await EmbeddedState.open(tmp_path / "a", clock=clock, time_zone="UTC", max_keys=9)
    claims = (claim(spend=("day", 10**9), tokens=1000, requests=10),)
    await state.enter("u", claims)
    await state.hold(intent("u/1", claims, nanousd=500, tokens=30))
    (_, path), *_ = segments(tmp_path / "a")
    before, size = Counters(9), path.stat().st_size
    replay(tmp_path / "a", before, (0, 0))
    state.settle("u/1", 20, 300, row("u/1"))
    await ticks()
    data = path.read_bytes()
    after = Counters(9)
    ((rows, _),) = replay(tmp_path / "a", after, (0, 0)).rows
    assert [row[0] for row in rows] == ["u/1"]
    await state.close()
    assert (told(after), len(before.holds)) != (told(before), 0)

    other = tmp_path / "b"
    for cut in range(size, len(data)):
        shutil.rmtree(other, ignore_errors=True)
        other.mkdir()
        (other / path.name).write_bytes(data[:cut])
        torn = Counters(9)
        found = replay(other, torn, (0, 0))
        assert (told(torn), found.rows, found.torn_bytes) == (told(before), [], cut - size)
        assert sum(len(aside.read_bytes()) for aside in other.glob("*.torn")) == cut - size
    (other / path.name).write_bytes(data)
    whole = Counters(9)
    replay(other, whole, (0, 0))
    assert told(whole) == told(after)


@pytest.mark.parametrize("tail", [b"\0" * 64, b"\xff" * 64, struct.pack("<II", 3, 0) + b"abc", framed(b"not json"), framed(NOTHING)[:-1]])
async def test_after_a_damaged_tail_the_state_opens_with_all_that_is_whole(tmp_path, clock, claim, intent, tail):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path / "a", clock=clock, time_zone="UTC", max_keys=9)
    await state.hold(intent("u/1", claims, nanousd=60))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    await state.close()
    with max(segments(tmp_path / "b"))[1].open("ab") as file:
        file.write(tail)
    state = await EmbeddedState.open(tmp_path / "b", clock=clock, time_zone="UTC", max_keys=9)
    assert (state.recovery.crashed, state.recovery.torn_bytes) == (1, len(tail))
    assert (await held(state, intent("v/1", claims)))[0].remaining == 40
    assert [(it["request_id"], it["end"], it["cost_nanousd"]) for it in await state.rows()] == [("u", "crashed", 60)]
    await state.close()


async def test_a_journal_of_which_nothing_can_be_read_does_not_begin_budgets_anew(tmp_path, clock):
    await (await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)).close()
    for _, path in (*segments(tmp_path), *snapshots(tmp_path)):
        path.write_bytes(b"garbage")
    with pytest.raises(StateProblem, match=r"the journal in .* is damaged"):
        await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)


async def test_a_newest_segment_that_never_became_whole_is_passed_over(tmp_path, clock, claim, intent):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path / "a", clock=clock, time_zone="UTC", max_keys=9)
    await state.hold(intent("u/1", claims, nanousd=60))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    await state.close()
    (tmp_path / "b" / "journal-00000077.log").write_bytes(b"\1\0")
    state = await EmbeddedState.open(tmp_path / "b", clock=clock, time_zone="UTC", max_keys=9)
    assert (await held(state, intent("v/1", claims)))[0].remaining == 40
    await state.close()
    assert [number for number, _ in segments(tmp_path / "b")] == [79]


async def test_what_happens_in_a_tick_is_one_write_and_a_hold_is_written_at_once_with_what_came_before_it(tmp_path, journal_in):
    wrote = []
    journal = journal_in(wrote=lambda rows, at: wrote.append((rows, at)))
    (_, path), *_ = segments(tmp_path)

    def payloads() -> list[bytes]:
        return [payload for payload, _ in read_frames(path.read_bytes())]

    journal.append(b'["s"]', ["before"])
    journal.hold(b'["h"]')
    assert (wrote, payloads()) == ([([["before"]], (1, path.stat().st_size))], [b'["seg",0]', b'["s"]', b'["h"]'])
    for _ in range(50):
        journal.append(b'["w"]', ["row"])
    assert len(payloads()) == 3
    await asyncio.sleep(0)
    assert wrote[1:] == [([["row"]] * 50, (1, path.stat().st_size))]
    assert payloads()[3:] == [b'["w"]'] * 50
    await journal.close()


async def test_without_room_a_hold_is_refused_what_happened_is_kept_and_room_heals_it(
    tmp_path, journal_in, monkeypatch, no_file_larger_than
):
    monkeypatch.setattr("proxy.admit.journal.RETRY_S", 0.02)
    journal = journal_in()
    (_, path), *_ = segments(tmp_path)
    with no_file_larger_than(path.stat().st_size + 10):  # room for half a record
        journal.append(b'["s","happened"]')
        with pytest.raises(JournalDown):
            journal.hold(b'["h","refused"]')
        assert journal.is_down
        await asyncio.sleep(0.05)
        assert journal.is_down
    await asyncio.sleep(0.05)
    assert not journal.is_down
    journal.hold(b'["h","again"]')
    assert [payload for payload, _ in read_frames(path.read_bytes())] == [b'["seg",0]', b'["s","happened"]', b'["h","again"]']
    await journal.close()


async def test_without_room_calls_are_refused_unaccounted_for_and_served_again_soon(
    tmp_path, clock, claim, intent, row, monkeypatch, no_file_larger_than
):
    monkeypatch.setattr("proxy.admit.journal.RETRY_S", 0.02)
    claims = (claim(spend=("day", 100), tokens=100),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    await state.hold(intent("u/1", claims, nanousd=50, tokens=50))
    with no_file_larger_than(max(segments(tmp_path))[1].stat().st_size + 7):
        state.settle("u/1", 10, 10, row("u/1", cost_nanousd=10))
        with pytest.raises(Refusal) as first:
            await state.hold(intent("v/1", claims, nanousd=30, tokens=30))
        for refused_at_once in (state.hold(intent("w/1")), state.enter("w", claims)):
            with pytest.raises(Refusal) as then:
                await refused_at_once
            assert (then.value.status, then.value.code) == (first.value.status, first.value.code) == (503, "ledger_unavailable")
        with pytest.raises(Refusal):
            state.peek(())
        for _ in range(30):
            state.write(row("x/1", kind="refusal"))
        assert state.refusal_rows_dropped == 30
        assert not state.is_available
    await asyncio.sleep(0.05)
    assert [standing.remaining for standing in await held(state, intent("y/1", claims))] == [90, 90]
    assert [it["request_id"] for it in await state.rows()] == ["u"]
    await state.close()


async def test_the_journal_does_not_grow_for_ever_and_loses_nothing_on_the_way(tmp_path, clock, claim, intent, row, monkeypatch):
    monkeypatch.setattr("proxy.admit.storage.Journal", lambda *a, **of: Journal(*a, **of, segment_bytes=3000))
    monkeypatch.setattr("proxy.admit.snapshots.TIMES", 0)
    claims = (claim(spend=("total", 10**9)),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    await state.hold(intent("open/1", claims, nanousd=5))
    for number in range(60):
        await state.hold(intent(f"c{number}/1", claims, nanousd=7))
        state.settle(f"c{number}/1", 0, 3, row(f"c{number}/1", cost_nanousd=3))
    assert len(await state.rows(1000)) == 60
    async with asyncio.timeout(20):
        while len(segments(tmp_path)) > 2:
            await state.rows(1)
    assert max(segments(tmp_path))[0] > 5
    assert len(snapshots(tmp_path)) == 1
    shutil.copytree(tmp_path, tmp_path.parent / "killed")
    await state.close()
    state = await EmbeddedState.open(tmp_path.parent / "killed", clock=clock, time_zone="UTC", max_keys=9)
    assert state.held_spend(["tier free"]) == {"tier free": 60 * 3 + 5}
    assert len({it["request_id"] for it in await state.rows(1000)}) == len(await state.rows(1000)) == 61
    await state.close()


async def test_a_segment_that_cannot_be_begun_leaves_the_old_one_in_use(tmp_path, journal_in):
    journal = journal_in(segment_bytes=200)
    (tmp_path / "journal.new").mkdir()
    for _ in range(40):
        journal.hold(b'["h","0123456789"]')
    assert [number for number, _ in segments(tmp_path)] == [1]
    (tmp_path / "journal.new").rmdir()
    for _ in range(3):
        journal.hold(b'["h","0123456789"]')
    assert [number for number, _ in segments(tmp_path)] == [1, 2]
    await journal.close()


async def test_a_segment_that_does_not_fit_is_not_begun(tmp_path, no_file_larger_than):
    with no_file_larger_than(100), pytest.raises(OSError, match="too large"):
        Journal(tmp_path, 1, 0, head=lambda _: b"x" * 1000, wrote=lambda *_: None, rotated=lambda: None, doubted=lambda: None)
    assert segments(tmp_path) == []


async def test_after_the_end_nothing_is_written_any_more(tmp_path, journal_in):
    journal = journal_in()
    await journal.close()
    with pytest.raises(JournalDown):
        journal.hold(b'["h","late"]')
    assert [payload for _, path in segments(tmp_path) for payload, _ in read_frames(path.read_bytes())] == [b'["seg",0]']


@pytest.mark.parametrize("is_empty", [True, False])
async def test_room_is_tried_with_a_real_write(tmp_path, journal_in, monkeypatch, is_empty, no_file_larger_than):
    monkeypatch.setattr("proxy.admit.journal.RETRY_S", 0.02)
    journal = journal_in()
    (_, path), *_ = segments(tmp_path)
    with no_file_larger_than(path.stat().st_size + 3):
        if not is_empty:
            journal.append(b'["s"]')
        with pytest.raises(JournalDown):
            journal.hold(b'["h"]')
    assert journal.is_down
    await asyncio.sleep(0.05)
    assert not journal.is_down
    assert [payload for payload, _ in read_frames(path.read_bytes())][1:] == [NOTHING if is_empty else b'["s"]']
    await journal.close()


async def test_a_stop_on_a_full_disk_ends_and_what_was_not_written_is_charged_as_held(
    tmp_path, clock, claim, intent, row, no_file_larger_than
):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    await state.hold(intent("u/1", claims, nanousd=60))
    with no_file_larger_than(max(segments(tmp_path))[1].stat().st_size + 7):
        state.settle("u/1", 0, 10, row("u/1", cost_nanousd=10))
        with pytest.raises(Refusal):
            await state.hold(intent("v/1", claims))
        await state.close()
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    assert [(it["end"], it["cost_nanousd"]) for it in await state.rows()] == [("crashed", 60)]
    await state.close()


async def test_holding_twice_at_once_is_durable_for_both_and_counts_once(tmp_path, clock, claim, intent):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    one = intent("u/1", claims, nanousd=60)
    answers = await asyncio.gather(held(state, one), held(state, one))
    assert [standing.remaining for (standing,) in answers] == [40, 40]
    await state.close()
