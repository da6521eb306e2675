"""The client's side of an answer: raw bytes onto the transport, as given. Adds framing and nothing else."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import lru_cache
from http import HTTPStatus

from proxy.dialect import dialect_of
from proxy.exchange import RawHeaders
from proxy.listen.body import AnyBody
from proxy.listen.connection import CLOSED, KEPT, Answered
from proxy.listen.errors import word
from proxy.listen.straight import Straight
from proxy.refusal import ClientGone, Refusal
from proxy.stream.tail import LONGEST

_CORS = frozenset({b"access-control-allow-origin", b"access-control-expose-headers"})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_BODILESS = (204, 304)
_BREAK, _END, _CLOSING_END = b"\r\n", b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
_SMALL = 4096
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@lru_cache(maxsize=256)
def _status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason)


class ClientSink:
    """`ports.Sink` of one request. `finish_anyway` (set by the pipeline): when the client leaves, the call goes on and writes to nobody."""

    __slots__ = (
        "_body", "_connection", "_head", "_is_chunked", "_is_flowing", "_is_head", "_is_silent", "_keeps", "_left", "_speaks_11",
        "_transport", "cors", "finish_anyway", "is_ended", "is_started", "last", "request_id",
    )  # fmt: skip

    def __init__(
        self,
        connection: Straight,
        transport: asyncio.Transport,  # of it: is closing once the client has left
        body: AnyBody,
        is_head: bool,
        speaks_11: bool,
        may_keep: bool,
        request_id: str,
        cors: RawHeaders,
    ) -> None:
        """The client is still there."""
        self._connection = connection
        self._transport = transport
        self._body = body
        self._is_head = is_head
        self._speaks_11 = speaks_11
        self._keeps = may_keep
        self._head = b""  # not yet written: leaves with the first of the body, one write for both
        self._is_chunked = self._is_flowing = False  # the latter: and the head is written
        self._is_silent = False  # a reply without a body
        self._left: int | None = None  # bytes that Content-Length still promises
        self.cors = cors
        self.request_id = request_id
        self.last = b""
        self.is_started = self.is_ended = self.finish_anyway = False

    @property
    def is_gone(self) -> bool:
        return self._transport.is_closing()

    @property
    def is_full(self) -> bool:
        return self._connection._paused and not self.is_gone  # aiohttp stays paused when the client is lost

    @property
    def task(self) -> asyncio.Task[None] | None:
        """What runs the call."""
        return self._connection.task

    def reply(self) -> Answered:
        """What aiohttp is told of it."""
        return KEPT if self._keeps and self.is_ended and not self._transport.is_closing() else CLOSED

    def stop_keeping(self) -> None:
        """The connection ends after this reply."""
        self._keeps = False

    def start(self, status: int, reason: bytes, headers: RawHeaders, length: int | None, ours: bytes = b"") -> None:
        """Status line and header lines in their given bytes and order, `ours` as they are, then framing. Raises ClientGone."""
        if self.is_started:
            raise RuntimeError("the reply has begun already")
        if self._transport.is_closing() and not self.finish_anyway:
            raise ClientGone
        self.is_started = True
        if self._keeps and not self._body.is_harmless:
            self._keeps = False
        if headers or self.cors:
            ours = self._joined(headers, ours)
        framing = b""
        if self._is_head or status in _BODILESS:
            self._is_silent = True
        elif length is not None:
            self._left = length
            framing = b"\r\nContent-Length: %d" % length
        elif self._speaks_11:
            self._is_chunked = True
            framing = b"\r\nTransfer-Encoding: chunked"
        end = _END if self._keeps else _CLOSING_END
        self._head = b"".join((_status_line(status, reason), _BREAK if ours else b"", ours, framing, end))

    def _joined(self, headers: RawHeaders, ours: bytes) -> bytes:
        if self.cors:
            headers = (*(line for line in headers if line[0].lower() not in _CORS), *self.cors)
        lines = [*map(b": ".join, headers)]
        return b"\r\n".join([*lines, ours] if ours else lines)

    def push(self, data: bytes) -> bool:
        """See `ports.Outlet`. None (b""): at least the head."""
        transport = self._transport
        if transport.is_closing():
            self._ask_for_client()
            return False
        size = len(data)
        if self._is_flowing and size:  # an event, as nearly always
            # the whole of a small piece, which costs nothing
            self.last = data if LONGEST <= size <= _SMALL else self._end_with(data)
            transport.write(b"%x\r\n%b\r\n" % (size, data))
            return self._connection._paused
        left, head = self._left, self._head
        if left is not None and size <= left:
            self._left = left - size
        elif size:
            data = self._framed(data)
        if head:
            data = head + data
            self._head = b""
            self._is_flowing = self._is_chunked
        transport.write(data)
        return self._connection._paused

    def _framed(self, data: bytes) -> bytes:
        if self._left is not None:
            self.abort(b"")
            raise RuntimeError("more body than Content-Length promises")
        if self._is_silent:
            return b""
        self.last = self._end_with(data)
        return b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data

    def _end_with(self, data: bytes) -> bytes:
        """Of what was pushed, these bytes included."""
        return self.last[-LONGEST:] + data[-LONGEST:]

    async def drain(self) -> None:
        """Waits until the client has room. Raises ClientGone; a client that takes nothing for 60 s is dropped."""
        try:
            await self._connection.room()
        except ConnectionError as gone:
            if not self.finish_anyway:
                raise ClientGone from gone
        self._ask_for_client()

    def finish(self) -> bool:
        """The clean end. A body shorter than its Content-Length has none: it is aborted. Has the client left?"""
        if self._left:
            self.abort(b"")
            return self.is_gone
        self.is_ended = True
        if self._is_chunked:
            self._write(b"0\r\n\r\n")
        elif self._head:
            self._write(b"")
        self._connection.guard_writes()
        return self._transport.is_closing()

    def abort(self, last: bytes) -> None:
        """`last`, then the connection ends so that no client takes it for a whole body."""
        self._keeps = False
        self.is_ended = True
        if self._is_chunked and last:
            last = b"%x\r\n%b\r\n" % (len(last), last)
        short = self._is_chunked or bool(self._left)  # the client will notice by itself
        self._write(b"" if self._is_silent or self._left is not None else last)
        self._left = None
        transport = self._connection.transport
        if transport is None:
            return
        if not short:  # the end of a close-delimited body is a clean one, that of a full Content-Length too: only a reset tells
            peer = transport.get_extra_info("socket")
            if peer is not None:
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.close()
        self._connection.guard_writes()

    def refuse(self, no: Refusal, dialect: str, headers: RawHeaders) -> int:
        """A whole reply of our own. `headers` gives way to what the wording says itself. A client that left hears nothing."""
        status, lines, body = word(no, dialect_of(dialect), self.request_id)
        if no.close:
            self._keeps = False
        said = {name for name, _ in lines}
        lines += tuple(line for line in headers if line[0].lower() not in said)
        self.answer(status, lines, body)
        return status

    def answer(self, status: int, headers: RawHeaders, body: bytes) -> None:
        """A whole reply at once."""
        try:
            self.start(status, _REASONS.get(status, b""), headers, None if status == 204 else len(body))
            self.push(body)
            self.finish()
        except ClientGone:
            self.is_ended = True

    def _ask_for_client(self) -> None:
        if not self.finish_anyway and self.is_gone:
            raise ClientGone

    def _write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        if data and not self._transport.is_closing():
            self._transport.write(data)
