"""One connection to a provider: bytes out, bytes in. Never repeats a request."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from proxy.forward.known import KnownHeads
from proxy.forward.parse import AnswerParser, Malformed
from proxy.post import post_of

if TYPE_CHECKING:
    from proxy.forward.pool import Pool

NEVER = float("inf")
HELD_BYTES = 256 * 1024  # body bytes kept while nobody reads them; then the provider is paused


class Connection(asyncio.Protocol):
    """Serves one answer at a time: that which its parser tells."""

    __slots__ = (
        "_room", "born", "data_received", "idle_since", "is_paused", "loop", "parser", "pending", "poll", "pool", "post", "transport",
    )  # fmt: skip

    data_received: Callable[[bytes], None]  # type: ignore[assignment]  # asyncio's is a method; ours says where reads go just now

    def __init__(self, now: float, pool: Pool, heads: KnownHeads | None = None) -> None:
        self.born, self.idle_since = now, NEVER
        self.pool = pool
        self.transport: asyncio.Transport | None = None
        self.pending = 0  # bytes that the provider had not taken when that was last looked at
        self._room: asyncio.Future[None] | None = None
        self.is_paused = False
        self.data_received = self._arrived
        self.parser = AnswerParser(heads)
        self.loop = asyncio.get_running_loop()  # to ask for it is a system call
        self.post = post_of(self.loop)

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
        parser = self.parser
        reply = parser.told
        if reply is None:
            self.abort()  # nobody asked
            return
        try:
            parser.feed(data)
        except Malformed as error:
            reply.malformed(str(error))
        if not parser.is_over and sum(map(len, parser.slices)) > HELD_BYTES:
            self.pause()
        waiter = reply.waiter
        if waiter is not None and parser.has_head:
            reply.waiter = None  # it will hold the reply
            if not waiter.done():
                if parser.is_over:  # what has come whole is answered by one write
                    self.post.due += 1
                waiter.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        reply, self.transport = self.parser.told, None
        self.parser.let_go()
        del self.data_received
        self._make_room()
        if reply is not None:
            reply.lost(exc)

    def pause_writing(self) -> None:
        self._room = self.loop.create_future()

    def resume_writing(self) -> None:
        self._make_room()

    def attend(self, receive: Callable[[bytes], None] | None) -> None:
        """What arrives goes straight to `receive`; None: to the reply again."""
        if self.transport is not None:
            self.data_received = receive or self._arrived
            self.transport.set_protocol(self)  # uvloop looks the method up once, here

    # --- the wire ---

    @property
    def has_served(self) -> bool:
        return self.idle_since != NEVER

    @property
    def is_closed(self) -> bool:
        return self.transport is None or self.transport.is_closing()

    def write(self, *parts: bytes) -> None:
        transport = self.transport
        if transport is not None:
            transport.writelines(parts)
            self.pending = transport.get_write_buffer_size()

    async def room(self) -> None:
        """Until the provider has taken enough of what was written."""
        if self._room is not None:
            await self._room

    def pause(self) -> None:
        if not self.is_paused and not self.is_closed and self.transport is not None:
            self.is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.is_paused and not self.is_closed and self.transport is not None:
            self.is_paused = False
            self.transport.resume_reading()

    def abort(self) -> None:
        """Ends the connection at once, whatever is on its way."""
        self.parser.is_last = True
        if self.transport is not None:
            self.transport.abort()

    def unsent(self) -> int:
        return self.transport.get_write_buffer_size() if self.transport is not None else 0

    def _make_room(self) -> None:
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)
