"""The connections of one provider: a bounded number in use, a stack of idle ones. Opens none itself."""

from __future__ import annotations

import asyncio
from collections import deque

from proxy.forward.connection import Connection
from proxy.refusal import UpstreamFailed

WAIT_S = 1.0  # for a free place, then 503 upstream_pool_exhausted
IDLE_S = 60.0  # an unused connection is closed after this
AGE_S = 300.0  # and no connection is used again when older: DNS changes are followed


class Pool:
    """At most `size` connections in use; idle ones are taken first, the last used one before the others."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.open: set[Connection] = set()  # all that are in use, or may be
        self._idle: list[Connection] = []
        self._now = 0.0  # as of the last request or sweep: exact enough to tell how long a connection has been idle
        self.places = size  # free ones: take one, or wait in `enter`; `leave` gives it up
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def is_empty(self) -> bool:
        return not self._idle and self.places == self.size

    async def enter(self) -> None:
        """Waits for a place where none is free. Raises UpstreamFailed `upstream_pool_exhausted` after a second."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            async with asyncio.timeout(WAIT_S):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():  # given a place, and called off before it knew
                self.leave()
            if isinstance(error, TimeoutError):
                detail = f"all {self.size} connections are in use"
                raise UpstreamFailed("upstream_pool_exhausted", "pool", sent=False, status=503, detail=detail) from error
            raise

    def leave(self) -> None:
        """The place goes to whoever has waited longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.places += 1

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

    def ended(self, connection: Connection, is_reusable: bool) -> None:
        """An answer is over, and with it the use of a place."""
        if is_reusable:
            connection.idle_since = self._now
            self._idle.append(connection)
        else:
            self.open.discard(connection)
        if self._waiting:
            self.leave()
        else:
            self.places += 1

    def sweep(self, now: float) -> None:
        """Holds the answers under way to their deadlines and closes what has been idle too long, or was closed by the provider."""
        self._now = now
        for connection in tuple(self.open):
            connection.check(now)
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
        self.open.discard(connection)
        connection.abort()
