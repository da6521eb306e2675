"""The server edge: listens, reads the head of each request into a Call, hands it to the pipeline. Decides nothing of money or callers."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import secrets
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import cast

from aiohttp import HttpVersion11, web

from proxy.dialect import dialect_of, spoken
from proxy.exchange import Call, value
from proxy.listen.again import Known, Message
from proxy.listen.body import AnyBody, ClientBody, Whole, foretell
from proxy.listen.connection import CLOSED, Connection, Deadlines
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
        self._most = most if most is not None else _most_connections()
        self._ids = ids(secrets.token_hex(8))
        self._under: Settings | None = None  # those of `_heads`
        self._heads = Heads(None, ())
        self._idle: asyncio.Future[None] | None = None  # somebody waits for the last call to end
        self._server: Server | None = None
        self._listener: asyncio.Server | None = None
        self._path: str | None = None
        self._is_closing = False
        self._calls: set[ClientSink] = set()

    @property
    def active(self) -> int:
        """Calls under way."""
        return len(self._calls)

    @property
    def port(self) -> int:
        """Of the bound TCP socket; 0 on a unix socket."""
        sockets = self._listener.sockets if self._listener else ()
        return next((int(one.getsockname()[1]) for one in sockets if one.family != socket.AF_UNIX), 0)

    # life

    async def start(self, listen: str) -> None:
        """Listens on "HOST:PORT" or "unix:/path". Raises OSError where that is taken or forbidden, ValueError where it is neither."""
        loop = asyncio.get_running_loop()
        self._server = Server(self.serve, self.turn_away, self._deadlines, self._most)
        where = read_listen(listen)
        if isinstance(where, str):
            _remove_stale(where)
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
        if self._path is not None and os.path.exists(self._path):
            os.unlink(self._path)
            self._path = None
        for sink in self._calls:
            sink.stop_keeping()

    async def close(self, grace_s: float) -> None:
        """Waits up to `grace_s` seconds for the calls under way, cancels those that are left, and ends every connection."""
        self.stop_accepting()
        if not await self._is_idle_within(grace_s):
            for sink in tuple(self._calls):
                if sink.task is not None:
                    sink.task.cancel()
            await self._is_idle_within(_CANCELLED_WITHIN_S)
        for connection in self._connections():
            connection.force_close()

    async def _is_idle_within(self, wait_s: float) -> bool:
        if self._calls:
            self._idle = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._idle}, timeout=wait_s)
        return not self._calls

    def _connections(self) -> list[Connection]:
        return cast("list[Connection]", self._server.connections) if self._server else []

    # one request

    async def serve(self, connection: Straight, message: Message, content: Content, request: web.BaseRequest | None) -> web.StreamResponse:
        """Answers one request. `request` stands in where it may become a WebSocket. Raises nothing but CancelledError."""
        transport = connection.transport
        if transport is None:
            return CLOSED
        body = content if isinstance(content, Whole) else ClientBody(connection, content)
        run, now_ns, monotonic = self._run, self._now_ns, self._monotonic  # read, then called, is half as dear
        uid, call = next(self._ids), None
        if type(message) is Known and message.under is self.settings:
            id_, body.length = message.id or uid, message.length
            sink = sink_of(connection, transport, body, message.is_head, True, True, id_, message.cors)
            call = Call(
                uid, id_, id_ is not uid, message.method, message.route, message.raw_headers, message.fields, connection.peer,
                now_ns(), monotonic(), message.kept, message.seen,
            )  # fmt: skip
        else:
            speaks_11 = message.version == HttpVersion11
            keeps = speaks_11 and not (message.should_close or self._is_closing)
            sink = sink_of(connection, transport, body, message.method == "HEAD", speaks_11, keeps, uid, ())
        connection.serving = sink
        self._calls.add(sink)
        try:
            if call is None:
                call = self._read(self.settings, message, connection, body, sink)
                if call is None:
                    return sink.reply
                if request is not None and _is_session(call, self.settings):
                    return await self._bridged(call, request, message, sink)
            await run(call, body, sink)
            return sink.reply
        except Exception as error:
            return self._failed(error, message, sink, request)
        finally:
            connection.serving = None
            self._calls.discard(sink)
            if self._idle is not None and not self._calls and not self._idle.done():
                self._idle.set_result(None)
            if not sink.is_ended and sink.is_started:
                sink.abort(b"")

    def _failed(self, error: Exception, message: Message, sink: ClientSink, request: web.BaseRequest | None) -> web.StreamResponse:
        """The request never was a call, or the client has left."""
        if isinstance(error, ClientGone):
            return CLOSED
        if isinstance(error, Refusal):
            no = error
        else:  # a defect: the reply says so, the log says where, neither says what the client sent
            log.error("internal error: %s at %s", type(error).__name__, place_of(error))
            no = Refusal(500, "internal", should_retry=False, close=True)
        self._on_refusal(no.code, sink.request_id)
        return self._worded(no, message, sink, request)

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
        call = read_call(message.method, where, raw, fields, id_, peer, at_ns, self._monotonic(), head.kept)
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

    async def _bridged(self, call: Call, request: web.BaseRequest, message: Message, sink: ClientSink) -> web.StreamResponse:
        try:
            return await self._upgrade(call, request)
        except Refusal as no:  # counted where it was raised
            return self._worded(no, message, sink, request)

    def _worded(self, no: Refusal, message: Message, sink: ClientSink, request: web.BaseRequest | None) -> web.StreamResponse:
        if not sink.is_started and (request is None or not request.writer.output_size):  # a WebSocket that is open takes no HTTP reply
            sink.refuse(no, self._dialect_for(message), ())
        return sink.reply

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
        transport.write(b"HTTP/1.1 %d \r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (status, head, len(body), body))


def read_listen(listen: str) -> tuple[str, int] | str:
    """("host", port), or the path of a unix socket. Raises ValueError that says what is wanted."""
    if listen.startswith("unix:") and len(listen) > len("unix:"):
        return listen[len("unix:") :]
    host, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"{listen!r} is no address to listen on: write HOST:PORT or unix:/path")
    return host.removeprefix("[").removesuffix("]") or "0.0.0.0", int(port)  # ":8080" means every interface


def _remove_stale(path: str) -> None:
    """The socket file of a process that is gone. Raises OSError (EADDRINUSE) where one still answers, or the path is no socket."""
    try:
        is_socket = stat.S_ISSOCK(os.stat(path).st_mode)
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        if not is_socket or probe.connect_ex(path) != errno.ECONNREFUSED:
            raise OSError(errno.EADDRINUSE, "already in use", path)
    os.unlink(path)


def _most_connections() -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 100_000 if soft == resource.RLIM_INFINITY else int(0.8 * soft / 2)  # two sockets a stream


def _is_session(call: Call, settings: Settings) -> bool:
    """Is it a WebSocket where there is one? Elsewhere the upgrade is declined in silence."""
    if call.fields.get("upgrade", "").lower() != "websocket":
        return False
    dialect = dialect_of(settings.providers[call.route.provider].dialect)
    return dialect.operation("GET", call.route.path, call.route.query).name == "realtime"
