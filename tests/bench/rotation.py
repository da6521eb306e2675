#!/usr/bin/env python3
"""How long the event loop stands still while a segment ends and a snapshot is written: 100,000 accounts, 10,000 open holds, load.

    tests/bench/rotation.py [--accounts N] [--holds N] [--seconds S]

Prints the longest and the 99.9th percentile turn of the loop without a snapshot, and while snapshots are written one after the other.
"""

import argparse
import asyncio
import gc
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2])]


LIMIT = "each"


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


class Load:
    """Calls on accounts of their own, held and settled."""

    def __init__(self, accounts: int) -> None:
        from proxy.policy.plan import Limit, Rate, Spend

        self.accounts, self.calls = accounts, 0
        self._limit = Limit(
            LIMIT, ("caller",), requests=(Rate(10**6, 60),), tokens=(Rate(10**9, 60),), spend=(Spend(10**12, "total"),)
        )  # fmt: skip

    async def call(self, state, *, settles: bool = True) -> None:
        from proxy.policy.plan import Claim
        from proxy.ports import Intent

        self.calls += 1
        id, claims = f"{self.calls}/1", (Claim(self._limit, f"caller={self.calls % self.accounts}"),)
        await state.enter(id, claims)
        await state.hold(Intent(id, id, claims, 900, 1000, row(id, 1000)))
        state.leave(id)
        if settles:
            state.settle(id, 950, 700, row(id, 700))

    async def go_on(self, state) -> None:
        while True:
            await self.call(state)
            await asyncio.sleep(0.002)


def row(id: str, cost: int):
    from proxy.exchange import Row

    return Row(
        id, id, 1, "first", None, time.time_ns(), "bob", "ops", "free", "openai", "gpt-4o", "chat", "OPENAI_API_KEY", 200, "done",
        900, 0, 0, 50, 0, {"prompt_tokens": 900, "completion_tokens": 50}, "provider", "", cost, cost,
        {"name": "gpt-4o", "source": "table", "date": "2026-01-01"}, 1, 100.0, 50.0, 0.4, False,
    )  # fmt: skip


async def turns(what: str, until: Callable[[], bool]) -> None:
    """Prints how long turns of the loop took; `CPU` leaves out what other processes of the machine took away."""
    wall, cpu = [], []
    while not until():
        began, burnt = time.perf_counter(), time.thread_time()
        await asyncio.sleep(0)
        wall.append((time.perf_counter() - began) * 1000)
        cpu.append((time.thread_time() - burnt) * 1000)
        await asyncio.sleep(0.0002)
    for name, found in (("wall", sorted(wall)), ("CPU ", sorted(cpu))):
        print(f"{what}, {name}: {len(found)} turns, longest {found[-1]:.2f} ms, p99.9 {found[int(len(found) * 0.999)]:.2f} ms")


async def snapshot(state, path: pathlib.Path, load: Load) -> None:
    from proxy.admit.snapshots import snapshots

    while any(it.get_name() == "sluice snapshot" for it in asyncio.all_tasks()):
        await asyncio.sleep(0.01)
    state._journal.position()
    began = time.perf_counter()
    state._journal.rotate()
    print(f"a new segment: {(time.perf_counter() - began) * 1000:.2f} ms")
    state._storage.compact()  # whether or not one is due
    wanted, _ = state._journal.position()
    began, before = time.monotonic(), load.calls
    await turns("with a snapshot", lambda: any(it >= wanted for it, _ in snapshots(path)))
    size = snapshots(path)[-1][1].stat().st_size >> 20
    took = time.monotonic() - began
    print(f"  {len(state.open_holds())} open holds, {size} MB: {took:.1f} s, {load.calls - before} calls served meanwhile")


async def run(accounts: int, holds: int, seconds: float) -> None:
    from proxy.admit.embedded import EmbeddedState

    with tempfile.TemporaryDirectory(prefix="sluice-rotation-") as folder:
        path = pathlib.Path(folder)
        state = await EmbeddedState.open(path, clock=Clock(), time_zone="UTC", max_keys=10**7)
        load = Load(accounts)
        for number in range(accounts):
            await load.call(state, settles=number >= holds)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as the server does
        loads = [asyncio.ensure_future(load.go_on(state)) for _ in range(8)]
        await asyncio.sleep(1)
        end = time.monotonic() + seconds
        await turns("without a snapshot", lambda: time.monotonic() > end)
        for _ in range(2):
            await snapshot(state, path, load)
        for one in loads:
            one.cancel()
        await asyncio.wait(loads)
        began = time.monotonic()
        await state.close()
        print(f"stop: {time.monotonic() - began:.1f} s")
        began = time.monotonic()
        state = await EmbeddedState.open(path, clock=Clock(), time_zone="UTC", max_keys=10**7)
        print(f"start: {time.monotonic() - began:.1f} s, {state.recovery}")
        await state.close()


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("--accounts", type=int, default=100_000)
    args.add_argument("--holds", type=int, default=10_000)
    args.add_argument("--seconds", type=float, default=5)
    given = args.parse_args()
    asyncio.run(run(given.accounts, given.holds, given.seconds))


if __name__ == "__main__":
    main()
