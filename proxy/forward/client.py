"""The upstream client: HTTP/1.1 to providers, pooled. Follows no redirect, keeps no cookie and adds no header of its own."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable

from proxy.forward.answer import Reply, reply_on
from proxy.forward.connection import NEVER, Connection
from proxy.forward.head import framing_of
from proxy.forward.known import KnownHeads, Reaching
from proxy.forward.pool import Pool
from proxy.policy.plan import Origin, Timeouts
from proxy.ports import Address, Clock, Outgoing
from proxy.refusal import Refusal, UpstreamFailed
from proxy.trust import authorities

BUSY_TICK_S = 0.25  # how exact the deadlines of answers are
IDLE_TICK_S = 5.0

MOST_LATE = 1024  # addresses whose pools are remembered until the next tick

PoolKey = tuple[str, Origin, object, int]


class Client:
    """`ports.Upstream`. One coarse timer for all connections, running only while there are any."""

    def __init__(self, clock: Clock, reaching: Reaching | None = None) -> None:
        """`reaching`: of an answer's lines those that reach the client; of heads of one form asked once."""
        self._clock = clock
        self._heads = None if reaching is None else KnownHeads(reaching)
        self._pools: dict[PoolKey, Pool] = {}
        self._last: dict[Address, Pool] = {}  # where requests of late went
        self._timer: asyncio.TimerHandle | None = None
        self._is_ticking_fast = False

    def send(self, request: Outgoing, timeouts: Timeouts, now: float, deadline: float) -> Awaitable[Reply]:
        """See `ports.Upstream`. Never sends a request twice: each attempt has a hold and a row of its own."""
        to, body = request.to, request.body
        pool = self._last.get(to) or self._pool_of(to)
        connection = pool.take(now)
        if connection is None or not body or to.method == "HEAD":
            return self._sent(pool, connection, request, timeouts, now, deadline)
        reply = request.coming = reply_on(connection, timeouts, now, deadline)
        if not self._is_ticking_fast:
            self._arm(is_fast=True)
        request.is_sent = True
        transport: asyncio.Transport = connection.transport  # type: ignore[assignment]  # the pool gives none that has ended
        connection.post.put(transport, (b"%b\r\nContent-Length: %d\r\n\r\n" % (request.head, len(body)), body))
        waiter = reply.waiter = connection.loop.create_future()
        return waiter

    async def _sent(
        self, pool: Pool, connection: Connection | None, request: Outgoing, timeouts: Timeouts, now: float, deadline: float
    ) -> Reply:
        """The same of a request that wants a connection first, or whose body is none, or streams."""
        if connection is None:
            connection = await pool.enter() or await self._connect(pool, request.to, timeouts, deadline)
            now = self._clock.monotonic()
        if request.to.method == "HEAD":
            connection.parser.is_to_head = True
        reply = request.coming = reply_on(connection, timeouts, now, deadline)
        if not self._is_ticking_fast:
            self._arm(is_fast=True)
        try:
            await self._write(connection, reply, request)
            while not connection.parser.has_head:
                await reply.news()
            return reply
        except BaseException:
            reply.close()
            raise

    def close(self) -> None:
        """Ends every connection."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self._last.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _pool_of(self, to: Address) -> Pool:
        key = (to.pool, to.origin, to.tls, to.max_connections)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = Pool(to.max_connections)
        if len(self._last) >= MOST_LATE:
            self._last.clear()
        self._last[to] = pool
        return pool

    # --- the request of a new connection, one without a body, and an upload ---

    async def _write(self, connection: Connection, reply: Reply, request: Outgoing) -> None:
        """Body pieces out until all are sent and the provider answers: an early answer ends the upload."""
        head = request.head + framing_of(request)
        body = request.body
        if body is not None or request.upload is None:
            request.is_sent = True
            if body and connection.transport is not None:
                connection.transport.writelines((head, body))
            else:
                connection.write(head)
            return
        pump = asyncio.ensure_future(self._pump(connection, reply, request, head))
        pump.add_done_callback(lambda done: None if done.cancelled() or done.exception() is None else reply.broken(_raised(done)))
        try:
            while not connection.parser.has_head:
                await reply.news()
        finally:
            if pump.cancel():  # of the request something is left
                connection.parser.is_last = True

    async def _pump(self, connection: Connection, reply: Reply, request: Outgoing, head: bytes) -> None:
        assert request.upload is not None
        left = request.upload_length
        connection.write(head)
        reply.since = NEVER
        async for piece in request.upload():
            reply.since = self._clock.monotonic()
            if left is not None:
                left -= len(piece)
            if left is not None and left < 0:
                break
            if left == 0:
                request.is_sent = True
            if piece:
                parts = (piece,) if left is not None else (b"%x\r\n" % len(piece), piece, b"\r\n")
                connection.write(*parts)
                await connection.room()
            reply.since = NEVER
        if left:
            raise Refusal(400, "invalid_request", "the body is not as long as its Content-Length says", should_retry=False, close=True)
        request.is_sent = True
        if left is None:
            connection.write(b"0\r\n\r\n")
        reply.since = self._clock.monotonic()

    # --- a new connection ---

    async def _connect(self, pool: Pool, to: Address, timeouts: Timeouts, deadline: float) -> Connection:
        """In the place that was taken for it."""
        try:
            connection = await self._connected(pool, to, timeouts, deadline)
        except BaseException:
            pool.leave()
            raise
        pool.open.add(connection)
        return connection

    async def _connected(self, pool: Pool, to: Address, timeouts: Timeouts, deadline: float) -> Connection:
        now = self._clock.monotonic()
        tls = self._tls_of(to)
        origin = to.origin

        try:
            async with asyncio.timeout(max(0.0, min(timeouts.connect, deadline - now))):
                transport, connection = await asyncio.get_running_loop().create_connection(
                    lambda: Connection(now, pool, self._heads),
                    origin.host,
                    origin.port,
                    ssl=tls,
                    server_hostname=origin.host if tls else None,
                )
        except (OSError, UnicodeError) as error:
            raise _connect_failure(error) from error
        if tls is not None and transport.get_extra_info("ssl_object").selected_alpn_protocol() not in (None, "http/1.1"):
            connection.abort()
            raise UpstreamFailed("upstream_tls", "tls", sent=False, detail="the provider insists on another protocol than http/1.1")
        return connection

    def _tls_of(self, to: Address) -> ssl.SSLContext | None:
        if to.origin.scheme == "http":
            return None
        return to.tls if isinstance(to.tls, ssl.SSLContext) else authorities()

    # --- the timer ---

    def _arm(self, *, is_fast: bool) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._is_ticking_fast = is_fast
        self._timer = asyncio.get_running_loop().call_later(BUSY_TICK_S if is_fast else IDLE_TICK_S, self._sweep)

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        for pool in self._pools.values():
            pool.sweep(now)
        self._pools = {key: pool for key, pool in self._pools.items() if not pool.is_empty}
        self._last.clear()  # what it names may be gone
        self._timer, self._is_ticking_fast = None, False
        if self._pools:
            self._arm(is_fast=any(pool.is_busy for pool in self._pools.values()))


def _raised(done: asyncio.Future[None]) -> BaseException:
    error = done.exception()
    assert error is not None
    return error


def _connect_failure(error: OSError | UnicodeError) -> UpstreamFailed:
    """Renames what `create_connection` raises; nothing of the request has been sent. `detail` is our own wording or the system's."""
    if isinstance(error, TimeoutError):
        return UpstreamFailed("upstream_connect_timeout", "connect", sent=False, status=504, detail="no connection in time")
    if isinstance(error, (socket.gaierror, UnicodeError)) and not isinstance(error, ssl.SSLError):
        return UpstreamFailed("upstream_dns", "dns", sent=False, detail="the provider's host name does not resolve")
    if isinstance(error, ssl.SSLError):
        return UpstreamFailed("upstream_tls", "tls", sent=False, detail=error.reason or "TLS failed")
    return UpstreamFailed("upstream_connect", "connect", sent=False, detail=error.strerror or type(error).__name__)
