"""One connection to a provider: bytes out, bytes in, and the deadlines of the answer under way. Never repeats a request."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from proxy.forward.known import KnownHeads
from proxy.forward.parse import AnswerParser, Malformed
from proxy.policy.plan import Timeouts
from proxy.refusal import UpstreamCut, UpstreamFailed

if TYPE_CHECKING:
    from proxy.forward.answer import Reply

NEVER = float("inf")
HELD_BYTES = 256 * 1024  # body bytes kept while nobody reads them; then the provider is paused


class Connection(asyncio.Protocol):
    """Serves one answer at a time; `on_end` hears once per answer whether the connection may serve another."""

    __slots__ = (
        "_deadline", "_head_by", "_is_paused", "_last", "_on_end", "_pending", "_reply", "_room", "_timeouts", "born", "data_received",
        "idle_since", "parser", "poll", "transport",
    )  # fmt: skip

    data_received: Callable[[bytes], None]  # type: ignore[assignment]  # asyncio's is a method; ours says where reads go just now

    def __init__(self, now: float, on_end: Callable[[Connection, bool], None], heads: KnownHeads | None = None) -> None:
        self.born = self.idle_since = now
        self._on_end = on_end
        self.transport: asyncio.Transport | None = None
        self._pending = 0  # bytes that the provider had not taken when that was last looked at
        self._reply: Reply | None = None
        self._room: asyncio.Future[None] | None = None
        self._is_paused = False
        self.data_received = self._arrived
        self.parser = AnswerParser(heads)

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        sock = transport.get_extra_info("socket")
        self.poll = select.poll()
        self.poll.register(sock.fileno(), select.POLLIN)
        self.transport = cast(asyncio.Transport, transport)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)  # a provider that vanished is noticed: 15 s, three probes
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
            if hasattr(socket, name):  # Linux has them all
                sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _arrived(self, data: bytes) -> None:
        """One read of the socket, while nobody takes the body: not yet, or no more."""
        reply = self._reply
        if reply is None or reply.failure is not None:
            self.abort()  # nobody asked
            return
        parser = self.parser
        try:
            parser.feed(data)
        except Malformed as error:
            reply.malformed(str(error))
        if not parser.is_over and sum(map(len, parser.slices)) > HELD_BYTES:
            self.pause()
        waiter = reply.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        reply, self.transport = self._reply, None
        self.parser.let_go()
        del self.data_received
        self._make_room()
        if reply is not None:
            reply.lost(exc)

    def pause_writing(self) -> None:
        self._room = asyncio.get_running_loop().create_future()

    def resume_writing(self) -> None:
        self._make_room()

    # --- the life of one answer ---

    def begin(self, reply: Reply, timeouts: Timeouts, now: float, deadline: float, is_to_head: bool) -> None:
        """From here on what arrives is `reply`'s, and `check` holds it to its deadlines."""
        self.parser.begin(reply, is_to_head)
        self._reply, self._timeouts, self._deadline = reply, timeouts, deadline
        self._head_by, self._last = now + timeouts.first_byte, now

    def attend(self, receive: Callable[[bytes], None] | None) -> None:
        """What arrives goes straight to `receive`; None: to the reply again."""
        if self.transport is not None:
            self.data_received = receive or self._arrived
            self.transport.set_protocol(self)  # uvloop looks the method up once, here

    def end(self, is_reusable: bool) -> None:
        """The answer lets go."""
        self._reply = None
        transport = self.transport
        if is_reusable and transport is not None and not transport.get_write_buffer_size():
            if self._is_paused:
                self.resume()
        else:
            is_reusable = False
            self.abort()
        self._on_end(self, is_reusable)

    def check(self, now: float) -> None:
        """Called a few times a second: ends an answer that is late. A client that reads slowly is not the provider's fault."""
        reply = self._reply
        if reply is None or reply.is_idle:
            return
        if now >= self._deadline:
            reply.broken(
                UpstreamCut("upstream_timeout", "the call's total time is over")
                if self.parser.has_head
                else UpstreamFailed("upstream_timeout", "timeout", sent=True, status=504, detail="the call's total time is over")
            )
        elif not self.parser.has_head:
            self._check_head(reply, now)
        elif self._is_paused or self.parser.has_body:
            self.parser.has_body, self._last = False, now
        elif now - self._last >= self._timeouts.idle:
            reply.broken(UpstreamCut("upstream_idle_timeout", f"nothing came for {self._timeouts.idle:g} s"))

    def _check_head(self, reply: Reply, now: float) -> None:
        before, self._pending = self._pending, self._unsent()
        if self._pending < before and self._head_by != NEVER:  # a large request is still going out
            self.expect_head(now)
        elif now >= self._head_by:
            detail = f"no complete head within {self._timeouts.first_byte:g} s"
            reply.broken(UpstreamFailed("upstream_first_byte_timeout", "first_byte_timeout", sent=True, status=504, detail=detail))

    def expect_head(self, now: float) -> None:
        """The first-byte deadline runs from here. `NEVER`: it is the client's turn (an upload)."""
        self._head_by = now + self._timeouts.first_byte

    # --- the wire ---

    @property
    def is_closed(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def write(self, *parts: bytes) -> None:
        transport = self.transport
        if transport is not None:
            transport.writelines(parts)
            self._pending = transport.get_write_buffer_size()

    async def room(self) -> None:
        """Until the provider has taken enough of what was written."""
        if self._room is not None:
            await self._room

    def pause(self) -> None:
        if not self._is_paused and not self.is_closed and self.transport is not None:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._is_paused and not self.is_closed and self.transport is not None:
            self._is_paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Ends the connection at once, whatever is on its way."""
        if self.transport is not None:
            self.transport.abort()

    def _unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
