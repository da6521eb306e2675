"""A provider's answer under way: pushed to the client as it comes, read by read. Keeps no queue between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from proxy.exchange import RawHeaders
from proxy.forward.connection import Connection
from proxy.forward.parse import AnswerParser, Malformed
from proxy.ports import Line, Outlet
from proxy.refusal import UpstreamCut, UpstreamFailed

HELD_BYTES = 256 * 1024  # body bytes kept while nobody reads them; then the provider is paused


class Reply:
    """`ports.Answer`. It lets go of its connection once, in `close`; from then on nothing of the wire can reach it."""

    __slots__ = ("_connection", "_failure", "_line", "_parser", "_sink", "_size", "_waiter", "has_bytes", "is_sent")

    def __init__(self, connection: Connection, *, is_to_head: bool) -> None:
        self.has_bytes = False  # any byte of an answer has come
        self.is_sent = True  # False while an upload is still going out
        self._connection: Connection | None = connection
        self._parser = AnswerParser(is_to_head=is_to_head)
        self._size = 0  # of the body bytes held
        self._failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Outlet | None = None
        self._line: Line | None = None

    @property
    def status(self) -> int:
        return self._parser.status

    @property
    def reason(self) -> bytes:
        return self._parser.reason

    @property
    def headers(self) -> RawHeaders:
        return self._parser.headers

    @property
    def length(self) -> int | None:
        return self._parser.length

    @property
    def has_head(self) -> bool:
        return self._parser.has_head

    @property
    def received(self) -> int:
        """Body bytes so far: what shows that the provider is alive."""
        return self._parser.received

    @property
    def is_idle(self) -> bool:
        """Nothing more is due from the provider."""
        return self._parser.is_over or self._failure is not None

    # --- what the connection tells ---

    def feed(self, data: bytes) -> None:
        """One read of the socket."""
        self.has_bytes = True
        if self._failure is not None:
            return
        try:
            self._parser.feed(data)
        except Malformed as error:
            detail = str(error)
            self.broken(
                UpstreamCut("upstream_cut", detail)
                if self.has_head
                else UpstreamFailed("upstream_protocol", "protocol", sent=True, detail=detail)
            )
        self._arrived()

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        if self.is_idle:
            return
        if self._parser.ends_at_close and error is None:
            self._parser.is_over = True
            self._wake()
        elif self.has_head:
            self.broken(UpstreamCut("upstream_cut", "the provider closed the connection inside its answer"))
        else:
            self.broken(UpstreamFailed("upstream_reset", "reset", sent=True, detail="the provider closed the connection without an answer"))

    def broken(self, error: BaseException) -> None:
        """Nothing more comes: whoever waits gets `error`, and the connection ends."""
        if self._failure is None:
            self._failure = error
            self._abort()
            self._wake()

    # --- what the pipeline calls ---

    async def head(self) -> None:
        """Until the head is complete. Raises UpstreamFailed, or what broke the upload."""
        while not self.has_head:
            if self._failure is not None:
                raise self._failure
            await self._news()

    async def preamble(self, is_decided: Callable[[bytes], bool], limit: int, wait_s: float) -> bytes:
        """See `ports.Answer`. Raises UpstreamCut where the provider dies undecided: nothing was relayed, another attempt may be made."""
        try:
            async with asyncio.timeout(wait_s):
                while not (is_decided(self._held()) or self._size >= limit or self._parser.is_over):
                    await self._more()
        except TimeoutError:
            pass
        return self._held()

    async def read(self, limit: int) -> bytes:
        """See `ports.Answer`."""
        while self._size <= limit and not self._parser.is_over:
            await self._more()
        if self._size > limit:
            raise ValueError(f"the answer is larger than {limit} bytes")
        return self._held()

    async def relay(self, sink: Outlet, line: Line) -> None:
        """See `ports.Answer`."""
        self._sink, self._line = sink, line
        try:
            self._push()
            while True:
                if self._failure is not None:
                    raise self._failure
                if self._parser.is_over:
                    return
                if sink.is_full:
                    self._pause()
                    await sink.drain()
                else:
                    await self._more()
        except BaseException:
            self._abort()
            raise

    def close(self) -> None:
        """See `ports.Answer`."""
        connection, self._connection = self._connection, None
        if connection is not None:
            parser = self._parser
            parser.let_go()
            self._sink = self._line = None
            is_clean = parser.is_over and parser.keeps_alive and not parser.is_dirty
            connection.end(is_reusable=is_clean and self.is_sent and self._failure is None)

    # --- inside ---

    def _arrived(self) -> None:
        if self._sink is None:
            self._size = sum(map(len, self._parser.slices))
            if self._size > HELD_BYTES:
                self._pause()
            self._wake()
            return
        self._push()
        if self._sink.is_full:
            self._pause()
            self._wake()
        elif self.is_idle:
            self._wake()

    def _push(self) -> None:
        """All slices of one read in one write."""
        if not self._parser.slices or self._line is None or self._sink is None:
            return
        data = self._held()
        self._parser.slices, self._size = [], 0
        try:
            if out := self._line.feed(data):
                self._sink.push(out)
        except Exception as error:  # whatever it is, it belongs to the task that waits in `relay`, not to the event loop
            self.broken(error)

    def _held(self) -> bytes:
        slices = self._parser.slices
        if len(slices) > 1:
            slices[:] = [b"".join(slices)]
        return slices[0] if slices else b""

    async def _more(self) -> None:
        """Until more of the body has come. Raises what broke the answer."""
        if self._failure is not None:
            raise self._failure
        if self._connection is not None:
            self._connection.resume()
        await self._news()
        if self._failure is not None:
            raise self._failure

    async def _news(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
