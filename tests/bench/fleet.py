#!/usr/bin/env python3
"""A thousand sidecars on one Redis: what each script costs a real server, and what follows from those costs (queueing.py).

    PYTHONPATH=. tests/bench/fleet.py [--to docs/fleet.md]        `make simulate`, about a minute; --to "" only prints

The costs are CPU of the server's main thread (reading, running, writing, AOF), medians of several runs, a thousand processes known there.
"""

import argparse
import os
import pathlib
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import redis

from proxy.admit.counters import Charge
from proxy.admit.fleet.ops import Count, Entry, Leave, Settle, Want, Watch
from proxy.admit.fleet.outbox import MOST
from proxy.admit.fleet.script import Scripts, load
from proxy.admit.records import encode
from proxy.policy.plan import Claim, Limit, Rate, Spend
from tests.bench.queueing import SIDECARS, Costs, most_calls, simulate
from tests.support.scripted_store import PlainLink, Process, run
from tests.support.valkey import valkey

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]


class Clock:
    now_ns = staticmethod(time.time_ns)


# -- the costs -------------------------------------------------------------------------------------------------------------


class Measured:
    """Scripts on a real server, one after the other, and what they cost its main thread."""

    def __init__(self, server, client) -> None:
        self.server, self.link, self.number = server, PlainLink(client), 0
        more = {"scripts": Scripts.load(), "max_keys": 100_000, "recover_ms": 1}
        self.processes = [Process(self.link, "bench", Clock(), f"{n:032x}", **more) for n in range(SIDECARS)]
        self.process = self.processes[0]

    def cpu(self) -> float:
        figures = self.server.info("cpu")
        return 1e6 * sum(float(figures[f"used_cpu_{kind}_main_thread"]) for kind in ("user", "sys"))

    def each(self, do: Callable[[int], object], times: int) -> float:
        """Microseconds of server CPU of one."""
        first = self.cpu()
        nothing = self.cpu() - first  # what asking costs
        first = self.cpu()
        for n in range(times):
            do(n)
        return max(0.0, self.cpu() - first - nothing) / times

    def cycle(self, claims: tuple, ops: int) -> tuple[float, float]:
        """A take; and a batch of so many closes."""
        begin, count = self.number, 20 * ops // 2 if ops > 2 else 300
        self.number += count

        def take(n: int) -> None:
            self.process.take(Entry(f"{begin + n:032x}", claims), hold=Want(f"{begin + n:032x}/1", claims, 1000, 10_000_000))

        def send(n: int) -> None:
            some = range(begin + n * ops // 2, begin + (n + 1) * ops // 2)
            self.process.send(*[op for k in some for op in (Settle(f"{k:032x}/1", 700, 7_000_000), Leave(f"{k:032x}"))], asks_run=False)

        taken = self.each(take, count)
        return taken, self.each(send, count * 2 // ops)


def measure() -> tuple[Costs, list[tuple[str, float]], str]:
    """The costs of a fleet with one tier of five dimensions, a table of all, and what the server is."""
    day, month = Spend(10**15, "day"), Spend(10**16, "month")
    rates = {"requests": (Rate(10**8, 60),), "tokens": (Rate(10**11, 60),)}
    one = (Claim(Limit("budget", ("team",), spend=(day,)), "team=a"),)
    tier = (Claim(Limit("tier", ("caller",), spend=(day, month), concurrency=10**5, **rates), "caller=bob"),)
    eight = tuple(Claim(Limit(f"limit {n}", ("team",), spend=(day,), requests=rates["requests"]), "team=a") for n in range(8))
    kinds = {"one limit, one budget": one, "one limit, five dimensions": tier, "eight limits, 16 dimensions": eight}
    with valkey(appendonly=True) as server, redis.Redis(port=server.port) as client:
        it = Measured(server, client)
        for turn in range(3):  # until each has a like share of the budget
            for process in it.processes:
                process.send(watch=(Watch(one[0], day, 0),), asks_run=turn == 0 and process is it.process)
        for claim in (*tier, *eight):  # windows as they are after a minute of load
            for second in range(60):
                charge = Charge(claim.limit.name, claim.account, (60,), ())
                counted = ("requests", "tokens") if claim in tier else ("requests",)
                it.process.send(*[Count(kind, time.time_ns() - second * 10**9, 1, (charge,)) for kind in counted], asks_run=False)
        poll = encode({"instance": "keys", "nonce": "0" * 16, "keys": [], "since": 0, "most": 200})
        keys = load("keys")
        watches = [Watch(Claim(Limit("each", ("caller",), spend=(day,)), f"caller={n}"), day, 0) for n in range(200)]
        runs: dict[str, list[float]] = {}

        def note(name: str, us: float) -> None:
            runs.setdefault(name, []).append(us)

        for _ in range(7):
            for name, claims in kinds.items():
                taken, single = it.cycle(claims, 2)
                again, full = it.cycle(claims, MOST)
                note(f"hold: {name}", (taken + again) / 2)
                note(f"batch of one call's closes: {name}", single)
                note(f"batch of {MOST} closes: {name}", full)
            note("heartbeat alone", it.each(lambda _: it.process.send(asks_run=True), 300))
            for number in (1, 10, 200):
                some = tuple(watches[:number])
                note(f"heartbeat, {number} accounts", it.each(lambda _, w=some: it.process.send(watch=w, asks_run=True), 300 // number + 5))
            note("look at the keys", it.each(lambda _: run(it.link.call(keys, ["sluice:{bench}:meta"], [poll])), 300))
        version = f"Valkey {server.info('server').get('valkey_version', server.info('server')['redis_version'])}"
    table = [(name, statistics.median(figures)) for name, figures in runs.items()]
    found = dict(table)
    kind = "one limit, five dimensions"
    costs = Costs(found[f"hold: {kind}"], **closes(found, kind), beat=found["heartbeat, 10 accounts"], poll=found["look at the keys"])
    return costs, table, version


# -- docs/fleet.md ---------------------------------------------------------------------------------------------------------

PLANNED = 0.7  # of what a node carries: the rest is for what comes unevenly, and for a failover


def lines(costs: Costs, table: list[tuple[str, float]]) -> dict[str, str]:
    """What stands in fleet.md.in between at signs."""
    idle, by_name = (costs.beat + costs.poll) * SIDECARS / 1e6, dict(table)
    quick, carried = most_calls(costs, 5.0), most_calls(costs, 50.0)
    planned = int(PLANNED * quick / 100) * 100
    queue = [
        f"| {calls:,} | {found.utilisation:.0%} | {found.p50:.2f} | {found.p99:.2f} | {found.batches:,.0f} | {found.ops:.1f} |"
        for calls in sorted({500, 1000, 2000, planned, quick})
        for found in [simulate(costs, calls)]
    ]
    kinds = {"one budget for a team": "one limit, one budget", "eight limits, two dimensions each": "eight limits, 16 dimensions"}
    others = {name: most_calls(replace(costs, take=by_name[f"hold: {kind}"], **closes(by_name, kind)), 5.0) for name, kind in kinds.items()}
    together = simulate(costs, planned, in_step=True)
    return {
        "COSTS": "\n".join(f"| {name} | {us:,.0f} |" for name, us in table),
        "QUEUE": "\n".join(queue),
        "NODES": "\n".join(f"| {each} | {SIDECARS * each:,} | {-(-SIDECARS * each // planned)} |" for each in (1, 2, 5, 10, 20)),
        "ALONE": f"{costs.send / 2 + costs.op:.0f}",
        "FULL": f"{costs.send / MOST + costs.op:.0f}",
        "QUICK": f"{quick:,}",
        "CARRIED": f"{carried:,}",
        "PLANNED": f"{planned:,}",
        "OTHERS": " and ".join(f"{calls:,} ({name})" for name, calls in others.items()),
        "IDLE": f"{idle:.0%}",
        "STILL": f"{(by_name['heartbeat alone'] + costs.poll) * SIDECARS / 1e6:.0%}",
        "MOST_IDLE": f"{int(1e6 / (costs.beat + costs.poll)):,}",
        "BURST": f"{(costs.beat + costs.poll) * SIDECARS / 1e3:,.0f}",
        "TOGETHER": f"{together.p99:,.0f}",
    }


def closes(by_name: dict[str, float], kind: str) -> dict[str, float]:
    single, full = by_name[f"batch of one call's closes: {kind}"], by_name[f"batch of {MOST} closes: {kind}"]
    op = (full - single) / (MOST - 2)
    return {"send": single - 2 * op, "op": op}


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("--to", default=str(ROOT / "docs" / "fleet.md"))
    asked = args.parse_args()
    costs, table, version = measure()
    for name, us in table:
        print(f"{us:8.1f} µs  {name}")
    print(costs, flush=True)
    text = HERE.joinpath("fleet.md.in").read_text("utf-8")
    machine = f"{time.strftime('%Y-%m-%d', time.gmtime())}, {version}, {platform.machine()}, {os.cpu_count()} cores"
    for name, said in {"MACHINE": machine, **lines(costs, table)}.items():
        text = text.replace(f"@{name}@", said)
    print(text)
    if asked.to:
        pathlib.Path(asked.to).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
