"""A call's records in the journal: its entry is told by its hold or apart, once in either case, and never lost by a clean stop; what is
settled between two writes is one record."""

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


def kinds(state: EmbeddedState) -> list[object]:
    """Of a hold that says that its call began: both."""
    return [["e", "h"] if len(it) == 9 else [one[0] for one in it[1:]] if it[0] == "b" else it[0] for it in records(state)]


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
    (held,) = records(state)
    assert held[7:] == [state.now().ns, [["tier free", "caller=bob", [60], []]]]
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


async def test_a_snapshot_that_holds_a_calls_first_attempt_counts_its_request_once(state, open_at, claim, intent):
    claims = (claim(requests=9, tokens=50),)
    await state.enter("u", claims)
    await state.hold(intent("u/1", claims, tokens=20))
    assert kinds(state) == [["e", "h"]]
    await state._storage._snapshots.write()
    assert await killed(state, open_at, claims) == [8, 30]


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


async def test_what_is_settled_between_two_writes_is_one_record_and_makes_the_rows_that_it_made(state, open_at, claim, intent, row):
    claims, path = (claim(requests=9, tokens=500, spend=("day", 10**6)),), state._place.path
    for number in range(4):
        await state.hold(intent(f"c{number}/1", claims, nanousd=1000, tokens=50))
    state.settle("c0/1", 15, 700, row("c0/1"))
    state.settle("c1/1", 2**70, 2**70, row("c1/1", input_tokens=2**70, cost_nanousd=2**70, model="lone \ud800"))
    state.settle("c2/1", 0, 1, row("c2/1", cost_nanousd=1, team="ops", usage_detail={"more": {"than": ["one", 2]}}, price_row=None))
    state.void("c3/1", row("c3/1", cost_nanousd=0))
    state.write(row("d/1", kind="refusal"))
    rows = await state.rows()
    assert kinds(state) == ["h", "h", "h", "h", ["s", "s", "s"], "v", "w"]
    assert len(rows) == 5 and [it["request_id"] for it in rows] == ["c0", "c1", "c2", "c3", "d"]
    shutil.copytree(path, path.parent / "lost", ignore=shutil.ignore_patterns("ledger*"))
    again = await open_at(path.parent / "lost")
    assert await again.rows() == rows, "field by field, by the journal alone"
    assert [it.remaining for it in again.standings(claims)] == [it.remaining for it in state.standings(claims)]
    assert again.recovery.crashed == 0
    await again.close()


async def test_what_is_settled_together_and_torn_counts_as_held(tmp_path, state, open_at, claim, intent, row):
    claims, path = (claim(spend=("day", 10**6)),), state._place.path
    for number in range(3):
        await state.hold(intent(f"c{number}/1", claims, nanousd=1000))
    (_, file), *_ = segments(path)
    size = file.stat().st_size
    for number in range(3):
        state.settle(f"c{number}/1", 0, 700, row(f"c{number}/1"))
    await state.rows()
    data = file.read_bytes()
    for cut, crashed in ((size + 1, 3), (size + 500, 3), (len(data) - 1, 3), (len(data), 0)):
        shutil.copytree(path, tmp_path / f"{cut}", ignore=shutil.ignore_patterns("ledger*"))
        (tmp_path / f"{cut}" / file.name).write_bytes(data[:cut])
        again = await open_at(tmp_path / f"{cut}")
        assert again.recovery.crashed == crashed
        assert again.held_spend(["tier free"]) == {"tier free": 3 * (1000 if crashed else 700)}
        assert len(await again.rows()) == 3
        await again.close()


async def test_what_happens_beside_a_settle_stands_in_its_order(state, open_at, claim, intent, row):
    """A job that is settled, and then taken up again under the same name by another attempt: in one tick."""
    claims = (claim(spend=("day", 10**6)),)
    for id in ("a/1", "b/1"):
        await state.hold(intent(id, claims, nanousd=1000))
    later = row("x/1", kind="job", cost_nanousd=1000)._replace(id="job/openai/x/1")
    state.defer("a/1", "job/openai/x/1", row("a/1", cost_nanousd=0), later)
    state.settle("job/openai/x/1", 15, 700, later._replace(cost_nanousd=700))
    state.defer("b/1", "job/openai/x/1", row("b/1", cost_nanousd=0), later)
    await state.rows()
    assert kinds(state) == ["h", "h", "d", "s", "d"]
    assert state.held_spend(["tier free"]) == {"tier free": 1700}
    path = state._place.path
    shutil.copytree(path, path.parent / "killed")
    again = await open_at(path.parent / "killed")
    assert again.held_spend(["tier free"]) == {"tier free": 1700} and list(again.open_holds()) == ["job/openai/x/1"]
    await again.close()


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
