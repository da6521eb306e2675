"""Room in the limits of some claims, once seen, is there until as much was taken by anyone: no sum that was forgotten breaks a limit."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest
from support.limits import NONE, OWN, TEAM

from proxy.admit.admission import Admission
from proxy.admit.embedded import EmbeddedState
from proxy.admit.lines import may_enter, may_hold
from proxy.admit.shape import charges_of
from proxy.policy.plan import Claim, Limit, Rate
from proxy.refusal import Refusal

WAYS = ["peek", "enter", "leave", "hold", "settle", "void", "uncount", "enter_unchecked", "book", "extend", "forget"]
OFTEN = [4, 4, 4, 4, 4, 1, 1, 1, 1, 1, 1]
TALK = Limit("talk", ("caller",), tokens=(Rate(60, 60),))
EVERYBODYS = [
    (Claim(OWN, "bob"),), (Claim(OWN, "ann"), Claim(TEAM, "ops")), (Claim(TEAM, "ops"),), (Claim(OWN, "bob"), Claim(TEAM, "ops")),
    (Claim(TEAM, "ops"), Claim(NONE, "bob")), (Claim(TEAM, "ops"), Claim(TEAM, "ops")), (Claim(TALK, "bob"),),
    (Claim(TALK, "bob"), Claim(TEAM, "ops")), (Claim(TALK, "bob"), Claim(TALK, "bob")),
]  # fmt: skip


def has_room_that_it_saw(state: Admission, claims: tuple[Claim, ...]) -> None:
    place, ns = state._places.of(claims), state.now().ns
    assert place is not None
    sums = place.sums
    if sums.entries < place.entries_to:
        assert may_enter(place, ns)
    tokens, nanousd = place.tokens_to - sums.tokens, place.nanousd_to - sums.nanousd
    if tokens >= 0 and nanousd >= 0:
        assert may_hold(place, ns, tokens, nanousd)


class Anyone:
    """Takes and gives back in every way there is."""

    def __init__(self, state: EmbeddedState, intent, row) -> None:
        self.state, self.intent, self.row = state, intent, row
        self.inside, self.held = ["c"], ["c/1"]
        self.number = 0

    async def does(self, what: str, claims: tuple[Claim, ...], tokens: int, nanousd: int) -> None:
        self.number += 1
        self.now, self.names = self.state.now(), [claim.account for claim in claims]
        with suppress(Refusal):
            await getattr(self, what)(claims, tokens, nanousd)

    async def peek(self, claims, tokens, nanousd) -> None:
        self.state.peek(claims)

    async def enter(self, claims, tokens, nanousd) -> None:
        await self.state.enter(f"c{self.number}", claims)
        self.inside.append(f"c{self.number}")

    async def enter_unchecked(self, claims, tokens, nanousd) -> None:
        self.state.enter_unchecked(f"c{self.number}", charges_of(claims, self.names, self.now, "requests"), self.now.ns)
        self.inside.append(f"c{self.number}")

    async def hold(self, claims, tokens, nanousd) -> None:
        await self.state.hold(self.intent(f"c{self.number}/1", claims, nanousd=nanousd, tokens=tokens))
        self.held.append(f"c{self.number}/1")

    async def book(self, claims, tokens, nanousd) -> None:
        what = self.intent(f"c{self.number}/1", claims, nanousd=nanousd, tokens=tokens)
        await self.state.book(what, charges_of(claims, self.names, self.now, "tokens"), self.now.ns)
        self.held.append(f"c{self.number}/1")

    async def extend(self, claims, tokens, nanousd) -> None:
        await self.state.extend(self.held[-1], claims[:1], nanousd)

    async def forget(self, claims, tokens, nanousd) -> None:
        for book in self.state._counters.books.values():
            self.state._counters._forget_some(book, self.now)

    async def leave(self, claims, tokens, nanousd) -> None:
        self.state.leave(self.inside.pop(0) if len(self.inside) > 1 else "c")

    async def uncount(self, claims, tokens, nanousd) -> None:
        self.state.uncount(self.inside[-1])

    async def settle(self, claims, tokens, nanousd) -> None:
        self.state.settle(self.held.pop() if len(self.held) > 1 else "c/1", tokens, nanousd, self.row())

    async def void(self, claims, tokens, nanousd) -> None:
        self.state.void(self.held.pop() if len(self.held) > 1 else "c/1", None)


@pytest.mark.parametrize("seed", range(12))
async def test_room_that_was_seen_is_there_until_as_much_was_taken_by_anyone_in_any_way(seed, clock, intent, row):
    draw = random.Random(seed)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    anyone = Anyone(state, intent, row)
    for _ in range(500):
        clock.pass_s(draw.choice([0] * 40 + [1e-6, 1, 30, 61, 25 * 3600]))
        tokens, nanousd = draw.randrange(12), draw.randrange(16)
        await anyone.does(*draw.choices(WAYS, OFTEN), draw.choice(EVERYBODYS), tokens, nanousd)
        for claims in EVERYBODYS:
            has_room_that_it_saw(state, claims)
    await state.close()


async def test_who_stands_alone_is_not_looked_at_for_what_others_take_and_who_stood_alone_once_is(clock, intent):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    bob, ann, both = (Claim(OWN, "bob"),), (Claim(OWN, "ann"),), (Claim(OWN, "bob"), Claim(TEAM, "ops"))
    state.peek(bob)
    alone = state._places.of(bob)
    await state.enter("a", ann)
    await state.hold(intent("a/1", ann, nanousd=5, tokens=5))
    assert (alone.sums.entries, alone.sums.tokens, alone.sums.nanousd) == (0, 0, 0)
    await state.enter("b", both)
    beside, again = state._places.of(both), state._places.of(bob)
    assert again is not alone and again.sums is beside.sums is not state._places.of(ann).sums
    await state.hold(intent("b/1", (Claim(TEAM, "ops"),), nanousd=5, tokens=5))
    assert again.sums.nanousd == 5, "one sum for all that were ever named side by side"
    await state.close()
