"""Streams are live, in every dialect, restored or not: the provider sends its next event only when the client has all of the last one.

While another attempt is possible a stream's preamble may wait 2 s (design.md, section 1); without retries nothing ever waits.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
from contract.claims import PLACEHOLDER
from contract.recordings import Exchange, exchanges, own_rows, usage_chunk
from contract.replaying import DEFAULT, with_providers
from contract.wire import Message, read_request
from support.sluice import sidecar

MASKING = "version: 1\nretry: {attempts: 1}\nguard: {pii: {default: mask}, restore: true}\nproviders:\n"
STREAMS = [exchange for exchange in exchanges(own_rows()) if exchange.row["events"]]
WAIT_S = 10.0  # what is held back never comes; what is slow is no failure
PREAMBLE_S = 2.0


def test_every_dialect_has_a_stream_here():
    dialects = {exchange.entry.dialect for exchange in STREAMS}
    assert dialects == {"openai", "azure-openai", "anthropic", "gemini", "vertex", "cohere"}
    assert {exchange.row["stream_format"] for exchange in STREAMS} == {"sse", "ndjson", "json-array"}


async def test_each_event_reaches_the_client_before_the_provider_sends_the_next(tmp_path: Path):
    waits = await all_follow(tmp_path, DEFAULT, is_restored=False)
    assert median(steps[1] for steps in waits) < PREAMBLE_S, "at most one step of a stream waits for its preamble"


async def test_so_it_is_where_masked_values_come_back_and_without_retries_nothing_waits(tmp_path: Path):
    waits = await all_follow(tmp_path, MASKING, is_restored=True)
    assert median(steps[0] for steps in waits) < PREAMBLE_S


async def all_follow(folder: Path, policy: str, *, is_restored: bool) -> list[list[float]]:
    async with Turns() as provider:
        entries = {exchange.entry for exchange in STREAMS}
        served = "".join(entry.as_yaml(provider.url) for entry in entries)
        async with sidecar(folder, with_providers(policy, served)) as sluice:
            streams = (follows(exchange, sluice.port, provider, is_restored=is_restored) for exchange in STREAMS)
            return await asyncio.gather(*streams)


async def follows(exchange: Exchange, port: int, provider: Turns, *, is_restored: bool) -> list[float]:
    """One stream in lockstep; seconds that each step took, the slowest first. A usage chunk that Sluice asked for is its own."""
    steps = [time.monotonic()]
    async with connection(port) as (reader, writer):
        writer.write(exchange.sent.head() + exchange.sent.body)
        arrived, answer = await provider.asked(exchange.id)
        assert (b"[EMAIL_1]" in arrived.body) == is_restored
        answer.start(exchange.row["response_headers"])
        if is_restored:  # no other attempt is possible: the head comes before any event
            await head_of(reader, exchange)
        for number, event in enumerate(exchange.row["events"]):
            if exchange.gains_usage and event.startswith("data: [DONE]"):
                answer.send(usage_chunk())
            answer.send(event.encode())
            if number == 0 and not is_restored:
                await head_of(reader, exchange)
            wanted = PLACEHOLDER.sub(b"ana@corp.com", event.encode()) if is_restored else event.encode()
            assert await bytes_of(reader, len(wanted), f"{exchange.id}: event {number}") == wanted
            steps.append(time.monotonic())
        answer.end()
        assert await chunk(reader) == b""
    return sorted((after - before for before, after in pairwise(steps)), reverse=True)


async def head_of(reader: asyncio.StreamReader, exchange: Exchange) -> None:
    async with asyncio.timeout(WAIT_S):
        head = await reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 "), (exchange.id, head)


async def bytes_of(reader: asyncio.StreamReader, size: int, what: str) -> bytes:
    """So many body bytes, out of as many chunks as it takes."""
    got = b""
    try:
        async with asyncio.timeout(WAIT_S):
            while len(got) < size:
                got += await chunk(reader)
    except TimeoutError:
        pytest.fail(f"{what} is held back: only {got!r} came")
    return got


async def chunk(reader: asyncio.StreamReader) -> bytes:
    size = int(await reader.readline(), 16)
    return (await reader.readexactly(size + 2))[:-2]


@asynccontextmanager
async def connection(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        await writer.wait_closed()


class Answer:
    """A chunked answer that the test writes event by event."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self.over = asyncio.Event()

    def start(self, headers: dict[str, str]) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._writer.write(f"HTTP/1.1 200 OK\r\n{lines}transfer-encoding: chunked\r\n\r\n".encode())

    def send(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        self.over.set()


class Turns:
    """A provider that hands each request to the test, with the answer to write."""

    async def __aenter__(self) -> Turns:
        self._asked: dict[str, asyncio.Queue[tuple[Message, Answer]]] = defaultdict(asyncio.Queue)
        self._tasks: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def asked(self, id_: str) -> tuple[Message, Answer]:
        async with asyncio.timeout(WAIT_S):
            return await self._asked[id_].get()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while (arrived := await read_request(reader)) is not None:
                answer = Answer(writer)
                await self._asked[(arrived.get(b"x-request-id") or b"").decode()].put((arrived, answer))
                await answer.over.wait()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()
