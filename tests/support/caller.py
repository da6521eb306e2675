"""A client of raw bytes on one connection: what is sent and what comes back is seen as it is on the wire. Knows no dialect."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass

WAIT_S = 20.0  # for anything a test waits for; a hang is a failure

Headers = Iterable[tuple[str, str]]


class Cut(Exception):
    """The answer ended without a clean end; `body` is what came of it."""

    def __init__(self, body: bytes) -> None:
        super().__init__(f"cut after {body[-200:]!r}")
        self.body = body


@dataclass
class Got:
    """One whole answer."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        return next((v for n, v in self.headers if n.lower() == name), None)

    @property
    def json(self) -> dict:
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        return self.header("x-sluice-error")


class Caller:
    """`async with Caller(port) as caller:` — requests one after the other on a kept-alive connection."""

    def __init__(self, port: int, peer: str | None = None) -> None:
        """`peer`: the address to call from, as 127.0.0.2."""
        self._port, self._from = port, None if peer is None else (peer, 0)

    async def __aenter__(self) -> Caller:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 22, local_addr=self._from)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    async def send(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> None:
        """A whole request; with `body` its Content-Length."""
        lines = [("Host", f"127.0.0.1:{self._port}"), *headers]
        if body is not None:
            lines.append(("Content-Length", str(len(body))))
        await self.raw((f"{method} {target} HTTP/1.1\r\n" + "".join(f"{n}: {v}\r\n" for n, v in lines) + "\r\n").encode() + (body or b""))

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await asyncio.wait_for(self._writer.drain(), WAIT_S)

    async def head(self) -> Got:
        """Status and headers of the next answer; its body stays on the wire."""
        async with asyncio.timeout(WAIT_S):
            raw = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = raw[:-4].decode("latin-1").split("\r\n")
        headers = [(n, v.strip()) for n, _, v in (line.partition(":") for line in lines)]
        got = Got(int(first.split(" ")[1]), headers, b"")
        self._is_chunked = (got.header("transfer-encoding") or "") == "chunked"
        self._left = int(got.header("content-length") or 0)
        return got

    async def piece(self) -> bytes:
        """The next body bytes as they were framed; b"" at the clean end. Raises Cut."""
        try:
            async with asyncio.timeout(WAIT_S):
                if not self._is_chunked:
                    data = await self._reader.read(self._left) if self._left else b""
                    if self._left and not data:
                        raise Cut(b"")
                    self._left -= len(data)
                    return data
                size = int(await self._reader.readuntil(b"\r\n"), 16)
                return (await self._reader.readexactly(size + 2))[:-2]
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise Cut(b"") from error

    async def rest(self) -> bytes:
        """The body to its clean end. Raises Cut with what came."""
        came = b""
        try:
            while data := await self.piece():
                came += data
        except Cut as cut:
            raise Cut(came) from cut
        return came

    async def answer(self, is_to_head: bool = False) -> Got:
        got = await self.head()
        if not is_to_head:
            got.body = await self.rest()
        return got

    async def ask(self, method: str, target: str, headers: Headers = (), body: bytes | None = None) -> Got:
        await self.send(method, target, headers, body)
        return await self.answer(is_to_head=method == "HEAD")

    async def some(self) -> bytes:
        """Whatever comes next, unframed; b"" when the other side has closed."""
        return await self._reader.read(1 << 16)

    async def is_closed_within(self, seconds: float) -> bool:
        """Does the other side close? What still comes is thrown away."""
        try:
            async with asyncio.timeout(seconds):
                while await self._reader.read(1 << 16):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass
        return True

    def stop_reading(self) -> None:
        self._writer.transport.pause_reading()

    def leave(self, how: str = "close") -> None:
        """Gone: an orderly close, or a reset."""
        if how == "reset":
            self._writer.transport.abort()
        else:
            self._writer.close()


async def ask(port: int, method: str, target: str, headers: Headers = (), body: bytes | None = None, peer: str | None = None) -> Got:
    """One request on a connection of its own."""
    async with Caller(port, peer) as caller:
        return await caller.ask(method, target, headers, body)
