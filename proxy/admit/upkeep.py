"""Keeps the ledger fit in the background: an older one is mended, rows are summed, old ones exported and pruned. Delays no call.

Each step is small and runs on the writer's thread between two batches, or on a thread of its own; what fails is tried again.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from proxy.admit import archive, retention, sums
from proxy.admit.sqlite import Index, is_old, mend, read_only
from proxy.ports import Clock

T = TypeVar("T")

TURN_S = 10.0
AGAIN_S = 60.0  # after a failure
REST = 4  # times as long as a step took: work that has piled up costs a fifth of a core
TELL_S = 5.0


class Kept(Protocol):
    """How much of the ledger stays, at most; `policy.plan.Rulebook` says it."""

    @property
    def ledger_keep_s(self) -> float: ...
    @property
    def ledger_max_bytes(self) -> int: ...


class Upkeep:
    """`kept` is asked at each step: a new policy holds at once. `tell(level, event, **fields)` writes a line of the log."""

    def __init__(self, index: Index, kept: Callable[[], Kept], clock: Clock, tell: Callable[..., None]) -> None:
        self._index, self._kept, self._clock, self._tell = index, kept, clock, tell
        self._folder = None if index.path is None else index.path.parent / archive.FOLDER
        self._task: asyncio.Task[None] | None = None
        self._told = float("-inf")
        self.failures = 0  # of turns: nothing was pruned
        self.pruned_rows = 0

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name="ledger upkeep")

    async def stop(self) -> None:
        """A step that is under way is finished or counts for nothing."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        is_begun = False
        while True:
            try:
                if not is_begun:
                    await self._begin()
                    is_begun = True
                await self.turn()
            except (sqlite3.Error, OSError) as problem:
                self.failures += 1
                self._tell("error", "ledger not pruned", why=str(problem), again_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)
            else:
                await asyncio.sleep(TURN_S)

    async def turn(self) -> None:
        """Sums and prunes all that is due now. Raises sqlite3.Error and OSError: what was done stays done."""
        while waiting := await self._paced(self._index.sum_up()):
            self._progress("ledger being summed", waiting_rows=waiting)
        before = self.pruned_rows
        while (chunk := await self._paced(self._prune())) is not None:
            self._progress("ledger being pruned", rows=self.pruned_rows - before, day=chunk.day)
        for tidy in (sums.fold, retention.give_back):
            while await self._paced(self._do(tidy)):
                pass

    async def _begin(self) -> None:
        if await self._do(is_old):
            self._tell("info", "ledger of an older version: its indexes are being made")
            await self._do(mend)
        if (waiting := await self._do(sums.unsummed)) > sums.STEP:
            self._progress("ledger being summed", waiting_rows=waiting)
        if self._folder is not None:
            known = await self._do(retention.archived)
            await asyncio.to_thread(archive.cut, self._folder, known)

    def _due(self, connection: sqlite3.Connection) -> retention.Chunk | None:
        kept = self._kept()
        return retention.due(connection, self._clock.now_ns() - int(kept.ledger_keep_s * 10**9), kept.ledger_max_bytes)

    async def _prune(self) -> retention.Chunk | None:
        """Exports and deletes what is due next, if anything is."""
        folder, path = self._folder, self._index.path
        chunk = await self._do(self._due)
        if chunk is None:
            return None
        if folder is None or path is None:  # a ledger in memory outlives nothing
            self.pruned_rows += await self._do(lambda connection: retention.forget(connection, chunk, None, 0))
            return chunk
        known = await self._do(retention.archived)
        name = await asyncio.to_thread(archive.file_for, folder, chunk.day, known)
        if name not in known:
            await self._do(lambda connection: retention.begin_file(connection, name))
        length = await asyncio.to_thread(_export, path, chunk, folder, name, known.get(name, 0))
        self.pruned_rows += await self._do(lambda connection: retention.forget(connection, chunk, name, length))
        return chunk

    async def _paced(self, step: Awaitable[T]) -> T:
        """A step, and the rest after it."""
        began = self._clock.monotonic()
        done = await step
        if done:
            await asyncio.sleep(REST * (self._clock.monotonic() - began))
        return done

    async def _do(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._index.submit(work))

    def _progress(self, event: str, **fields: object) -> None:
        if (now := self._clock.monotonic()) - self._told >= TELL_S:
            self._told = now
            self._tell("info", event, **fields)


def _export(path: Path, chunk: retention.Chunk, folder: Path, name: str, length: int) -> int:
    text = read_only(path, lambda connection: retention.text_of(connection, chunk))
    return archive.append(folder, name, length, text)
