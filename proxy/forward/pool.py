"""The connections of one provider: a bounded number, of them a stack of idle ones. Opens none itself."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.forward.connection import Connection
from proxy.forward.late import check
from proxy.refusal import UpstreamFailed

WAIT_S = 1.0  # for a free place, then 503 upstream_pool_exhausted
IDLE_S = 60.0  # an unused connection is closed after this
AGE_S = 300.0  # and no connection is used again when older: DNS changes are followed


class Pool:
    """At most `size` connections, in use or not; idle ones are taken first, the last used one before the others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open: set[Connection] = set()  # all that are in use, or may be
        self._idle: list[Connection] = []
        self._now = 0.0  # as of the last request or sweep: exact enough to tell how long a connection has been idle
        self.places = size  # for more of them: `enter` takes one, `leave` gives it up
        self._waiting: deque[asyncio.Future[Connection | None]] = deque()

    @property
    def is_empty(self) -> bool:
        return self.places == self.size

    @property
    def is_busy(self) -> bool:
        return len(self.open) > len(self._idle)

    async def enter(self) -> Connection | None:
        """Where none is idle: a place for a new one (None), else the next that is free. Raises UpstreamFailed `upstream_pool_exhausted`
        after a second.
        """
        if self.places:
            self.places -= 1
            return None
        try:
            async with asyncio.timeout(WAIT_S):
                return await self._next()
        except TimeoutError as error:
            detail = f"all {self.size} connections are in use"
            raise UpstreamFailed("upstream_pool_exhausted", "pool", sent=False, status=503, detail=detail) from error

    async def _next(self) -> Connection | None:
        while not self.places:
            waiter: asyncio.Future[Connection | None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            try:
                connection = await waiter
            except BaseException:
                if waiter.done() and not waiter.cancelled():  # given something, and called off before it knew
                    self.leave(waiter.result())
                raise
            if connection is None:
                return None
            self._idle.append(connection)
            if (fit := self.take(self._now)) is not None:
                return fit
        self.places -= 1
        return None

    def leave(self, connection: Connection | None = None) -> None:
        """What is free, a connection or a place for one, goes to whoever has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return
        if connection is None:
            self.places += 1
        else:
            self._idle.append(connection)

    def take(self, now: float) -> Connection | None:
        """An idle connection that is fit for a request, if there is one."""
        self._now = now
        idle = self._idle
        while idle:
            connection = idle.pop()
            transport = connection.transport
            if (
                transport is not None and not transport.is_closing() and now - connection.idle_since < IDLE_S
                and now - connection.born < AGE_S and not connection.poll.poll(0)  # nor holds it bytes that nobody asked for
            ):  # fmt: skip
                return connection
            self.drop(connection)
        return None

    def ended(self, connection: Connection) -> None:
        """Who read an answer lets go. Its connection may serve another where nothing of this one is left."""
        parser, transport = connection.parser, connection.transport
        parser.told = None
        if parser.slices:
            parser.slices.clear()
        if parser.is_over and not parser.is_last and transport is not None and not transport.get_write_buffer_size():
            if connection.is_paused:
                connection.resume()
            connection.idle_since = self._now
            if self._waiting:
                self.leave(connection)
            else:
                self._idle.append(connection)
        else:
            self.drop(connection)

    def sweep(self, now: float) -> None:
        """Holds the answers under way to their deadlines and closes what has been idle too long, or was closed by the provider."""
        self._now = now
        for connection in tuple(self.open):
            check(connection, now)
        fit = [one for one in self._idle if now - one.idle_since < IDLE_S and now - one.born < AGE_S and not one.is_closed]
        if len(fit) < len(self._idle):
            for connection in self._idle:
                if connection not in fit:
                    self.drop(connection)
            self._idle = fit

    def drop_idle(self) -> None:
        for connection in self._idle:
            self.drop(connection)
        self._idle.clear()

    def close(self) -> None:
        for connection in self.open:
            connection.abort()
        self._idle.clear()

    def drop(self, connection: Connection) -> None:
        """Its place is free."""
        connection.abort()
        if connection in self.open:
            self.open.remove(connection)
            self.leave()
