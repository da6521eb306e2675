"""What a call takes without waiting is what it takes the thorough way, and where that is not sure, nothing is taken."""

from __future__ import annotations

import pytest

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.cluster import ClusterState
from proxy.admit.fleet.state import SharedState
from proxy.admit.journal import read_frames, segments
from proxy.admit.records import MOST
from proxy.refusal import Refusal


def at_once(state, clock, intent) -> bool:
    what = intent.id, intent.call_uid, intent.claims, intent.tokens, intent.nanousd, intent.values
    return state.hold_at_once(*what, clock.now_ns())


async def test_both_ways_count_the_same_and_write_the_same(tmp_path, clock, intent, claim, told):
    claims, found = (claim(spend=("day", 100), tokens=100, requests=5, concurrency=3),), []
    for folder in (tmp_path / "at once", tmp_path / "thorough"):
        state = await EmbeddedState.open(folder, clock=clock, time_zone="UTC", max_keys=9)
        what = intent("u/1", claims, nanousd=50, tokens=40)
        if folder.name == "at once":
            assert state.enter_at_once("u", claims)
            assert at_once(state, clock, what)
        else:
            await state.enter("u", claims)
            await state.hold(what)
        written = [payload for payload, _ in read_frames(segments(folder)[-1][1].read_bytes())]
        found.append((told(state._counters), written[1:], list(state.standings(claims))))
        await state.close()
    assert found[0] == found[1]


async def test_what_is_held_at_once_is_in_the_journal_when_the_process_dies(tmp_path, clock, intent, claim, row):
    claims = (claim(spend=("day", 100)),)
    state = await EmbeddedState.open(tmp_path / "one", clock=clock, time_zone="UTC", max_keys=9)
    assert at_once(state, clock, intent("u/1", claims, nanousd=60))
    (tmp_path / "two").mkdir()
    for file in (tmp_path / "one").iterdir():
        if file.suffix == ".log" or file.name == "secret":
            (tmp_path / "two" / file.name).write_bytes(file.read_bytes())
    again = await EmbeddedState.open(tmp_path / "two", clock=clock, time_zone="UTC", max_keys=9)
    assert again.recovery.crashed == 1
    assert [it.remaining for it in again.standings(claims)] == [40]
    await state.close()
    await again.close()


async def test_what_is_refused_or_held_already_or_beyond_all_reason_is_not_taken_at_once(clock, intent, claim):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    claims = (claim(spend=("day", 100), tokens=100),)
    assert at_once(state, clock, intent("u/1", claims, nanousd=60, tokens=60))
    before = list(state.standings(claims))
    others = (claim("tier none", tokens=0),)
    for no in (
        intent("u/1", claims, nanousd=1), intent("v/1", claims, nanousd=41), intent("v/1", claims, tokens=41),
        intent("v/1", (), nanousd=MOST + 1), intent("v/1", (), tokens=MOST + 1), intent("v/1", others, tokens=0),
    ):  # fmt: skip
        assert not at_once(state, clock, no)
        assert list(state.open_holds()) == ["u/1"] and list(state.standings(claims)) == before
    assert at_once(state, clock, intent("v/1", claims, nanousd=40, tokens=40))
    await state.close()


async def test_where_a_hold_waits_for_the_disk_none_is_taken_at_once(tmp_path, clock, intent, claim):
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9, durability="disk")
    claims = (claim(spend=("day", 100)),)
    assert not at_once(state, clock, intent("u/1", claims, nanousd=60))
    await state.hold(intent("u/1", claims, nanousd=60))
    assert [it.remaining for it in state.standings(claims)] == [40]
    await state.close()


async def test_a_hold_that_cannot_be_written_is_not_taken(tmp_path, clock, intent, claim, no_file_larger_than):
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    claims = (claim(spend=("day", 100), requests=5),)
    assert state.enter_at_once("u", claims)
    with no_file_larger_than(max(segments(tmp_path))[1].stat().st_size + 7):
        for _ in range(2):  # the second finds the ledger down
            assert not at_once(state, clock, intent("u/1", claims, nanousd=60))
        with pytest.raises(Refusal, match="ledger_unavailable"):
            await state.hold(intent("u/1", claims, nanousd=60))
        with pytest.raises(Refusal, match="ledger_unavailable"):
            state.enter_at_once("v", claims)
    assert [it.remaining for it in state.standings(claims)] == [4, 100]
    await state.close()


def test_a_shared_state_takes_nothing_at_once():
    for kind in (SharedState, ClusterState):
        assert not kind.enter_at_once(None, "u", ())
        assert not kind.hold_at_once(None, "u/1", "u", (), 0, 0, (), 0)
