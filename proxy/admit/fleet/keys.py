"""The keys of a fleet: each sidecar keeps all of them itself, tells Redis what it learns and asks what is new. Decides no call.

A Redis that forgot is told again by everybody: nothing comes back to life, as a revocation that one of them knows is told, too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from proxy.admit.fleet.ops import Down, Link, Script
from proxy.admit.keyring import Kept, dumped, joined, loaded
from proxy.admit.keys import Keys
from proxy.admit.records import encode

EVERY_S = 1.0  # between two looks: a key is valid, or dead, everywhere within twice that
MOST = 200  # keys of one call


class KeyBook:
    """The keys in Redis. Every method raises Down."""

    def __init__(self, link: Link, script: Script, space: str, dice: Callable[[int], bytes]) -> None:
        """`dice` gives random bytes: a Redis that has no keys is marked by some, so that one that forgot them is known."""
        self._link, self._script, self._space, self._dice = link, script, space, dice
        self._born, self._version, self._seen = b"", 0, 0

    async def tell(self, kept: Sequence[Kept]) -> None:
        for at in range(0, len(kept), MOST):
            await self._call(kept[at : at + MOST], since=2**53)

    async def news(self) -> tuple[bool, list[Kept]]:
        """Did Redis forget what it had? And what is newer than what was asked before."""
        found: list[Kept] = []
        while True:
            born, version, seen, told = await self._call((), since=self._seen)
            is_forgotten = version < self._version or (bool(self._born) and born != self._born)
            self._born, self._version = born, version
            if is_forgotten:
                self._seen = 0
                return True, found
            found += [_kept(*it) for it in told]
            self._seen = seen
            if len(told) < MOST:
                return False, found

    async def _call(self, kept: Sequence[Kept], since: int) -> tuple[bytes, int, int, list[list[bytes]]]:
        request = {"instance": "keys", "nonce": self._dice(8).hex(), "keys": [_told(it) for it in kept], "since": since, "most": MOST}
        born, version, seen, told = await self._link.call(self._script, [f"sluice:{{{self._space}}}:meta"], [encode(request)])
        return born, version, seen, told


class SharedKeys:
    """Keeps the keys of one sidecar and those of its fleet the same."""

    def __init__(self, keys: Keys, book: KeyBook) -> None:
        self._keys, self._book = keys, book
        self._untold: list[Kept] = []
        self._is_new = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        keys.on_news = self._has_news

    def start(self) -> None:
        self._untold = self._keys.all()  # what it learnt while it was away from the others
        self._task = asyncio.get_running_loop().create_task(self._run(), name="shared keys")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        with suppress(Down):
            await self._tell()

    def _has_news(self, news: Sequence[Kept]) -> None:
        self._untold += news
        self._is_new.set()

    async def _run(self) -> None:
        while True:
            with suppress(Down):
                await self.meet()
            with suppress(TimeoutError):
                async with asyncio.timeout(EVERY_S):
                    await self._is_new.wait()
            self._is_new.clear()

    async def meet(self) -> None:
        """Tells and asks, once. Raises Down; what was not told is told the next time."""
        await self._tell()
        is_forgotten, news = await self._book.news()
        await self._keys.learn(news)
        if is_forgotten:
            self._untold = self._keys.all()
            await self._tell()

    async def _tell(self) -> None:
        untold, self._untold = self._untold, []
        try:
            await self._book.tell(untold)
        except BaseException:
            self._untold = untold + self._untold
            raise


def _told(kept: Kept) -> list[str]:
    record = replace(kept, record=replace(kept.record, expires_ns=None, is_revoked=False), rotated_ns=None, revoked_ns=None)
    ends = (kept.record.expires_ns, kept.rotated_ns, kept.revoked_ns)
    return [kept.record.digest.hex(), dumped(record).decode(), *("" if it is None else f"{it:019d}" for it in ends)]


def _kept(digest: bytes, record: bytes, *ends: bytes) -> Kept:
    kept = loaded(bytes.fromhex(digest.decode()), record)
    expires_ns, rotated_ns, revoked_ns = (int(it) if it else None for it in ends)
    after = replace(kept, record=replace(kept.record, expires_ns=expires_ns, is_revoked=revoked_ns is not None))
    return joined(kept, replace(after, rotated_ns=rotated_ns, revoked_ns=revoked_ns))
