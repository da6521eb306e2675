"""One connection to one node, on which commands follow each other without waiting for replies. Never sends a command twice."""

from __future__ import annotations

import asyncio
import math
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any

from redis import exceptions as theirs
from redis.asyncio.connection import Connection

from proxy.admit.fleet.ops import Down

MOST_WAITING = 4096  # commands without a reply; more than that is refused
Open = Callable[[], Awaitable[Connection]]

KINDS: dict[type[Exception], str] = {
    theirs.BusyLoadingError: "loading",
    theirs.AuthenticationError: "noperm",
    theirs.AuthorizationError: "noperm",
    theirs.TimeoutError: "timeout",
    theirs.ConnectionError: "refused",
    theirs.OutOfMemoryError: "oom",
    theirs.ReadOnlyError: "readonly",
    theirs.NoPermissionError: "noperm",
    theirs.MasterDownError: "masterdown",
    theirs.ClusterDownError: "clusterdown",
    theirs.TryAgainError: "tryagain",
    OSError: "refused",
}
WORDS = {
    "BUSY": "busy",
    "OOM": "oom",
    "READONLY": "readonly",
    "MISCONF": "readonly",
    "NOREPLICAS": "readonly",
    "WRONGTYPE": "wrongtype",
    "NOPERM": "noperm",
    "LOADING": "loading",
}
CODE = re.compile(r"(?:^|-|: )([A-Z]{3,12}) ")  # Redis 6.2 puts the code of what failed in a script inside its sentence
FORBIDDEN = ("ACL failure in script", "The user executing the script can't")  # and no code at all for what a script may not do


def down(error: Exception) -> Down:
    """A failure of the library or of the server, in our words. What the server said is cut and cleaned: it goes to the log."""
    said = "".join(char if char.isprintable() else "?" for char in str(error))[:200]
    if any(phrase in said for phrase in FORBIDDEN):
        return Down("noperm", said)
    for kind, word in KINDS.items():
        if isinstance(error, kind):
            return Down(word, said)
    codes = (WORDS[code] for code in CODE.findall(said) if code in WORDS)
    return Down(next(codes, "error"), said)


class Wire:
    """Connects when it is first needed, and again after a failure. `open` gives a connected connection.

    A reply that is late ends the connection: what ran of the commands on it is then unknown, and each of them raises Down.
    """

    def __init__(self, open: Open, timeout_s: float) -> None:
        self._open, self._timeout_s = open, timeout_s
        self._connection: Connection | None = None
        self._life: asyncio.Task[None] | None = None  # of the connection: opens it, reads it, ends it
        self._ready: asyncio.Future[Connection] | None = None
        self._waiting: deque[tuple[float, asyncio.Future[Any]]] = deque()  # oldest first: replies come in this order
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def is_idle(self) -> bool:
        return not self._waiting

    async def ask(self, packed: Sequence[bytes], until: float, *, after_asking: bool = False) -> Any:
        """The reply to one command, or its error as the library's exception. `until`: of the loop's clock. `after_asking`: the bytes
        hold an ASKING before it. Raises Down where no reply came: whether the command ran is unknown."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            connection = await self._connected(until)
        if len(self._waiting) >= MOST_WAITING:
            raise Down("busy", "too many commands without a reply")
        loop = asyncio.get_running_loop()
        if after_asking:
            (unheard := loop.create_future()).cancel()
            self._waiting.append((until, unheard))
        reply: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((until, reply))
        if self._timer is None:
            self._timer = loop.call_at(until, self._late)
        try:
            await connection.send_packed_command(packed, check_health=False)
        except (theirs.RedisError, OSError) as error:
            self.drop(down(error))
        return await reply

    async def _connected(self, until: float) -> Connection:
        if self._is_closed:
            raise Down("refused", "closed")
        if self._connection is not None:
            self.drop(Down("refused", "the connection was lost"))
        ready = self._ready
        if ready is None:
            loop = asyncio.get_running_loop()
            ready = self._ready = loop.create_future()
            ready.add_done_callback(lambda it: it.cancelled() or it.exception())  # its waiters may all have left
            self._life = loop.create_task(self._live(ready), name="shared state")
        try:
            async with asyncio.timeout_at(until):
                connection = await asyncio.shield(ready)
        except TimeoutError:
            raise Down("timeout", "no connection in time") from None
        if connection is not self._connection or not connection.is_connected:
            raise Down("refused", "the connection was lost again")
        return connection

    async def _live(self, ready: asyncio.Future[Connection]) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = await self._open()
        except (theirs.RedisError, OSError) as error:  # a TimeoutError is an OSError
            self._end(ready, Down("timeout", "no connection in time") if isinstance(error, TimeoutError) else down(error))
            return
        why = Down("refused", "the server sent what nobody asked for")
        try:
            if self._ready is ready:
                self._connection = connection
                ready.set_result(connection)
                await self._read(connection)
        except (theirs.RedisError, OSError) as error:
            why = down(error)
        finally:
            self._end(ready, why)
            with suppress(theirs.RedisError, OSError):
                await connection.disconnect(nowait=True)

    async def _read(self, connection: Connection) -> None:
        """Until the connection is over, or says something unasked."""
        waiting = self._waiting
        while True:
            reply: Any
            try:
                reply = await connection.read_response(timeout=math.inf)
            except theirs.ResponseError as error:
                reply = error
            if not waiting:
                return
            _answer(waiting.popleft()[1], reply)

    def _late(self) -> None:
        self._timer = None
        if not self._waiting:
            return
        loop, until = asyncio.get_running_loop(), self._waiting[0][0]
        if until <= loop.time():
            self.drop(Down("timeout", "no reply in time"))
        else:
            self._timer = loop.call_at(until, self._late)

    def drop(self, why: Down) -> None:
        """The connection is over, and with it everything that waits for a reply on it; the next command finds its way anew."""
        life, ready = self._life, self._ready
        if life is not None and ready is not None:
            life.cancel()  # it disconnects on its way out
            self._end(ready, why)

    def _end(self, ready: asyncio.Future[Connection], why: Down) -> None:
        """Of one connection: nothing happens if it is over already."""
        if self._ready is not ready:
            return
        self._connection = self._life = self._ready = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        over, self._waiting = self._waiting, deque()
        _answer(ready, why)
        for _, waiter in over:
            _answer(waiter, Down(why.kind, str(why)))

    async def close(self) -> None:
        self._is_closed, life = True, self._life
        self.drop(Down("refused", "closed"))
        if life is not None:
            await asyncio.gather(life, return_exceptions=True)


def _answer(waiter: asyncio.Future[Any], reply: Any) -> None:
    if waiter.done():
        return
    if isinstance(reply, Exception):
        waiter.set_exception(reply)
    else:
        waiter.set_result(reply)
