"""A call's entry in the journal: one record with its hold, or one of its own; once in either case, and never lost by a clean stop."""

from __future__ import annotations

import asyncio
import shutil

import orjson
import pytest

from proxy.admit.counters import Charge
from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import read_frames, segments
from proxy.refusal import Refusal


@pytest.fixture
def open_at(clock):
    def open(path) -> object:
        return EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)

    return open


@pytest.fixture
async def state(tmp_path, open_at):
    state = await open_at(tmp_path / "state")
    yield state
    await state.close()


def records(state: EmbeddedState) -> list[list[object]]:
    return [orjson.loads(it) for _, path in segments(state._place.path) for it, _ in read_frames(path.read_bytes())][1:]


def kinds(state: EmbeddedState) -> list[str]:
    return [[it[0] for it in record[1:]] if record[0] == "b" else record[0] for record in records(state)]


async def killed(state: EmbeddedState, open_at, claims) -> list[int]:
    """What remains of requests (and more) for who opens what a kill would leave now."""
    path = state._place.path
    shutil.rmtree(path.parent / "killed", ignore_errors=True)
    shutil.copytree(path, path.parent / "killed")
    again = await open_at(path.parent / "killed")
    try:
        return [it.remaining for it in again.standings(claims)]
    finally:
        await again.close()


async def test_a_call_and_its_hold_are_one_record_and_count_both_after_a_kill(state, open_at, claim, intent):
    claims = (claim(requests=9, tokens=50, spend=("day", 100)),)
    await state.enter("u", claims)
    assert records(state) == []
    await state.hold(intent("u/1", claims, nanousd=40, tokens=20))
    ((_, entry, held),) = records(state)
    assert entry == ["e", state.now().ns, [["tier free", "caller=bob", [60], []]]]
    assert held == orjson.loads(state.open_holds()["u/1"].intent) and held[:2] == ["h", "u/1"]
    await state.hold(intent("u/2", claims, nanousd=1))
    assert kinds(state) == [["e", "h"], "h"]
    assert await killed(state, open_at, claims) == [8, 30, 59]


async def test_another_calls_hold_writes_the_entry_apart_and_before_it(state, open_at, claim, intent):
    claims, other = (claim(requests=9),), (claim(account="caller=ann", requests=9),)
    await state.enter("u", claims)
    await state.hold(intent("v/1", other))
    await state.hold(intent("u/1", claims))
    assert kinds(state) == ["e", "h", "h"]
    assert await killed(state, open_at, claims) == [8]


async def test_entries_are_written_in_their_order_whoever_holds_first(state, open_at, claim, intent, ticks):
    claims = (claim(requests=9),)
    for uid in ("u", "v", "w"):
        await state.enter(uid, claims)
    await state.hold(intent("v/1", claims))
    assert kinds(state) == ["e", "e", "e", "h"]
    await state.enter("x", claims)
    state.write(row := intent("y/1").values)
    await ticks()
    assert kinds(state)[4:] == ["w", "e"], "and with a row, whoever's"
    assert len(row) and await killed(state, open_at, claims) == [5]


async def test_one_that_never_holds_is_not_lost_by_a_stop_nor_by_its_leaving(tmp_path, open_at, claim):
    claims = (claim(requests=3),)
    state = await open_at(tmp_path / "state")
    await state.enter("u", claims)
    state.leave("u")
    await state.close()
    again = await open_at(tmp_path / "state")
    assert [it.remaining for it in again.standings(claims)] == [2]
    await again.close()


async def test_a_session_is_written_down_when_it_is_decided(state, open_at, claim):
    claims = (claim(requests=3),)
    await state.enter("u", claims)
    await state.decide("u")
    assert kinds(state) == ["e"] and await killed(state, open_at, claims) == [2]


@pytest.mark.parametrize("is_begun", [False, True])
async def test_a_snapshot_between_entry_and_hold_counts_the_call_once(state, open_at, claim, intent, is_begun):
    claims = (claim(requests=9, tokens=50),)
    await state.hold(intent("t/1", claims))
    if not is_begun:
        await state.enter("u", claims)
    snapshot = asyncio.create_task(state._storage._snapshots.write())
    await asyncio.sleep(0)
    if is_begun:  # and its accounts are not read yet
        await state.enter("u", claims)
    await snapshot
    assert kinds(state) == ["h", "e"], "what the snapshot has is in the journal before it"
    await state.hold(intent("u/1", claims, tokens=20))
    assert await killed(state, open_at, claims) == [8, 30]


async def test_a_call_refused_by_its_hold_leaves_no_trace_written_or_not(state, open_at, claim, intent):
    claims = (claim(requests=9, spend=("day", 10)),)
    await state.enter("u", claims)
    with pytest.raises(Refusal):
        await state.hold(intent("u/1", claims, nanousd=11))
    state.uncount("u")
    state.uncount("u")
    await state.hold(intent("v/1", claims, nanousd=1))
    assert kinds(state) == ["h"], "it was not written yet: there is nothing to take back"
    await state.enter("w", claims)
    await state.rows()
    state.uncount("w")
    await state.rows()
    assert kinds(state)[1:] == ["e", "u"]
    assert [it.remaining for it in state.standings(claims)] == await killed(state, open_at, claims) == [9, 9]


async def test_without_room_for_its_hold_a_call_stays_counted_once(state, open_at, claim, intent, monkeypatch, no_file_larger_than):
    monkeypatch.setattr("proxy.admit.journal.RETRY_S", 0.02)
    claims = (claim(requests=9, tokens=50),)
    await state.enter("u", claims)
    with no_file_larger_than(segments(state._place.path)[-1][1].stat().st_size + 20), pytest.raises(Refusal):
        await state.hold(intent("u/1", claims, tokens=20))
    await asyncio.sleep(0.05)
    await state.hold(intent("u/2", claims, tokens=10))
    assert [it for it in kinds(state) if it != "n"] in (["e", "h"], [["e", "h"]])
    assert await killed(state, open_at, claims) == [8, 40]


async def test_what_a_shared_state_has_counted_is_written_in_the_same_way(state, open_at, claim, intent):
    claims = (claim(requests=9),)
    for uid in ("u", "v"):
        state.enter_unchecked(uid, (Charge("tier free", "caller=bob", (60,), ()),), state.now().ns)
    await state.book(intent("v/1", claims), (Charge("tier free", "caller=bob", (), ()),), state.now().ns)
    assert kinds(state) == ["e", ["e", "h"]]
    assert await killed(state, open_at, claims) == [7]


async def test_entries_and_holds_apart_count_as_together(tmp_path, open_at, state, claim, intent):
    """As Sluice wrote them up to version 2."""
    claims = (claim(requests=9, tokens=50),)
    await state.enter("u", claims)
    await state.rows()
    await state.hold(intent("u/1", claims, tokens=20))
    assert kinds(state) == ["e", "h"]
    assert await killed(state, open_at, claims) == [8, 30]


async def test_the_place_at_hand_is_that_of_these_very_claims_until_anything_is_forgotten_or_a_day_is_over(state, clock, claim):
    bob, ann, counters = (claim(spend=("day", 9)),), (claim(account="caller=ann", spend=("day", 9)),), state._counters
    place = state._places.of(bob)
    assert (counters.claims, counters.place) == (bob, place)
    state.peek(many := list(ann))
    assert counters.claims is not many, "a list may change: it is not remembered"
    state.peek(ann)
    assert counters.claims is ann and counters.place.names == ["caller=ann"]
    clock.pass_s(86_400)
    state.now()
    assert counters.claims is None, "money counts in another period from now on"
    state.peek(bob)
    assert counters.claims is bob and counters.place is not place
    counters.told("tier free", ["caller=bob", "caller=ann"], state.now())
    assert counters.claims is None, "an account on which nothing counts is forgotten"
