#!/usr/bin/env python3
"""Is a ledger of 10 million rows quick to ask, and slow for nobody? Needs a C compiler and Linux; about five minutes.

    PYTHONPATH=. tests/bench/ledger.py [--rows 10000000] [--seconds 4] [--rounds 5] [--rate 500]

Ten days of rows; each question is asked of one of them. Then a sidecar with that state serves RATE calls/s (open loop): alone,
while questions are asked, while rows are exported and pruned, in turn. BENCH_DIR: where there is room (8 GB).
"""

import argparse
import hashlib
import itertools
import json
import os
import pathlib
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from proxy.admit import ledger, sums
from proxy.admit.place import LEDGER
from proxy.admit.sqlite import Index
from tests.support.ports import free_port

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "slk-" + "b" * 43  # a key for this benchmark only; its hash stands in the policy below
DAYS = 10
DAY_NS = 86_400 * 10**9
PRUNED = "sluice_ledger_pruned_rows_total"
GROUPINGS = ("caller", "team", "model", "provider", "tier", "day")

POLICY = """
version: 1
default_provider: mock
providers: {{mock: {{dialect: openai, url: "http://127.0.0.1:{up}", allow_private: true}}}}
prices: {{mock: {{input: 2.50, output: 10.00}}}}
callers: {{keys: [{{name: bench, hash: "sha256:{digest}", tier: bench}}], pass_through: deny}}
tiers: {{bench: {{requests: 100000000/min, spend: [$1000000/day]}}}}
ledger: {{keep: {keep}, max_size: 100GB}}
"""

DETAIL = json.dumps({"prompt_tokens": 900, "completion_tokens": 200, "prompt_tokens_details": {"cached_tokens": 512, "audio_tokens": 0}})
PRICE = json.dumps({"name": "gpt-4o", "source": "table", "date": "2026-01-01", "rates": {"input": 2500, "output": 10000}})

# 200 callers of 20 teams in 5 tiers, 30 models of 4 providers; one attempt in fifty is a retry, one in forty failed
ROWS = """
    WITH RECURSIVE k (k) AS (SELECT ? UNION ALL SELECT k + 1 FROM k WHERE k + 1 < ?)
    INSERT INTO rows (day, id, request_id, attempt, kind, at, caller, team, tier, provider, model, operation, credential, status, "end",
        input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, usage_detail, usage_source, usage_note,
        cost_nanousd, held_nanousd, price_row, policy_generation, duration_ms, first_byte_ms, overhead_ms, streamed)
    SELECT strftime('%Y-%m-%d', (:begin + k * :every) / 1000000000, 'unixepoch'), printf('slu-0123456789abcdef-%x/%d', k - (k % 50 = 1),
        1 + (k % 50 = 1)), printf('slu-0123456789abcdef-%x', k - (k % 50 = 1)), 1 + (k % 50 = 1),
        CASE WHEN k % 50 = 1 THEN 'retry' ELSE 'first' END, :begin + k * :every, printf('caller-%d', k * 7919 % 200),
        printf('team-%d', k * 7919 % 20), printf('tier-%d', k * 7919 % 5), printf('provider-%d', k / 200 % 30 % 4),
        printf('model-%d', k / 200 % 30), 'chat', 'OPENAI_API_KEY', CASE WHEN k % 40 = 0 THEN 500 ELSE 200 END, 'done',
        900, 512, 0, 200, 64, :detail, 'provider', '', 3500000 + k * 31 % 1000000, 9000000, :price, 1, 812.5, 203.25, 0.41, 0 FROM k
"""


def build(path: pathlib.Path, rows: int) -> int:
    """Writes the rows and sums them; the instant of the first."""
    path.mkdir(mode=0o700)
    Index(path / LEDGER, str).close()
    every = DAYS * DAY_NS // rows
    begin = time.time_ns() - rows * every
    connection = sqlite3.connect(path / LEDGER, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA cache_size = -200000")
    began = time.monotonic()
    for first in range(0, rows, 100_000):
        values = {"1": first, "2": min(rows, first + 100_000), "begin": begin, "every": every, "detail": DETAIL, "price": PRICE}
        connection.execute(ROWS.replace("?", ":1", 1).replace("?", ":2", 1), values)
    print(f"{rows:,} rows written in {time.monotonic() - began:.0f} s, {path.joinpath(LEDGER).stat().st_size / 1e9:.2f} GB", flush=True)
    began, slowest = time.monotonic(), 0.0
    while True:
        step = time.monotonic()
        if not sums.advance(connection):
            break
        slowest = max(slowest, time.monotonic() - step)
    took = time.monotonic() - began
    count = connection.execute("SELECT COUNT(*) FROM sums").fetchone()[0]
    print(f"summed in {took:.0f} s ({took / rows * 1e6:.1f} µs a row, slowest step {slowest * 1e3:.0f} ms) to {count:,} sums", flush=True)
    connection.close()
    return begin


def writer(folder: pathlib.Path, rows: int = 100_000) -> None:
    """What a row costs the writer, in batches as of 500 calls/s: CPU of all its work, less that of giving it the rows."""
    folder.mkdir()
    index = Index(folder / LEDGER, lambda _: "2026-11-21")
    values = (1, "first", None, 0, "", "team-1", "tier-1", "provider-1", "", "chat", "OPENAI_API_KEY", 200, "done", 900, 512, 0, 200, 64,
              json.loads(DETAIL), "provider", "", 3500000, 9000000, json.loads(PRICE), 1, 812.5, 203.25, 0.41, False)  # fmt: skip
    given = [(f"slu-0123456789abcdef-{k:x}/1", f"slu-0123456789abcdef-{k:x}", *values[:3], k * 2_000_000, f"caller-{k * 7919 % 50}",
              *values[5:8], f"model-{k % 10}", *values[9:]) for k in range(rows)]  # fmt: skip
    began = time.process_time()
    for first in range(0, rows, 100):
        index.put(given[first : first + 100], (1, first))
        index.submit(lambda _: None).result()
    wrote = time.process_time()
    while index.submit(sums.advance).result():
        pass
    summed = time.process_time()
    index.close()
    print(f"a row costs the writer {(wrote - began) / rows * 1e6:.1f} µs, its sums {(summed - wrote) / rows * 1e6:.1f} µs", flush=True)


def ask_all(path: pathlib.Path, begin: int) -> float:
    """Each question, of one day, and of one that begins and ends within a quarter of an hour. The slowest grouping, in seconds."""
    whole = (begin // DAY_NS + 5) * DAY_NS
    slowest = 0.0
    for name, since in (("a day", whole), ("24 h from 10:07:31", whole + 36_451 * 10**9)):
        took = {}
        for by in GROUPINGS:
            started = time.monotonic()
            found = ledger.read_usage(path, by, since, since + DAY_NS).rows
            took[by] = time.monotonic() - started
        attempts = sum(it["attempts"] for it in found)
        slowest = max(slowest, *took.values())
        print(f"{name}, {attempts:,} rows: " + ", ".join(f"{by} {seconds * 1e3:.0f} ms" for by, seconds in took.items()), flush=True)
    others = {
        "dearest": lambda: ledger.read_dearest(path, 20, whole, whole + DAY_NS),
        "failed": lambda: ledger.read_failed(path, whole, whole + DAY_NS),
        "billed": lambda: ledger.read_billed(path, "provider-1", whole, whole + DAY_NS),
        "attempts": lambda: ledger.read_attempts(path, "slu-0123456789abcdef-7d0"),
        "all time by day": lambda: ledger.read_usage(path, "day"),
        "newest 100 rows": lambda: ledger.read_rows(path, 100),
    }
    for name, ask in others.items():
        started = time.monotonic()
        found = ask().rows
        print(f"{name}: {(time.monotonic() - started) * 1e3:.0f} ms, {len(found)} lines", flush=True)
    return slowest


class Sidecar:
    """A sidecar on the state, a provider behind it."""

    def __init__(self, folder: pathlib.Path, tools: pathlib.Path) -> None:
        self.folder, self.tools = folder, tools
        self.up, self.port, self.admin = (free_port() for _ in range(3))
        self.policy = folder / "policy.yaml"
        self.write("400d")
        command = f"-m proxy serve --policy {self.policy} --listen 127.0.0.1:{self.port} --admin 127.0.0.1:{self.admin}"
        self.provider = subprocess.Popen([tools / "mock_upstream", str(self.up)])
        with (folder / "log").open("wb") as log:
            started = [sys.executable, *command.split(), "--state", f"sqlite:{folder / 'state'}"]
            self.process = subprocess.Popen(started, stdout=log, stderr=log, cwd=ROOT)
        until = time.monotonic() + 60
        while not self.get("/healthz/ready"):
            if self.process.poll() is not None or time.monotonic() > until:
                raise SystemExit((folder / "log").read_text())
            time.sleep(0.05)

    def write(self, keep: str) -> None:
        self.policy.write_text(POLICY.format(up=self.up, digest=hashlib.sha256(KEY.encode()).hexdigest(), keep=keep))

    def get(self, path: str) -> bytes:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=60) as reply:
                return bytes(reply.read())
        except OSError:
            return b""

    def metric(self, name: str) -> float:
        return next(float(line.split()[1]) for line in self.get("/metrics").decode().splitlines() if line.startswith(name + " "))

    def load(self, rate: int, seconds: int) -> dict:
        command = f"-r {rate} -c 128 -d {seconds} -w 1 -m mock -p /v1/chat/completions"
        done = subprocess.run(
            [self.tools / "llmload", *command.split(), "-H", f"Authorization: Bearer {KEY}", str(self.port)],
            capture_output=True,
            check=True,
        )
        found = json.loads(done.stdout)
        bad = sum(found.get(name, 0) for name in ("4xx", "5xx", "failed", "unfinished", "unsent"))
        return {"p50": found["lat_us"]["p50"], "p99": found["lat_us"]["p99"], "bad": bad, "n": found["lat_us"]["n"]}

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)
        self.provider.terminate()
        self.provider.wait(10)


class Asking(threading.Thread):
    """A question of the last 24 hours every second, or one after another, until it is told to end."""

    def __init__(self, sidecar: Sidecar, pause: float) -> None:
        super().__init__()
        self.sidecar, self.pause = sidecar, pause
        self.over = threading.Event()
        self.took: list[float] = []

    def run(self) -> None:
        since = int(time.time()) - 86_400
        for by in itertools.cycle(("caller", "model", "team", "day")):
            started = time.monotonic()
            if not self.sidecar.get(f"/admin/usage?by={by}&since={since}"):
                return
            self.took.append(time.monotonic() - started)
            if self.over.wait(self.pause):
                return


def serve(sidecar: Sidecar, rate: int, seconds: int, rounds: int) -> dict[str, list[dict]]:
    """The four loads in turn, so that what else the machine does meets all of them."""
    found: dict[str, list[dict]] = {"alone": [], "asked each second": [], "asked without a pause": [], "pruned": []}
    took: dict[float, list[float]] = {1.0: [], 0.0: []}
    gone = lasted = 0.0
    for _ in range(rounds):
        found["alone"].append(sidecar.load(rate, seconds))
        for name, pause in (("asked each second", 1.0), ("asked without a pause", 0.0)):
            thread = Asking(sidecar, pause)
            thread.start()
            found[name].append(sidecar.load(rate, seconds))
            thread.over.set()
            thread.join()
            took[pause] += thread.took
        found["alone"].append(sidecar.load(rate, seconds))
        before = pruning(sidecar, True)
        began = time.monotonic()
        found["pruned"].append(sidecar.load(rate, seconds))
        gone, lasted = gone + sidecar.metric(PRUNED) - before, lasted + time.monotonic() - began
        pruning(sidecar, False)
    for pause, all_took in took.items():
        all_took.sort()
        print(f"{len(all_took)} questions with pauses of {pause} s: median {all_took[len(all_took) // 2] * 1e3:.0f} ms, "
              f"slowest {all_took[-1] * 1e3:.0f} ms", flush=True)  # fmt: skip
    print(f"{gone / lasted:,.0f} rows a second exported and pruned under load", flush=True)
    return found


def pruning(sidecar: Sidecar, on: bool) -> float:
    """Switches it by a new policy, and waits until it has begun or ended; how many rows are gone."""
    before = sidecar.metric(PRUNED)
    sidecar.write(f"{DAYS // 2}d" if on else "400d")
    sidecar.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + 40
    while on and sidecar.metric(PRUNED) == before:
        if time.monotonic() > until:
            raise SystemExit("nothing is pruned: " + (sidecar.folder / "log").read_text()[-2000:])
        time.sleep(0.1)
    time.sleep(1)
    return sidecar.metric(PRUNED)


def verdict(found: dict[str, list[dict]], slowest: float) -> int:
    """p50 within 20 % of the runs alone; p99 too, where those spread less than 25 %."""
    middle = {name: {it: statistics.median(run[it] for run in runs) for it in ("p50", "p99")} for name, runs in found.items()}
    base, alone = middle["alone"], [run["p99"] for run in found["alone"]]
    spread = (max(alone) - min(alone)) / base["p99"]
    for name, it in middle.items():
        print(f"{name}: p50 {it['p50']:.0f} µs ({it['p50'] / base['p50']:.2f}), p99 {it['p99']:.0f} µs ({it['p99'] / base['p99']:.2f}), "
              f"{sum(run['n'] for run in found[name]):,} calls")  # fmt: skip
    print(f"p99 of the runs alone spreads {spread:.0%}; slowest grouping {slowest * 1e3:.0f} ms")
    judged = ["p50", *(["p99"] if spread < 0.25 else [])]
    late = [
        f"{name} {figure}" for name in ("asked each second", "pruned") for figure in judged if middle[name][figure] > 1.2 * base[figure]
    ]
    if slowest >= 1.0:
        late.append("a grouping took a second or more")
    late += [f"{name}: bad calls" for name, runs in found.items() if any(run["bad"] for run in runs)]
    print("FAILED: " + ", ".join(late) if late else f"passed ({', '.join(judged)} within 20 %, every grouping below 1 s)")
    return 1 if late else 0


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("--rows", type=int, default=10_000_000)
    args.add_argument("--seconds", type=int, default=4)
    args.add_argument("--rounds", type=int, default=5)
    args.add_argument("--rate", type=int, default=500)
    asked = args.parse_args()
    tools = ROOT / "build" / "bench"
    subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={tools}"], check=True)
    with tempfile.TemporaryDirectory(prefix="sluice-ledger-", dir=os.environ.get("BENCH_DIR")) as name:
        folder = pathlib.Path(name)
        writer(folder / "writer")
        begin = build(folder / "state", asked.rows)
        slowest = ask_all(folder / "state", begin)
        sidecar = Sidecar(folder, tools)
        try:
            found = serve(sidecar, asked.rate, asked.seconds, asked.rounds)
        finally:
            sidecar.stop()
        return verdict(found, slowest)


if __name__ == "__main__":
    sys.exit(main())
