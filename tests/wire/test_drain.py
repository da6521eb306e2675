"""SIGTERM: what is under way may finish, what is new is told to go elsewhere, nothing is left unsettled, and the process ends with 0."""

import asyncio
import json
import signal
import time

import aiohttp
import pytest
from support import chat
from support.caller import Caller, Cut
from support.provider import Provider
from support.sluice import sidecar

POLICY = """
version: 1
server: {{drain: {drain}}}
providers:
  openai: {{url: "{url}"}}
  anthropic: {{url: "{url}"}}
limits:
  - {{name: all, per: total, spend: $50/day}}
"""
MESSAGES = "/anthropic/v1/messages"


class Streams:
    """A provider whose streams say "one" at once, then "two" and their end when told; what is not streamed is answered at once."""

    def __init__(self):
        self.go_on = asyncio.Event()

    async def __call__(self, seen, reply):
        if not seen.json.get("stream"):
            await reply.json(chat.whole())
            return
        is_chat = "chat" in seen.target
        await reply.start()
        await (self._chat_begin if is_chat else self._messages_begin)(reply)
        waits = [asyncio.ensure_future(self.go_on.wait()), asyncio.ensure_future(seen.gone.wait())]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED, timeout=30)
        for one in waits:
            one.cancel()
        if is_chat and self.go_on.is_set():
            await reply.event(chat.delta("two"))
            await chat.stream_end(reply)

    async def _chat_begin(self, reply):
        await reply.event(chat.delta(None))
        await reply.event(chat.delta("one"))

    async def _messages_begin(self, reply):
        message = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [], "stop_reason": None,
                   "usage": {"input_tokens": 10, "output_tokens": 1}}  # fmt: skip
        await reply.event({"type": "message_start", "message": message}, "message_start")
        await reply.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start")
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "one"}}
        await reply.event(delta, "content_block_delta")


async def begin(caller, target=chat.TARGET, model="gpt-4o"):
    """Sends a streamed call and reads on to its first word."""
    key = chat.KEY if target == chat.TARGET else ("x-api-key", "sk-ant-of-the-caller")
    await caller.send("POST", target, [chat.JSON, key], chat.asked(model=model, stream=True, max_tokens=100))
    assert (await caller.head()).status == 200
    came = b""
    while b"one" not in came:
        came += await caller.piece()
    return came


async def is_draining(sluice):
    async with asyncio.timeout(20), aiohttp.ClientSession() as session:
        while True:
            async with session.get(sluice.admin + "/healthz/ready") as reply:
                if reply.status == 503:
                    return "draining" in await reply.text()
            await asyncio.sleep(0.01)


async def rows_of_the_next_process(sluice):
    """The ledger as the next process finds it; it finds nothing open."""
    read = len(sluice.logged())
    await sluice.start()
    assert "recovered" not in sluice.logged()[read:]
    return [row for row in await sluice.rows() if row["kind"] == "first"]


async def ends_with_0(sluice, within_s):
    assert await asyncio.wait_for(sluice.process.wait(), within_s) == 0
    assert "Traceback" not in sluice.logged()


async def test_streams_finish_while_new_calls_are_refused_and_readiness_is_off(tmp_path):
    streams = Streams()
    async with Provider(streams) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, drain="20s")) as sluice:
        async with Caller(sluice.port) as running, Caller(sluice.port) as idle:
            assert (await idle.ask("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status == 200
            came = await begin(running)
            sluice.process.send_signal(signal.SIGTERM)
            assert await is_draining(sluice)
            async with aiohttp.ClientSession() as session:
                probes = [(await session.get(f"{sluice.admin}/healthz/{probe}")).status for probe in ("live", "ready", "startup")]
            assert probes == [200, 503, 200], "it lives and had started: only new calls go elsewhere"
            before = len(provider.seen)
            refused = await idle.ask("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())
            assert (refused.status, refused.code) == (503, "draining")
            assert refused.json["error"]["code"] == "draining"
            assert 1 <= int(refused.header("retry-after")) <= 60
            assert refused.header("connection") == "close"
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", sluice.port)
            assert len(provider.seen) == before
            streams.go_on.set()
            came += await running.rest()
        assert b"two" in came and came.endswith(b"data: [DONE]\n\n")
        await ends_with_0(sluice, 20)
        assert [(row["end"], row["cost_nanousd"]) for row in await rows_of_the_next_process(sluice)] == [("done", chat.COST)] * 2


async def test_a_call_whose_head_has_not_gone_out_says_that_its_connection_ends(tmp_path):
    go_on = asyncio.Event()

    async def script(seen, reply):
        await go_on.wait()
        await reply.json(chat.whole())

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, drain="20s")) as sluice:
        async with Caller(sluice.port) as caller:
            await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())
            while not provider.seen:
                await asyncio.sleep(0.01)
            sluice.process.send_signal(signal.SIGTERM)
            assert await is_draining(sluice)
            go_on.set()
            got = await caller.answer()
            assert (got.status, got.header("connection")) == (200, "close")
            assert await caller.is_closed_within(20)
        await ends_with_0(sluice, 20)


def last_event(came):
    """Name and data of the last event of a stream."""
    name, _, data = came.rstrip(b"\n").rpartition(b"\n\n")[2].rpartition(b"data: ")
    return name.decode().removeprefix("event: ").strip(), json.loads(data)


@pytest.mark.parametrize("target", [chat.TARGET, MESSAGES])
@pytest.mark.parametrize("hurry", [False, True], ids=["the drain is over", "a second SIGTERM"])
async def test_a_stream_that_is_cut_off_is_told_in_its_dialect_aborted_and_settled(tmp_path, hurry, target):
    drain = "20s" if hurry else "1s"
    async with Provider(Streams()) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, drain=drain)) as sluice:
        async with Caller(sluice.port) as caller:
            await begin(caller, target, "gpt-4o" if target == chat.TARGET else "claude-sonnet-4-5")
            began = time.monotonic()
            sluice.process.send_signal(signal.SIGTERM)
            if hurry:
                assert await is_draining(sluice)
                sluice.process.send_signal(signal.SIGTERM)
            with pytest.raises(Cut) as cut:
                await caller.rest()
        name, event = last_event(cut.value.body)
        if target == chat.TARGET:
            assert event["error"]["code"] == "stopped_drain"
        else:
            assert (name, event["type"]) == ("error", "error")
            assert "shutting down" in event["error"]["message"]
        await asyncio.wait_for(provider.seen[-1].gone.wait(), 20)
        await ends_with_0(sluice, 20)
        assert time.monotonic() - began < 15
        (row,) = await rows_of_the_next_process(sluice)
        assert row["end"] == "stopped:drain"
        assert row["output_tokens"] >= 1 and row["held_nanousd"] >= row["cost_nanousd"] > 0


async def test_a_second_sigterm_ends_a_call_that_has_no_answer_yet_with_503(tmp_path):
    async def script(seen, reply):
        await seen.gone.wait()

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url, drain="20s")) as sluice:
        async with Caller(sluice.port) as caller:
            await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())
            while not provider.seen:
                await asyncio.sleep(0.01)
            sluice.process.send_signal(signal.SIGTERM)
            assert await is_draining(sluice)
            sluice.process.send_signal(signal.SIGTERM)
            got = await caller.answer()
        assert (got.status, got.code) == (503, "draining")
        await ends_with_0(sluice, 20)
        (row,) = await rows_of_the_next_process(sluice)
        assert row["cost_nanousd"] == row["held_nanousd"] > 0, "what was sent may be billed"
        assert row["usage_source"] == "estimate"


async def test_an_idle_process_ends_at_once_and_again_under_a_storm_of_signals(tmp_path):
    policy = POLICY.format(url="http://127.0.0.1:9", drain="20s")
    async with sidecar(tmp_path, policy) as sluice, Caller(sluice.port) as idle:
        assert (await idle.ask("GET", "/openai/../v1", [chat.KEY])).status == 400
        idle_too = await asyncio.open_connection("127.0.0.1", sluice.port)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
            sluice.process.send_signal(number)
        await ends_with_0(sluice, 20)
        assert await idle.is_closed_within(20)
        assert await idle_too[0].read() == b""
        idle_too[1].close()
