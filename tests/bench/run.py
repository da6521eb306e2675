#!/usr/bin/env python3
"""`make bench`: builds the tools, runs the table side by side, writes docs/performance.md. Needs a C compiler and Linux.

    tests/bench/run.py [-n ROUNDS] [-s SCENARIOS]

Targets: direct (no proxy), aiohttp (plain.py, the base of all ratios), nginx (where installed), sluice-off (pass-through, metered),
sluice-on (a Sluice key, limits on requests, tokens, concurrency and spend with durable state, PII masking with restore, metrics,
one log line a call). A run counts only if the ledger holds one row per call; that is checked after each round.
"""

import argparse
import collections
import hashlib
import json
import os
import pathlib
import platform
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import textwrap

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "slk-" + "b" * 43  # a key for this benchmark only; its hash stands in the policy below
SCENARIOS = "t64,t64_8k,t64_100k,o100,o500,s50"

SLUICE_OFF = """
version: 1
default_provider: mock
providers:
  mock: {{dialect: openai, url: "http://127.0.0.1:{up}", allow_private: true}}
prices:
  mock: {{input: 2.50, output: 10.00}}
  mock-n200-g10: {{input: 2.50, output: 10.00}}
"""

SLUICE_ON = """
callers:
  keys:
    - {{name: bench, hash: "sha256:{digest}", tier: bench}}
  pass_through: deny
tiers:
  bench: {{requests: 100000000/min, tokens: 100000000000/min, concurrency: 100000, spend: [$1000000/day, $9000000/month]}}
guard:
  pii: {{default: mask}}
  restore: true
"""


def nginx_conf(folder: pathlib.Path, port: int, up: int) -> str:
    path = folder / "nginx.conf"
    path.write_text(
        textwrap.dedent(f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
        events {{ worker_connections 4096; }}
        http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
          uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 1000000000; client_max_body_size 64m;
          upstream mock {{ server 127.0.0.1:{up}; keepalive 512; keepalive_requests 1000000000; }}
          server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_buffering off; }} }} }}
        """)
    )
    return f"nginx -c {path} -p {folder}"


def targets(folder: pathlib.Path, up: int) -> str:
    python = shlex.quote(sys.executable)
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    (folder / "off.yaml").write_text(SLUICE_OFF.format(up=up))
    (folder / "on.yaml").write_text((SLUICE_OFF + SLUICE_ON).format(up=up, digest=digest))

    def sluice(name: str, port: int) -> str:
        return (
            f"{python} -m proxy serve --policy {folder}/{name}.yaml --listen 127.0.0.1:{port} --admin 127.0.0.1:{port + 1} "
            f"--state sqlite:{folder}/{name}-state"
        )

    parts = [
        ("aiohttp", f"{python} {{here}}/plain.py {{port}}", 9201, []),
        ("sluice-off", sluice("off", 9401), 9401, []),
        ("sluice-on", sluice("on", 9403), 9403, [f"Authorization: Bearer {KEY}"]),
    ]
    if shutil.which("nginx"):
        parts.insert(1, ("nginx", nginx_conf(folder, 9210, up), 9210, []))
    text = ""
    for name, cmd, port, headers in parts:
        text += f"[{name}]\ncmd = {json.dumps(cmd)}\nport = {port}\nheaders = {json.dumps(headers)}\ncwd = {json.dumps(str(ROOT))}\n\n"
    return text


def ledger_rows(folder: pathlib.Path, name: str) -> int:
    with sqlite3.connect(f"file:{folder}/{name}-state/ledger.sqlite?mode=ro", uri=True) as db:
        return int(db.execute("select count(*) from rows").fetchone()[0])


def median(rows: list[dict], *path: str) -> float | None:
    got = []
    for row in rows:
        value: object = row
        for step in path:
            value = value.get(step) if isinstance(value, dict) else None
        if isinstance(value, (int, float)):
            got.append(float(value))
    return statistics.median(got) if got else None


# what: (path in a row, is it "added" over direct)
FIGURES = [
    ("calls/s per core, 1 kB, 64 connections", ("t64", "rps"), False),
    ("calls/s per core, 8 kB", ("t64_8k", "rps"), False),
    ("calls/s per core, 100 kB", ("t64_100k", "rps"), False),
    ("CPU per call, 1 kB, µs", ("t64", "cpu_us_per_request"), False),
    ("added p50 at 100 calls/s, µs", ("o100", "lat_us", "p50"), True),
    ("added p50 at 500 calls/s, µs", ("o500", "lat_us", "p50"), True),
    ("added p99 at 500 calls/s, µs", ("o500", "lat_us", "p99"), True),
    ("added first token p50, 50 streams, µs", ("s50", "ttft_us", "p50"), True),
    ("delay added per event p50, 50 streams, µs", ("s50", "event_us", "p50"), True),
    ("delay added per event p99, 50 streams, µs", ("s50", "event_us", "p99"), True),
    ("CPU per event, 50 streams, µs", ("s50", "cpu_us_per_event"), False),
    ("memory idle, MB", ("idle_rss_mb",), False),
    ("memory after load, MB", ("rss_mb",), False),
    ("exec to first 200, s", ("start_s",), False),
]


def table(path: pathlib.Path) -> str:
    rows = collections.defaultdict(list)
    for line in path.read_text().splitlines():
        row = json.loads(line)
        rows[row["target"]].append(row)
    names = [n for n in rows if n != "direct"]
    out = ["| what | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for what, where, added in FIGURES:
        base = median(rows["aiohttp"], *where)
        direct = median(rows["direct"], *where) if added else 0.0
        cells = []
        for name in names:
            value = median(rows[name], *where)
            if value is None or base is None or direct is None:
                cells.append("-")
                continue
            value, of = value - direct, base - direct
            ratio = f" ({value / of:.2f}x)" if name != "aiohttp" and of > 0 else ""
            cells.append(f"{value:,.2f}{ratio}" if value < 10 else f"{value:,.0f}{ratio}")
        out.append(f"| {what} | " + " | ".join(cells) + " |")
    return "\n".join(out)


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("-n", "--rounds", type=int, default=3)
    args.add_argument("-s", "--scenarios", default=SCENARIOS)
    args.add_argument("--to", default=str(ROOT / "docs" / "performance.md"))
    opts = args.parse_args()
    build = ROOT / "build" / "bench"
    subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={build}"], check=True)
    with tempfile.TemporaryDirectory(prefix="sluice-bench-") as name:
        folder = pathlib.Path(name)
        (folder / "targets.toml").write_text(targets(folder, 9100))
        results = build / "results.jsonl"
        results.unlink(missing_ok=True)
        command = [
            sys.executable,
            str(HERE / "bench.py"),
            str(folder / "targets.toml"),
            "-n",
            str(opts.rounds),
            "-s",
            opts.scenarios,
            "-o",
            str(results),
        ]
        # start-up is measured as installed: with bytecode, which this machine's environment may forbid
        env = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        env |= {"BENCH_BIN": str(build), "PYTHONPYCACHEPREFIX": str(build / "pycache")}
        subprocess.run([sys.executable, "-c", "import proxy.app, proxy.cli.serve"], check=True, env=env, cwd=ROOT)
        subprocess.run(command, check=True, env=env)
        counted = {n: ledger_rows(folder, n) for n in ("off", "on")}
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    bad = [json.dumps(row) for row in rows if '"error"' in json.dumps(row)]
    for name, count in counted.items():
        calls = sum(row.get("upstream_requests", 0) for row in rows if row["target"] == f"sluice-{name}")
        if calls != count:
            bad.append(f"sluice-{name}: {calls} calls reached the provider, the ledger holds {count} rows")
    text = HERE.joinpath("performance.md.in").read_text()
    text = text.replace("@TABLE@", table(results)).replace("@ROWS@", f"{counted['on']:,} (on), {counted['off']:,} (off)")
    text = text.replace(
        "@MACHINE@", f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {opts.rounds} rounds, medians"
    )
    pathlib.Path(opts.to).write_text(text)
    print(table(results))
    for line in bad:
        print("VOID:", line[:300], file=sys.stderr)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
