"""aiohttp's protocol for one client, with the deadlines, quiet errors and disconnects that it lacks (faults.md D1, D2, D11).

What leans on aiohttp's insides is here, in straight.py, body.py and sink.py: tests/listen/test_connection.py pins their names. Never words
an error itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from proxy.listen.complaints import MAX_FIELD, MAX_LINE, refusal_of
from proxy.listen.headers import MAX_HEAD, too_large
from proxy.post import post_of
from proxy.refusal import Refusal

HIGH_WATER = 128 * 1024  # bytes a client may leave unread before the provider is paused
_LINGER_S = 1.0  # how long what a refused client still sends is thrown away, so that a reset does not eat the reply

log = logging.getLogger("sluice.listen")


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds a client has for each step; faults.md D1."""

    first_byte: float = 10.0
    head: float = 10.0
    keepalive: float = 75.0
    body_grace: float = 10.0
    body_idle: float = 30.0
    write: float = 60.0
    linger: float = 5.0


class InFlight(Protocol):
    """The call under way on a connection."""

    @property
    def finish_anyway(self) -> bool: ...


class Answered(web.StreamResponse):
    """Tells aiohttp that the reply is already on the wire and whether the connection stays open. Writes nothing."""

    def __init__(self, keep_alive: bool) -> None:
        super().__init__()
        self._keep_alive = keep_alive

    async def prepare(self, request: web.BaseRequest) -> None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        return None


KEPT, CLOSED = Answered(True), Answered(False)


class Connection(RequestHandler):
    """One client. `turn_away` writes a refusal for a request that never became a call."""

    __slots__ = (
        "_content", "_head_bytes", "_head_timer", "_is_deaf", "_stall", "_turn_away", "_unread", "_unread_since", "_wire", "deadlines",
        "is_broken", "post", "serving",
    )  # fmt: skip

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, deadlines: Deadlines, turn_away: Callable[[Connection, Refusal], None]
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=deadlines.keepalive,
            lingering_time=deadlines.linger,
            logger=log,
            access_log=cast(logging.Logger, None),  # aiohttp reads "no access log" from it, its annotation does not say so
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            auto_decompress=False,
        )
        self.deadlines, self._turn_away = deadlines, turn_away
        self._wire: asyncio.Transport | None = None  # outlives self.transport, which force_close forgets before the last byte is out
        self._content: StreamReader = EMPTY_PAYLOAD  # of the request that was parsed last
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._is_deaf = False  # what still comes is thrown away
        self._stall: asyncio.TimerHandle | None = None
        self._unread, self._unread_since = 0, 0.0
        self.serving: InFlight | None = None
        self.post = post_of(loop)
        self.is_broken = False  # the framing of the body under way is in doubt

    # life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._wire = cast(asyncio.Transport, transport)
        self._wire.set_write_buffer_limits(high=HIGH_WATER)
        super().connection_made(transport)
        self._head_timer = self._loop.call_later(self.deadlines.first_byte, self._too_slow)

    def connection_lost(self, exc: BaseException | None) -> None:
        task = self._task_handler
        for timer in (self._head_timer, self._stall):
            if timer is not None:
                timer.cancel()
        self._head_timer = self._stall = self._wire = None
        self._content = EMPTY_PAYLOAD  # which knows its protocol: the two would keep each other alive
        super().connection_lost(exc)
        if task is not None and not (self.serving is not None and self.serving.finish_anyway):
            task.cancel()

    def force_close(self) -> None:
        self.post.leave()
        super().force_close()
        self.guard_writes()

    def _process_keepalive(self) -> None:
        if self._head_timer is None:
            super()._process_keepalive()
        else:  # a request has begun to come: its own deadline holds
            self._keepalive_handle = None

    # reading

    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        before, was_body = self._request_count, not self._content.is_eof()
        RequestHandler.data_received(self, data)  # at half the price of super()
        if self._request_count == before:
            if data and not self._upgraded and not was_body:  # the end of a body is no beginning of a head
                self._head_is_coming(len(data))
            return
        self._head_bytes = 0
        if self._head_timer is not None:
            self._stop_head_timer()
        if self._messages:
            message, content = self._messages[-1]
            if isinstance(message, _ErrInfo):
                self._is_misread()
            else:
                self._content = content

    def _is_misread(self) -> None:
        """The parser complains, and what still comes cannot be told apart."""
        self._is_deaf = True
        if not self._content.is_eof():  # the error is in a body: its reader says so, there is no second request to answer
            self._messages.pop()
            self.is_broken = True
            self._content.feed_eof()

    def _head_is_coming(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > MAX_HEAD:
            self._reject(too_large())
        elif self._head_bytes == size and self._is_waiting:
            self._stop_head_timer()
            self._head_timer = self._loop.call_later(self.deadlines.head, self._too_slow)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    @property
    def _is_waiting(self) -> bool:
        return self.serving is None and self._waiter is not None

    def _too_slow(self) -> None:
        self._head_timer = None
        self._reject(Refusal(408, "request_timeout", "the request line and headers did not come in time", close=True))

    def _reject(self, no: Refusal) -> None:
        """Queues a refusal behind what is being answered, as if the parser had found it."""
        self._is_deaf = True
        self._stop_head_timer()
        self._messages.append((_ErrInfo(status=no.status, exc=no, message=""), EMPTY_PAYLOAD))
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # errors

    def _make_error_handler(self, err_info: _ErrInfo) -> Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]:
        async def refuse(_: web.BaseRequest) -> web.StreamResponse:
            await self.refuse(err_info.exc)
            return CLOSED

        return refuse

    async def refuse(self, error: BaseException) -> None:
        """What the parser complained of is told to the client, and the connection has no further use."""
        self._turn_away(self, refusal_of(error))
        if self._wire is not None and self._wire.can_write_eof() and not self._wire.is_closing():
            self._wire.write_eof()
            await asyncio.sleep(_LINGER_S)  # ended at once by the client's close

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        log.error("request handler failed: %s", type(exc).__name__)  # the text of an exception may hold what the client sent
        self.force_close()
        return CLOSED

    def log_exception(self, *args: object, **kw: object) -> None:
        log.debug("connection dropped: %s", type(kw.get("exc_info")).__name__)

    # writing

    def pause_writing(self) -> None:
        super().pause_writing()
        self.guard_writes()

    def guard_writes(self) -> None:
        """From now on a client that takes nothing for `Deadlines.write` seconds is dropped; until its buffer is empty."""
        if self._stall is None and self._wire is not None and self._wire.get_write_buffer_size():
            self._unread, self._unread_since = self._wire.get_write_buffer_size(), self._loop.time()
            self._stall = self._loop.call_later(self.deadlines.write / 4, self._look_at_writes)

    def _look_at_writes(self) -> None:
        self._stall = None
        if self._wire is None:
            return
        unread = self._wire.get_write_buffer_size()
        if unread == self._unread and self._loop.time() - self._unread_since >= self.deadlines.write:
            self._wire.abort()
        elif unread:
            if unread != self._unread:
                self._unread, self._unread_since = unread, self._loop.time()
            self._stall = self._loop.call_later(self.deadlines.write / 4, self._look_at_writes)

    async def room(self) -> None:
        """Waits until the client has taken enough. Raises ConnectionError when it is gone."""
        await self._drain_helper()
