"""A client that leaves: the provider's side is closed within a second, whatever the phase, and the attempt is settled."""

import asyncio
import time

import pytest
import pytest_asyncio
from support import chat
from support.caller import Caller, ask
from support.provider import Provider
from support.sluice import sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: one-at-a-time, per: total, concurrency: 1, spend: $50/day}}
"""
PHASES = ("before the headers", "before the first token", "in the middle of the body")
WORDS = 40
ONE_S = 1.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider():
    async with Provider(lambda seen, reply: reply.json(chat.whole())) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cancels(provider, tmp_path_factory):
    async with sidecar(tmp_path_factory.mktemp("cancels"), POLICY.format(url=provider.url)) as sluice:
        yield sluice


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def finishes(provider, tmp_path_factory):
    policy = POLICY.format(url=provider.url) + "on_client_gone: finish\n"
    async with sidecar(tmp_path_factory.mktemp("finishes"), policy) as sluice:
        yield sluice


async def until(row_of, wait_s=5.0):
    """The row, as soon as it is there."""
    deadline = time.monotonic() + wait_s
    while (row := await row_of()) is None:
        assert time.monotonic() < deadline, "no row"
        await asyncio.sleep(0.02)
    return row


async def row_called(sluice, name):
    async def find():
        rows = [row for row in await sluice.rows() if row["request_id"] == name]
        assert len(rows) < 2, rows
        return rows[0] if rows else None

    return await until(find)


def held_until(phase, reached, gone_at):
    """A script that stands still in `phase` until the other side closes, and notes when that was."""

    async def script(seen, reply):
        if phase != PHASES[0]:
            await reply.start()
        if phase == PHASES[2]:
            await reply.event(chat.delta(None))
            for _ in range(WORDS):
                await reply.event(chat.delta(" word"))
        reached.set()
        await asyncio.wait_for(seen.gone.wait(), 10)
        gone_at.append(time.monotonic())

    return script


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("phase", PHASES)
async def test_the_provider_is_let_go_within_a_second_and_the_attempt_is_settled(cancels, provider, phase, is_streamed, how):
    reached, gone_at = asyncio.Event(), []
    provider.script = held_until(phase, reached, gone_at)
    name = f"gone-{PHASES.index(phase)}-{is_streamed}-{how}"
    async with Caller(cancels.port) as caller:
        await caller.send(
            "POST", chat.TARGET, [chat.JSON, chat.KEY, ("X-Request-Id", name)], chat.asked(stream=is_streamed, max_tokens=200)
        )
        await asyncio.wait_for(reached.wait(), 20)
        if phase == PHASES[2]:
            await caller.head()
            came = b""
            while came.count(b" word") < WORDS:
                came += await caller.piece()
        left = time.monotonic()
        caller.leave(how)
        await asyncio.wait_for(provider.seen[-1].gone.wait(), 20)
        row = await row_called(cancels, name)
    assert gone_at[0] - left < ONE_S
    assert (row["end"], row["kind"]) == ("client_gone", "first")
    assert row["usage_source"] in ("counted", "estimate")
    passed = WORDS if phase == PHASES[2] else 0
    assert row["output_tokens"] >= passed
    assert row["held_nanousd"] >= row["cost_nanousd"] >= passed * 10_000 + 1
    provider.script = lambda seen, reply: reply.json(chat.whole())
    assert (await ask(cancels.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status == 200, "the slot is free again"


@pytest.mark.parametrize("phase", PHASES)
async def test_where_policy_says_finish_the_answer_is_read_to_its_end_and_booked_exactly(finishes, provider, phase):
    go_on, reached = asyncio.Event(), asyncio.Event()
    place = PHASES.index(phase)

    async def script(seen, reply):
        async def here(number):
            if number == place:
                reached.set()
                await go_on.wait()

        await here(0)
        await reply.start()
        await here(1)
        await reply.event(chat.delta(None))
        await reply.event(chat.delta("word"))
        await here(2)
        await reply.event(chat.delta(" more"))
        await chat.stream_end(reply)

    provider.script = script
    name = f"finish-{place}"
    async with Caller(finishes.port) as caller:
        await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY, ("X-Request-Id", name)], chat.asked(stream=True))
        await asyncio.wait_for(reached.wait(), 20)
        if place == 2:
            await caller.head()
            await caller.piece()
        caller.leave()
    await asyncio.sleep(0.2)  # Sluice has noticed by now
    assert not provider.seen[-1].gone.is_set()
    go_on.set()
    row = await row_called(finishes, name)
    assert (row["end"], row["usage_source"]) == ("client_gone", "provider")
    assert (row["input_tokens"], row["output_tokens"], row["cost_nanousd"]) == (chat.INPUT, chat.OUTPUT, chat.COST)


async def test_a_client_that_leaves_with_its_buffer_full_is_finished_too_and_holds_up_nobody(finishes, provider):
    async def script(seen, reply):
        await reply.start()
        for _ in range(24):
            await reply.event(chat.delta("x" * 1_000_000))
        await chat.stream_end(reply)

    provider.script = script
    async with Caller(finishes.port) as caller:
        caller.stop_reading()
        await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY, ("X-Request-Id", "full")], chat.asked(stream=True))
        await asyncio.sleep(0.5)
        caller.leave("reset")
    row = await row_called(finishes, "full")
    assert (row["end"], row["usage_source"], row["cost_nanousd"]) == ("client_gone", "provider", chat.COST)


async def test_a_client_that_leaves_in_its_upload_costs_nothing_and_reaches_no_provider(cancels, provider):
    before = len(provider.seen)
    async with Caller(cancels.port) as caller:
        head = f"POST {chat.TARGET} HTTP/1.1\r\nHost: 127.0.0.1:{cancels.port}\r\nContent-Type: application/json\r\n"
        await caller.raw(f"{head}{chat.KEY[0]}: {chat.KEY[1]}\r\nX-Request-Id: half\r\nContent-Length: 1000\r\n\r\n{{".encode())
        await asyncio.sleep(0.1)
        caller.leave("reset")
    provider.script = lambda seen, reply: reply.json(chat.whole())
    assert (await ask(cancels.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status == 200
    assert len(provider.seen) == before + 1
    assert [row for row in await cancels.rows() if row["request_id"] == "half"] == []
    assert "Traceback" not in cancels.logged()
