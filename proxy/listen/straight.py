"""A client of the edge: its requests go straight from the parser to `serve`, one after the other, with none of the objects and the task
that aiohttp makes for each. Only what may become a WebSocket goes aiohttp's way. Answers nothing itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Protocol, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import _ErrInfo

from proxy.listen.again import Known, Message, head_of
from proxy.listen.body import SMALL, Coming, Whole
from proxy.listen.connection import CLOSED, KEPT, Connection, Deadlines
from proxy.listen.heads import Head
from proxy.refusal import Refusal

if TYPE_CHECKING:
    from proxy.listen.sink import ClientSink

Content = StreamReader | Whole
LESSONS = 4  # heads of a connection that were looked at, and did not come again, before that is given up


class Serving(Protocol):
    """What answers the requests: the edge."""

    def serve(self, connection: Straight, message: Message, content: Content, request: web.BaseRequest | None) -> Awaitable[None]:
        """Begins a call, which is `connection.serving` from then on; what is left of it. Raises nothing itself."""
        ...

    def again(self, connection: Straight, known: Known, content: Content) -> Awaitable[None]:
        """The same of a head that is known again."""
        ...

    def failed(self, connection: Straight, message: Message, error: Exception, request: web.BaseRequest | None) -> None:
        """What was awaited has raised: is told, unless the client has left."""
        ...

    def ended(self) -> None:
        """A call is over, and its connection will serve no other."""
        ...

    def turn_away(self, connection: Connection, no: Refusal) -> None: ...


class Straight(Connection):
    """`serve` gets aiohttp's request object only where the client asks for another protocol."""

    __slots__ = ("_again", "_due", "_edge", "_lessons", "_own", "_reading", "head", "peer", "spare", "task")
    serving: ClientSink | None

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        deadlines: Deadlines,
        edge: Serving,
    ) -> None:
        super().__init__(server, loop, deadlines, edge.turn_away)
        self._edge = edge
        self._reading: Content | None = None  # the body of the call under way
        # Of the request before. It is there only where the parser got the whole of that head, and nothing before it, in one read: where
        # nothing is due any more, the parser is between two messages
        self._again: Known | None = None
        self._due = 0  # bytes of the body under way that are still to come
        self._own: StreamReader | Coming | None = None  # they go into this one, and not to the parser
        self._lessons = LESSONS
        self.task: asyncio.Task[None] | None = None  # runs all of its calls
        self.head: Head | None = None  # of its last request, if it is kept
        self.peer = "unix"  # the client's IP address
        self.spare: ClientSink | None = None  # of its last call, where nothing of that is left in it

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.task = self._task_handler
        if isinstance(self.peername, tuple):
            self.peer = str(self.peername[0]).removeprefix("::ffff:").partition("%")[0]

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._reading is not None:
            self._reading.set_exception(exc or ConnectionResetError("Connection lost"))
        self._again = self._own = None
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A request that repeats the head of the one before, and is asked for by then, needs no parser."""
        known = self._again
        if known is None or self._due:
            self._go_on(data)
            return
        waiter = self._waiter
        if waiter is None or waiter.done():  # it pends only while nothing is queued or closing
            self._parse(data)
        elif data.startswith(known.head) or (len(data) == known.size and known.is_anothers(data)) or known.is_with_others(data):
            due = known.size - len(data)
            if not due:  # as nearly always
                content = self._reading = Whole()
                content.connection, content.body = self, data[known.end :]
            elif due > 0:
                self._reading = self._begin(data[known.end :], due, known.length)
            else:
                self._parse(data)
                return
            self._lessons = LESSONS
            self.post.due += 1
            waiter.set_result(known)  # type: ignore[arg-type]  # aiohttp's own type; `start` alone awaits it
        else:
            self._parse(data)

    def _begin(self, body: bytes, due: int, length: int) -> Content:
        """A body of which so much has come, and so much is due."""
        self._due = due
        if length <= SMALL:
            own: StreamReader | Coming = Coming(self, body, length)
        else:
            own = StreamReader(self, self._read_bufsize, loop=self._loop)
            own.feed_data(body)
        self._own = own
        return own

    def _go_on(self, data: bytes) -> None:
        """Of a body, or of what nothing is known of."""
        due, own = self._due, self._own
        if own is None:
            if 0 < len(data) <= due:  # a body in the parser's hands
                self._due = due - len(data)
                Connection.data_received(self, data)
            else:
                self._parse(data)
        elif not (self._close or self._force_close):
            own.feed_data(data[:due])
            self._due = max(due - len(data), 0)
            if not self._due:
                self._own = None
                own.feed_eof()
                if len(data) > due:
                    self.data_received(data[due:])

    def _parse(self, data: bytes) -> None:
        """By aiohttp; b"": what is left of what it got."""
        count = self._request_count
        if data:
            self._again, self._due = None, 0
        Connection.data_received(self, data)
        if self._lessons and self._request_count == count + 1 and not self._is_deaf and len(self._messages) == 1:
            message = self._messages[0][0]
            if not isinstance(message, _ErrInfo):
                self._lessons -= 1
                self._again, self._due = head_of(data, message)

    def pause_reading(self) -> None:
        if self._own is None:
            super().pause_reading()
        else:  # the parser has no part in it
            self._reading_paused = True
            self._pause_transport_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Of each piece that is read, and of each body's end, aiohttp says so, even where nothing was paused."""
        if (resume_parser and self._again is None) or self._reading_paused:
            super().resume_reading(resume_parser)

    async def start(self) -> None:
        """In place of aiohttp's loop: one request after the other, until the connection is of no further use."""
        messages, loop, again = self._messages, self._loop, self._edge.again
        promise, time = loop.create_future, loop.time
        waiter: asyncio.Future[Any]
        try:
            while not self._force_close:
                known = None
                if not messages:
                    waiter = self._waiter = promise()
                    known = await waiter
                    self._waiter = None
                if known is None:
                    reply = await self._next()
                else:
                    try:
                        await again(self, known, self._reading)  # type: ignore[arg-type]  # it is set with it
                    except Exception as error:
                        self._edge.failed(self, known, error, None)
                    sink = self.serving
                    reply = sink.reply if sink is not None and sink.is_ended else self._cut_off(sink)
                    self.serving = None
                content, self._reading = self._reading, None
                if (reply is not KEPT or type(content) is not Whole or self._close) and await self._is_over(reply, content):
                    break
                self._next_keepalive_close_time = time() + self._keepalive_timeout
                if self._keepalive_handle is None:  # else it looks itself whether it is due
                    self._keepalive_handle = loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        except asyncio.CancelledError:
            self._cut_off(self.serving)  # before the transport is forgotten
            self.force_close()
            raise
        except Exception as error:  # of a body that nobody read; what a call raises, the edge has answered
            self.log_exception("connection failed", exc_info=error)
            self.force_close()
        finally:
            self._left()

    def _left(self) -> None:
        """No other call follows."""
        if self.serving is not None:
            self._cut_off(self.serving)
            self.serving = None
            self._edge.ended()
        self.task = self._reading = self._waiter = self.spare = None  # or the connection would keep itself alive
        if not self._force_close and self.transport is not None:
            self._task_handler = None
            self.post.leave()
            self.transport.close()

    def _cut_off(self, sink: ClientSink | None) -> web.StreamResponse:
        """What aiohttp is told of a reply that may have no end."""
        if sink is None:  # the client had left
            return CLOSED
        if not sink.is_ended and sink.is_started:
            sink.abort(b"")
        return sink.reply

    async def _is_over(self, reply: web.StreamResponse, content: Content | None) -> bool:
        """Will the connection serve no other call? What nobody read of this one is thrown away first."""
        if reply is not KEPT:
            self._edge.ended()
        if content is not None and not content.is_eof():
            await self._linger(content)
        return reply is not KEPT or self._close

    async def _next(self) -> web.StreamResponse:
        """Answers the next in the queue, or what the parser complained of."""
        message, content = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        if isinstance(message, _ErrInfo):
            await self.refuse(message.exc)
            return CLOSED
        self._reading = content
        again = self._again  # of the same message it tells the same, and keeps what follows from it
        said = again if again is not None and again.raw_headers is message.raw_headers else message
        return await (self._asked_to_upgrade(message, content) if message.upgrade else self._answered(said, content, None))

    async def _answered(self, message: Message, content: Content, request: web.BaseRequest | None) -> web.StreamResponse:
        try:
            await self._edge.serve(self, message, content, request)
        except Exception as error:
            self._edge.failed(self, message, error, request)
        sink, self.serving = self.serving, None
        return self._cut_off(sink)

    async def _asked_to_upgrade(self, message: Message, content: Content) -> web.StreamResponse:
        """Through aiohttp's own hands: it parses on where the upgrade is declined, and ends the WebSocket where it is not."""

        async def serve(request: web.BaseRequest) -> web.StreamResponse:
            return await self._answered(message, content, request)

        assert self._request_factory is not None and self.task is not None
        request = self._request_factory(
            cast(RawRequestMessage, message), cast(StreamReader, content), self, StreamWriter(self, self._loop), self.task
        )
        reply, is_lost = await self._handle_request(request, None, serve)
        return reply if not is_lost else CLOSED

    async def _linger(self, content: Content) -> None:
        """What comes of a body that nobody read is thrown away for a while, or a reset would eat the reply."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not content.is_eof():
                    await content.readany()
        except TimeoutError:
            self.close()


class Server(web.Server):
    """aiohttp's low-level server with our protocol. No more than `most` connections at once (faults.md P8)."""

    def __init__(self, edge: Serving, deadlines: Deadlines, most: int) -> None:
        super().__init__(_nobody)
        self._edge, self._deadlines, self._most = edge, deadlines, most

    def __call__(self) -> Straight:
        kind = _TurnedAway if len(self._connections) >= self._most else Straight
        return kind(self, self._loop, self._deadlines, self._edge)


class _TurnedAway(Straight):
    """A connection too many: told so, then closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._reject(Refusal(503, "overloaded", "this process has all the connections it can hold", retry_after=1, close=True))


async def _nobody(_: web.BaseRequest) -> web.StreamResponse:
    raise AssertionError("a Straight connection asks the edge itself")
