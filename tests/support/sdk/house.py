"""A fake provider and as many sidecars as policies ask for, in a background loop: SDK clients may block beside them."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from support.ports import free_port
from support.provider import Provider, Reply, Script, Seen
from support.sluice import Sluice

T = TypeVar("T")
RUN_S = 60  # nothing here may take longer


class House:
    """`with House(folder) as house:` — one provider for all dialects; `house.sluice(policy)` starts a sidecar once per policy text."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="house", daemon=True)
        self._sidecars: dict[str, Sluice] = {}
        self.provider = Provider(_unscripted)
        self.closers: list[Callable[[], Awaitable[object] | object]] = []  # of SDK clients, called in the loop
        self.dead_url = f"http://127.0.0.1:{free_port()}"  # nobody listens there

    def __enter__(self) -> House:
        self._thread.start()
        self.run(self.provider.__aenter__())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self._close())
        finally:
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(RUN_S)
            self.loop.close()

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(RUN_S)

    async def _close(self) -> None:
        for close in self.closers:
            closing = close()
            if asyncio.iscoroutine(closing):
                await closing
        await asyncio.gather(*(one.stop() for one in self._sidecars.values()))
        await self.provider.__aexit__()
        await self.loop.shutdown_asyncgens()

    def sluice(self, policy: str) -> Sluice:
        """The sidecar that runs this policy; `{provider}` and `{dead}` in it are the fake provider's and nobody's origin."""
        text = policy.replace("{provider}", self.provider.url).replace("{dead}", self.dead_url)
        if text not in self._sidecars:
            folder = self._folder / f"sluice-{len(self._sidecars)}"
            folder.mkdir()
            one = Sluice(folder, text, env={"UPSTREAM_KEY": UPSTREAM_KEY, "JWT_SECRET": JWT_SECRET})
            self._sidecars[text] = one
            self.run(one.start())
        return self._sidecars[text]

    @contextmanager
    def answering(self, script: Script) -> Iterator[list[Seen]]:
        """While it lasts the provider answers with `script`; gives what the provider has seen of it, as it comes."""
        provider = self.provider
        provider.script, provider.seen = script, []
        try:
            yield provider.seen
        finally:
            provider.script = _unscripted
        if provider.problems:
            raise provider.problems.pop()


UPSTREAM_KEY = "sk-the-providers-own-key"  # what Sluice holds for the provider
JWT_SECRET = "a secret of the tests, at least 32 bytes long"


async def _unscripted(seen: Seen, reply: Reply) -> None:
    await reply.json({"error": {"message": f"no test expects {seen.method} {seen.target}"}}, 418)


def refusals(sluice: Sluice, code: str) -> int:
    """How often this sidecar has refused with `code`, by its own metrics."""
    with urllib.request.urlopen(sluice.admin + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        int(float(line.rsplit(" ", 1)[1])) for line in lines if line.startswith("sluice_refusals_total{") and f'code="{code}"' in line
    )
