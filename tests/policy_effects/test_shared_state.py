"""What a shared state does for a fleet of real sidecars: one budget, one namespace, and what they do when it is away."""

import asyncio
import collections
import json
import re
from contextlib import AsyncExitStack, asynccontextmanager

import aiohttp
import pytest
from support import chat
from support.caller import ask
from support.provider import Provider
from support.sluice import Sluice, sidecar
from support.valkey import between, cluster, valkey

ONE_CALL = 1_000_000_000  # nano-dollars a call holds: 50,000 output tokens at $20 a million, and its input at $0
POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
prices:
  one-dollar: {{input: 0.00, output: 20.00}}
breaker: off
retry: off
{more}
"""


@pytest.fixture(scope="module")
def server():
    with valkey() as one:
        yield one


@asynccontextmanager
async def fleet(folder, count, state, url, more):
    """So many sidecars, each with a journal of its own, on one state."""
    async with AsyncExitStack() as stack:
        entering = []
        for number in range(count):
            here = folder / str(number)
            here.mkdir(parents=True, exist_ok=True)
            args = ("--state", f"{state}?journal={here / 'journal'}")
            entering.append(stack.enter_async_context(sidecar(here, POLICY.format(url=url, more=more), args=args)))
        yield await asyncio.gather(*entering)


def asked(**more):
    return chat.asked(model="one-dollar", max_tokens=50_000, **more)


async def call(sluice, **more):
    return await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], asked(**more))


def answering(tokens=50_000, gate=None, pause_s=0.0):
    async def script(seen, reply):
        if gate is not None:
            await gate.wait()
        await asyncio.sleep(pause_s)
        await reply.json({**chat.whole(), "usage": {"prompt_tokens": 1, "completion_tokens": tokens, "total_tokens": tokens + 1}})

    return script


async def ready(sluice: Sluice):
    async with aiohttp.ClientSession() as session, session.get(sluice.admin + "/healthz/ready") as reply:
        return reply.status, await reply.text()


async def metric(sluice, name):
    found = re.search(rf"^sluice_{name} (\S+)$", await sluice.metrics(), re.MULTILINE)
    return found and float(found[1])


async def eventually(is_so, patience_s=30):
    async with asyncio.timeout(patience_s):
        while not await is_so():
            await asyncio.sleep(0.05)


async def test_200_simultaneous_calls_over_four_sidecars_on_a_budget_for_10_reach_the_provider_10_times(server, tmp_path):
    gate = asyncio.Event()
    more = "limits: [{name: race, per: total, spend: $10/total}]"
    async with Provider(answering(gate=gate)) as provider, fleet(tmp_path, 4, server.url, provider.url, more) as sluices:
        calls = [asyncio.ensure_future(call(sluices[n % 4])) for n in range(200)]
        while sum(one.done() for one in calls) < 190:
            await asyncio.sleep(0.02)
        gate.set()
        answers = await asyncio.gather(*calls)
        assert collections.Counter((got.status, got.code) for got in answers) == {(200, None): 10, (402, "budget_exhausted"): 190}
        assert len(provider.seen) == 10
        rows = [row for one in sluices for row in await one.rows() if row["kind"] != "refusal"]
        assert [(row["cost_nanousd"], row["held_nanousd"]) for row in rows] == [(ONE_CALL, ONE_CALL)] * 10


async def test_sidecars_share_what_is_of_their_namespace_and_nothing_else(server, tmp_path):
    limits = "limits: [{name: of-namespace, per: total, spend: $2/total}]"
    async with Provider(answering()) as provider, AsyncExitStack() as stack:
        first, second = await stack.enter_async_context(fleet(tmp_path / "a", 2, server.url, provider.url, f"namespace: left\n{limits}"))
        (other,) = await stack.enter_async_context(fleet(tmp_path / "b", 1, server.url, provider.url, f"namespace: right\n{limits}"))
        assert [(await call(one)).status for one in (first, second, first)] == [200, 200, 402]
        assert [(await call(other)).status for _ in range(3)] == [200, 200, 402]
    keys = [key.decode() for key in server.ask("KEYS", "*of-namespace*")]
    assert {key.split(":")[1] for key in keys} == {"{left}", "{right}"}


@pytest.mark.parametrize(("on", "money", "rates"), [("{money: deny, rates: allow}", 503, 200), ("{rates: deny}", 200, 503)])
async def test_on_state_down_decides_for_money_and_rates(server, tmp_path, on, money, rates):
    more = f"""
on_state_down: {on}
limits:
  - {{name: money-{money}, match: {{"header:x-case": money}}, per: total, spend: $100/total}}
  - {{name: rates-{rates}, match: {{"header:x-case": rates}}, per: total, requests: 100/min}}
"""

    async def status(sluice, case):
        return (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY, ("x-case", case)], asked())).status

    async with Provider(answering()) as provider, between(server.port) as line, fleet(tmp_path, 1, line.url, provider.url, more) as (one,):
        assert [await status(one, case) for case in ("money", "rates", "none")] == [200, 200, 200]
        await asyncio.sleep(1.5)  # a heartbeat tells the share
        line.is_refusing = True
        line.cut()
        await eventually(lambda: _has_mode(one, 1))
        assert [await status(one, case) for case in ("money", "rates", "none")] == [money, rates, 200]


async def _has_mode(sluice, mode):
    return await metric(sluice, "state_mode") == mode


async def test_the_mode_is_a_metric_a_line_in_the_log_and_a_field_of_ready(server, tmp_path):
    more = "limits: [{name: seen, per: total, spend: $100/total}]"
    async with Provider(answering()) as provider, between(server.port) as line, fleet(tmp_path, 1, line.url, provider.url, more) as (one,):
        assert await ready(one) == (200, "ok\nstate: shared\n")
        line.is_refusing = True
        line.cut()
        await eventually(lambda: _has_mode(one, 1))
        assert await ready(one) == (200, "ok\nstate: local\n")
        line.is_refusing = False
        await eventually(lambda: _has_mode(one, 0))
        assert await metric(one, "state_live") >= 1
        await asyncio.sleep(0.3)  # the log is written ten times a second
        lines = [line for line in one.log_lines() if line["event"] == "state mode"]
        assert [(it["mode"], it["level"]) for it in lines][-2:] == [("local", "warning"), ("shared", "info")]
        assert lines[-2]["why"] == "refused"


async def test_a_sidecar_whose_redis_is_not_there_yet_is_not_ready_and_says_so(tmp_path):
    more = "limits: [{name: early, per: total, spend: $100/total}]"
    with valkey() as late:
        late.kill9()
        async with Provider(answering()) as provider:
            one = Sluice(
                tmp_path, POLICY.format(url=provider.url, more=more), args=("--state", f"{late.url}?journal={tmp_path / 'journal'}")
            )
            starting = asyncio.ensure_future(one.start())
            try:
                await eventually(lambda: _says(one, (503, "the shared state is not reached yet\nstate: local\n")))
                assert (await call(one)).code == "state_unavailable"
                late.restart()
                await starting
                assert (await call(one)).status == 200
            finally:
                starting.cancel()
                await asyncio.gather(starting, return_exceptions=True)
                await one.stop()


async def _says(sluice, what):
    try:
        return await ready(sluice) == what
    except aiohttp.ClientError:
        return False


async def test_a_redis_that_may_drop_keys_is_no_place_for_a_budget(tmp_path):
    more = "limits: [{name: dropped, per: total, spend: $100/total}]"
    with valkey(maxmemory="100mb", policy="allkeys-lru") as server:
        one = Sluice(tmp_path, POLICY.format(url="http://127.0.0.1:9", more=more), args=("--state", server.url))
        with pytest.raises(AssertionError, match="78"):
            await one.start()
    said = [line for line in one.logged().splitlines() if line]
    assert len(said) == 1 and said[0].startswith("sluice: the shared state may drop") and "noeviction" in said[0]


async def test_a_redis_that_comes_late_and_may_drop_keys_makes_no_sidecar_ready_until_it_is_repaired(tmp_path):
    more = "limits: [{name: late, per: total, spend: $100/total}]"
    with valkey(maxmemory="100mb", policy="allkeys-lru") as late:
        late.kill9()
        policy = POLICY.format(url="http://127.0.0.1:9", more=more)
        one = Sluice(tmp_path, policy, args=("--state", f"{late.url}?journal={tmp_path / 'journal'}"))
        starting = asyncio.ensure_future(one.start())
        try:
            await eventually(lambda: _says(one, (503, "the shared state is not reached yet\nstate: local\n")))
            late.restart()
            why = "the shared state may drop what it counts when its memory is full (maxmemory-policy allkeys-lru)"
            fix = "and a spend limit rests on it: set maxmemory-policy noeviction"
            await eventually(lambda: _says(one, (503, f"{why}, {fix}\nstate: shared\n")))
            assert not starting.done(), "it was ready before"
            late.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            await starting
            assert await ready(one) == (200, "ok\nstate: shared\n")
        finally:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await one.stop()


async def test_a_killed_sidecar_takes_up_what_it_held(server, tmp_path):
    gate = asyncio.Event()
    more = "limits: [{name: killed, per: total, spend: $3/total}]"
    async with Provider(answering(gate=gate)) as provider, fleet(tmp_path, 2, server.url, provider.url, more) as (one, other):
        calls = [asyncio.ensure_future(call(one)) for _ in range(2)]
        while len(provider.seen) < 2:
            await asyncio.sleep(0.01)
        await one.kill()
        await asyncio.gather(*calls, return_exceptions=True)
        await one.start()
        crashed = [row for row in await one.rows() if row["end"] == "crashed"]
        assert [row["cost_nanousd"] for row in crashed] == [ONE_CALL] * 2
        gate.set()
        assert [(await call(it)).status for it in (other, one, other)] == [200, 402, 402]


async def test_four_sidecars_and_a_frozen_redis_spend_no_more_than_the_limit_and_most_of_what_was_left(server, tmp_path):
    """The same for 60 s, with figures: tests/bench/frozen.py."""
    more = "namespace: frozen\nlimits: [{name: frozen, per: total, spend: $60/total}]"
    script = answering(tokens=5_000)  # a tenth of what is held
    async with Provider(script) as provider, fleet(tmp_path, 4, server.url, provider.url, more) as sluices:
        for one in sluices:
            assert (await call(one)).status == 200
        await asyncio.sleep(2.5)  # heartbeats tell the shares
        spent = len(provider.seen)
        server.freeze()
        try:
            refused = set()
            async with asyncio.timeout(60):
                while len(refused) < 4:
                    for number, got in enumerate(await asyncio.gather(*(call(one) for one in sluices))):
                        if got.status != 200:
                            assert got.code == "state_unavailable"
                            refused.add(number)
            alone = len(provider.seen) - spent
            left = 600 - spent
            assert len(provider.seen) <= 600
            assert alone >= 0.8 * left
        finally:
            server.thaw()
        await asyncio.gather(*(eventually(lambda one=one: _has_mode(one, 0)) for one in sluices))
        answers = [(await call(sluices[n % 4])).status for n in range(4)]
        assert 200 in answers or len(provider.seen) * 100_000_000 > 59 * ONE_CALL
        await eventually(lambda: _knows(server, len(provider.seen) * 100_000_000))


async def _knows(server, nanousd):
    settled, held = server.ask("HMGET", "sluice:{frozen}:b:total|limit frozen|total", "settled", "held")
    return (int(settled), int(held)) == (nanousd, 0)


def test_the_file_of_shares_is_plain_and_private(tmp_path):
    from proxy.admit.fleet.shares import Key, Shares

    shares = Shares()
    shares.asks()
    shares.told({Key("team a", "team=a", "total"): 1000}, 3, 10.0)
    data = json.loads(shares.written(0, 10.0))
    assert data["left"] == [["team a", "team=a", "total", 900]]


async def test_three_sidecars_on_a_cluster_spend_a_budget_of_all_callers_once(tmp_path):
    """`per: total` crosses the slots of the callers' teams: it is granted, and still never exceeded."""
    more = "limits: [{name: all, per: total, spend: $10/month}, {name: at once, per: total, concurrency: 100}]"
    with cluster() as nodes:
        async with Provider(answering()) as provider, fleet(tmp_path, 3, nodes.url, provider.url, more) as them:
            replies = await asyncio.gather(*(call(them[n % 3]) for n in range(45)))
            counts = collections.Counter(reply.status for reply in replies)
            assert counts == {200: 10, 402: 35}, counts
            assert len(provider.seen) == 10
