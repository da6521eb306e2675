#!/usr/bin/env python3
"""What spend limits cost: CPU of the whole process tree per call, limits on minus off, in one run. `make bench-money`, some three minutes.

    PYTHONPATH=. tests/bench/spend.py [-n ROUNDS] [-d SECONDS] [-t TARGET,TARGET]

Targets, all on scenario t64 (64 connections, 1 kB, closed loop) behind a Sluice key: off (limits on requests,
tokens and concurrency, no money), embedded (spend per day and month besides),
disk (the same with `durability: disk`), shared (the money counted in a Valkey on loopback), unshared (a Valkey, and nothing to count
there).
A round starts each anew, loads one after the other in an order of its own, and reads CPU when all that the load left behind is done:
rows written, indexed and summed. Void where a call failed, or calls at the provider and ledger rows differ. Exits 1 where it is void, or
embedded - off is over 20 µs.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass

import bench

from tests.support.ports import free_port
from tests.support.valkey import Server, valkey

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "slk-" + "b" * 43  # a key for this benchmark only; its hash stands in the policy below
OWED_US = 20
QUIET_S = 60
CORE, OTHER = "0", "1"  # of the target; of load, provider and Valkey
SPEND = "spend: [$1000000/day, $9000000/month]"
POLICY = """
version: 1
default_provider: mock
providers: {{mock: {{dialect: openai, url: "http://127.0.0.1:{up}", allow_private: true}}}}
prices: {{mock: {{input: 2.50, output: 10.00}}}}
callers: {{keys: [{{name: bench, hash: "sha256:{digest}", tier: bench}}], pass_through: deny}}
tiers: {{bench: {{{limits}}}}}
limits: [{{name: rates, per: instance, requests: 100M/min, tokens: 100G/min, concurrency: 10k}}]
{more}
"""
TARGETS = {  # name: limits of the tier, another line of the policy, in a Valkey?
    "off": ("", "", False),
    "embedded": (SPEND, "", False),
    "disk": (SPEND, "durability: disk", False),
    "shared": (SPEND, "", True),
    "unshared": ("", "", True),
}


@dataclass
class Read:
    """What has been used up so far."""

    at: float
    cpu_us: float
    server_us: float
    scripts: int


class Target:
    """One sidecar with a state of its own, on the core of targets."""

    def __init__(self, name: str, folder: pathlib.Path, up: int, server: Server | None) -> None:
        limits, more, _ = TARGETS[name]
        self.name, self.folder, self.server, self.calls = name, folder, server, 0
        self.port, admin = free_port(), free_port()
        folder.mkdir()
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "policy.yaml").write_text(POLICY.format(up=up, digest=digest, limits=limits, more=more))
        state = f"{server.url}?journal={folder / 'state'}" if server else f"sqlite:{folder / 'state'}"
        command = f"-m proxy serve --policy {folder}/policy.yaml --listen 127.0.0.1:{self.port} --admin 127.0.0.1:{admin} --state {state}"
        with (folder / "log").open("wb") as log:
            self.process = bench.pinned(CORE, [sys.executable, *command.split()], stdout=log, stderr=log, cwd=ROOT)
        until = time.monotonic() + QUIET_S
        while bench.http(admin, "/healthz/ready")[0] != 200:
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{name} does not start: " + (folder / "log").read_text()[-2000:])
            time.sleep(0.05)

    def read(self) -> Read:
        cpu = self.server.info("cpu") if self.server else {}
        server_us = sum(float(cpu.get(f"used_cpu_{kind}", 0)) for kind in ("user", "sys")) * 1e6
        return Read(time.monotonic(), bench.cpu_s(self.process.pid) * 1e6, server_us, self.server.calls("evalsha") if self.server else 0)

    def load(self, tools: pathlib.Path, seconds: float) -> None:
        """Scenario t64; warm-up calls are calls."""
        before = bench.counters()["requests"]
        command = f"-c 64 -d {seconds} -w 0.2 -m mock -p /v1/chat/completions"
        argv = ["taskset", "-c", OTHER, tools / "llmload", *command.split(), "-H", f"Authorization: Bearer {KEY}", str(self.port)]
        done = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=60 + seconds).stdout)
        if any(done.get(name, 0) for name in ("4xx", "5xx", "failed", "unsent")):
            raise SystemExit(f"VOID: {self.name}: {done}")
        self.calls += bench.counters()["requests"] - before - 1  # asking for the counters is a request

    def rows(self) -> tuple[int, int]:
        """Of attempts in the ledger; and how many rows are not yet summed."""
        with sqlite3.connect(f"file:{self.folder}/state/ledger.sqlite?mode=ro", uri=True) as ledger:
            attempts = ledger.execute("SELECT COUNT(*) FROM rows WHERE kind <> 'refusal'").fetchone()[0]
            waiting = "SELECT COALESCE(MAX(n), 0) - (SELECT COALESCE(MAX(value), 0) FROM marks WHERE name = 'summed') FROM rows"
            return int(attempts), int(ledger.execute(waiting).fetchone()[0])

    def quiet(self) -> None:
        """Until all that the load left behind is done."""
        until = time.monotonic() + QUIET_S
        while (found := self.rows()) != (self.calls, 0):
            if time.monotonic() > until:
                raise SystemExit(f"VOID: {self.name}: {self.calls} calls reached the provider, ledger and waiting rows: {found}")
            time.sleep(0.1)

    def stop(self) -> None:
        bench.stop(self.process)


def one_round(names: list[str], seconds: float, tools: pathlib.Path, up: int) -> dict[str, dict[str, float]]:
    """Figures of each target per call."""
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-spend-")))
        targets = []
        for name in names:
            server = stack.enter_context(valkey()) if TARGETS[name][2] else None
            if server:
                os.sched_setaffinity(server.pid, {int(OTHER)})
            targets.append(Target(name, folder / name, up, server))
            stack.callback(targets[-1].stop)
        for one in targets:  # imports, pages and connections of the first calls
            one.load(tools, 0.3)
        for one in targets:
            one.quiet()
        random.shuffle(targets)
        before, warm = {one.name: one.read() for one in targets}, {one.name: one.calls for one in targets}
        for one in targets:
            one.load(tools, seconds)
        for one in targets:
            one.quiet()
        time.sleep(0.3)  # what the writer's thread does behind its last row
        found = {}
        for one in targets:
            calls, first, last = one.calls - warm[one.name], before[one.name], one.read()
            found[one.name] = {
                "cpu": (last.cpu_us - first.cpu_us) / calls,
                "server": (last.server_us - first.server_us) / calls,
                "scripts": (last.scripts - first.scripts) / calls,
                "calls": calls,
                "sends": last.scripts - first.scripts - (calls if one.name == "shared" else 0),
                "lasted": last.at - first.at,
            }
        return found


def tell(rounds: list[dict[str, dict[str, float]]]) -> float:
    """The table, and the median of embedded - off in µs."""

    def over(figures: list[float]) -> str:
        return f"{statistics.median(figures):7.1f}  ({min(figures):.1f} … {max(figures):.1f})"

    print(f"\nCPU of the process tree per call, µs: median (least … most) of {len(rounds)} rounds")
    for name in rounds[0]:
        print(
            f"  {name:16} {over([it[name]['cpu'] for it in rounds])}   {sum(int(it[name]['calls']) for it in rounds):,} calls, as many rows"
        )
    print("difference to off, each round by itself, µs")
    extra = {name: [it[name]["cpu"] - it["off"]["cpu"] for it in rounds] for name in rounds[0] if name != "off"}
    for name, figures in extra.items():
        print(f"  {name:16} {over(figures)}")
    for name in ("shared", "unshared"):
        if name in rounds[0]:
            it = [one[name] for one in rounds]
            scripts, sends, lasted = (statistics.median(one[figure] for one in it) for figure in ("scripts", "sends", "lasted"))
            print(f"Valkey of {name}: CPU per call, µs {over([one['server'] for one in it])}")
            print(f"  {scripts:.3f} scripts per call, {sends:.0f} of them not holds in {lasted:.0f} s")
    return statistics.median(extra["embedded"])


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = argparse.ArgumentParser()
    args.add_argument("-n", "--rounds", type=int, default=7)
    args.add_argument("-d", "--seconds", type=float, default=2.5)
    args.add_argument("-t", "--only", default=",".join(TARGETS))
    asked = args.parse_args()
    names = asked.only.split(",")
    tools = ROOT / "build" / "bench"
    subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={tools}"], check=True)
    bench.UP = free_port()
    provider = bench.pinned(OTHER, [tools / "mock_upstream", str(bench.UP)])
    rounds = []
    try:
        time.sleep(0.3)
        for number in range(asked.rounds):
            rounds.append(one_round(names, asked.seconds, tools, bench.UP))
            print(number, {name: round(it["cpu"], 1) for name, it in rounds[-1].items()}, f"load {os.getloadavg()[0]:.1f}", flush=True)
    finally:
        bench.stop(provider)
    found = tell(rounds)
    print(f"embedded - off: {found:.1f} µs of {OWED_US} owed: {'ok' if found <= OWED_US else 'FAILED'}")
    return 0 if found <= OWED_US else 1


if __name__ == "__main__":
    sys.exit(main())
