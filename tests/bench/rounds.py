"""A round: each scenario of every target before the next scenario, so that what is compared was measured close together. Judges nothing.

A target that has no turn sleeps (SIGSTOP): what a sidecar does by itself is no part of another's time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import IO, Any

import bench

WOKEN_S = 0.3  # until what a target had to do meanwhile is done: before its CPU is read


def one_round(
    targets: Sequence[bench.Target], only: Sequence[str], log: IO[bytes], tell: Callable[[str, dict[str, Any]], None]
) -> list[dict[str, Any]]:
    """A row of each target that has one of the scenarios `only` (none: all). `tell` gets each of them, and what was found by target."""
    names = [name for name in bench.SCENARIOS if not only or name in only]
    with ExitStack() as stack:
        asked = [bench.Running(one) for one in targets if set(one.scenarios) & set(names)]
        rows = [(running, _started(running, stack, log)) for running in asked]
        for name in names:
            found = {}
            for running, row in rows:
                if name in running.target.scenarios and "error" not in row:
                    with _turn(running):
                        row[name] = found[running.target.name] = _measured(running, row, name)
            if found:
                tell(name, found)
        return [row | _books(running, row) for running, row in rows]


@contextmanager
def _turn(running: bench.Running) -> Iterator[None]:
    running.wake()
    time.sleep(WOKEN_S)
    try:
        yield
    finally:
        running.sleep()


def _started(running: bench.Running, stack: ExitStack, log: IO[bytes]) -> dict[str, Any]:
    row: dict[str, Any] = {"target": running.target.name, "is_masking": running.target.is_masking}
    stack.callback(running.stop)
    if running.target.command:
        if not running.start(log):
            return row | {"error": "did not start"}
        time.sleep(0.5)
        row |= {"start_s": running.start_s, "idle_mb": bench.mem_mb(running.pid)}
        running.sleep()
    return row


def _measured(running: bench.Running, row: dict[str, Any], name: str) -> dict[str, Any]:
    arguments = running.target.arguments.get(name, bench.SCENARIOS[name])
    if name == "max10" and "rps" in row.get("t64", {}):
        return bench.highest_rate(running.load, arguments, row["t64"]["rps"])
    return running.load(arguments, is_settled=name in bench.SETTLED)


def _books(running: bench.Running, row: dict[str, Any]) -> dict[str, Any]:
    """What is read when all scenarios are through."""
    if "error" in row:
        return {}
    books: dict[str, Any] = {"provider": dict(running.asked)}
    if running.target.command:
        books["loaded_mb"] = bench.mem_mb(running.pid)
    if running.target.state is not None:
        books["ledger"] = bench.ledger(running.target.state)
    return books
