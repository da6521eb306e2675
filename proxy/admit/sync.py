"""Group commit: one fdatasync at a time, on a thread; whoever comes while one runs shares the next. Never tries a failed one again."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

Waiters = list[asyncio.Future[None]]


class JournalDown(Exception):
    """The record is not in the journal and will not be."""


class GroupCommit:
    """`failed` hears of a sync that failed, after its waiters have been given up: what they wrote may be lost."""

    def __init__(self, folder: Path, failed: Callable[[], None]) -> None:
        self._folder, self._failed = folder, failed
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sluice-sync")
        self._waiting: Waiters = []
        self._fd = -1
        self._retired: list[int] = []  # of segments before: synced first, then closed
        self._is_new = True  # the name of the segment may not be on the disk yet
        self._running: asyncio.Future[None] | None = None

    def cover(self, fd: int, waiters: Waiters) -> None:
        """Wakes them when all that is written to the segment `fd` by now is on the disk; gives them up where it may not be."""
        self._fd = fd
        self._waiting += waiters
        if self._running is None:
            self._begin()

    def retire(self, fd: int, *, is_doubtful: bool) -> None:
        """The segment `fd` is over. A doubtful one is never synced again: that would succeed, and say nothing."""
        self._is_new = True
        if is_doubtful:
            self._thread.submit(os.close, fd)
        else:
            self._retired.append(fd)

    def _begin(self) -> None:
        waiters, self._waiting = self._waiting, []
        retired, self._retired = self._retired, []
        folder, self._is_new = self._folder if self._is_new else None, False
        self._running = self._loop.run_in_executor(self._thread, _sync, retired, self._fd, folder)
        self._running.add_done_callback(partial(self._done, waiters))

    def _done(self, waiters: Waiters, done: asyncio.Future[None]) -> None:
        self._running = None
        if done.cancelled() or done.exception() is not None:
            waiters, self._waiting = waiters + self._waiting, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(JournalDown())
            self._failed()
            return
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        if self._waiting:
            self._begin()

    async def close(self) -> None:
        """Ends the thread when the sync under way is done."""
        while self._running is not None:
            await asyncio.wait([self._running])
            await asyncio.sleep(0)
        await asyncio.to_thread(self._thread.shutdown)
        for fd in self._retired:
            os.close(fd)
        self._retired = []


def _sync(retired: list[int], fd: int, folder: Path | None) -> None:
    """Raises OSError."""
    try:
        for old in retired:
            os.fdatasync(old)
        os.fdatasync(fd)
        if folder is not None:
            sync_folder(folder)
    finally:
        for old in retired:
            os.close(old)


def sync_folder(folder: Path) -> None:
    """Names of files that appeared in it survive a loss of power. Raises OSError."""
    at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(at)
    finally:
        os.close(at)
