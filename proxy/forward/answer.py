"""A provider's answer under way: pushed to the client as it comes, read by read. Keeps no queue between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from httptools import HttpParserError

from proxy.exchange import RawHeaders
from proxy.forward.connection import Connection
from proxy.forward.known import lines_of
from proxy.forward.parse import Malformed
from proxy.ports import Line, Outlet
from proxy.refusal import UpstreamCut, UpstreamFailed

HELD_BYTES = 256 * 1024  # body bytes kept while nobody reads them; then the provider is paused


class Reply:
    """`ports.Answer`. It lets go of its connection once, in `close`; from then on nothing of the wire can reach it."""

    __slots__ = (
        "_block", "_connection", "_headers", "_parser", "_sink", "_through", "_waiter", "failure", "is_sent", "length", "lines", "reason",
        "said", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.is_sent = True  # False while an upload is still going out
        self._connection: Connection | None = connection
        self._parser = connection.parser  # of this answer until `close`
        self.failure: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._sink: Outlet | None = None

    @property
    def is_idle(self) -> bool:
        """Nothing more is due from the provider."""
        return self._parser.is_over or self.failure is not None

    # --- what the connection tells ---

    def feed(self, data: bytes) -> None:
        """One read of the socket: all pieces of the body in it go out in one write."""
        sink, parser = self._sink, self._parser
        if sink is None:
            self._feed_unread(data)
            return
        slices = parser.slices
        try:  # as `parser.feed` does after a head
            parser.read(data)
        except HttpParserError as error:
            self._faulty(error)
        if not parser.due:
            parser.is_over, self._sink = True, None
        if slices:
            parser.has_body, parser.no_body = True, 0
            if len(slices) > 1:
                slices[:] = (b"".join(slices),)
            try:
                if out := self._through(slices.pop()):
                    sink.push(out)
            except Exception as fault:  # whatever it is, it belongs to the task that waits in `relay`, not to the event loop
                self.broken(fault)
        else:
            self._noise(data)
        if sink.is_full:
            self._pause()
            self._wake()
        elif parser.is_over:
            self._wake()

    def _feed_unread(self, data: bytes) -> None:
        """Nobody takes the body yet, or any more."""
        if self.failure is not None:
            return
        parser = self._parser
        try:
            parser.feed(data)
        except Malformed as error:
            self._malformed(str(error))
        if not parser.is_over and sum(map(len, parser.slices)) > HELD_BYTES:
            self._pause()
        self._wake()

    def _faulty(self, error: HttpParserError) -> None:
        try:
            self._parser.faulty(error)
        except Malformed as fault:
            self._malformed(str(fault))

    def _noise(self, data: bytes) -> None:
        """A read that brought nothing of the body."""
        try:
            self._parser.noise(data)
        except Malformed as fault:
            self._malformed(str(fault))

    def lost(self, error: Exception | None) -> None:
        """The connection is gone."""
        parser = self._parser
        if self.is_idle:
            return
        if parser.ends_at_close and error is None:
            parser.is_over = True
            self._wake()
        elif parser.has_head:
            self.broken(UpstreamCut("upstream_cut", "the provider closed the connection inside its answer"))
        else:
            self.broken(UpstreamFailed("upstream_reset", "reset", sent=True, detail="the provider closed the connection without an answer"))

    def broken(self, error: BaseException) -> None:
        """Nothing more comes: whoever waits gets `error`, and the connection ends."""
        if self.failure is None:
            self.failure, self._sink = error, None
            self._abort()
            self._wake()

    # --- what the client waits for ---

    def news(self) -> asyncio.Future[None]:
        """Done as soon as something has come, or nothing more will. Raises what broke the answer already."""
        if self.failure is not None:
            raise self.failure
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        return waiter

    def begun(self) -> None:
        """The head is complete."""
        parser = self._parser
        self.status, self.reason, self.length, self.said = parser.status, parser.reason, parser.length, parser.said
        self.lines, self._block, self._headers = parser.lines, parser.block, parser.headers

    # --- what the pipeline calls ---

    @property
    def headers(self) -> RawHeaders:
        """See `ports.Answer`."""
        if self._block is not None:
            self._headers, self._block = lines_of(self._block), None
        return self._headers

    async def preamble(self, is_decided: Callable[[bytes], bool], limit: int, wait_s: float) -> bytes:
        """See `ports.Answer`. Raises UpstreamCut where the provider dies undecided: nothing was relayed, another attempt may be made."""
        held = self._held()
        try:
            async with asyncio.timeout(wait_s):
                while not (is_decided(held) or len(held) >= limit or self._parser.is_over):
                    await self._more()
                    held = self._held()
        except TimeoutError:
            pass
        return held

    async def read(self, limit: int) -> bytes:
        """See `ports.Answer`."""
        parser = self._parser
        while (size := sum(map(len, parser.slices))) <= limit and not parser.is_over:
            await self._more()
        if size > limit:
            raise ValueError(f"the answer is larger than {limit} bytes")
        return self._held()

    async def relay(self, sink: Outlet, line: Line) -> None:
        """See `ports.Answer`."""
        parser = self._parser
        self._through = line.feed
        try:
            if parser.slices:
                self._pass_on(sink, line)
            if not parser.is_over and self.failure is None:
                self._sink = sink
                sink.push(b"")  # the head, where nothing has come with it
            while True:
                if self.failure is not None:
                    raise self.failure
                if parser.is_over:
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
            del self._parser  # from now on another answer's
            self._sink = None
            if parser.slices:
                parser.slices.clear()
            is_clean = parser.is_over and parser.keeps_alive and not parser.is_dirty
            connection.end(is_clean and self.is_sent and self.failure is None)

    # --- inside ---

    def _pass_on(self, sink: Outlet, line: Line) -> None:
        """What is held already. Not in `relay`, which would keep it to the stream's end."""
        slices = self._parser.slices
        data = b"".join(slices)  # one piece is itself
        slices.clear()
        if out := line.feed(data):
            sink.push(out)

    def _malformed(self, detail: str) -> None:
        self.broken(
            UpstreamCut("upstream_cut", detail)
            if self._parser.has_head
            else UpstreamFailed("upstream_protocol", "protocol", sent=True, detail=detail)
        )

    def _held(self) -> bytes:
        slices = self._parser.slices
        if len(slices) > 1:
            slices[:] = [b"".join(slices)]
        return slices[0] if slices else b""

    async def _more(self) -> None:
        """Until more of the body has come. Raises what broke the answer."""
        if self._connection is not None:
            self._connection.resume()
        await self.news()
        if self.failure is not None:
            raise self.failure

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.abort()
