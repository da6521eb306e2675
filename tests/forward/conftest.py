"""A scripted provider on a real socket, the client before it, and a client's side that remembers what it got."""

import asyncio
import time
from contextlib import suppress

import pytest
import uvloop

from proxy.forward.client import Client
from proxy.forward.head import Head
from proxy.policy.plan import Origin, Timeouts
from proxy.ports import Address, Outgoing
from proxy.refusal import ClientGone


class SkewedClock:
    """The machine's own, and `ahead` seconds more."""

    ahead = 0.0
    now_ns = staticmethod(time.time_ns)

    def monotonic(self):
        return time.monotonic() + self.ahead


class Provider:
    """Serves each connection with `script(reader, writer, number)`; remembers every request head and the connections."""

    def __init__(self, script, ssl=None):
        self.script, self.ssl = script, ssl
        self.requests, self.bodies, self.connections, self.closed = [], [], 0, asyncio.Event()
        self._tasks = set()

    async def __aenter__(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self.ssl)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_):
        self.server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader, writer):
        task = asyncio.current_task()
        self._tasks.add(task)
        self.connections += 1
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self.script(reader, writer, self)
        finally:
            self._tasks.discard(task)
            writer.close()
            self.closed.set()

    async def read(self, reader):
        """One request; its body too."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        fields = {line.split(b":")[0].lower(): line.split(b":", 1)[1].strip() for line in head.split(b"\r\n")[1:-2]}
        body = b""
        if b"content-length" in fields:
            body = await reader.readexactly(int(fields[b"content-length"]))
        elif b"transfer-encoding" in fields:
            while size := int(await reader.readline(), 16):
                body += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        self.bodies.append(body)
        return body

    def ask(self, **changes):
        origin = Origin("https" if self.ssl else "http", "127.0.0.1", self.port, b"provider.example")
        origin = changes.pop("origin", origin)
        where = {"method": "POST", "target": "/v1/x", "pool": "p", "max_connections": 64, "tls": None}
        to = Address(origin, **{name: changes.pop(name, usual) for name, usual in where.items()})
        return Outgoing(to, Head(to, changes.pop("headers", ())).of(()), changes.pop("body", b"{}"), **changes)


class Got:
    """`ports.Sink`, as far as relay needs it. `slow`: full after every push until drained."""

    def __init__(self, slow=False):
        self.data, self.pushes, self.slow, self.is_full, self.gone, self.drains = b"", 0, slow, False, False, 0

    def push(self, data, framed=b""):
        assert framed in (b"", b"%x\r\n%b\r\n" % (len(data), data))
        if self.gone:
            raise ClientGone
        self.data += data
        self.pushes += bool(data)  # nothing: the head alone
        self.is_full = self.slow
        return self.is_full

    async def drain(self):
        self.drains += 1
        await asyncio.sleep(0.001)
        self.is_full = False


class AsIs:
    lag = 0

    def feed(self, data):
        return data

    def end(self):
        return b""


@pytest.fixture
def provider():
    return Provider


@pytest.fixture
def answering():
    """A provider that answers every request with the same bytes, then closes if told so."""

    def make(answer, *, close=False, ssl=None):
        async def script(reader, writer, self):
            while True:
                await self.read(reader)
                writer.write(answer)
                await writer.drain()
                if close:
                    return

        return Provider(script, ssl)

    return make


@pytest.fixture
def clock():
    return SkewedClock()


@pytest.fixture
async def client(clock):
    client = Client(clock)
    yield client
    client.close()
    await asyncio.sleep(0)


@pytest.fixture
def got():
    return Got


@pytest.fixture
def as_is():
    return AsIs()


@pytest.fixture
def send(client, clock):
    """Sends with short deadlines, which a test may change."""

    async def send(request, total=10.0, **timeouts):
        try:
            return await client.send(request, Timeouts(**timeouts), clock.monotonic(), time.monotonic() + total)
        except BaseException:  # as `Forwarding` does
            if request.coming is not None:
                request.coming.close()
            raise

    return send


def pytest_asyncio_loop_factories(config, item):
    """Everything holds on both loops: production runs on uvloop where it installs."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
