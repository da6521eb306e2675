"""Not a test: a state that kills its own process (SIGKILL) at its n-th touch of the disk, in the middle of it if need be.

For each line `[path, kill_at, is_torn, durability, times]` on stdin a fresh process is forked, that opens the state, holds and settles with
segments so small that most of its steps belong to a rotation, and says what was acknowledged: `held ID`, `settled ID`. Then `over`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

from proxy.admit import journal, snapshots, storage
from proxy.admit.embedded import EmbeddedState
from proxy.exchange import Begun, Row
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.ports import Intent

COST, HELD = 400, 1000
HEAD = 13  # fields of a row, `id` to `credential`
say = os.write


class Clock:
    @staticmethod
    def now_ns() -> int:
        return 1_795_262_400 * 10**9

    @staticmethod
    def monotonic() -> float:
        return 1000.0

    @staticmethod
    def monotonic_ns() -> int:
        return 1000 * 10**9


def claims_of(name: str) -> tuple[Claim, ...]:
    limit = Limit("each", ("caller",), requests=(Rate(10**6, 60),), tokens=(Rate(10**9, 60),), spend=(Spend(10**12, "total"),))
    return (Claim(limit, f"caller={name}"),)


def row(id: str, name: str, cost: int, end: str) -> Row:
    source = "estimate" if end == "crashed" else "provider"
    return Row(
        id, id, 1, "first", None, 1, name, None, None, "openai", "gpt-4o", "chat", None, None, end, 3, 0, 0, 2, 0, {}, source, "",
        cost, HELD, None, 1, 1.0, None, 0.1, False,
    )  # fmt: skip


def begun(id: str, name: str) -> Begun:
    return row(id, name, 0, "")[:HEAD], 3, 2, None, 1, 0.1, False


def kill_at(step: int, *, is_torn: bool) -> None:
    """Patches what the state touches the disk by."""
    count = 0

    def stepped(name: str) -> None:
        real = getattr(os, name)

        def one(*args: object, **more: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                if name == "write" and is_torn:
                    fd, data = args
                    real(fd, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(os, name, one)

    for name in ("write", "open", "close", "rename", "unlink", "fsync", "fdatasync"):
        stepped(name)


async def run(path: str, durability: str, times: int) -> None:
    storage.Journal = lambda *a, **of: journal.Journal(*a, **of, segment_bytes=3000)  # type: ignore[misc,assignment]  # smaller
    snapshots.SLICE, snapshots.PAUSE_S, snapshots.TIMES = 2, 0.0, times
    state = await EmbeddedState.open(Path(path), clock=Clock(), time_zone="UTC", max_keys=10, durability=durability)
    say(1, b"open\n")

    async def calls(name: str) -> None:
        for number in range(8):
            id = f"{name}-{os.getpid()}-{number}"
            await state.enter(id, claims_of(name))
            values = row(id, name, HELD, "crashed") if number % 3 else begun(id, name)  # whole, as for a job, and as most are
            await state.hold(Intent(id, id, claims_of(name), 7, HELD, values))
            say(1, f"held {id}\n".encode())
            for _ in range(number % 4):
                await asyncio.sleep(0)
            state.settle(id, 5, COST, row(id, name, COST, "done"))
            state.leave(id)
            await asyncio.sleep(0.001)  # longer than a tick
            say(1, f"settled {id}\n".encode())

    await asyncio.gather(*(calls(f"caller{number}") for number in range(5)))
    await state.close()


for line in sys.stdin:
    path, step, is_torn, durability, times = json.loads(line)
    child = os.fork()
    if not child:
        kill_at(step, is_torn=is_torn)
        asyncio.run(run(path, durability, times))
        os._exit(0)
    os.waitpid(child, 0)
    say(1, b"over\n")
