"""Money under a race and under kill -9: a budget is never passed, and every attempt a provider saw stands in the ledger exactly once."""

import asyncio
import collections
import time

import pytest
from support import chat, crashes
from support.caller import Cut, ask
from support.provider import Provider
from support.sluice import sidecar

ONE_CALL = 1_000_000_000  # nano-dollars a call holds: 50,000 output tokens at $20 a million, and its input at $0
POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
prices:
  one-dollar: {{input: 0.00, output: 20.00}}
limits:
  - {{name: budget, per: total, spend: {budget}/total}}
breaker: off
"""


def asked(**more):
    return chat.asked(model="one-dollar", max_tokens=50_000, **more)


async def test_200_simultaneous_calls_on_a_budget_for_10_reach_the_provider_10_times(tmp_path):
    gate = asyncio.Event()

    async def script(seen, reply):
        await gate.wait()
        await reply.json({**chat.whole(), "usage": {"prompt_tokens": 1, "completion_tokens": 50_000, "total_tokens": 50_001}})

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, budget="$10")) as sluice:

        async def call():
            return await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], asked())

        calls = [asyncio.ensure_future(call()) for _ in range(200)]
        while sum(one.done() for one in calls) < 190:
            await asyncio.sleep(0.02)
        gate.set()
        answers = await asyncio.gather(*calls)
        assert collections.Counter((got.status, got.code) for got in answers) == {(200, None): 10, (402, "budget_exhausted"): 190}
        assert len(provider.seen) == 10
        assert all(got.header("retry-after") is None for got in answers if got.status == 402)
        rows = await sluice.rows()
        attempts = [row for row in rows if row["kind"] != "refusal"]
        assert [(row["cost_nanousd"], row["held_nanousd"]) for row in attempts] == [(ONE_CALL, ONE_CALL)] * 10
        assert len(rows) == 10 + 190, "each refusal of somebody has its row"
        assert sum(row["cost_nanousd"] for row in rows) == 10 * ONE_CALL, "a refusal costs nothing"
        assert (await call()).status == 402


async def test_a_hold_that_was_not_needed_goes_back(tmp_path):
    async def script(seen, reply):
        await reply.json({**chat.whole(), "usage": {"prompt_tokens": 1, "completion_tokens": 5_000, "total_tokens": 5_001}})

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, budget="$2")) as sluice:
        statuses = [(await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], asked())).status for _ in range(12)]
    assert statuses == [200] * 11 + [402], "$0.10 each: the twelfth could cost $1.00 and $0.90 are left"


async def test_the_race_again_after_a_kill_with_the_budget_half_spent(tmp_path):
    """Three calls settled and two on the way at the kill, which then cost what they held: five of ten dollars are left."""
    gate = asyncio.Event()

    async def script(seen, reply):
        if len(provider.seen) > 3:
            await gate.wait()
        await reply.json({**chat.whole(), "usage": {"prompt_tokens": 1, "completion_tokens": 50_000, "total_tokens": 50_001}})

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, budget="$10")) as sluice:

        async def call():
            try:
                return (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], asked())).status
            except (OSError, EOFError, Cut):
                return None

        assert [await call() for _ in range(3)] == [200] * 3
        dying = [asyncio.ensure_future(call()) for _ in range(2)]
        async with asyncio.timeout(20):
            while len(provider.seen) < 5 or sum(row["cost_nanousd"] for row in await sluice.rows()) < 3 * ONE_CALL:
                await asyncio.sleep(0.01)
        await sluice.kill()
        assert await asyncio.gather(*dying) == [None, None]
        await sluice.start()
        calls = [asyncio.ensure_future(call()) for _ in range(200)]
        async with asyncio.timeout(60):
            while sum(one.done() for one in calls) < 195:
                await asyncio.sleep(0.02)
        gate.set()
        assert collections.Counter(await asyncio.gather(*calls)) == {200: 5, 402: 195}
        assert len(provider.seen) == 10
        rows = [row for row in await sluice.rows() if row["kind"] != "refusal"]
        assert collections.Counter(row["end"] for row in rows) == {"done": 8, "crashed": 2}
        assert sum(row["cost_nanousd"] for row in rows) == 10 * ONE_CALL


@pytest.mark.parametrize(("durability", "rounds"), [("process", 5), ("disk", 2)])
async def test_kill_9_loses_no_attempt_no_rate_and_no_slot(tmp_path, durability, rounds):
    """The same fifty times, with figures: `make crash`."""
    began = time.monotonic()
    async with Provider(chat.good) as provider:
        policy = crashes.POLICY.format(url=provider.url, durability=durability, paced=40)
        async with sidecar(tmp_path, policy) as sluice:
            them = crashes.Crashes(sluice)
            provider.script = them.script
            for _ in range(rounds):
                await them.round(0.4 + them.dice.random() * 0.4)
                figures = await them.check()
            assert figures["crashed"], "the load was too light to be killed in the middle of a call"
            assert figures["exact"]
            await asyncio.sleep(0.3)  # the log is written ten times a second
            recovered = [line["crashed_attempts"] for line in sluice.log_lines() if line["event"] == "recovered"]
            assert sum(recovered) == figures["crashed"]
            assert them.most_in_a_minute(60) <= 40 or time.monotonic() - began > 60
            await them.check_slots(provider)
