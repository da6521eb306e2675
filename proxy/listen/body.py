"""The caller's body, still on the wire, paced and bounded. Never decompresses it, and keeps no trailer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from aiohttp.web_protocol import RequestPayloadError

from proxy.listen.connection import Connection
from proxy.listen.straight import Content
from proxy.refusal import ClientGone, Refusal

MIN_RATE = 1024  # bytes per second after the grace; faults.md D1
_SMALL = 64 * 1024  # an unread body up to this size is read and thrown away, and the connection lives on


class ClientBody:
    """`ports.Body` of one request. `length` None means chunked."""

    __slots__ = ("_connection", "content", "expects", "length")

    def __init__(self, connection: Connection, content: Content) -> None:
        self._connection, self.content = connection, content
        self.length: int | None = None  # told as soon as the head is read
        self.expects = False  # the client waits for a 100 before it sends

    @property
    def is_harmless(self) -> bool:
        """May the connection serve another request after a reply that leaves this body unread?"""
        if self._connection.is_broken or self.expects:
            return False
        return self.content.is_eof() or (self.length is not None and self.length <= _SMALL)

    async def read(self, limit: int) -> bytes:
        """All of it. `limit` is in bytes. Raises Refusal 413 `too_large`, 408 `request_timeout`, 400 `invalid_request`; ClientGone."""
        content = self.content
        if self.expects or not content.is_eof():
            pieces = [piece async for piece in self.stream(limit)]
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._check_length(limit)
        # the usual case: it has all come in one piece, and flow control has no more to do with it
        is_one = self.length and len(content._buffer) == 1 and content._exception is None
        body = content._buffer.popleft() if is_one else self._take()
        if len(body) > limit:
            raise _too_large(limit)
        if self._connection.is_broken:
            raise _misframed()
        return body

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        """Piece by piece; raises as `read` does, before the piece that goes beyond `limit` bytes."""
        self._check_length(limit)
        self._go_on()
        got, waited = 0, 0.0
        while True:
            piece = self._take()
            if not piece:
                if self.content.is_eof():
                    break
                began = monotonic()
                piece = await self._next(self._connection.deadlines.body_grace + got / MIN_RATE - waited)
                waited += monotonic() - began
            got += len(piece)
            if got > limit:
                raise _too_large(limit)
            if piece:
                yield piece
        self._check_framing()

    def _check_length(self, limit: int) -> None:
        if self.length is not None and self.length > limit:
            raise Refusal(
                413, "too_large", f"the body is {self.length} bytes and at most {limit} are taken", should_retry=False, close=True
            )

    def _check_framing(self) -> None:
        if self._connection.is_broken:
            raise _misframed()

    def _go_on(self) -> None:
        """The `100 Continue` that the client waits for; it was identified by now (faults.md H53)."""
        if self.expects:
            self.expects = False
            if self._connection.transport is not None:
                self._connection.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _take(self) -> bytes:
        try:
            return self.content.read_nowait()
        except (ConnectionError, RuntimeError) as gone:
            raise ClientGone from gone

    async def _next(self, patience_s: float) -> bytes:
        """The next bytes, b"" at the end. Slower than the pace or silent: 408."""
        try:
            async with asyncio.timeout(min(self._connection.deadlines.body_idle, patience_s)):
                return await self.content.readany()
        except TimeoutError:
            raise Refusal(408, "request_timeout", "the body came too slowly: below 1 KiB/s, or not at all", close=True) from None
        except RequestPayloadError:
            raise _misframed() from None
        except (ConnectionError, RuntimeError) as gone:  # aiohttp: a bare ConnectionResetError, or RuntimeError("Connection closed.")
            raise ClientGone from gone


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is over {limit} bytes, which is all that is taken", should_retry=False, close=True)


def _misframed() -> Refusal:
    return Refusal(400, "invalid_request", "the body's framing is not valid HTTP/1.1", should_retry=False, close=True)
