"""The server edge: listens, reads the head of each request into a Call, hands it to the pipeline. Decides nothing of money or callers."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from aiohttp import HttpVersion11, web

from proxy.dialect import dialect_of, spoken
from proxy.exchange import Call, bare, value
from proxy.listen.address import most_connections, read_listen, remove_stale
from proxy.listen.again import Known, Message
from proxy.listen.body import AnyBody, ClientBody, Whole, foretell
from proxy.listen.connection import Connection, Deadlines
from proxy.listen.errors import place_of, word
from proxy.listen.headers import check_handshake, ids, lower, read_call
from proxy.listen.heads import Heads
from proxy.listen.sink import ClientSink, sink_of
from proxy.listen.straight import Content, Server, Straight
from proxy.listen.target import route
from proxy.policy.plan import Provider
from proxy.ports import Body, Clock, Sink
from proxy.refusal import ClientGone, Refusal

log = logging.getLogger("sluice.listen")

Run = Callable[[Call, Body, Sink], Awaitable[None]]
Upgrade = Callable[[Call, web.BaseRequest], Awaitable[web.StreamResponse]]
_BACKLOG = 1024
_CANCELLED_WITHIN_S = 5.0
_DEADLINES = Deadlines()


@value(frozen=True, slots=True)
class Settings:
    """What the edge needs of the policy. Another object wherever something changed: what is known of heads is forgotten with it."""

    providers: Mapping[str, Provider]
    default_provider: str
    hosts: tuple[str, ...] | None = None  # None: any
    cors: tuple[str, ...] = ()  # origins whose pages may call
    draining: bool = False


class Edge:
    """One listening socket. `run` answers a call through its sink; `upgrade` bridges a WebSocket on a realtime path. `settings` may be set
    anew: they hold from the next request on.

    `on_refusal` is told code and id of every refusal that never was a call. `most` bounds the connections; None: 0.8 of RLIMIT_NOFILE / 2.
    """

    def __init__(
        self,
        run: Run,
        upgrade: Upgrade,
        settings: Settings,
        clock: Clock,
        *,
        on_refusal: Callable[[str, str], None] = lambda code, request_id: None,
        deadlines: Deadlines = _DEADLINES,
        most: int | None = None,
    ) -> None:
        self._run, self._upgrade, self.settings, self._on_refusal = run, upgrade, settings, on_refusal
        self._now_ns, self._monotonic = clock.now_ns, clock.monotonic
        self._deadlines = deadlines
        self._most = most if most is not None else most_connections()
        self._ids = ids(secrets.token_hex(8))
        self._under: Settings | None = None  # those of `_heads`
        self._heads = Heads(None, ())
        self._idle: asyncio.Future[None] | None = None  # somebody waits for the last call to end
        self._server: Server | None = None
        self._listener: asyncio.Server | None = None
        self._path: str | None = None
        self._is_closing = False

    @property
    def active(self) -> int:
        """Calls under way."""
        return len(self.calls())

    @property
    def port(self) -> int:
        """Of the bound TCP socket; 0 on a unix socket."""
        sockets = self._listener.sockets if self._listener else ()
        return next((int(one.getsockname()[1]) for one in sockets if one.family != socket.AF_UNIX), 0)

    # life

    async def start(self, listen: str) -> None:
        """Listens on "HOST:PORT" or "unix:/path". Raises OSError where that is taken or forbidden, ValueError where it is neither."""
        loop = asyncio.get_running_loop()
        self._server = Server(self, self._deadlines, self._most)
        where = read_listen(listen)
        if isinstance(where, str):
            remove_stale(where)
            self._listener = await loop.create_unix_server(self._server, where, backlog=_BACKLOG)
            self._path = where
        else:
            self._listener = await loop.create_server(self._server, *where, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """No new connection; a further call on a kept one is refused (503 `draining`), and replies under way say `Connection: close`."""
        self._is_closing = True
        self.settings = replace(self.settings)  # no head is known under them
        if self._listener is not None:
            self._listener.close()
        if self._path is not None:
            Path(self._path).unlink(missing_ok=True)
            self._path = None
        for sink in self.calls():
            sink.stop_keeping()

    async def close(self, grace_s: float) -> None:
        """Waits up to `grace_s` seconds for the calls under way, cancels those that are left, and ends every connection."""
        self.stop_accepting()
        if not await self._is_idle_within(grace_s):
            for sink in self.calls():
                if sink.task is not None:
                    sink.task.cancel()
            await self._is_idle_within(_CANCELLED_WITHIN_S)
        for connection in self._connections():
            connection.force_close()

    async def _is_idle_within(self, wait_s: float) -> bool:
        if not self._is_idle():
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=wait_s)
        return self._is_idle()

    def _is_idle(self) -> bool:
        return all(connection.serving is None for connection in self._connections())

    def _connections(self) -> list[Straight]:
        """Those whose client has left too, while their call goes on."""
        return cast("list[Straight]", self._server.connections) if self._server else []

    def calls(self) -> list[ClientSink]:
        """Those under way."""
        return [connection.serving for connection in self._connections() if connection.serving is not None]

    # one request

    def again(self, connection: Straight, known: Known, content: Content) -> Awaitable[None]:
        """See `Serving`."""
        transport = connection.transport
        if transport is None or known.under is not self.settings:
            return self.serve(connection, known, content, None)
        body = content if isinstance(content, Whole) else ClientBody(connection, content)
        body.length = known.length
        run, now_ns, monotonic = self._run, self._now_ns, self._monotonic  # read, then called, is half as dear
        uid = next(self._ids)
        id_ = known.id or uid
        connection.serving = sink = sink_of(connection, transport, body, known.is_head, True, True, id_, known.cors)
        call: Any = bare(Call)  # field by field, at two thirds of what its __init__ costs
        call.uid = uid
        call.id = id_
        call.id_is_callers = id_ is not uid
        call.method = known.method
        call.route = known.route
        call.headers = known.raw_headers
        call.fields = known.fields
        call.peer = connection.peer
        call.at_ns = now_ns()
        call.began = monotonic()
        call.kept = known.kept
        call.seen = known.seen
        return run(call, body, sink)

    def serve(self, connection: Straight, message: Message, content: Content, request: web.BaseRequest | None) -> Awaitable[None]:
        """See `Serving`. `request` stands in where it may become a WebSocket."""
        transport = connection.transport
        if transport is None:
            return _nothing()
        body = content if isinstance(content, Whole) else ClientBody(connection, content)
        speaks_11 = message.version == HttpVersion11
        keeps = speaks_11 and not (message.should_close or self._is_closing)
        sink = sink_of(connection, transport, body, message.method == "HEAD", speaks_11, keeps, next(self._ids), ())
        connection.serving = sink
        try:
            call = self._read(self.settings, message, connection, body, sink)
            if call is None:
                return _nothing()
            if request is not None and _is_session(call, self.settings):
                return self._bridged(call, request, message, sink)
        except Exception as error:
            self.failed(connection, message, error, request)
            return _nothing()
        return self._run(call, body, sink)

    def failed(self, connection: Straight, message: Message, error: Exception, request: web.BaseRequest | None) -> None:
        """The request never was a call, or the client has left."""
        sink = connection.serving
        if sink is None or isinstance(error, ClientGone):
            return
        if isinstance(error, Refusal):
            no = error
        else:  # a defect: the reply says so, the log says where, neither says what the client sent
            log.error("internal error: %s at %s", type(error).__name__, place_of(error))
            no = Refusal(500, "internal", should_retry=False, close=True)
        self._on_refusal(no.code, sink.request_id)
        self._worded(no, message, sink, request)

    def ended(self) -> None:
        """See `Serving`."""
        if self._idle is not None and not self._idle.done() and self._is_idle():
            self._idle.set_result(None)

    def _read(self, settings: Settings, message: Message, connection: Straight, body: AnyBody, sink: ClientSink) -> Call | None:
        """The call that a head asks for of which nothing is known under these settings. None: it was a browser's preflight, which is
        answered here."""
        if settings is not self._under:
            self._under, self._heads = settings, Heads(settings.hosts, settings.cors)
        last, connection.head = connection.head, None
        try:
            head, fields = self._heads.read(message, last)
        except Refusal:
            foretell(message, body)
            raise
        body.length = None if message.chunked else int(fields.get("content-length", "0"))
        body.expects = head.expects and body.length != 0 and message.version == HttpVersion11
        sink.cors = head.cors
        if head.preflight is not None:
            sink.cors = ()
            sink.answer(204, head.preflight, b"")
            return None
        where = head.route
        if where is None:
            where = head.route = route(message.path, fields, settings.providers, settings.default_provider)
        raw, id_, peer, at_ns = message.raw_headers, sink.request_id, connection.peer, self._now_ns()
        seen = message.seen if isinstance(message, Known) else None
        call = read_call(message.method, where, raw, fields, id_, peer, at_ns, self._monotonic(), head.kept, seen)
        sink.request_id = call.id
        if settings.draining or self._is_closing:
            raise Refusal(503, "draining", retry_after=1, close=True)
        if head.is_websocket:
            check_handshake(call)
        if head.count:
            connection.head = head
            if isinstance(message, Known):
                message.means(settings, call, head.cors)
        return call

    async def _bridged(self, call: Call, request: web.BaseRequest, message: Message, sink: ClientSink) -> None:
        try:
            sink.reply = await self._upgrade(call, request)
        except Refusal as no:  # counted where it was raised
            self._worded(no, message, sink, request)

    def _worded(self, no: Refusal, message: Message, sink: ClientSink, request: web.BaseRequest | None) -> None:
        if not sink.is_started and (request is None or not request.writer.output_size):  # a WebSocket that is open takes no HTTP reply
            sink.refuse(no, self._dialect_for(message), ())

    def _dialect_for(self, message: Message) -> str:
        """The dialect that the target asks for; OpenAI's where it asks for none."""
        settings = self.settings
        fields = {lower(name): said.decode("latin-1") for name, said in message.raw_headers}
        try:
            where = route(message.path, fields, settings.providers, settings.default_provider)
        except Refusal:
            return "openai"
        provider = settings.providers[where.provider].dialect
        return spoken(provider, dialect_of(provider).operation(message.method, where.path, where.query))

    def turn_away(self, connection: Connection, no: Refusal) -> None:
        """Answers what never became a request: nothing is known of it, so the shape is OpenAI's."""
        self._on_refusal(no.code, id_ := next(self._ids))
        transport = connection.transport
        if transport is None or transport.is_closing():
            return
        status, lines, body = word(no, dialect_of("openai"), id_)
        head = b"".join(b"%b: %b\r\n" % line for line in lines)
        connection.post.leave()
        transport.write(b"HTTP/1.1 %d \r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, head, len(body), body))


async def _nothing() -> None:
    """What is left of a request that is answered."""


def _is_session(call: Call, settings: Settings) -> bool:
    """Is it a WebSocket where there is one? Elsewhere the upgrade is declined in silence."""
    if call.fields.get("upgrade", "").lower() != "websocket":
        return False
    dialect = dialect_of(settings.providers[call.route.provider].dialect)
    return dialect.operation("GET", call.route.path, call.route.query).name == "realtime"
