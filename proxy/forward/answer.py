"""A provider's answer under way: pushed to the client as it comes, read by read. Keeps no queue between the two."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from proxy.exchange import RawHeaders, Spoken
from proxy.forward.connection import Connection
from proxy.forward.flow import flow_of
from proxy.forward.known import lines_of
from proxy.forward.parse import AnswerParser, Malformed, all_of
from proxy.policy.plan import Timeouts
from proxy.ports import Late, Line, Outlet
from proxy.refusal import UpstreamCut, UpstreamFailed


class Reply:
    """`ports.Answer`. It lets go of its connection once, in `close`; from then on nothing of the wire can reach it."""

    __slots__ = (
        "_connection", "_is_flowing", "_parser", "block", "deadline", "failure", "length", "lines", "reason", "said", "since", "split",
        "status", "timeouts", "waiter",
    )  # fmt: skip

    status: int  # this and what follows are the parser's to tell, once the head is complete
    reason: bytes
    said: Spoken
    length: int | None  # Content-Length; 0 where no body can be
    split: RawHeaders  # the lines
    block: bytes | None  # in their place, of a head of known form: as on the wire
    lines: bytes | None  # those of them that reach the client

    _connection: Connection | None
    _parser: AnswerParser  # of this answer until `close`
    _is_flowing: bool  # while `flow` gets what arrives
    timeouts: Timeouts
    deadline: float  # monotonic
    since: float  # the head is waited for, then more of the body; NEVER: it is the client's turn (an upload)
    failure: BaseException | None
    waiter: asyncio.Future[Reply] | None  # for what comes next

    @property
    def is_idle(self) -> bool:
        """Nothing more is due from the provider."""
        return self._parser.is_over or self.failure is not None

    # --- what the connection tells ---

    def told(self, hears: Callable[[Any], None], what: object) -> None:
        """The parser hears of a fault of the framing, or of a read that brought nothing of the body."""
        try:
            hears(what)
        except Malformed as fault:
            self.malformed(str(fault))

    def is_ahead(self) -> None:
        """More has come than the client takes just now."""
        self._pause()
        self._wake()

    def ended(self) -> None:
        """The body has, while it went straight to the client."""
        self._parser.is_over = True
        self._unattended()
        self._wake()

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
            self.broken(self._reset())

    def _reset(self) -> UpstreamFailed:
        """`stale` where the connection may have been closed under us."""
        kind, connection = "reset", self._connection
        if connection is not None and connection.has_served and not self._parser.has_begun:
            connection.pool.drop_idle()  # what was opened before is likely to be as dead
            kind = "stale"
        return UpstreamFailed("upstream_reset", kind, sent=True, detail="the provider closed the connection without an answer")

    def broken(self, error: BaseException) -> None:
        """Nothing more comes: whoever waits gets `error`, and the connection ends."""
        if self.failure is None:
            self.failure = error
            self._unattended()
            self._abort()
            self._wake()

    # --- what the client waits for ---

    def news(self) -> asyncio.Future[Reply]:
        """Gives this reply as soon as its head has come, then more of its body, or nothing more will. Raises what broke it."""
        if self.failure is not None:
            raise self.failure
        assert self._connection is not None
        waiter = self.waiter = self._connection.loop.create_future()
        return waiter

    # --- what the pipeline calls ---

    @property
    def headers(self) -> RawHeaders:
        """See `ports.Answer`."""
        if self.block is not None:
            self.split, self.block = lines_of(self.block), None
        return self.split

    async def preamble(self, is_decided: Callable[[bytes], bool], limit: int, wait_s: float) -> bytes:
        """See `ports.Answer`. Raises UpstreamCut where the provider dies undecided: nothing was relayed, another attempt may be made."""
        held, until = self._held(), 0.0
        try:
            while not (is_decided(held) or len(held) >= limit or self._parser.is_over):  # enough came with the head, as nearly always
                until = until or asyncio.get_running_loop().time() + wait_s
                async with asyncio.timeout_at(until):
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

    def at_once(self, without: bytes = b"") -> bytes | None:
        """See `ports.Answer`."""
        slices = self._parser.slices
        if not (slices and self._parser.is_over) or self.failure is not None:
            return None
        body = slices.pop() if len(slices) == 1 else all_of(slices)
        if without and without in body:
            slices.append(body)
            return None
        return body

    async def relay(self, sink: Outlet, line: Line) -> None:
        """See `ports.Answer`."""
        parser = self._parser
        slices = parser.slices
        try:
            if slices and (out := line.feed(slices.pop() if len(slices) == 1 else all_of(slices))):
                sink.push(out)
        except BaseException:
            self._abort()
            raise
        if not parser.is_over or self.failure is not None:
            out = b""  # is not kept to the stream's end
            await self._stream(sink, line)

    async def _stream(self, sink: Outlet, line: Line) -> None:
        """What comes after that."""
        parser, connection = self._parser, self._connection
        late: list[bytes] = []
        try:
            if not parser.is_over and self.failure is None and connection is not None:
                self._is_flowing = True
                connection.attend(flow_of(self, parser, sink, line, late))
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
        finally:
            if late:
                cast(Late, line).hear(late)

    def close(self) -> None:
        """See `ports.Answer`."""
        connection = self._connection
        if connection is None:
            return
        if self._is_flowing:
            self._unattended()
        self._connection = None
        del self._parser  # from now on another answer's
        connection.pool.ended(connection)

    # --- inside ---

    def _unattended(self) -> None:
        """Reads come by `feed` again."""
        if self._is_flowing and self._connection is not None:
            self._is_flowing = False
            self._connection.attend(None)

    def malformed(self, detail: str) -> None:
        self.broken(
            UpstreamCut("upstream_cut", detail)
            if self._parser.has_head
            else UpstreamFailed("upstream_protocol", "protocol", sent=True, detail=detail)
        )

    def _held(self) -> bytes:
        slices = self._parser.slices
        if len(slices) > 1:
            slices.append(all_of(slices))
        return slices[0] if slices else b""

    async def _more(self) -> None:
        """Until more of the body has come. Raises what broke the answer."""
        if self._connection is not None:
            self._connection.resume()
        await self.news()
        if self.failure is not None:
            raise self.failure

    def _wake(self) -> None:
        waiter, self.waiter = self.waiter, None
        if waiter is None or waiter.done():
            return
        if self.failure is None or self._parser.has_head:
            waiter.set_result(self)
        else:
            waiter.set_exception(self.failure)
            waiter.exception()  # known, though who waits may have been called off

    def _pause(self) -> None:
        if self._connection is not None:
            self._connection.pause()

    def _abort(self) -> None:
        if self._connection is not None:
            self._connection.parser.told = None  # what still arrives, nobody asked for
            self._connection.abort()


def reply_on(connection: Connection, timeouts: Timeouts, now: float, deadline: float) -> Reply:
    """From here on what arrives on this connection is told to this reply, and `late.check` holds it to these."""
    reply = Reply()
    reply._connection = connection
    reply._parser = parser = connection.parser
    parser.begin(reply)
    reply.timeouts = timeouts
    reply.deadline = deadline
    reply.since = now
    reply.failure, reply.waiter, reply._is_flowing = None, None, False
    return reply
