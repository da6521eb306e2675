"""Opens the shared state of one process: its own journal, its place in the fleet, the way to Redis. Serves no call."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.address import Address
from proxy.admit.fleet.cluster import ClusterState
from proxy.admit.fleet.duties import Duties
from proxy.admit.fleet.granter import Granter
from proxy.admit.fleet.keys import KeyBook, SharedKeys
from proxy.admit.fleet.link import Link, open_link
from proxy.admit.fleet.memory import LOOK_S, Memory
from proxy.admit.fleet.ops import Down
from proxy.admit.fleet.post import Post
from proxy.admit.fleet.regions import Regions
from proxy.admit.fleet.script import RECOVER_MS, Remote, load
from proxy.admit.fleet.space import Space
from proxy.admit.fleet.state import SharedState
from proxy.admit.place import SECRET_BYTES, Locked, StateProblem
from proxy.policy.plan import Limit, OnStateDown
from proxy.ports import Clock

FIRST_S = 1.0  # the start waits so long for a first answer; then it goes on, and the sidecar is not ready yet


@dataclass(frozen=True, slots=True)
class Asked:
    """What the policy and this machine say of the state. `home`: where this user's states are."""

    address: Address
    home: Path
    namespace: str
    time_zone: str
    max_keys: int
    durability: Literal["process", "disk"]
    boot_id: str
    rules: OnStateDown
    limits: Sequence[Limit]
    recover_ms: int = RECOVER_MS
    look_s: float = LOOK_S


async def open_shared(asked: Asked, clock: Clock) -> tuple[SharedState | ClusterState, Path]:
    """With the folder of its journal. Raises StateProblem where the journal cannot be opened, or Redis may throw away what it counts."""
    try:
        link = open_link(asked.address)
    except ValueError as problem:
        raise StateProblem(str(problem)) from None
    own: EmbeddedState | None = None
    try:
        own, folder = await _own(asked, clock)
        memory = Memory(link, asked.limits, asked.look_s)
        keys = SharedKeys(own.keys, KeyBook(link, load("keys"), asked.namespace, os.urandom))
        with suppress(Down, TimeoutError):
            async with asyncio.timeout(FIRST_S):
                await memory.look()
                if memory.problem is not None:
                    raise StateProblem(memory.problem)
                await _secret_of_all(link, f"sluice:{{{asked.namespace}}}:secret", own, folder / "secret")
                await keys.meet()  # what was revoked elsewhere is dead here from the first call on
        who = _instance(folder)
        remote = Remote(link, instance=who, time_zone=asked.time_zone, max_keys=asked.max_keys, recover_ms=asked.recover_ms)
        space = Space(asked.namespace, remote, own, clock, folder / "shares.json")
        state = SharedState(own, space, link, clock, asked.rules)
        state.set_rules(asked.rules, asked.limits)
        state.duties = Duties(keys, Post(link, asked.namespace, own.jobs.open), memory, clock.monotonic())
        if asked.address.topology == "cluster":
            space.counts_here = lambda limit, account: False
            return open_cluster(state, asked, link, who, folder, clock), folder
        own.jobs.settled_by = state.settle
        state.take_up_jobs()
    except BaseException:
        await link.close()
        if own is not None:
            await own.close()
        raise
    return state, folder


def open_cluster(base: SharedState, asked: Asked, link: Link, instance: str, folder: Path, clock: Clock) -> ClusterState:
    """With a space for each team and caller, opened by its first call."""
    own = base.own
    remote = Remote(
        link, instance=instance, time_zone=asked.time_zone, max_keys=asked.max_keys, recover_ms=asked.recover_ms, comes_new=True
    )
    before = {(limit, account, period): settled + held for limit, account, period, settled, held in own.contributions()}

    def open_space(tag: str) -> tuple[SharedState, Space]:
        file = folder / f"shares-{hashlib.sha256(tag.encode()).hexdigest()[:16]}.json"
        space = Space(tag, remote, own, clock, file)
        return SharedState(own, space, link, clock, asked.rules), space

    granter = Granter(
        link,
        clock,
        instance=instance,
        time_zone=asked.time_zone,
        max_keys=asked.max_keys,
        spent=lambda *account: before.get(account, 0),
    )
    state = ClusterState(base, Regions(open_space, asked.namespace, clock, asked.rules), granter)
    state.set_rules(asked.rules, asked.limits)
    own.jobs.settled_by = state.settle
    return state


async def _own(asked: Asked, clock: Clock) -> tuple[EmbeddedState, Path]:
    """The journal of `journal=`; else the first of this state's that no other process has: a restart takes its own up again."""
    named = asked.address.journal
    which = hashlib.sha256(f"{asked.address} {asked.namespace}".encode()).hexdigest()[:16]
    home = asked.home / f"fleet-{which}"
    for folder in [Path(named)] if named else (home / str(number) for number in count()):
        try:
            own = await EmbeddedState.open(
                folder,
                clock=clock,
                time_zone=asked.time_zone,
                max_keys=asked.max_keys,
                durability=asked.durability,
                boot_id=asked.boot_id,
            )
        except Locked:
            if named:
                raise
            continue
        return own, folder
    raise AssertionError("there is always another number")


def _instance(folder: Path) -> str:
    """Which process of the fleet this is: the same for as long as its journal is."""
    path = folder / "instance"
    try:
        if not path.exists():
            fresh = folder / "instance.new"
            fresh.write_text(os.urandom(8).hex())
            fresh.rename(path)
        name = path.read_text()
    except OSError as problem:
        raise StateProblem(f"the state {folder} cannot be written: {problem.strerror}") from None
    if len(name) != 16 or not name.isalnum():
        raise StateProblem(f"{path} is damaged: restore it; if that cannot be, move {folder} away")
    return name


async def _secret_of_all(link: Link, key: str, own: EmbeddedState, path: Path) -> None:
    """What keyed hashes rest on, the same for every sidecar of the fleet: a pass-through caller is one account for all."""
    await link.ask("SET", key, own.secret.hex(), "NX", key=key)
    secret = bytes.fromhex((await link.ask("GET", key, key=key)).decode("ascii"))
    if len(secret) != SECRET_BYTES or secret == own.secret:
        return
    own.secret = secret
    await asyncio.to_thread(_keep, path, secret)


def _keep(path: Path, secret: bytes) -> None:
    """For a start at which Redis is away."""
    fresh = path.with_suffix(".new")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(secret)
    fresh.rename(path)
