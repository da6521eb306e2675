"""The caller's body, still on the wire, paced and bounded. Never decompresses it, and keeps no trailer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from time import monotonic

from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestPayloadError

from proxy.listen.again import Message
from proxy.listen.connection import Connection
from proxy.listen.headers import lower, said_length
from proxy.refusal import ClientGone, Refusal

MIN_RATE = 1024  # bytes per second after the grace; faults.md D1
SMALL = 64 * 1024  # an unread body up to this size is read and thrown away, and the connection lives on


class Whole:
    """`ports.Body` that has all come with its head; and the part of aiohttp's StreamReader that its connection needs."""

    __slots__ = ("body", "connection", "expects", "length")
    connection: Connection  # this and what follows are told by whoever makes it
    body: bytes | None  # None: the client is gone
    length: int  # told as soon as the head is read
    expects: bool  # as well; never: no head that is known again does

    def is_harmless(self) -> bool:
        """See ClientBody."""
        return not self.connection.is_broken

    def is_eof(self) -> bool:
        """Is there no more to come? As aiohttp's: what has come may be unread."""
        return True

    async def readany(self) -> bytes:
        return b""

    def set_exception(self, exc: BaseException) -> None:
        self.body = None

    def at_once(self, limit: int) -> bytes | None:
        """Raises what ClientBody raises."""
        if self.length > limit:
            raise _too_long(self.length, limit)
        if (body := self.body) is None:
            raise ClientGone
        if self.connection.is_broken:
            raise _misframed()
        self.body = b""
        return body

    async def read(self, limit: int) -> bytes:
        return self.at_once(limit) or b""

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        if body := self.at_once(limit):
            yield body


class Coming(Whole):
    """A body under a known head, small enough to be held, of which more is to come."""

    __slots__ = ("_due", "_waiter")

    def __init__(self, connection: Connection, body: bytes, length: int) -> None:
        self.connection, self.body, self.length, self._due = connection, body, length, length - len(body)
        self._waiter: asyncio.Future[None] | None = None

    def is_eof(self) -> bool:
        return not self._due

    def feed_data(self, data: bytes) -> None:
        self._due -= len(data)
        if self.body is not None:
            self.body += data
        self._wake()

    def feed_eof(self) -> None:
        """As aiohttp's; it is known when the last byte comes."""

    def set_exception(self, exc: BaseException) -> None:
        self.body = None
        self._wake()

    async def readany(self) -> bytes:
        """What comes of a body that nobody will read."""
        await self._news(None)
        return b""

    def at_once(self, limit: int) -> bytes | None:
        return None if self._due else Whole.at_once(self, limit)

    async def read(self, limit: int) -> bytes:
        waited = 0.0
        while self._due and self.body is not None and self.length <= limit:
            waited += await self._more(waited)
        return Whole.at_once(self, limit) or b""

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        waited = 0.0
        while self._due and self.length <= limit:
            if self.body:
                piece, self.body = self.body, b""
                yield piece
            elif self.body is None:
                raise ClientGone
            else:
                waited += await self._more(waited)
        if rest := Whole.at_once(self, limit):
            yield rest

    async def _more(self, waited: float) -> float:
        """The seconds until the next bytes are there. Slower than the pace or silent: 408."""
        began, deadlines = monotonic(), self.connection.deadlines
        pace_s = deadlines.body_grace + (self.length - self._due) / MIN_RATE - waited
        try:
            await self._news(min(deadlines.body_idle, pace_s))
        except TimeoutError:
            raise _too_slow() from None
        return monotonic() - began

    async def _news(self, patience_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = None if patience_s is None else loop.call_later(patience_s, self._wake, TimeoutError())
        try:
            await self._waiter
        finally:
            self._waiter = None
            if timer is not None:
                timer.cancel()

    def _wake(self, error: Exception | None = None) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if error is None:
            self._waiter.set_result(None)
        else:
            self._waiter.set_exception(error)


class ClientBody:
    """`ports.Body` of one request. `length` None means chunked."""

    __slots__ = ("_connection", "content", "expects", "length")

    def __init__(self, connection: Connection, content: StreamReader) -> None:
        self._connection, self.content = connection, content
        self.length: int | None = None  # told as soon as the head is read
        self.expects = False  # the client waits for a 100 before it sends

    def is_harmless(self) -> bool:
        """May the connection serve another request after a reply that leaves this body unread?"""
        if self._connection.is_broken or self.expects:
            return False
        return self.content.is_eof() or (self.length is not None and self.length <= SMALL)

    def at_once(self, limit: int) -> bytes | None:
        return None

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
            raise _too_long(self.length, limit)

    def _check_framing(self) -> None:
        if self._connection.is_broken:
            raise _misframed()

    def _go_on(self) -> None:
        """The `100 Continue` that the client waits for; it was identified by now (faults.md H53)."""
        if self.expects:
            self.expects = False
            if self._connection.transport is not None:
                self._connection.post.leave()
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
            raise _too_slow() from None
        except RequestPayloadError:
            raise _misframed() from None
        except (ConnectionError, RuntimeError) as gone:  # aiohttp: a bare ConnectionResetError, or RuntimeError("Connection closed.")
            raise ClientGone from gone


AnyBody = ClientBody | Whole


def foretell(message: Message, body: AnyBody) -> None:
    """Of a head that is refused: the reply depends on whether what comes of the body is small."""
    body.length = None if message.chunked else said_length(message.raw_headers)
    body.expects = body.length != 0 and any([lower(name) == "expect" for name, _ in message.raw_headers])


def _too_long(length: int, limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is {length} bytes and at most {limit} are taken", should_retry=False, close=True)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is over {limit} bytes, which is all that is taken", should_retry=False, close=True)


def _too_slow() -> Refusal:
    return Refusal(408, "request_timeout", "the body came too slowly: below 1 KiB/s, or not at all", close=True)


def _misframed() -> Refusal:
    return Refusal(400, "invalid_request", "the body's framing is not valid HTTP/1.1", should_retry=False, close=True)
