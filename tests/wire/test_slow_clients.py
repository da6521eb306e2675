"""Clients that do not read, do not write, or take for ever: each costs little, ends in time, and holds up nobody."""

import asyncio
import time
from pathlib import Path

from support import chat
from support.caller import Caller, ask
from support.provider import Provider
from support.sluice import sidecar

POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: slots, per: total, concurrency: 60, spend: $100/day}}
"""
MB = 1_000_000
NEVER_READING = 50
MOST_GROWTH = NEVER_READING * MB // 2 + 20 * MB  # faults.md, T-S1


def memory_of(sluice):
    """Resident bytes of the process."""
    lines = Path(f"/proc/{sluice.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


async def served_in(sluice):
    began = time.monotonic()
    assert (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status == 200
    return time.monotonic() - began


async def test_50_clients_that_never_read_do_not_grow_memory_and_hold_up_nobody(tmp_path):
    piece = b"data: " + b"x" * 64_000 + b"\n\n"
    sent = []

    async def script(seen, reply):
        if not seen.json.get("stream"):
            await reply.json(chat.whole())
            return
        await reply.start()
        sent.append(0)
        place = len(sent) - 1
        while sent[place] < 40 * MB:
            await reply.chunk(piece)
            sent[place] += len(piece)

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url)) as sluice:
        await served_in(sluice)
        before = memory_of(sluice)
        callers = [Caller(sluice.port) for _ in range(NEVER_READING)]
        for caller in callers:
            await caller.__aenter__()
            caller.stop_reading()
            await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked(stream=True))
        total = -1
        while len(sent) < NEVER_READING or total != sum(sent):
            total = sum(sent)
            await asyncio.sleep(0.5)
        assert max(sent) < 40 * MB, "the provider was never held back"
        assert memory_of(sluice) - before < MOST_GROWTH
        assert await served_in(sluice) < 10
        streams = [seen for seen in provider.seen if seen.json.get("stream")]
        for caller in callers:
            caller.leave("reset")
        async with asyncio.timeout(20):
            for seen in streams:
                await seen.gone.wait()
        async with asyncio.timeout(20):
            while len(gone := [row for row in await sluice.rows() if row["end"] == "client_gone"]) < NEVER_READING:
                await asyncio.sleep(0.05)
        assert len(gone) == NEVER_READING and all(row["held_nanousd"] >= row["cost_nanousd"] > 0 for row in gone)


HEAD = f"POST {chat.TARGET} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n{chat.KEY[0]}: {chat.KEY[1]}\r\n"
UNFINISHED = {
    "nothing": b"",
    "half a request line": b"POST /openai/v1/ch",
    "half a header": HEAD.encode(),
    "no body": f"{HEAD}Content-Length: 100\r\n\r\n".encode(),
    "half a body": f"{HEAD}Content-Length: 100\r\n\r\n{{".encode(),
    "half a chunk": f"{HEAD}Transfer-Encoding: chunked\r\n\r\n64\r\n{{".encode(),
}
DRIPS = {"a header that drips": (HEAD.encode(), b"x"), "a body that drips": (f"{HEAD}Content-Length: 9999\r\n\r\n{{".encode(), b" ")}


async def test_slowloris_is_closed_within_15_seconds_and_good_calls_are_served_all_the_while(tmp_path):
    async def script(seen, reply):
        await reply.json(chat.whole())

    async def drip(caller, byte):
        try:
            while True:
                await caller.raw(byte)
                await asyncio.sleep(0.5)
        except ConnectionError:
            pass

    async def held(port, begun, byte=None):
        """How long one such connection lives."""
        began = time.monotonic()
        async with Caller(port) as caller:
            await caller.raw(begun)
            dripping = asyncio.ensure_future(drip(caller, byte)) if byte else None
            closed = await caller.is_closed_within(15)
            if dripping:
                dripping.cancel()
            assert closed, begun
        return time.monotonic() - began

    async with Provider(script) as provider, sidecar(tmp_path, POLICY.format(url=provider.url)) as sluice:
        both = (sluice.port, sluice.admin_port)
        slow = [held(port, begun) for port in both for name, begun in UNFINISHED.items() if port == sluice.port or "bod" not in name]
        slow += [held(sluice.port, begun) for begun in UNFINISHED.values() for _ in range(8)]
        slow += [held(sluice.port, *drip) for drip in DRIPS.values() for _ in range(8)]
        waiting = asyncio.gather(*slow)
        times = []
        while not waiting.done():
            times.append(await served_in(sluice))
            await asyncio.sleep(0.2)
        await waiting
        assert max(times) < 10, "a good call was held up"
        assert len(provider.seen) == len(times), "nothing unfinished reached the provider"
        assert [row["end"] for row in await sluice.rows() if row["kind"] != "refusal"] == ["done"] * len(times)
        assert "Traceback" not in sluice.logged()
