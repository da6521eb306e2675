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
from typing import cast

from aiohttp import HttpVersion10, HttpVersion11, web

from proxy.dialect import dialect_of, spoken
from proxy.exchange import Call, value
from proxy.listen.body import ClientBody
from proxy.listen.connection import CLOSED, Connection, Deadlines, wrong_version
from proxy.listen.errors import word
from proxy.listen.headers import check_handshake, check_head, fields_of, ids, read_call
from proxy.listen.reply import cors_headers, preflight_headers
from proxy.listen.sink import ClientSink
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
    """What the edge needs of the policy; read anew for every request, so that a reload holds from the next one on."""

    providers: Mapping[str, Provider]
    default_provider: str
    hosts: tuple[str, ...] | None = None  # None: any
    cors: tuple[str, ...] = ()  # origins whose pages may call
    draining: bool = False


class _Server(web.Server):
    """aiohttp's low-level server with our protocol. No more than `most` connections at once (faults.md P8)."""

    def __init__(self, edge: Edge, deadlines: Deadlines, most: int) -> None:
        super().__init__(edge.serve)
        self._edge, self._deadlines, self._most = edge, deadlines, most

    def __call__(self) -> Connection:
        turned_away = _TurnedAway if len(self._connections) >= self._most else Connection
        return turned_away(self, self._loop, self._deadlines, self._edge.turn_away)


class _TurnedAway(Connection):
    """A connection too many: told so, then closed."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._reject(Refusal(503, "overloaded", "this process has all the connections it can hold", retry_after=1, close=True))


class Edge:
    """One listening socket. `run` answers a call through its sink; `upgrade` bridges a WebSocket on a realtime path.

    `on_refusal` is told code and id of every refusal that never was a call. `most` bounds the connections; None: 0.8 of RLIMIT_NOFILE / 2.
    """

    def __init__(
        self,
        run: Run,
        upgrade: Upgrade,
        settings: Callable[[], Settings],
        clock: Clock,
        *,
        on_refusal: Callable[[str, str], None] = lambda code, request_id: None,
        deadlines: Deadlines = _DEADLINES,
        most: int | None = None,
    ) -> None:
        self._run, self._upgrade, self._settings, self._clock, self._on_refusal = run, upgrade, settings, clock, on_refusal
        self._deadlines = deadlines
        self._most = most if most is not None else _most_connections()
        self._ids = ids(secrets.token_hex(8))
        self._server: _Server | None = None
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
        self._server = _Server(self, self._deadlines, self._most)
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
        if self._calls:
            _, left = await asyncio.wait({sink.task for sink in self._calls}, timeout=grace_s)
            for task in left:
                task.cancel()
            if left:
                await asyncio.wait(left, timeout=_CANCELLED_WITHIN_S)
        for connection in self._connections():
            connection.force_close()

    def _connections(self) -> list[Connection]:
        return cast("list[Connection]", self._server.connections) if self._server else []

    # one request

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """aiohttp's handler. It raises nothing but CancelledError: what aiohttp catches, it logs with the request's secrets in it."""
        connection = cast(Connection, request.protocol)
        if connection.transport is None:
            return CLOSED
        sink, body = self._open(request, connection)
        connection.serving = sink
        self._calls.add(sink)
        try:
            return await self._answer(request, body, sink)
        except ClientGone:
            return CLOSED
        except Refusal as no:
            return self._refused(no, request, sink)
        except Exception as error:  # a defect: the reply says so, the log says where, neither says what the client sent
            log.error("internal error: %s at %s", type(error).__name__, _place_of(error))
            return self._refused(Refusal(500, "internal", should_retry=False, close=True), request, sink)
        finally:
            self._calls.discard(sink)
            connection.serving = None
            if not sink.is_ended and sink.is_started:
                sink.abort(b"")

    def _open(self, request: web.BaseRequest, connection: Connection) -> tuple[ClientSink, ClientBody]:
        speaks_11 = request.version == HttpVersion11
        length = None if "Transfer-Encoding" in request.headers else int(request.headers.get("Content-Length", "0"))
        expects = speaks_11 and length != 0 and "Expect" in request.headers
        body = ClientBody(connection, request.content, length, expects, self._deadlines)
        task = cast("asyncio.Task[object]", asyncio.current_task())
        may_keep = request.keep_alive and not self._is_closing
        is_head = request.method == "HEAD"
        sink = ClientSink(connection, task, body, is_head=is_head, speaks_11=speaks_11, may_keep=may_keep, request_id=next(self._ids))
        return sink, body

    async def _answer(self, request: web.BaseRequest, body: ClientBody, sink: ClientSink) -> web.StreamResponse:
        settings = self._settings()
        if request.version not in (HttpVersion10, HttpVersion11):
            raise wrong_version()
        raw = request.raw_headers
        fields = fields_of(raw)
        if "transfer-encoding" in fields and request.version == HttpVersion10:
            raise Refusal(400, "invalid_request", "HTTP/1.0 knows no Transfer-Encoding", should_retry=False, close=True)
        check_head(request.method, fields, settings.hosts)
        if settings.cors:
            sink.cors = cors_headers(fields, settings.cors)
            if (preflight := preflight_headers(request.method, fields, settings.cors)) is not None:
                sink.cors = ()
                sink.answer(204, preflight, b"")
                return sink.reply
        where = route(request.raw_path, fields, settings.providers, settings.default_provider)
        call = read_call(
            request.method,
            where,
            raw,
            fields,
            uid=sink.request_id,
            peer=_peer_of(request),
            at_ns=self._clock.now_ns(),
            began=self._clock.monotonic(),
        )
        sink.request_id = call.id
        if settings.draining or self._is_closing:
            raise Refusal(503, "draining", retry_after=1, close=True)
        if fields.get("upgrade", "").lower() == "websocket":
            check_handshake(call)
            if _is_realtime(call, settings):
                try:
                    return await self._upgrade(call, request)
                except Refusal as no:  # counted where it was raised
                    return self._worded(no, request, sink)
        await self._run(call, body, sink)
        return sink.reply

    def _refused(self, no: Refusal, request: web.BaseRequest, sink: ClientSink) -> web.StreamResponse:
        self._on_refusal(no.code, sink.request_id)
        return self._worded(no, request, sink)

    def _worded(self, no: Refusal, request: web.BaseRequest, sink: ClientSink) -> web.StreamResponse:
        if not sink.is_started and not request.writer.output_size:  # a WebSocket that is open takes no HTTP reply
            sink.refuse(no, self._dialect_for(request), ())
        return sink.reply

    def _dialect_for(self, request: web.BaseRequest) -> str:
        """The dialect that the target asks for; OpenAI's where it asks for none."""
        settings = self._settings()
        fields = {name.lower(): value for name, value in request.headers.items()}
        try:
            where = route(request.raw_path, fields, settings.providers, settings.default_provider)
        except Refusal:
            return "openai"
        provider = settings.providers[where.provider].dialect
        return spoken(provider, dialect_of(provider).operation(request.method, where.path, where.query))

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


def _peer_of(request: web.BaseRequest) -> str:
    peer = request.protocol.peername
    if not isinstance(peer, tuple):
        return "unix"
    return str(peer[0]).removeprefix("::ffff:").partition("%")[0]


def _is_realtime(call: Call, settings: Settings) -> bool:
    dialect = dialect_of(settings.providers[call.route.provider].dialect)
    return dialect.operation("GET", call.route.path, call.route.query).name == "realtime"


def _place_of(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return f"{os.path.basename(frame.tb_frame.f_code.co_filename)}:{frame.tb_lineno}" if frame else "?"
