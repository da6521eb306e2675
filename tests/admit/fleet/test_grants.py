"""Grants: what a sidecar may use of limits that are counted in another slot. The shipped script on a real server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from proxy.admit.fleet.encode import spans
from proxy.admit.fleet.granter import Granter, Spent, Took
from proxy.admit.fleet.grants import Wish
from proxy.admit.fleet.script import load
from proxy.admit.limits import Why
from proxy.admit.records import encode
from proxy.policy.plan import Claim, Limit, Rate, Spend
from tests.support.scripted_store import HAND, PlainLink
from tests.support.valkey import Server, valkey

NS = 1_000_000_000
NOON = 1_795_262_400 * NS
DAY = 86400 * NS
SCRIPT = load("grant", HAND)
_homes = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with valkey() as one:
        yield one


class World:
    """Several sidecars, one home, and a clock set by hand that all of them read."""

    def __init__(self, server: Server, count: int = 3, lease_ms: int = 120_000) -> None:
        self.client = redis.Redis(port=server.port)
        self.home = f"home-{next(_homes)}"
        self.prefix = f"sluice:{{{self.home}}}:"
        self.now = 0
        self.link = PlainLink(self.client)
        self.lease_ms = lease_ms
        self.pass_ns(NOON)
        self.sidecars = [self.sidecar(f"i{n}") for n in range(count)]

    def sidecar(self, instance: str, spent: Spent = lambda *_: 0) -> Granter:
        more: dict[str, Any] = {"instance": instance, "time_zone": "UTC", "max_keys": 100, "lease_ms": self.lease_ms}
        return Granter(self.link, self, script=SCRIPT, spent=spent, **more)

    def pass_ns(self, ns: int) -> None:
        self.now += ns
        self.client.set(self.prefix + "clock", self.now // 1000)

    def now_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return (self.now - NOON) / 1e9

    def monotonic_ns(self) -> int:
        return self.now - NOON

    async def take(self, at: int, claim: Claim, **of: int) -> Took:
        return await self.sidecars[at].take([(self.home, wish(claim, **of))])

    def close(self) -> None:
        self.client.close()


@pytest.fixture
def world(server: Server) -> Iterator[World]:
    one = World(server)
    yield one
    one.close()


def wish(claim: Claim, **of: int) -> Wish:
    return Wish(claim, is_hold="nanousd" in of or "tokens" in of, **of)


def claim_of(**numbers: Any) -> Claim:
    return Claim(Limit("limit all", ("total",), **numbers), "total")


async def test_one_question_serves_many_calls(world):
    claim = claim_of(spend=(Spend(10_000, "day"),))
    for _ in range(100):
        assert not (await world.take(0, claim, nanousd=1)).denied
    assert len(world.link.calls) == 1  # a grant is 1 % of the limit beyond what was needed: 101


async def test_a_budget_can_be_used_to_the_last_nano_dollar_and_never_beyond_by_all_sidecars_together(world):
    claim = claim_of(spend=(Spend(997, "total"),))
    taken = [not (await world.take(n % 3, claim, nanousd=1)).denied for n in range(1100)]
    assert sum(taken) == 997


async def test_a_refusal_says_what_is_left_and_until_when(world):
    claim = claim_of(spend=(Spend(100, "day"),))
    await world.take(0, claim, nanousd=60)
    (no,) = (await world.take(1, claim, nanousd=50)).denied
    assert (no.why, no.want, no.left, no.until_ns) == (Why.BUDGET, 50, 40, NOON // DAY * DAY + DAY)
    (no,) = (await world.take(1, claim, nanousd=101)).denied
    assert no.why is Why.LARGER
    (no,) = (await world.take(1, claim_of(spend=(Spend(0, "day"),)), nanousd=0)).denied
    assert no.why is Why.ZERO


async def test_amounts_beyond_what_a_float_prints_stay_exact(world):
    most = 10**14 + 1
    claim = claim_of(spend=(Spend(most, "total"),))
    took = await world.take(0, claim, nanousd=most)
    assert not took.denied
    assert (await world.take(1, claim, nanousd=1)).denied
    took.close(0, most - 1)
    await world.sidecars[0].close()
    assert not (await world.take(1, claim, nanousd=1)).denied
    assert (await world.take(1, claim, nanousd=1)).denied


async def test_what_a_settle_gives_back_serves_the_next_call_of_the_same_sidecar_and_after_a_while_those_of_others(world):
    claim = claim_of(spend=(Spend(100, "total"),))
    took = await world.take(0, claim, nanousd=100)
    assert (await world.take(1, claim, nanousd=10)).denied
    took.close(0, 20)
    assert not (await world.take(0, claim, nanousd=10)).denied
    assert (await world.take(1, claim, nanousd=70)).denied
    world.pass_ns(25 * NS)
    await world.sidecars[0].tend()
    assert not (await world.take(1, claim, nanousd=70)).denied
    assert (await world.take(0, claim, nanousd=1)).denied


async def test_a_new_day_begins_with_its_whole_budget_and_late_settles_stay_in_the_old_one(world):
    claim = claim_of(spend=(Spend(100, "day"),))
    took = await world.take(0, claim, nanousd=100)
    world.pass_ns(DAY)
    assert not (await world.take(0, claim, nanousd=60)).denied
    took.close(0, 1)
    assert (await world.take(0, claim, nanousd=41)).denied
    assert not (await world.take(1, claim, nanousd=40)).denied
    assert (await world.take(1, claim, nanousd=1)).denied


async def test_a_sidecar_that_restarts_tells_what_it_spent_and_takes_up_what_it_had_not(world):
    claim = claim_of(spend=(Spend(10_000, "total"),))
    await world.take(0, claim, nanousd=500)  # granted: 100 more
    world.pass_ns(NS)
    again = world.sidecar("i0", lambda *account: {("limit all", "total", "total"): 500}[account])
    assert (await again.take([(world.home, wish(claim, nanousd=9501))])).denied
    assert not (await again.take([(world.home, wish(claim, nanousd=9500))])).denied
    assert (await world.take(1, claim, nanousd=1)).denied


async def test_a_home_that_forgot_its_grants_is_told_again(world):
    claim = claim_of(spend=(Spend(1000, "total"),))
    await world.take(0, claim, nanousd=900)
    for key in world.client.scan_iter(world.prefix + "*"):
        world.client.delete(key)
    world.pass_ns(21 * NS)
    await world.take(0, claim, nanousd=0)
    await world.sidecars[0].tend()
    assert (await world.take(1, claim, nanousd=101)).denied
    assert not (await world.take(1, claim, nanousd=90)).denied


async def test_an_estimate_that_was_too_low_is_made_up_for_by_the_next_calls(world):
    claim = claim_of(spend=(Spend(1000, "total"),))
    took = await world.take(0, claim, nanousd=100)
    took.close(0, 400)
    await world.take(0, claim, nanousd=1)
    assert (await world.take(1, claim, nanousd=600)).denied
    assert not (await world.take(1, claim, nanousd=589)).denied  # 400 + 1, and the 1 % that was granted beyond it


async def test_a_late_question_that_arrives_after_a_newer_one_changes_nothing(world):
    claim = claim_of(spend=(Spend(1000, "total"),), requests=(Rate(10, 60),))
    await world.take(0, claim, nanousd=100, requests=1)
    keys = {key: world.client.dump(key) for key in world.client.scan_iter(world.prefix + "[abg]:*")}
    assert len(keys) == 3
    assert (await ask_again(world, world.sidecars[0], claim, older=True))[0] == b"stale"
    assert {key: world.client.dump(key) for key in keys} == keys
    assert (await ask_again(world, world.sidecars[0], claim))[0] == b"granted"


async def test_slots_are_never_more_than_the_limit_and_come_back_when_calls_end(world):
    claim = claim_of(concurrency=5)
    took = [await world.take(n % 3, claim, slots=1) for n in range(9)]
    assert [bool(one.denied) for one in took] == [False] * 5 + [True] * 4
    assert took[-1].denied[0].why is Why.IN_FLIGHT
    took[0].leave()
    assert not (await world.take(0, claim, slots=1)).denied  # of the same sidecar: at once
    took[1].leave()
    world.pass_ns(25 * NS)
    await world.sidecars[1].tend()
    assert not (await world.take(2, claim, slots=1)).denied
    assert (await world.take(2, claim, slots=1)).denied


async def test_the_slots_of_a_dead_sidecar_come_back_after_its_lease_and_those_of_one_that_lives_do_not(world):
    claim = claim_of(concurrency=4)
    for at in (0, 0, 1, 1):
        assert not (await world.take(at, claim, slots=1)).denied
    for _ in range(6):
        world.pass_ns(21 * NS)
        await world.sidecars[1].tend()  # the first is dead
    assert [bool((await world.take(2, claim, slots=1)).denied) for _ in range(3)] == [False, False, True]


async def test_requests_that_were_not_used_go_back_when_more_are_asked_for(world):
    """One in two seconds uses up a limit of 100 per minute no sooner than it says."""
    claim = claim_of(requests=(Rate(100, 60),))
    for _ in range(100):
        assert not (await world.take(0, claim, requests=1)).denied
        world.pass_ns(61 * NS // 100)
    assert len(world.link.calls) <= 100


async def test_a_rate_refusal_says_when_a_call_passes(world):
    claim = claim_of(tokens=(Rate(1000, 60),))
    assert not (await world.take(0, claim, tokens=1000)).denied
    (no,) = (await world.take(1, claim, tokens=10)).denied
    assert (no.why, no.kind, no.left) == (Why.RATE, "tokens", 0)
    world.pass_ns(no.wait_ns - 1000)
    assert (await world.take(1, claim, tokens=10)).denied
    world.pass_ns(1000)
    assert not (await world.take(1, claim, tokens=10)).denied


async def test_tokens_that_an_answer_did_not_need_serve_later_calls(world):
    claim = claim_of(tokens=(Rate(1000, 60),))
    took = await world.take(0, claim, tokens=900)
    assert (await world.take(0, claim, tokens=500)).denied
    took.close(50, 0)
    assert not (await world.take(0, claim, tokens=500)).denied
    assert (await world.take(1, claim, tokens=500)).denied


async def test_all_wishes_of_a_call_are_met_or_none(world):
    money, rate = claim_of(spend=(Spend(100, "total"),)), Claim(Limit("limit other", ("total",), requests=(Rate(1, 60),)), "total")
    both = [(world.home, wish(money, nanousd=40)), (world.home, wish(rate, requests=1))]
    assert not (await world.sidecars[0].take(both)).denied
    assert [no.claim for no in (await world.sidecars[0].take(both)).denied] == [rate]
    assert not (await world.take(0, money, nanousd=60)).denied  # what was refused had taken nothing


async def test_an_account_beyond_max_keys_shares_with_the_others(world):
    world.sidecars[0].max_keys = 3
    limit = Limit("limit ip", ("ip",), spend=(Spend(10, "total"),), is_unbounded=True)
    taken = [not (await world.take(0, Claim(limit, f"ip={n}"), nanousd=10)).denied for n in range(6)]
    assert taken == [True] * 3 + [True] + [False] * 2


async def test_two_numbers_of_one_window_or_period_count_once_and_the_smaller_decides(world):
    claim = claim_of(requests=(Rate(5, 60), Rate(3, 60)), spend=(Spend(50, "day"), Spend(4, "day")))
    taken = [not (await world.take(0, claim, requests=1, nanousd=1)).denied for _ in range(5)]
    assert sum(taken) == 3


# -- whatever happens, never more than the limit -----------------------------------------------------------------------------

MOST = 400  # so that a grant is 4 beyond what is needed
EVERY = claim_of(spend=(Spend(MOST, "total"),), requests=(Rate(MOST, 60),), tokens=(Rate(MOST, 60),), concurrency=MOST)
SIZE = st.sampled_from((1, 1, 2, 5, 120))
STEP = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 2), SIZE),
    st.tuples(st.just("close"), st.integers(0, 30), st.sampled_from((0, 1, 1000))),
    st.tuples(st.just("leave"), st.integers(0, 30)),
    st.tuples(st.just("wait"), st.sampled_from((1, 200, 999, 1000, 5000, 21_000, 59_001, 60_000))),
    st.tuples(st.just("fill"), st.integers(0, 2)),
    st.tuples(st.just("tend"), st.integers(0, 2)),
    st.tuples(st.just("lose"), st.integers(0, 2)),
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(steps=[("fill", 1), ("take", 0, 1), ("wait", 21_000), ("tend", 0), ("tend", 0), ("take", 0, 1)])  # given up, and back at once
@given(steps=st.lists(STEP, max_size=40))
def test_no_order_of_calls_ever_uses_more_than_the_limit(server, steps):
    asyncio.run(_never_more(server, steps))


async def _never_more(server: Server, steps: list[tuple]) -> None:
    fleet = Fleet(World(server, lease_ms=10**9))
    try:
        for what, *more in steps:
            await getattr(fleet, what)(*more)
            fleet.check()
    finally:
        fleet.world.close()


class Fleet:
    """What three sidecars do, and what of it counts."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.open: list[tuple[Took, int]] = []
        self.staying: list[Took] = []
        self.taken: list[tuple[int, int, int]] = []  # at, requests, tokens (corrected once known)
        self.settled = self.held = 0

    async def take(self, at: int, size: int) -> None:
        took = await self.world.take(at, EVERY, nanousd=size, tokens=size, requests=size, slots=size)
        if not took.denied:
            self.open.append((took, len(self.taken)))
            self.staying.append(took)
            self.taken.append((self.world.now, size, size))
            self.held += size

    async def fill(self, at: int) -> None:
        for size in (MOST, 100, 25, 5, 1, 1, 1, 1, 1):
            await self.take(at, size)

    async def close(self, which: int, most: int) -> None:
        if self.open:
            took, index = self.open.pop(which % len(self.open))
            at, size, _ = self.taken[index]
            used = min(size, most)
            took.close(used, used)
            self.settled, self.held, self.taken[index] = self.settled + used, self.held - size, (at, size, used)

    async def leave(self, which: int) -> None:
        if self.staying:
            self.staying.pop(which % len(self.staying)).leave()

    async def wait(self, ms: int) -> None:
        self.world.pass_ns(ms * 1_000_000)

    async def tend(self, at: int) -> None:
        await self.world.sidecars[at].tend()

    async def lose(self, at: int) -> None:
        await ask_again(self.world, self.world.sidecars[at], EVERY)

    def check(self) -> None:
        inside = [it for it in self.taken if it[0] > self.world.now - 60 * NS]
        assert self.settled + self.held <= MOST
        assert sum(used.wish.slots for took in self.staying for _, used in took.used) <= MOST
        assert sum(requests for _, requests, _ in inside) <= MOST
        assert sum(tokens for _, _, tokens in inside) <= MOST


async def test_what_was_granted_early_and_used_late_still_counts_for_a_minute_from_its_use(world):
    claim = claim_of(requests=(Rate(1000, 60),))
    assert not (await world.take(0, claim, requests=1)).denied  # and 10 more are granted
    world.pass_ns(999_000_000)
    assert not (await world.take(0, claim, requests=9)).denied
    assert len(world.link.calls) == 1
    world.pass_ns(60 * NS - 1_000_000)
    assert not (await world.take(1, claim, requests=1000 - 11)).denied
    assert (await world.take(1, claim, requests=9)).denied


async def test_a_grant_of_requests_is_not_used_after_its_second(world):
    claim = claim_of(requests=(Rate(1000, 60),))
    await world.take(0, claim, requests=1)
    world.pass_ns(NS)
    await world.take(0, claim, requests=1)
    assert len(world.link.calls) == 2


async def ask_again(world: World, sidecar: Granter, claim: Claim, *, older: bool = False) -> list:
    """A question whose answer the sidecar never hears; `older`: one that was long on its way."""
    place = sidecar._places.get((claim.limit.name, claim.account))
    if place is None:
        return []
    asks = place.purse.asks(wish(claim, nanousd=3, tokens=2, requests=1, slots=1), 10**18, world.now)
    sidecar._seq += 0 if older else 1
    request = {"seq": sidecar._seq, "limit": claim.limit.name, "account": claim.account, "asks": [ask.values() for ask in asks]}
    whole = {**sidecar._common, **spans(sidecar._almanac.around(world.now)), **request}
    return await world.link.call(SCRIPT, [world.prefix + "meta"], [encode(whole)])
