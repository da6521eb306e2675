"""The keys of a fleet: each sidecar keeps all of them itself, tells Redis what it learns and asks what is new. Decides no call.

A Redis that forgot is told again by everybody: nothing comes back to life, as a revocation that one of them knows is told, too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace

from proxy.admit.fleet.errand import Errand
from proxy.admit.fleet.ops import Down, Link, Script
from proxy.admit.keyring import Kept, dumped, joined, loaded
from proxy.admit.keys import Keys
from proxy.admit.records import encode

log = logging.getLogger("sluice.keys")

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
        seen = self._seen
        while True:
            born, version, seen, told = await self._call((), since=seen)
            is_forgotten = version < self._version or (bool(self._born) and born != self._born)
            self._born, self._version = born, version
            if is_forgotten:
                self._seen = 0
                return True, found
            found += [kept for it in told if (kept := _kept(*it)) is not None]
            if len(told) < MOST:
                self._seen = seen  # not before all of it is here
                return False, found

    async def _call(self, kept: Sequence[Kept], since: int) -> tuple[bytes, int, int, list[list[bytes]]]:
        request = {"instance": "keys", "nonce": self._dice(8).hex(), "keys": [_told(it) for it in kept], "since": since, "most": MOST}
        born, version, seen, told = await self._link.call(self._script, [f"sluice:{{{self._space}}}:meta"], [encode(request)])
        return born, version, seen, told


class SharedKeys:
    """Keeps the keys of one sidecar and those of its fleet the same."""

    def __init__(self, keys: Keys, book: KeyBook) -> None:
        self._keys, self._book = keys, book
        self.has_met = False  # the others, at least once
        self._untold: list[Kept] = keys.all()  # what it learnt while it was away from the others
        self._is_failing = False
        self._errand = Errand("shared keys", EVERY_S, self._once)
        keys.on_change = self._has_changed

    def start(self) -> None:
        self._errand.start()

    async def close(self) -> None:
        await self._errand.stop()
        with suppress(Down):
            await self._tell()

    def _has_changed(self, changed: Sequence[Kept]) -> None:
        self._untold += changed
        self._errand.hurry()

    async def _once(self) -> None:
        try:
            await self.meet()
            self._is_failing = False
        except Down:
            pass  # the state says so
        except Exception as error:  # of our own disk: what the others know is valid here all the same
            if not self._is_failing:
                log.error("what the fleet knows of the keys cannot be kept here: %s", type(error).__name__)
            self._is_failing = True

    async def meet(self) -> None:
        """Tells and asks, once. Raises Down; what was not told is told the next time."""
        await self._tell()
        is_forgotten, news = await self._book.news()
        try:
            await self._keys.learn(news)
        finally:
            if is_forgotten:
                self._untold = self._keys.all()
        await self._tell()
        self.has_met = True

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


def _kept(digest: bytes, record: bytes, *ends: bytes) -> Kept | None:
    """None for what no Sluice of this version wrote: the other keys are good for all that."""
    try:
        kept = loaded(bytes.fromhex(digest.decode()), record)
        expires_ns, rotated_ns, revoked_ns = (int(it) if it else None for it in ends)
    except (ValueError, KeyError, TypeError, AttributeError):
        log.warning("a key in the shared state cannot be read, and is left out")
        return None
    after = replace(kept, record=replace(kept.record, expires_ns=expires_ns, is_revoked=revoked_ns is not None))
    return joined(kept, replace(after, rotated_ns=rotated_ns, revoked_ns=revoked_ns))
