"""Money under a race and under kill -9: a budget is never passed, and every attempt a provider saw stands in the ledger exactly once."""

import asyncio
import collections
import random

from support import chat
from support.caller import Caller, ask
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


CRASH_POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: rate, per: caller, requests: 100000/min, spend: $100000/total}}
  - {{name: slots, per: total, concurrency: 24}}
"""


async def under_load(sluice, sent, ended, stop):
    """Callers that send one call after the other, each with a name of its own, until the sidecar dies."""

    async def caller(number):
        dice = random.Random(number)
        while not stop.is_set():
            name = f"call-{len(sent)}"
            sent.append(name)
            try:
                async with Caller(sluice.port) as one:
                    is_streamed = dice.random() < 0.5
                    await one.send("POST", chat.TARGET, [chat.JSON, chat.KEY, ("X-Request-Id", name)], chat.asked(stream=is_streamed))
                    if dice.random() < 0.1:
                        await asyncio.sleep(0.01)
                        continue  # and gone
                    await one.answer()
                    ended.append(name)
            except Exception:
                await asyncio.sleep(0.01)

    await asyncio.gather(*(caller(number) for number in range(20)))


async def test_kill_9_loses_no_attempt_no_rate_and_no_slot(tmp_path):
    dice = random.Random(7)

    async def script(seen, reply):
        await asyncio.sleep(dice.random() * 0.05)
        roll = dice.random()
        if roll < 0.1:
            await reply.json(chat.error(), 503, [("retry-after-ms", "1")])
        elif not seen.json.get("stream"):
            await reply.json(chat.whole())
        else:
            await reply.start()
            await reply.event(chat.delta(None))
            for _ in range(5):
                await reply.event(chat.delta("word "))
                await asyncio.sleep(0.01)
            if roll < 0.2:
                reply.abort()
            else:
                await chat.stream_end(reply)

    crashed = 0
    async with Provider(script) as provider, sidecar(tmp_path, CRASH_POLICY.format(url=provider.url)) as sluice:
        sent, ended = [], []
        for _ in range(5):
            stop = asyncio.Event()
            load = asyncio.ensure_future(under_load(sluice, sent, ended, stop))
            await asyncio.sleep(0.4 + dice.random() * 0.4)
            await sluice.kill()
            stop.set()
            await load
            await sluice.start()
        rows = [row for row in await sluice.rows() if row["kind"] != "refusal"]
        await check_rows(rows, provider, ended)
        crashed = [row for row in rows if row["end"] == "crashed"]
        assert crashed, "the load was too light to be killed in the middle of a call"
        assert all(row["usage_source"] == "estimate" and row["cost_nanousd"] == row["held_nanousd"] > 0 for row in crashed)
        await asyncio.sleep(0.3)  # the log is written ten times a second
        recovered = [line["crashed_attempts"] for line in sluice.log_lines() if line["event"] == "recovered"]
        assert sum(recovered) == len(crashed)
        await check_rate_and_slots(sluice, provider, rows, sent)


async def check_rows(rows, provider, ended):
    """One row for each attempt that the provider saw, none for one that it did not see and that cost something."""
    names = collections.Counter(seen.header("x-request-id") for seen in provider.seen)
    booked = collections.Counter(row["request_id"] for row in rows)
    assert {name: count for name, count in names.items() if booked[name] < count} == {}, "seen and not booked"
    on_the_way = collections.Counter(row["request_id"] for row in rows if row["end"] in ("crashed", "client_gone"))
    assert all(booked[name] - names[name] <= on_the_way[name] for name in booked), "booked, not seen, and neither crashed nor cut"
    ids = [(row["request_id"], row["attempt"]) for row in rows]
    assert len(set(ids)) == len(ids)
    by_name = collections.defaultdict(list)
    for row in rows:
        by_name[row["request_id"]].append(row)
    assert all(by_name[name] for name in ended)


async def check_rate_and_slots(sluice, provider, rows, sent):
    """All this took less than a minute: every call of the processes before still counts, and none of their slots is taken."""
    provider.script = lambda seen, reply: reply.json(chat.whole())
    got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())
    assert got.status == 200
    used = int(got.header("x-ratelimit-limit")) - int(got.header("x-ratelimit-remaining"))
    assert len({row["request_id"] for row in rows}) + 1 <= used <= len(sent) + 1
    gate, inside = asyncio.Event(), []

    async def waits(seen, reply):
        inside.append(seen)
        await gate.wait()
        await reply.json(chat.whole())

    provider.script = waits
    calls = [asyncio.ensure_future(ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())) for _ in range(25)]
    while len(inside) < 24 or not any(one.done() for one in calls):
        await asyncio.sleep(0.01)
    gate.set()
    assert sorted(got.status for got in await asyncio.gather(*calls)) == [200] * 24 + [429]
