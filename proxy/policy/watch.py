"""Adapter: polls the policy and its secret files, and hands over each new generation that compiles. Swaps nothing itself."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path as FilePath

from proxy.policy.build import compile_policy
from proxy.policy.document import Document
from proxy.policy.plan import Limit, Rulebook
from proxy.policy.problems import PolicyErrors, Problem
from proxy.policy.read import read_policy
from proxy.policy.secrets import secret_files

POLL_S = 0.5
DEBOUNCE_S = 0.25
MAX_WATCHED = 2 << 20  # bytes of a file that are compared

OnChange = Callable[[Rulebook, Document, tuple[str, ...]], None]  # the new generation and what needs a restart
Stamps = dict[FilePath, tuple[int, int, int] | None]
OnError = Callable[[tuple[Problem, ...]], None]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy that compiled, with the files it came from."""

    document: Document
    rulebook: Rulebook
    files: tuple[FilePath, ...]


def load(
    path: FilePath | None, *, environ: Mapping[str, str], generation: int, listen: str | None = None, now_ns: int | None = None
) -> Loaded:
    """Reads and compiles; blocking. Raises PolicyErrors or SecretError."""
    document = read_policy(path)
    base = path.parent if path is not None else FilePath(".")
    rulebook = compile_policy(document, environ=environ, base=base, generation=generation, listen=listen, now_ns=now_ns)
    return Loaded(document, rulebook, (() if path is None else (path,)) + secret_files(document, base))


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
        """Until cancelled."""
        stamped = await self._stamps()
        turn = 0
        while True:
            await asyncio.sleep(self._poll_s)
            turn += 1
            if await self._stamps() == stamped and turn % 2:  # every second turn the contents are compared all the same
                continue
            stamped = await self._settled()
            if await asyncio.to_thread(seen, self._loaded.files) != self._seen:
                await self.reload(again=False)

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
            self._on_change(self._loaded.rulebook, self._loaded.document, restarts)
            return True

    def _load(self) -> Loaded:
        """A file that lost all its words is half written or truncated: it would drop every limit at once, so it is bad on reload."""
        if self._path is not None and self._loaded.document.model.model_fields_set and not read_policy(self._path).model.model_fields_set:
            raise PolicyErrors([Problem(str(self._path), 0, 0, "", "the file is empty now; write `version: 1` if no rule is meant")])
        rulebook = self._loaded.rulebook
        return load(
            self._path, environ=self._environ, generation=rulebook.generation + 1, listen=rulebook.server.listen, now_ns=self._now_ns()
        )

    async def _stamps(self) -> Stamps:
        return await asyncio.to_thread(stamps, self._loaded.files)

    async def _settled(self) -> Stamps:
        """Waits until nothing was written for one debounce, but not for ever."""
        before = await self._stamps()
        for _ in range(4):
            await asyncio.sleep(self._debounce_s)
            now = await self._stamps()
            if now == before:
                break
            before = now
        return before


def keeping(old: Loaded, new: Loaded) -> tuple[Loaded, tuple[str, ...]]:
    """The new generation with the old server, state, time zone and namespace, and a sentence for each that changed."""
    restarts = []
    before, after = old.document.model, new.document.model
    for name in type(before.server).model_fields:
        if getattr(before.server, name) != getattr(after.server, name):
            restarts.append(f"server.{name} changed: needs a restart")
    if before.state != after.state or old.rulebook.state != new.rulebook.state:
        restarts.append("state changed: needs a restart")
    if before.time_zone != after.time_zone:
        restarts.append("time_zone changed: needs a restart, the state counts days and months by it")
    if before.durability != after.durability:
        restarts.append("durability changed: needs a restart")
    if old.rulebook.namespace != new.rulebook.namespace:
        restarts.append("namespace changed: needs a restart, all that is shared is counted under it")
    server = replace(old.rulebook.server, admin_token=new.rulebook.server.admin_token)  # where it stands is the same, what it is may not be
    if before.server.admin_token != after.server.admin_token:
        server = old.rulebook.server
    first = old.rulebook
    rulebook = replace(new.rulebook, server=server, state=first.state, time_zone=first.time_zone, namespace=first.namespace)
    return replace(new, rulebook=rulebook), tuple(restarts)


def removed_limits(old: Rulebook, new: Rulebook) -> list[Limit]:
    """Limits that held spend and are gone, or hold none any more: whoever reloads warns with the amounts."""
    left = {limit.name for limit in new.limits if limit.spend}
    return [limit for limit in old.limits if limit.spend and limit.name not in left]
