"""Replays recorded exchanges through a running Sluice: a listener per host behind it, raw clients before it. Compares nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from contract.recordings import Entry, Exchange
from contract.wire import Message, read_answer, read_request
from support.sluice import ROOT, Sluice, sidecar

CLIENTS = 16
CUTS = 9  # pieces of a body, at most
WAIT_S = 20.0
LEDGER_S = 5.0
DEFAULT = (ROOT / "config" / "policy.yaml").read_text()
_PROVIDERS = "\nproviders:"


@dataclass(frozen=True)
class Replayed:
    exchanges: list[Exchange]
    ledger: dict[str, list[dict]]  # request id → its rows, first attempt first


def replay(exchanges: list[Exchange], folder: Path, policy: str = DEFAULT) -> Replayed:
    return asyncio.run(asyncio.wait_for(_replay(exchanges, folder, policy), 100))


async def _replay(exchanges: list[Exchange], folder: Path, policy: str) -> Replayed:
    by_id = {exchange.id: exchange for exchange in exchanges}
    assert len(by_id) == len(exchanges), "every recording has an id of its own"
    async with contextlib.AsyncExitStack() as stack:
        entries = dict.fromkeys(exchange.entry for exchange in exchanges)
        served = "".join([entry.as_yaml(await stack.enter_async_context(Host(entry, by_id))) for entry in entries])
        sluice = await stack.enter_async_context(sidecar(folder, with_providers(policy, served)))
        waiting = iter(exchanges)
        await asyncio.gather(*(_client(sluice.port, waiting) for _ in range(CLIENTS)))
        return Replayed(exchanges, await _ledger(sluice, len(exchanges)))


def with_providers(policy: str, entries: str) -> str:
    """The policy file as it is, with our hosts as the first providers."""
    assert policy.count(_PROVIDERS) == 1
    before, after = policy.split(_PROVIDERS)
    line, _, rest = after.partition("\n")
    return f"{before}{_PROVIDERS}{line}\n{entries}{rest}"


class Host:
    """The fake provider of one host: records what arrives, answers as recorded, in pieces cut at places that the id's dice choose."""

    def __init__(self, entry: Entry, exchanges: dict[str, Exchange]) -> None:
        self._entry, self._exchanges = entry, exchanges
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

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
                if not await self._answer(arrived, writer):
                    break
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _answer(self, arrived: Message, writer: asyncio.StreamWriter) -> bool:
        """May the connection serve another request?"""
        id_ = (arrived.get(b"x-request-id") or b"").decode()
        exchange = self._exchanges[id_]
        if exchange.entry != self._entry:
            exchange.problem = f"arrived at {self._entry.host}"
        if exchange.arrived is not None:
            exchange.problem = "arrived twice"
        answer = exchange.answered = exchange.answer_to(arrived)
        exchange.arrived = arrived
        is_chunked = answer.get(b"transfer-encoding") is not None
        writer.write(answer.head())
        for piece in cut(answer.body, random.Random(id_)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if is_chunked else piece)
            await writer.drain()
            await asyncio.sleep(0)
        if is_chunked:
            writer.write(b"0\r\n\r\n")
        await writer.drain()
        return is_chunked or answer.get(b"content-length") is not None or answer.status == 204  # else the close is the end of the body


def cut(body: bytes, dice: random.Random) -> Iterable[bytes]:
    """In up to CUTS pieces; none is empty."""
    places = sorted({0, len(body), *(dice.randrange(len(body)) for _ in range(CUTS - 1 if body else 0))})
    return [body[at:until] for at, until in pairwise(places)]


async def _client(port: int, waiting: Iterable[Exchange]) -> None:
    """One kept connection, one exchange after the other."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        for exchange in waiting:
            writer.write(exchange.sent.head() + exchange.sent.body)
            await writer.drain()
            try:
                received = await asyncio.wait_for(read_answer(reader), WAIT_S)
            except (ConnectionError, asyncio.IncompleteReadError, TimeoutError) as error:
                exchange.problem, received = f"no answer: {type(error).__name__}", None
            exchange.received = received
            if received is None or not received.is_whole or received.get(b"connection") == b"close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    finally:
        writer.close()


async def _ledger(sluice: Sluice, number: int) -> dict[str, list[dict]]:
    """Rows reach the index in the background: the ledger as soon as it tells of that many requests, or as it is when it never does."""
    until = time.monotonic() + LEDGER_S
    while True:
        ledger: dict[str, list[dict]] = {}
        for row in sorted(await sluice.rows(), key=lambda row: row["attempt"]):
            ledger.setdefault(row["request_id"], []).append(row)
        if len(ledger) >= number or time.monotonic() > until:
            return ledger
        await asyncio.sleep(0.05)
