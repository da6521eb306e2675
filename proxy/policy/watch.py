"""Adapter: polls the policy and its secret files, and hands over each new generation that compiles. Swaps nothing itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from proxy.policy.apart import Reading, read_here
from proxy.policy.build import compile_policy
from proxy.policy.plan import Limit, Rulebook
from proxy.policy.problems import PolicyErrors, Problem
from proxy.policy.secrets import secret_files

POLL_S = 0.5
DEBOUNCE_S = 0.25
MAX_WATCHED = 2 << 20  # bytes of a file that are compared
FIXED = {  # beside all of `server`: only a restart changes them
    "state": "state changed: needs a restart",
    "time_zone": "time_zone changed: needs a restart, the state counts days and months by it",
    "durability": "durability changed: needs a restart",
}

OnChange = Callable[[Rulebook, tuple[str, ...]], None]  # the new generation and what needs a restart
Stamps = dict[FilePath, tuple[int, int, int] | None]
OnError = Callable[[tuple[Problem, ...]], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy that compiled, with the files it came from; `fixed`: what it says that only a restart can change."""

    rulebook: Rulebook
    files: tuple[FilePath, ...]
    fixed: Mapping[str, object]
    is_empty: bool


def load(
    path: FilePath | None,
    *,
    environ: Mapping[str, str],
    generation: int,
    listen: str | None = None,
    now_ns: int | None = None,
    read: Reading | None = None,
) -> Loaded:
    """Reads (or takes what is read) and compiles; blocking. Raises PolicyErrors or SecretError."""
    document = read() if read is not None else read_here(path)
    base = path.parent if path is not None else FilePath(".")
    rulebook = compile_policy(document, environ=environ, base=base, generation=generation, listen=listen, now_ns=now_ns)
    files = (() if path is None else (path,)) + secret_files(document, base)
    said = document.model
    fixed = {f"server.{name}": value for name, value in vars(said.server).items()}
    return Loaded(rulebook, files, fixed | {name: getattr(said, name) for name in FIXED}, not said.model_fields_set)


def seen(files: tuple[FilePath, ...]) -> dict[FilePath, bytes]:
    """What each file holds now, by hash; symlinks (a ConfigMap's ..data) are followed. Blocking."""
    found = {}
    for file in files:
        try:
            with file.open("rb") as stream:
                found[file] = hashlib.sha256(stream.read(MAX_WATCHED)).digest()
        except OSError as error:
            found[file] = f"unreadable {error.errno}".encode()
    return found


def stamps(files: tuple[FilePath, ...]) -> Stamps:
    """Cheap to take; equal stamps mean nothing was written since, but for a rewrite within the clock's grain."""
    found: Stamps = {}
    for file in files:
        try:
            stat = os.stat(file)
            found[file] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
        except OSError:
            found[file] = None
    return found


class Watch:
    """One policy file under watch. A bad file keeps the last good generation; `server` and `state` keep their first values."""

    def __init__(
        self, path: FilePath | None, loaded: Loaded, *, environ: Mapping[str, str], on_change: OnChange, on_error: OnError,
        now_ns: Callable[[], int], poll_s: float = POLL_S, debounce_s: float = DEBOUNCE_S,
    ) -> None:  # fmt: skip
        self._path, self._loaded, self._environ = path, loaded, environ
        self._on_change, self._on_error, self._now_ns = on_change, on_error, now_ns
        self._poll_s, self._debounce_s = poll_s, debounce_s
        self._seen = seen(loaded.files)
        self._told: tuple[Problem, ...] = ()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Until cancelled. A thread of its own looks: what it finds nothing of takes nothing of the event loop's time."""
        loop, changed, over = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

        def tell() -> None:
            with suppress(RuntimeError):  # the loop is closed: this process ends
                loop.call_soon_threadsafe(changed.set)

        threading.Thread(target=self._look, args=(over, tell), name="policy watch").start()
        try:
            while True:
                await changed.wait()
                changed.clear()
                await self._settle()
                if await asyncio.to_thread(seen, self._loaded.files) != self._seen:
                    await self.reload(again=False)
        finally:
            over.set()

    def _look(self, over: threading.Event, tell: Callable[[], None]) -> None:
        """The thread, until `over`."""
        before, turn = stamps(self._loaded.files), 0
        while not over.wait(self._poll_s):
            turn += 1
            now = stamps(self._loaded.files)
            if now != before or (turn % 2 == 0 and seen(self._loaded.files) != self._seen):  # the contents every second time all the same
                tell()
            before = now

    async def reload(self, *, again: bool = True) -> bool:
        """Reads it again now (SIGHUP). True: a new generation was handed over. `again` False: the same problems are not told twice."""
        async with self._turn:
            before = self._loaded
            contents = await asyncio.to_thread(seen, before.files)
            try:
                loaded = await asyncio.to_thread(self._load)
            except PolicyErrors as error:
                self._seen = {}  # tried again: a secret that was missing may come, in a file that is not watched yet
                problems, told = tuple(error.problems), self._told
                self._told = problems
                if again or problems != told:
                    self._on_error(problems)
                return False
            self._told = ()
            self._loaded, restarts = keeping(before, loaded)
            new_files = await asyncio.to_thread(seen, self._loaded.files)
            self._seen = {file: contents.get(file, content) for file, content in new_files.items()}
            self._on_change(self._loaded.rulebook, restarts)
            return True

    def _load(self) -> Loaded:
        """A file that lost all its words is half written or truncated: it would drop every limit at once, so it is bad on reload."""
        rules = self._loaded.rulebook
        new = load(self._path, environ=self._environ, generation=rules.generation + 1, listen=rules.server.listen, now_ns=self._now_ns())
        if self._path is not None and new.is_empty and not self._loaded.is_empty:
            raise PolicyErrors([Problem(str(self._path), 0, 0, "", "the file is empty now; write `version: 1` if no rule is meant")])
        return new

    async def _settle(self) -> None:
        """Waits until nothing was written for one debounce, but not for ever."""
        before = await asyncio.to_thread(stamps, self._loaded.files)
        for _ in range(4):
            await asyncio.sleep(self._debounce_s)
            now = await asyncio.to_thread(stamps, self._loaded.files)
            if now == before:
                break
            before = now


def keeping(old: Loaded, new: Loaded) -> tuple[Loaded, tuple[str, ...]]:
    """The new generation with the old server, state, time zone and namespace, and a sentence for each that changed."""
    changed = {name for name, value in new.fixed.items() if old.fixed[name] != value}
    if old.rulebook.state != new.rulebook.state:
        changed.add("state")
    restarts = [FIXED.get(name, f"{name} changed: needs a restart") for name in new.fixed if name in changed]
    if old.rulebook.namespace != new.rulebook.namespace:
        restarts.append("namespace changed: needs a restart, all that is shared is counted under it")
    server = replace(old.rulebook.server, admin_token=new.rulebook.server.admin_token)  # where it stands is the same, what it is may not be
    if "server.admin_token" in changed:
        server = old.rulebook.server
    first = old.rulebook
    rulebook = replace(new.rulebook, server=server, state=first.state, time_zone=first.time_zone, namespace=first.namespace)
    return replace(new, rulebook=rulebook), tuple(restarts)


def removed_limits(old: Rulebook, new: Rulebook) -> list[Limit]:
    """Limits that held spend and are gone, or hold none any more: whoever reloads warns with the amounts."""
    left = {limit.name for limit in new.limits if limit.spend}
    return [limit for limit in old.limits if limit.spend and limit.name not in left]
