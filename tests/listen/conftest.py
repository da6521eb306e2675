"""An edge on an ephemeral port with a scripted pipeline behind it, and raw bytes to send at it."""

import asyncio
import logging
from contextlib import AsyncExitStack
from time import monotonic, time_ns

import pytest

from proxy.listen.connection import Deadlines
from proxy.listen.edge import Edge, Settings
from proxy.policy.plan import Origin, Provider

ORIGIN = Origin("http", "127.0.0.1", 1, b"127.0.0.1:1")
ROOTS = {"groq": "/openai/v1", "openrouter": "/api/v1", "perplexity": "", "gemini": "/v1beta", "azure-eu": "/openai", "cohere": "/v2"}
DIALECTS = {"anthropic": "anthropic", "gemini": "gemini", "vertex": "vertex", "cohere": "cohere", "azure-eu": "azure-openai"}
NAMES = ("openai", "anthropic", "gemini", "vertex", "cohere", "azure-eu", "groq", "openrouter", "perplexity", "together")


class RealClock:
    def now_ns(self):
        return time_ns()

    def monotonic(self):
        return monotonic()


async def echo(call, body, sink):
    """Answers 200 with the target and the body's length."""
    data = await body.read(10_000_000)
    answer = b"%b %d" % (call.route.target.encode(), len(data))
    sink.start(200, b"OK", ((b"X-Odd-CASE", b"kept"),), len(answer))
    sink.push(answer)
    sink.finish()


async def no_upgrade(call, request):
    raise AssertionError("nothing here is upgraded")


class World:
    """What the tests see of one running edge."""

    def __init__(self, edge):
        self.edge, self.refusals, self.calls = edge, [], []
        self._busy, self.run = asyncio.Event(), None

    async def connect(self):
        if self.edge.port:
            return await asyncio.open_connection("127.0.0.1", self.edge.port)
        return await asyncio.open_unix_connection(self.edge._path)

    async def is_busy(self):
        """Waits until a call has begun."""
        async with asyncio.timeout(20):
            await self._busy.wait()

    async def ask(self, raw, wait_s=5.0):
        """Sends raw bytes, gives back all that comes until the server closes."""
        reader, writer = await self.connect()
        try:
            writer.write(raw)
            async with asyncio.timeout(wait_s):
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture
def providers():
    return {
        name: Provider(name, DIALECTS.get(name, "openai"), DIALECTS.get(name, "openai"), ORIGIN, ROOTS.get(name, "/v1")) for name in NAMES
    }


@pytest.fixture
async def open_edge(providers):
    async with AsyncExitStack() as stack:

        async def start(run=echo, upgrade=no_upgrade, listen="127.0.0.1:0", deadlines=None, most=None, **settings):
            world = World(None)

            async def recorded(call, body, sink):
                world.calls.append(call)
                world._busy.set()
                await (world.run or run)(call, body, sink)

            edge = Edge(
                recorded,
                upgrade,
                Settings(providers, "openai", **settings),
                RealClock(),
                on_refusal=lambda code, request_id: world.refusals.append(code),
                deadlines=deadlines or Deadlines(linger=0.3),
                most=most,
            )
            await edge.start(listen)
            stack.push_async_callback(edge.close, 0)
            world.edge = edge
            return world

        yield start


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.DEBUG)
    return caplog
