"""The keys of a state, kept in its index: minted, rotated, revoked, and shared where there is a fleet. Sees no key itself."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from proxy.admit import sqlite
from proxy.admit.keyring import Kept, Keyring, NoSuchKey, dumped, loaded, revoked, rotation
from proxy.admit.place import LEDGER, Place
from proxy.policy.plan_callers import KeyRecord


class Keys:
    """What changes is on the disk before it is valid here, and valid here before anybody else hears of it."""

    def __init__(self, index: sqlite.Index, now_ns: Callable[[], int]) -> None:
        self._index, self._now_ns = index, now_ns
        self.ring = Keyring()  # others only read it
        self._turn = asyncio.Lock()  # what is written of a key is all that is known of it, however many change it at once
        self.on_change: Callable[[Sequence[Kept]], None] = lambda changed: None  # made here, for those who share the keys
        self.on_news: Callable[[Sequence[Kept]], None] = lambda news: None  # made anywhere, once it is valid here

    async def load(self) -> None:
        self.ring.learn(await asyncio.wrap_future(self._index.submit(_kept)))

    def has_name(self, name: str) -> bool:
        return self.ring.has_name(name)

    def all(self) -> list[Kept]:
        return list(self.ring)

    async def add(self, record: KeyRecord) -> None:
        """Durable when it returns, and valid from then on."""
        await self._change([Kept(record, self._now_ns())])

    async def rotate(self, name: str, digest: bytes, overlap_ns: int, declared: Sequence[KeyRecord]) -> Kept:
        """A new key for `name`, like its newest; the old ones end after `overlap_ns`, also those of the policy (`declared`).

        Raises NoSuchKey where none of them is alive.
        """
        fresh, *old = rotation(self.ring, name, digest, overlap_ns, self._now_ns(), declared)
        await self._change([fresh, *old])
        return fresh

    async def revoke(self, declared: Sequence[KeyRecord], *, name: str | None = None, id: str | None = None) -> list[Kept]:
        """Every key of this name, or with this id, is dead for good, also those of the policy. Raises NoSuchKey."""
        found = self.ring.named(name, declared) if name is not None else self.ring.with_id(id or "", declared)
        if not found:
            raise NoSuchKey(name or id)
        dead = [revoked(kept, self._now_ns()) for kept in found]
        await self._change(dead)
        return dead

    async def learn(self, others: Sequence[Kept]) -> None:
        """What another sidecar knows. It is valid here also where it cannot be written: it may be a revocation."""
        async with self._turn:
            try:
                await self._write(others)
            finally:
                self._know(others)

    async def _change(self, changed: Sequence[Kept]) -> None:
        async with self._turn:
            await self._write(changed)
            self._know(changed)
        self.on_change(changed)

    async def _write(self, changed: Sequence[Kept]) -> None:
        if news := self.ring.news(changed):
            await asyncio.wrap_future(self._index.submit(lambda connection: _keep(connection, news)))

    def _know(self, changed: Sequence[Kept]) -> None:
        if news := self.ring.learn(changed):
            self.on_news(news)


@contextmanager
def keys_offline(path: Path) -> Iterator[OfflineKeys]:
    """The keys in the state of a stopped process. Raises StateProblem, also where one runs."""
    place = Place(path)
    try:
        index = sqlite.Index(path / LEDGER, str)
        try:
            yield OfflineKeys(index)
        finally:
            index.close()
    finally:
        place.close()


class OfflineKeys:
    """As `Keys`, for a command: it waits for the disk. Obtained by `keys_offline`."""

    def __init__(self, index: sqlite.Index) -> None:
        self._index = index
        self._ring = Keyring(index.submit(_kept).result())

    def all(self) -> list[Kept]:
        return list(self._ring)

    def change(self, decide: Callable[[Keyring], Sequence[Kept]]) -> list[Kept]:
        """Keeps what `decide` makes of the keys, and gives it back. What `decide` raises changes nothing."""
        news = self._ring.learn(decide(self._ring))
        self._index.submit(lambda connection: _keep(connection, news)).result()
        return news


def _keep(connection: sqlite3.Connection, kept: Sequence[Kept]) -> None:
    """On the disk when it returns. What is known of a digest is replaced."""
    rows = [(it.record.digest, it.record.name, dumped(it).decode()) for it in kept]
    connection.execute("BEGIN")
    try:
        connection.executemany("INSERT OR REPLACE INTO keys VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    connection.execute("PRAGMA wal_checkpoint(FULL)")


def _kept(connection: sqlite3.Connection) -> list[Kept]:
    found = connection.execute("SELECT digest, name, record FROM keys ORDER BY name, rowid")
    return [_named(loaded(digest, text), name) for digest, name, text in found]


def _named(kept: Kept, name: str) -> Kept:
    return replace(kept, record=replace(kept.record, name=name))
