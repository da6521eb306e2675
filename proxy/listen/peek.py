"""A body whose beginning was looked at: it streams on from its first byte. Holds only what was looked at."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from proxy.ports import Body


class Peeked:
    """`ports.Body` around another one."""

    __slots__ = ("_body", "_next", "_pieces", "_source")

    def __init__(self, body: Body) -> None:
        self._body = body
        self._pieces: list[bytes] = []
        self._source: AsyncIterator[bytes] | None = None
        self._next: asyncio.Future[bytes] | None = None

    @property
    def length(self) -> int | None:
        return self._body.length

    async def head(self, is_decided: Callable[[bytes], bool], limit: int, most: int, wait_s: float) -> bytes:
        """The first bytes, until `is_decided`, `most` bytes or `wait_s` seconds; `limit` bounds the whole. Raises what the body raises."""
        source = self._source = self._body.stream(limit)
        until = asyncio.get_running_loop().time() + wait_s
        held = b""
        while not is_decided(held) and len(held) < most:
            self._next = self._next or asyncio.ensure_future(_first(source))
            left = until - asyncio.get_running_loop().time()
            await asyncio.wait({self._next}, timeout=max(0.0, left))
            if not self._next.done():
                break
            pending, self._next = self._next, None
            try:
                self._pieces.append(pending.result())
            except StopAsyncIteration:
                break
            held = b"".join(self._pieces)
        return held

    async def read(self, limit: int) -> bytes:
        """See `ports.Body`."""
        if self._source is None:
            return await self._body.read(limit)
        return b"".join([piece async for piece in self.stream(limit)])

    async def stream(self, limit: int) -> AsyncIterator[bytes]:
        """From its first byte. Where a head was looked at, its limit holds."""
        pieces, self._pieces = self._pieces, []
        for piece in pieces:
            yield piece
        if self._next is not None:
            pending, self._next = self._next, None
            try:
                yield await pending
            except StopAsyncIteration:
                return
        async for piece in self._source or self._body.stream(limit):
            yield piece

    def close(self) -> None:
        """The call is over: a read still under way ends."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


async def _first(source: AsyncIterator[bytes]) -> bytes:
    return await anext(source)
