"""What a sidecar does beside its calls, again and again, as long as it runs: a task of its own. Knows no Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress


class Errand:
    """`once` is done every `every_s`, and at once when it is hurried; it says itself what went wrong, and never raises."""

    def __init__(self, name: str, every_s: float, once: Callable[[], Awaitable[None]]) -> None:
        self._name, self._every_s, self._once = name, every_s, once
        self._hurry = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run(), name=self._name)

    def hurry(self) -> None:
        self._hurry.set()

    async def stop(self) -> None:
        """What is being done is broken off. Idempotent; also where it never began."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await self._once()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._hurry.wait()
            self._hurry.clear()
