"""The shared state as sidecars use it, on a real server: one budget for all, one trip for a call, and journals that know it all."""

import asyncio
from collections import Counter

import pytest
from support.fleet import budget, rate, sidecar_on, until
from support.valkey import valkey

from proxy.policy.plan import Claim, Limit, Spend
from proxy.refusal import Refusal

CALL = 1_000_000_000
pytestmark = pytest.mark.usefixtures("patient")


@pytest.fixture(scope="module")
def server():
    with valkey() as one:
        yield one


@pytest.fixture(autouse=True)
def emptied(server):
    server.ask("FLUSHALL")


def settled(server, name="budget"):
    found = server.ask("HMGET", f"sluice:{{tests}}:b:total|{name}|total", "settled", "held")
    return tuple(int(it or 0) for it in found)


async def test_four_sidecars_let_exactly_ten_of_200_simultaneous_calls_through_a_budget_for_ten(server, tmp_path):
    claims = [budget(10 * CALL)]
    async with (
        sidecar_on(server.url, tmp_path) as a,
        sidecar_on(server.url, tmp_path) as b,
        sidecar_on(server.url, tmp_path) as c,
        sidecar_on(server.url, tmp_path) as d,
    ):
        them = (a, b, c, d)
        got = await asyncio.gather(*(them[n % 4].begin(f"call{n}", claims, CALL) for n in range(200)))
        assert Counter(got) == {"": 10, "budget_exhausted": 190}
        assert settled(server) == (0, 10 * CALL)


async def test_a_budget_can_be_used_to_the_last_nano_dollar_however_it_was_shared_out(server, tmp_path):
    """Each sidecar is told a share; what one needs beyond its own, the others give back."""
    claims = [budget(10 * CALL)]
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        assert [await one.begin(f"{name}0", claims, CALL) for name, one in (("a", a), ("b", b))] == ["", ""]
        await until(lambda: a.state._space.shares._left and b.state._space.shares._left)
        assert [await a.begin(f"a{n}", claims, CALL) for n in range(1, 10)] == [""] * 8 + ["budget_exhausted"]
        assert settled(server) == (0, 10 * CALL)


async def test_a_hold_is_one_round_trip_and_a_call_without_shared_limits_is_none(server, tmp_path):
    shared, mine = [budget(1000 * CALL), rate(100_000)], [Claim(Limit("here", ("instance",), spend=(Spend(CALL, "total"),)), "instance")]
    async with sidecar_on(server.url, tmp_path) as one:
        await one.begin("warm", shared, 1)
        one.end("warm", 1)
        await one.told()
        sent = []
        take = one.state._space._remote.take

        async def counted(*args):
            sent.append(args)
            return await take(*args)

        one.state._space._remote.take = counted
        server.ask("CONFIG", "RESETSTAT")
        for n in range(20):
            assert await one.begin(f"free{n}", mine, 1) == ""
            one.end(f"free{n}", 1)
            assert await one.begin(f"none{n}", [], 1) == ""
            one.end(f"none{n}", 1)
        await asyncio.sleep(0.1)
        assert not sent and server.calls("evalsha") + server.calls("eval") <= 1, "a heartbeat at most"
        for n in range(20):
            assert await one.begin(f"shared{n}", shared, 1) == ""
        assert len(sent) == 20, "the entry comes with the hold"
        for n in range(20):
            one.end(f"shared{n}", 1)
        await one.told()
        beats = server.calls("evalsha") - 20
        assert beats < 10, "settles are batched"


async def test_a_settle_gives_back_what_was_not_needed(server, tmp_path):
    claims = [budget(2 * CALL)]
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        for n in range(11):
            one = (a, b)[n % 2]
            assert await one.begin(f"call{n}", claims, CALL) == ""
            one.end(f"call{n}", CALL // 10)
            await one.told()
        assert await a.begin("over", claims, CALL) == "budget_exhausted"
        assert settled(server) == (11 * CALL // 10, 0)


async def test_a_refused_call_counts_nowhere(server, tmp_path):
    claims = [budget(CALL), rate(3)]
    async with sidecar_on(server.url, tmp_path) as one:
        assert await one.begin("first", claims, CALL) == ""
        for n in range(5):
            assert await one.begin(f"no{n}", claims, CALL) == "budget_exhausted"
        one.state.void("first/1", None)
        one.state.leave("first")
        await one.told()
        assert [await one.begin(f"more{n}", claims, 1) for n in range(3)] == ["", "", "rate_limited"]


async def test_a_call_that_ends_without_an_attempt_keeps_its_request(server, tmp_path):
    claims = [rate(2)]
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        for n in range(2):  # refused by a guard, say
            await a.state.enter(f"guarded{n}", tuple(claims))
            a.state.leave(f"guarded{n}")
        await a.told()
        assert await b.begin("one", claims) == "rate_limited"


async def test_what_redis_refused_a_moment_ago_is_refused_again_without_asking(server, tmp_path):
    claims = [rate(1)]
    async with sidecar_on(server.url, tmp_path) as one:
        assert await one.begin("one", claims) == ""
        assert await one.begin("two", claims) == "rate_limited"
        sent = []
        one.state._space._remote.take = lambda *args: sent.append(args)
        assert await one.begin("three", claims) == "rate_limited"
        assert not sent


async def test_slots_are_counted_over_all_sidecars_and_come_back(server, tmp_path):
    claims = [Claim(Limit("slots", ("total",), concurrency=2), "total")]
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        assert [await a.begin("a", claims), await b.begin("b", claims), await a.begin("c", claims)] == ["", "", "too_many_in_flight"]
        b.end("b", 0)
        await b.told()
        assert await a.begin("d", claims) == ""


async def test_a_cancelled_hold_leaves_nothing_behind(server, tmp_path):
    claims = [budget(10 * CALL)]
    async with sidecar_on(server.url, tmp_path) as one:
        for n in range(10):
            task = asyncio.ensure_future(one.begin(f"call{n}", claims, CALL))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            one.state.void(f"call{n}/1", None)
            one.state.leave(f"call{n}")
        await one.told()
        assert settled(server) == (0, 0)


async def test_what_a_killed_sidecar_held_is_charged_at_its_estimate_and_its_slots_come_back_at_its_start(server, tmp_path):
    claims = [budget(10 * CALL), Claim(Limit("slots", ("total",), concurrency=3), "total")]
    async with sidecar_on(server.url, tmp_path, ends=False) as one:
        for n in range(3):
            assert await one.begin(f"call{n}", claims, CALL) == ""
        one.end("call0", CALL // 2)
        await one.told()
        one.end("call1", CALL // 4)  # not told any more
        one.state._space._running.cancel()
    assert settled(server) == (CALL // 2, 2 * CALL)
    async with sidecar_on(server.url, tmp_path) as again:
        assert settled(server) == (CALL // 2 + CALL // 4 + CALL, 0)
        assert [await again.begin(f"new{n}", claims, 1) for n in range(4)] == ["", "", "", "too_many_in_flight"]
        assert again.state.own.recovery.crashed == 1


async def test_a_sidecar_that_fell_silent_is_named_in_the_log(server, tmp_path, caplog):
    async with sidecar_on(server.url, tmp_path):
        server.ask("ZADD", "sluice:{tests}:live", "1", "f00d")  # its lease is long over, and so is the hour after it
        await until(lambda: len(caplog.records) >= 2)
    assert [it.getMessage().split(":")[0] for it in caplog.records] == [
        "sidecar f00d gives no sign of life",
        "sidecar f00d is silent for an hour",
    ]


async def test_a_stream_under_way_gets_more_money_only_where_the_fleet_has_some(server, tmp_path):
    claims = (budget(10 * CALL),)
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        assert await a.begin("a", claims, 4 * CALL) == ""
        assert await b.begin("b", claims, 4 * CALL) == ""
        assert await a.state.extend("a/1", claims, CALL)
        assert not await b.state.extend("b/1", claims, 2 * CALL)
        assert settled(server) == (0, 9 * CALL)
        a.end("a", 5 * CALL)
        b.end("b", CALL)
        await a.told()
        await b.told()
        assert settled(server) == (6 * CALL, 0)


async def test_two_sidecars_on_one_machine_take_two_journals_and_a_restart_takes_its_own(server, tmp_path):
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        first, second = (one.folder / "instance" for one in (a, b))
        assert first.read_text() != second.read_text()
        assert a.state.own.secret == b.state.own.secret, "a pass-through caller is one account for both"
        before = first.read_text()
    async with sidecar_on(server.url, tmp_path) as again:
        assert again.folder == first.parent and first.read_text() == before


async def test_a_session_has_its_slot_from_its_beginning_and_not_from_its_first_turn_on(server, tmp_path):
    claims = (Claim(Limit("slots", ("total",), concurrency=1), "total"), rate(5))
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        await a.state.enter("session", claims)
        await a.state.decide("session")
        await b.state.enter("other", claims)
        with pytest.raises(Refusal, match="too_many_in_flight"):
            await b.state.decide("other")
        b.state.uncount("other")
        b.state.leave("other")
        a.state.leave("session")
        await a.told()
        await b.told()
        assert await b.begin("call", claims) == ""
        assert {it.kind: it.remaining for it in b.state.standings(claims)} == {"concurrency": 0, "requests": 3}
