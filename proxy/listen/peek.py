"""A body whose beginning was looked at: it streams on from its first byte. Holds only what was looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Protocol

from proxy.ports import Body


class Looker(Protocol):
    """Sees every piece once, before it goes on; what it raises ends the body."""

    is_decided: bool

    def saw(self, piece: bytes) -> None: ...


class Peeked:
    """`ports.Body` around another one."""

    __slots__ = ("_body", "_looker", "_next", "_pieces", "_source", "passed")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._looker: Looker | None = None
        self._pieces: list[bytes] = []
        self._source: AsyncIterator[bytes] | None = None
        self._next: asyncio.Future[bytes] | None = None
        self.passed = 0  # bytes that streamed on

    @property
    def length(self) -> int | None:
        return self._body.length

    async def head(self, looker: Looker, limit: int, most: int, wait_s: float | None) -> bool:
        """Shows `looker` the first bytes until it is decided, `most` bytes or `wait_s` seconds (None: as long as it takes).

        True: it is decided, or the body is over. `looker` sees the rest too, as it passes; `limit` bounds the whole. Raises what the body
        and the looker raise.
        """
        source = self._source = self._body.stream(limit)
        self._looker = looker
        loop = asyncio.get_running_loop()
        until = None if wait_s is None else loop.time() + wait_s
        held = 0
        while not looker.is_decided:
            if held >= most:
                return False
            self._next = self._next or asyncio.ensure_future(_first(source))
            await asyncio.wait({self._next}, timeout=None if until is None else max(0.0, until - loop.time()))
            if not self._next.done():
                return False
            pending, self._next = self._next, None
            try:
                piece = pending.result()
            except StopAsyncIteration:
                return True
            self._pieces.append(piece)
            held += len(piece)
            looker.saw(piece)
        return True

    def read(self, limit: int) -> Coroutine[object, object, bytes]:
        """See `ports.Body`. A body that nobody looked at is read as it is."""
        return self._body.read(limit) if self._source is None else self._rest(limit)

    async def _rest(self, limit: int) -> bytes:
        return b"".join([piece async for piece in self.stream(limit)])

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        """From its first byte. Where a head was looked at, its limit holds."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            self.passed += len(piece)
            yield piece
        if self._next is not None:
            pending, self._next = self._next, None
            try:
                yield self._seen(await pending)
            except StopAsyncIteration:
                return
        async for piece in self._source or self._body.stream(limit):
            yield self._seen(piece)

    def _seen(self, piece: bytes) -> bytes:
        if self._looker is not None:
            self._looker.saw(piece)
        self.passed += len(piece)
        return piece

    def count(self) -> int:
        """Bytes that streamed on, so far."""
        return self.passed

    def close(self) -> None:
        """The call is over: a read still under way ends."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


async def _first(source: AsyncIterator[bytes]) -> bytes:
    return await anext(source)
