"""What a failing Redis adds to calls, from two seconds after it failed on.

`PYTHONPATH=.:tests python tests/bench/state_faults.py`

One sidecar before a provider that answers at once, 50 calls/s in an open loop; latencies with Redis well, and from 2 s to 8 s after each
fault. Exits 1 where the p99 grew by 50 ms or more, or a call was refused.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from support import chat
from support.caller import ask
from support.provider import Provider
from support.sluice import Sluice, sidecar
from support.valkey import Line, Server, between, valkey

RATE, MEASURED_S, ALLOWED_S = 50, 6.0, 0.05
POLICY = """
version: 1
providers: {{openai: {{url: "{url}"}}}}
limits: [{{name: all, per: total, spend: $100000/total, requests: 1000000/min}}]
"""
Do = Callable[[Server, Line], object]


def cut(_: Server, line: Line) -> None:
    line.is_refusing = True
    line.cut()


def whole(_: Server, line: Line) -> None:
    line.is_refusing, line.delay_s, line.is_silent = False, 0.0, False


def block(server: Server, _: Line) -> None:
    """A script of somebody else that does not end."""
    server.ask("CONFIG", "SET", "busy-reply-threshold", "5")
    with suppress(redis.TimeoutError), redis.Redis(port=server.port, socket_timeout=0.2, retry=Retry(NoBackoff(), 0)) as client:
        client.eval("while true do end", 0)


def forget(server: Server, _: Line) -> None:
    """Back to what was saved before the calls of "well"."""
    server.kill9()
    server.restart()


FAULTS: dict[str, tuple[Do, Do]] = {
    "refused": (cut, whole),
    "frozen (SIGSTOP)": (lambda server, _: server.freeze(), lambda server, _: server.thaw()),
    "silent": (lambda _, line: setattr(line, "is_silent", True), whole),
    "slow, 60 ms": (lambda _, line: setattr(line, "delay_s", 0.06), whole),
    "slow, 1 s": (lambda _, line: setattr(line, "delay_s", 1.0), whole),
    "READONLY": (lambda server, _: server.ask("REPLICAOF", "127.0.0.1", "1"), lambda server, _: server.ask("REPLICAOF", "NO", "ONE")),
    "OOM": (
        lambda server, _: server.ask("CONFIG", "SET", "maxmemory", "1"),
        lambda server, _: server.ask("CONFIG", "SET", "maxmemory", "0"),
    ),
    "BUSY": (block, lambda server, _: server.ask("SCRIPT", "KILL")),
    "old snapshot": (forget, lambda *_: None),
    "NOSCRIPT": (lambda server, _: server.ask("SCRIPT", "FLUSH"), lambda *_: None),
    "FLUSHALL": (lambda server, _: server.ask("FLUSHALL"), lambda *_: None),
}


async def script(seen, reply):
    await reply.json(chat.whole())


async def latencies(sluice: Sluice, seconds: float) -> tuple[list[float], int]:
    """Sorted, and how many calls were not served."""
    found: list[float] = []
    refused = 0

    async def call() -> None:
        nonlocal refused
        began = time.perf_counter()
        got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())
        found.append(time.perf_counter() - began)
        refused += got.status != 200

    calls = []
    began = time.perf_counter()
    for turn in range(int(seconds * RATE)):
        await asyncio.sleep(max(0.0, began + turn / RATE - time.perf_counter()))
        calls.append(asyncio.ensure_future(call()))
    await asyncio.gather(*calls)
    return sorted(found), refused


def p(share: float, found: list[float]) -> float:
    return found[min(len(found) - 1, int(share * len(found)))]


async def main() -> int:
    worst = 0
    async with AsyncExitStack() as stack:
        server = stack.enter_context(valkey())
        provider = await stack.enter_async_context(Provider(script))
        line = await stack.enter_async_context(between(server.port))
        folder = Path(tempfile.mkdtemp(prefix="sluice-faults-"))
        args = ("--state", f"{line.url}?journal={folder / 'journal'}")
        sluice = await stack.enter_async_context(sidecar(folder, POLICY.format(url=provider.url), args=args))
        print(f"{'':18} {'p50':>8} {'p99':>8} {'max':>8}  refused    ms")
        for name, (begin, end) in FAULTS.items():
            await latencies(sluice, 2)
            await asyncio.to_thread(server.ask, "SAVE")
            well, refused_well = await latencies(sluice, MEASURED_S)
            await asyncio.to_thread(begin, server, line)
            first, refused_first = await latencies(sluice, 2)
            then, refused = await latencies(sluice, MEASURED_S)
            await asyncio.to_thread(end, server, line)
            await asyncio.sleep(5)
            for what, found, no in (("well", well, refused_well), (f"{name}, first 2 s", first, refused_first), (name, then, refused)):
                print(f"{what:18.30} {p(0.5, found) * 1e3:8.1f} {p(0.99, found) * 1e3:8.1f} {found[-1] * 1e3:8.1f}  {no}")
            worst += p(0.99, then) - p(0.99, well) >= ALLOWED_S or refused_well + refused > 0
    print("ok" if not worst else "FAILED")
    return 1 if worst else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
