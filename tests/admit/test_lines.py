"""The straight way through the limits decides as the long one does, and what it remembers is never another's, nor out of date."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.limits import NONE, OWN, TEAM
from support.standing import entered, held

from proxy.admit import lines
from proxy.admit.admission import Admission
from proxy.admit.counters import Charge
from proxy.admit.embedded import EmbeddedState
from proxy.admit.limits import denied_entry, denied_hold
from proxy.admit.lines import look, may_enter, may_hold
from proxy.listen.reply import our_lines
from proxy.policy.plan import Claim, Rate
from proxy.refusal import Refusal
from proxy.standings import Standings

S = 10**9
DAY_S = 86_400
CLAIMS = [
    (Claim(OWN, "bob"),), (Claim(OWN, "ann"), Claim(TEAM, "ops")), (Claim(TEAM, "ops"),), (Claim(OWN, "bob"), Claim(TEAM, "ops")),
    (Claim(TEAM, "ops"), Claim(NONE, "bob")),
]  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "leave", "hold", "settle", "void"]), st.integers(0, 4), st.integers(0, 45), st.integers(0, 70),
        st.sampled_from([0, 0, 1, S, 30 * S, 61 * S, 13 * 3600 * S]),
    ),
    max_size=40,
)  # fmt: skip


class Clock:
    wall = 1_795_262_400 * S

    def now_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return (self.wall - 1_795_262_000 * S) / S

    def monotonic_ns(self) -> int:
        return self.wall - 1_795_262_000 * S


def agrees(state: Admission, claims: tuple[Claim, ...], tokens: int, nanousd: int) -> None:
    counters, now = state._counters, state.now()
    names = state._names(claims, now)
    place = state._places.of(claims)
    assert place is not None
    entry, hold = (denied_entry(counters, claims, names, now), denied_hold(counters, claims, names, now, tokens, nanousd))
    if place.is_open:
        assert may_enter(place, now.ns) == (entry is None)
        assert may_hold(place, now.ns, tokens, nanousd) == (hold is None)
    else:
        assert not may_enter(place, now.ns) and not may_hold(place, now.ns, tokens, nanousd)
    standings = state.standings(claims)
    again = Standings.of(standings, state._moments.wall // S)
    assert our_lines("r", 0, standings) == our_lines("r", 0, again)  # told on the straight way and on the long one
    if look(place):
        assert entry is None and denied_hold(counters, claims, names, now, 0, 0) is None


@settings(max_examples=150)
@given(steps=STEPS)
def test_the_straight_way_says_yes_where_the_long_one_finds_no_reason_to_say_no(steps, intent, row):
    async def run() -> None:
        clock = Clock()
        state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
        inside, held = [], []
        for number, (what, which, tokens, nanousd, ns) in enumerate(steps):
            clock.wall += ns
            claims = CLAIMS[which]
            agrees(state, claims, tokens, nanousd)
            try:
                if what == "enter":
                    await state.enter(f"u{number}", claims)
                    inside.append(f"u{number}")
                elif what == "hold":
                    await state.hold(intent(f"c{number}/1", claims, nanousd=nanousd, tokens=tokens))
                    held.append(f"c{number}/1")
                elif what == "leave" and inside:
                    state.leave(inside.pop(0))
                elif what == "settle" and held:
                    state.settle(held.pop(0), tokens, nanousd, row())
                elif what == "void" and held:
                    state.void(held.pop(0), None)
            except Refusal:
                pass
        await state.close()

    asyncio.run(run())


@pytest.fixture
async def state(clock):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=3)
    yield state
    await state.close()


async def test_a_limit_of_another_policy_counts_by_its_own_numbers_on_the_same_account(state, claim):
    one, other = claim(requests=3), claim(requests=2)
    assert one.limit.name == other.limit.name
    assert [at.remaining for at in await entered(state, "a", (one,))] == [2]
    assert [(at.allowed, at.remaining) for at in await entered(state, "b", (other,))] == [(2, 0)]
    with pytest.raises(Refusal):
        await state.enter("c", (other,))
    assert [(at.allowed, at.remaining) for at in await entered(state, "d", (one,))] == [(3, 0)]


async def test_accounts_of_one_limit_are_told_apart_and_so_are_limits_of_one_account(state, claim):
    bob, ann = claim(requests=1), claim(account="caller=ann", requests=1)
    second = Claim(replace(bob.limit, name="another"), bob.account)
    for uid, one in (("a", bob), ("b", ann), ("c", second)):
        assert [at.remaining for at in await entered(state, uid, (one,))] == [0]


async def test_money_of_a_new_day_is_counted_anew_and_what_is_held_since_yesterday_is_settled_there(state, clock, claim, intent, row):
    claims = (claim(spend=("day", 10)),)
    await state.hold(intent("a/1", claims, nanousd=10))
    clock.pass_s(DAY_S)
    assert [at.remaining for at in await held(state, intent("b/1", claims, nanousd=4))] == [6]
    state.settle("a/1", 0, 7, row("a/1"))
    assert [at.remaining for at in state.standings(claims)] == [6]
    assert sorted(state.contributions()) == [
        ("tier free", "caller=bob", "2026-11-21", 7, 0), ("tier free", "caller=bob", "2026-11-22", 0, 4),
    ]  # fmt: skip


async def test_what_was_forgotten_of_an_idle_account_is_found_again_where_it_counts(state, clock, claim, intent, row):
    bob = (claim(requests=5, tokens=50, spend=("day", 10)),)
    await state.enter("a", bob)
    await state.hold(intent("a/1", bob))  # of nothing: its money may be forgotten while it is open
    state.leave("a")
    for number in range(6):
        clock.pass_s(61)
        await state.enter(f"new{number}", (claim(account=f"new{number}", concurrency=1),))
        state.leave(f"new{number}")
    state.settle("a/1", 0, 3, row("a/1"))
    await state.enter("b", bob)
    assert [at.remaining for at in await held(state, intent("b/1", bob, nanousd=4, tokens=20))] == [30, 3]
    assert [at.remaining for at in state.standings(bob)] == [4, 30, 3]


async def test_a_place_that_is_remembered_is_never_an_account_that_was_forgotten(state, clock, claim):
    one, same = (claim(concurrency=1),), (claim(concurrency=1),)
    await state.enter("a", one)
    state.leave("a")
    place = state._places.of(one)
    assert state._places.of(one) is place and state._places.of(same) is place, "equal claims count in the same place"
    for number in range(6):
        await state.enter(f"new{number}", (claim(account=f"new{number}", concurrency=1),))
        state.leave(f"new{number}")
        clock.pass_s(61)
    assert "caller=bob" not in state._counters.books["tier free"], "forgotten by now"
    assert state._places.of(one) is not place
    await state.enter("b", one)
    with pytest.raises(Refusal):
        await state.enter("c", same)


async def test_what_others_forget_leaves_a_place_as_it_is(state, clock, claim):
    one, counters = (claim(concurrency=1),), state._counters
    await state.enter("a", one)
    place = state._places.of(one)
    for number in range(6):
        await state.enter(f"new{number}", (claim(account=f"new{number}", concurrency=1),))
        state.leave(f"new{number}")
        clock.pass_s(61)
    assert counters.forgot > place.as_of, "some were forgotten, and he has a slot"
    assert state._places.of(one) is place and place.as_of == counters.forgot


@pytest.mark.parametrize("bound", [{"requests": 1}, {"concurrency": 1}])
async def test_of_all_who_were_shown_the_last_room_only_one_enters(state, clock, claim, bound):
    one = (claim(**bound),)
    for _ in range(2):
        state.peek(one)
    await state.enter("a", one)
    with pytest.raises(Refusal):
        await state.enter("b", one)
    state.leave("a")
    clock.pass_s(61)
    state.peek(one)
    state.enter_unchecked("c", (Charge(one[0].limit.name, one[0].account, (60,), ()),), state.now().ns)
    with pytest.raises(Refusal):
        await state.enter("d", one)


async def test_claims_that_are_gone_leave_their_place_to_none_that_come_where_they_were(state, claim):
    bob, places = claim(requests=9), state._places
    kept = (bob,)
    await state.enter("a", kept)
    place = places.of(kept)
    for number in range(50):
        assert places.of((claim(requests=9),)) is place, "of equal claims, though another tuple's"
        assert places.of([bob]) is place
        assert places.of((claim(account=f"caller={number}", requests=9),)).names == [f"caller={number}"]
    assert all(id(claims) == at and places._known[at].claims == claims for at, claims in places._kept.items())


async def test_what_counts_on_the_same_account_is_one_thing_whoever_comes_with_it(state, claim, intent, row):
    """A window that two rates of a limit look at counts once; and names are told to the journal as they are."""
    twice = replace(claim(requests=9, tokens=50).limit, requests=(Rate(9, 60), Rate(7, 60)), tokens=(Rate(50, 60), Rate(40, 60)))
    both = (Claim(twice, "caller=100%b"), claim("team", "ops", tokens=30, concurrency=2, requests=4))
    assert [at.remaining for at in await entered(state, "a", both)] == [8, 6, 3, 1]
    assert [at.remaining for at in await held(state, intent("a/1", both, tokens=20))] == [30, 20, 10]
    state.settle("a/1", 5, 0, row("a/1"))
    assert [(at.limit, at.kind, at.remaining) for at in state.standings(both)] == [
        (twice.name, "requests", 8), (twice.name, "requests", 6), ("team", "requests", 3), ("team", "concurrency", 1),
        (twice.name, "tokens", 45), (twice.name, "tokens", 35), ("team", "tokens", 25),
    ]  # fmt: skip
    place = state._places.of(both)
    assert orjson.loads(orjson.dumps(place.entry)) == [[twice.name, "caller=100%b", [60], []], ["team", "ops", [60], []]]
    assert orjson.loads(orjson.dumps(place.held)) == [
        [limit, name, [*rates], [*periods]] for limit, name, rates, periods in place.shape.held(place.names)
    ]


async def test_places_of_many_claims_are_told_apart_and_bounded(state, claim, monkeypatch):
    monkeypatch.setattr(lines, "MOST_PLACES", 3)
    every = [(claim(account=f"caller={number}", requests=9),) for number in range(8)]
    for turn in range(2):
        for number, claims in enumerate(every):
            await state.enter(f"{turn} {number}", claims)
            assert [at.remaining for at in state.standings(claims)] == [8 - turn]
            assert len(state._places._known) <= 3
    for number in range(8):
        assert [at.remaining for at in state.standings([every[number][0]])] == [7], "a list may change: it is not remembered"


async def test_a_hold_of_an_account_counted_by_another_policy_since_is_settled_where_it_was_held(state, claim, intent, row):
    one, other = (claim(spend=("day", 10), tokens=50),), (claim(spend=("day", 20), tokens=60),)
    await state.hold(intent("a/1", one, nanousd=4, tokens=20))
    assert [at.remaining for at in state.standings(other)] == [40, 16]
    state.settle("a/1", 30, 7, row("a/1"))
    assert [at.remaining for at in state.standings(other)] == [30, 13] and not state.open_holds()


async def test_nothing_is_remembered_that_outlives_its_account(state, clock, claim):
    for number in range(200):
        await state.enter(f"u{number}", (claim(account=f"caller={number}", requests=1),))
        state.leave(f"u{number}")
        clock.pass_s(61)
    assert len(state._counters.books["tier free"]) < 8


async def test_what_all_who_stand_on_the_same_limits_share_is_one_thing_and_of_other_limits_or_days_another(state, clock, claim):
    def terms(*claims):
        return state.standings(claims).terms

    bob, ann = claim(requests=2, spend=("month", 9)), claim(account="caller=ann", requests=2, spend=("month", 9))
    other, team = claim(requests=3, spend=("month", 9)), claim("team", "ops", tokens=5, concurrency=1)
    assert terms(bob) is terms(ann) is terms(replace(bob, limit=replace(bob.limit)))
    assert terms(bob) is not terms(other) and terms(other).each[0].allowed == 3
    assert terms(bob, team) is terms(ann, team) is not terms(bob)
    assert [(it.limit, it.kind) for it in terms(bob, team).each] == [
        ("tier free", "requests"), ("team", "concurrency"), ("tier free", "spend"), ("team", "tokens"),
    ]  # fmt: skip
    november = terms(bob)
    clock.pass_s(30 * DAY_S)
    assert (november.each[1].window_s, terms(bob).each[1].window_s) == (30 * DAY_S, 31 * DAY_S)


async def test_what_is_over_by_the_time_a_reply_is_written_is_not_told(state, clock, claim, intent):
    claims = (claim(requests=5, tokens=50, concurrency=1),)
    await state.enter("a", claims)
    await state.hold(intent("a/1", claims, tokens=20))
    assert [at.remaining for at in state.standings(claims)] == [4, 0, 30]
    clock.pass_s(60)
    assert [(at.remaining, at.resets_at) for at in state.standings(claims)] == [(n, clock.wall // S) for n in (5, 0, 50)]


@pytest.mark.parametrize("names", [("one",), ("one", "two")])
async def test_of_what_is_used_beyond_its_limit_nothing_is_left(state, claim, intent, row, names):
    claims = tuple(claim(name, requests=5, tokens=50, concurrency=2, spend=("day", 9)) for name in names)
    for id in ("a", "b"):
        await state.enter(id, claims)
    await state.hold(intent("a/1", claims))
    state.settle("a/1", 70, 20, row("a/1"))
    smaller = [replace(it, limit=replace(it.limit, concurrency=1)) for it in claims]
    standings = state.standings(smaller)
    assert [(at.kind, at.remaining) for at in standings if at.limit == "one"] == [
        ("requests", 3), ("concurrency", 0), ("tokens", 0), ("spend", 0),
    ]  # fmt: skip
    assert standings.terms.each[standings.rate].kind == "tokens" and standings.terms.each[standings.first].limit == "one"
    terms = standings.terms
    told = [standings.row[at] for it, at in zip(terms.each, terms.left, strict=True) if it.limit == "one" and it.kind != "spend"]
    assert told == [3, 0, 0]
    nothing = state.standings([replace(it, limit=replace(it.limit, tokens=(Rate(0, 60),))) for it in claims])
    assert b"r=-" not in our_lines("r", 0, nothing)


async def test_asking_how_a_caller_stands_forgets_nobody_and_makes_no_account(state, claim):
    def of(name):
        return (claim("per header", name, requests=2, is_unbounded=True),)

    for name in ("a", "b", "c", "d"):
        await state.enter(name, of(name))
        state.leave(name)
    before = list(state._counters.books["per header"])
    assert [at.remaining for at in state.standings(of("e"))] == [1], "that of the others"
    assert [at.remaining for at in state.standings(of("a"))] == [1]
    assert list(state._counters.books["per header"]) == before
