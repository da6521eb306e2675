"""The connections of one provider: a bounded number in use, a stack of idle ones. Opens none itself."""

from __future__ import annotations

import asyncio

from proxy.forward.connection import Connection
from proxy.refusal import UpstreamFailed

WAIT_S = 1.0  # for a free place, then 503 upstream_pool_exhausted
IDLE_S = 60.0  # an unused connection is closed after this
AGE_S = 300.0  # and no connection is used again when older: DNS changes are followed


class Pool:
    """At most `size` connections in use; idle ones are taken first, the last used one before the others."""

    def __init__(self, size: int) -> None:
        self.busy: set[Connection] = set()
        self._idle: list[Connection] = []
        self._places = asyncio.Semaphore(size)
        self._size = size
        self._users = 0

    @property
    def is_empty(self) -> bool:
        return not self._idle and not self._users

    async def enter(self) -> None:
        """Takes a place, to be given up by `leave`. Raises UpstreamFailed `upstream_pool_exhausted` after a second."""
        self._users += 1
        try:
            if self._places.locked():
                async with asyncio.timeout(WAIT_S):
                    await self._places.acquire()
            else:
                await self._places.acquire()
        except BaseException as error:
            self._users -= 1
            if isinstance(error, TimeoutError):
                detail = f"all {self._size} connections are in use"
                raise UpstreamFailed("upstream_pool_exhausted", "pool", sent=False, status=503, detail=detail) from error
            raise

    def leave(self) -> None:
        self._users -= 1
        self._places.release()

    def take(self, now: float) -> Connection | None:
        """An idle connection that is fit for a request, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if now - connection.idle_since < IDLE_S and now - connection.born < AGE_S and connection.is_silent:
                return connection
            connection.abort()
        return None

    def give_back(self, connection: Connection, now: float) -> None:
        connection.idle_since = now
        self._idle.append(connection)

    def sweep(self, now: float) -> None:
        """Holds the answers under way to their deadlines and closes what has been idle too long, or was closed by the provider."""
        for connection in tuple(self.busy):
            connection.check(now)
        fit = [one for one in self._idle if now - one.idle_since < IDLE_S and now - one.born < AGE_S and not one.is_closed]
        if len(fit) < len(self._idle):
            for connection in self._idle:
                if connection not in fit:
                    connection.abort()
            self._idle = fit

    def drop_idle(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()

    def close(self) -> None:
        for connection in self.busy:
            connection.abort()
        self.drop_idle()
