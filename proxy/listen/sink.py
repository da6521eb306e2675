"""The client's side of an answer: raw bytes onto the transport, as given. Adds framing and nothing else."""

from __future__ import annotations

import asyncio
import socket
import struct
from functools import lru_cache
from http import HTTPStatus

from aiohttp import web

from proxy.dialect import dialect_of
from proxy.exchange import RawHeaders, Story
from proxy.listen.body import AnyBody, Whole
from proxy.listen.connection import CLOSED, KEPT
from proxy.listen.errors import word
from proxy.listen.straight import Straight
from proxy.refusal import ClientGone, Refusal
from proxy.stream.tail import LONGEST

_CORS = frozenset({b"access-control-allow-origin", b"access-control-expose-headers"})
_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}
_BODILESS = (204, 304)
_OK = b"HTTP/1.1 200 OK"
_BREAK, _END, _CLOSING_END = b"\r\n", b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
_SMALL = 4096
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


@lru_cache(maxsize=256)
def _status_line(status: int, reason: bytes) -> bytes:
    return b"HTTP/1.1 %d %b" % (status, reason)


class ClientSink:
    """`ports.Sink` of one request. `finish_anyway` (set by the pipeline): when the client leaves, the call goes on and writes to nobody."""

    __slots__ = (
        "_body", "_connection", "_head", "_is_chunked", "_is_flowing", "_is_silent", "_keeps", "_left", "_speaks_11",
        "_transport", "cors", "finish_anyway", "is_ended", "is_started", "last", "reply", "request_id",
        "story",
    )  # fmt: skip

    _connection: Straight
    _transport: asyncio.Transport  # of it: is closing once the client has left
    _body: AnyBody
    _speaks_11: bool
    _keeps: bool
    _head: bytes  # not yet written: leaves with the first of the body, one write for both
    _is_chunked: bool
    _is_flowing: bool  # chunked, and the head is written
    _is_silent: bool  # a reply without a body
    _left: int | None  # bytes that Content-Length still promises
    cors: RawHeaders
    request_id: str
    last: bytes
    is_started: bool
    is_ended: bool
    finish_anyway: bool
    story: Story | None  # of the call: set by the pipeline
    reply: web.StreamResponse  # what aiohttp is told of it

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

    def stop_keeping(self) -> None:
        """The connection ends after this reply."""
        self._keeps, self.reply = False, CLOSED

    def start(self, status: int, reason: bytes, headers: RawHeaders, length: int | None, ours: bytes = b"") -> None:
        """Status line and header lines in their given bytes and order, `ours` as they are, then framing. Raises ClientGone."""
        if self.is_started:
            raise RuntimeError("the reply has begun already")
        if self._transport.is_closing() and not self.finish_anyway:
            raise ClientGone
        self.is_started = True
        post = self._connection.post
        if post.due:
            post.due -= 1
        if post.box and post.holds(self._transport):  # no later answer before an earlier one
            post.leave()
        if self._keeps and not self._body.is_harmless():
            self._keeps = False
        if headers or self.cors:
            ours = self._joined(headers, ours)
        framing = b""
        if self._is_silent or status in _BODILESS:
            self._is_silent = True
        elif length is not None:
            self._left = length
            framing = b"\r\nContent-Length: %d" % length
        elif self._speaks_11:
            self._is_chunked = True
            framing = b"\r\nTransfer-Encoding: chunked"
        line = _OK if status == 200 and reason == b"OK" else _status_line(status, reason)
        self._head = b"".join((line, _BREAK if ours else b"", ours, framing, _END if self._keeps else _CLOSING_END))

    def whole(self, reason: bytes, length: int | None, ours: bytes, body: bytes) -> bool:
        """`start` of a 200, then `finish`: nearly every answer that is no stream, in one step."""
        connection, transport = self._connection, self._transport
        if (
            length != len(body) or not ours or self.cors or self._is_silent or self.is_started
            or not self._keeps or connection.is_broken or transport.is_closing() or reason != b"OK"
            or (type(self._body) is not Whole and not self._body.is_harmless())
        ):  # fmt: skip
            self.start(200, reason, (), length, ours)
            return self.finish(body)
        self.is_started = self.is_ended = True
        said = b"HTTP/1.1 200 OK\r\n%b\r\nContent-Length: %d\r\n\r\n%b" % (ours, length, body)
        connection.post.put(transport, (said,), connection.guard_writes)
        if transport.is_closing():
            return True
        self.reply = KEPT
        connection.spare = self
        return False

    def _joined(self, headers: RawHeaders, ours: bytes) -> bytes:
        if self.cors:
            headers = (*(line for line in headers if line[0].lower() not in _CORS), *self.cors)
        lines = [*map(b": ".join, headers)]
        return b"\r\n".join([*lines, ours] if ours else lines)

    def push(self, data: bytes, framed: bytes = b"") -> bool:
        """See `ports.Outlet`. None (b""): at least the head."""
        transport = self._transport
        if transport.is_closing():
            self._ask_for_client()
            return False
        if self._is_flowing and (framed or LONGEST <= len(data) <= _SMALL):  # an event, as nearly always
            self.last = data  # the whole of it, which costs nothing
            transport.write(framed or b"%x\r\n%b\r\n" % (len(data), data))
            return self._connection._paused
        size = len(data)
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

    def finish(self, rest: bytes | None = None) -> bool:
        """`rest` of the body, then its clean end. One shorter than its Content-Length has none: it is aborted. Has the client left?"""
        transport = self._transport
        if rest is not None and self._left == len(rest) and not transport.is_closing():  # nearly every answer that is no stream
            transport.write(self._head + rest)
            self._head = b""
            self._left = 0
        elif not self._ended(rest):
            return self.is_gone
        self.is_ended = True
        if self._connection._stall is None:
            self._connection.guard_writes()
        is_gone = transport.is_closing()
        if self._keeps and not is_gone:
            self.reply = KEPT
        return is_gone

    def _ended(self, rest: bytes | None) -> bool:
        """Is it whole? If not, it is aborted."""
        if rest:
            self.push(rest)
        if self._left:
            self.abort(b"")
            return False
        self._write(b"0\r\n\r\n" if self._is_chunked else b"")
        return True

    def abort(self, last: bytes) -> None:
        """`last`, then the connection ends so that no client takes it for a whole body."""
        self.stop_keeping()
        self._connection.post.leave()
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


def sink_of(
    connection: Straight,
    transport: asyncio.Transport,
    body: AnyBody,
    is_head: bool,
    speaks_11: bool,
    may_keep: bool,
    request_id: str,
    cors: RawHeaders,
) -> ClientSink:
    """While the client is there. A function, as a class that has an __init__ is called through C, and that is dearer by a quarter."""
    spare = connection.spare
    if spare is not None and may_keep and not (is_head or cors):  # that of the call before: but for this, it is as if made anew
        connection.spare = None
        spare._body = body
        spare.request_id = request_id
        spare.is_started = spare.is_ended = spare.finish_anyway = False
        spare.reply = CLOSED
        return spare
    sink = ClientSink()
    sink._connection = connection
    sink._transport = transport
    sink._body = body
    sink._speaks_11 = speaks_11
    sink._keeps = may_keep
    sink._head = sink.last = b""
    sink._is_chunked = sink._is_flowing = sink.is_started = sink.is_ended = sink.finish_anyway = False
    sink._is_silent = is_head
    sink._left = None
    sink.cors = cors
    sink.request_id = request_id
    sink.story = None
    sink.reply = CLOSED
    return sink
