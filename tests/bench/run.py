#!/usr/bin/env python3
"""`make bench`: builds the tools, measures the targets side by side, writes docs/performance.md. Needs a C compiler and Linux besides.

    make bench ARGS="[-n ROUNDS] [-t TARGET,…] [-s SCENARIO,…] [--to FILE] [--json FILE] [--from FILE] [--base IMAGE]"

A run of parts (-t, -s) prints the tables and writes no document unless --to names one. --from makes the document anew from the rows of a
run (build/bench/results.jsonl). Exits 1 where something is void: a call failed, an answer was another's, or the books do not agree.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import pathlib
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import bench
import beside
import figures
from bench import Target
from rounds import one_round

from tests.support.ports import free_port

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
KEY = "slk-" + "b" * 43  # a key for this benchmark only; its hash stands in the policy below
MODELS = ("mock", "mock-n200", "mock-n200-g10")
IMAGE = "python:3.11-slim-bookworm"  # what the Dockerfile stands on

OFF = """
version: 1
default_provider: mock
providers:
  mock: {{dialect: openai, url: "{up}", allow_private: true}}
prices: {{{prices}}}
"""
ON = """
callers:
  keys:
    - {{name: bench, hash: "sha256:{digest}", tier: bench}}
  pass_through: deny
tiers:
  bench: {{requests: 100000000/min, tokens: 100000000000/min, concurrency: 100000{spend}}}
guard:
  pii: {{default: mask}}
  restore: true
"""
SPEND = ", spend: [$1000000/day, $9000000/month]"

EVERYTHING = tuple(name for name in bench.SCENARIOS if name != "tls500")
SOME = ("t64", "s50", "t64_8k", "t64_100k", "t64_mail", "c1", "o100", "o500")  # of targets no verdict rests on
DIRECT = ("t64", "s50", "s50_apart", "c1", "o100", "o500")
NGINX = ("t64", "s50", "s50_apart", "t64_8k", "t64_100k", "o500")


def nginx_conf(folder: pathlib.Path, port: int, up: int) -> pathlib.Path:
    path = folder / "nginx.conf"
    path.write_text(
        textwrap.dedent(f"""
        daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {"user root;" if os.getuid() == 0 else ""}
        events {{ worker_connections 4096; }}
        http {{ access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
          uwsgi_temp_path {folder}; scgi_temp_path {folder}; keepalive_requests 1000000000; client_max_body_size 64m;
          upstream mock {{ server 127.0.0.1:{up}; keepalive 512; keepalive_requests 1000000000; }}
          server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass http://mock; proxy_http_version 1.1;
            proxy_set_header Connection ""; proxy_buffering off; }} }} }}
        """)
    )
    return path


def targets(folder: pathlib.Path, up: int, tls: int) -> list[Target]:
    """In the order they are asked."""
    plain, secure = f"http://127.0.0.1:{up}", f"https://127.0.0.1:{tls}"
    trust = {"SSL_CERT_FILE": str(folder / "ca.pem")}
    port = free_port()
    proxy = (sys.executable, str(HERE / "plain.py"))
    nginx = Target("nginx", NGINX, port, ("nginx", "-c", str(nginx_conf(folder, port, up)), "-p", str(folder)), arguments=bench.SHORT)
    port, tls_port = free_port(), free_port()
    return [
        Target("direct", DIRECT),
        *([nginx] if shutil.which("nginx") else []),
        Target(figures.PLAIN, EVERYTHING, port, (*proxy, str(port), plain)),
        replace(sluice(folder, "off", OFF, plain), scenarios=SOME, arguments=bench.SHORT),
        sluice(folder, "on", OFF + ON, plain, SPEND),
        replace(sluice(folder, "rates", OFF + ON, plain), scenarios=("t64",)),
        Target(figures.PLAIN_TLS, ("tls500",), tls_port, (*proxy, str(tls_port), secure), env=trust),
        replace(sluice(folder, "on-tls", OFF + ON, secure, SPEND), scenarios=("tls500",), env=trust),
    ]


def sluice(folder: pathlib.Path, name: str, policy: str, up: str, spend: str = "") -> Target:
    port, admin, state = free_port(), free_port(), folder / f"{name}-state"
    prices = ", ".join(f"{model}: {{input: 2.50, output: 10.00}}" for model in MODELS)
    path = folder / f"{name}.yaml"
    path.write_text(policy.format(up=up, prices=prices, digest=hashlib.sha256(KEY.encode()).hexdigest(), spend=spend))
    serve = f"-m proxy serve --policy {path} --listen 127.0.0.1:{port} --admin 127.0.0.1:{admin} --state sqlite:{state}"
    headers = (f"Authorization: Bearer {KEY}",) if policy.endswith(ON) else ()
    return Target(f"sluice-{name}", EVERYTHING, port, (sys.executable, *serve.split()), headers, state=state, is_masking=bool(headers))


@contextmanager
def providers(folder: pathlib.Path) -> Iterator[int]:
    """The mock provider at bench.UP, and TLS in front of it at the port that is given."""
    bench.UP, tls = free_port(), free_port()
    with ExitStack() as stack:
        front = [sys.executable, HERE / "tls_front.py", str(tls), str(bench.UP), folder]
        for argv in ([bench.BIN / "mock_upstream", str(bench.UP)], front):
            stack.callback(bench.stop, bench.pinned(bench.OTHER, argv))
        until = time.monotonic() + 20
        while not ((folder / "ca.pem").exists() and bench.http(bench.UP, "/__stats")[0] == 200):
            if time.monotonic() > until:
                raise SystemExit("bench: the mock provider does not start")
            time.sleep(0.05)
        yield tls


def run(rounds: int, only: list[str], scenarios: list[str], results: pathlib.Path) -> None:
    # start-up is measured as installed: with bytecode, which this machine's environment may forbid
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(bench.BIN / "pycache")
    for code in ("import proxy.app, proxy.cli.serve", "import aiohttp.web"):
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    began = time.monotonic()
    with ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sluice-bench-")))
        out, log = stack.enter_context(results.open("w")), stack.enter_context(results.with_suffix(".log").open("wb"))
        tls = stack.enter_context(providers(folder))
        for turn in range(rounds):
            others = beside.Beside(lambda: bench.tree(os.getpid()), bench.cpu_of)
            wanted = [one for one in targets(folder, bench.UP, tls) if not only or one.name in only]
            rows = one_round(wanted, scenarios, log, partial(tell, began, turn))
            company = others.taken()
            for row in (one | {"round": turn, "beside": company} for one in rows):
                out.write(json.dumps(row) + "\n")
                print(*(f"    VOID: {fault}\n" for fault in figures.faults(row)), sep="", end="", file=sys.stderr)
            out.flush()
            if said := beside.worded(company):
                print(f"    NOT ALONE: {said}", file=sys.stderr)
            for target in wanted:
                if target.state is not None:
                    shutil.rmtree(target.state, ignore_errors=True)  # each round begins with an empty ledger


def tell(began: float, turn: int, scenario: str, found: dict[str, dict[str, Any]]) -> None:
    rates = "  ".join(f"{name} {one.get('rps', 'error')}" for name, one in found.items())
    print(f"{time.monotonic() - began:5.0f} s  round {turn}  {scenario:10} calls/s: {rates}", file=sys.stderr)


# --- the document ---


def image_size(base: str) -> str:
    """Of the image, built on a base that is here already. BENCH_BUILD: more arguments of the build."""
    more = shlex.split(os.environ.get("BENCH_BUILD", ""))
    for tool in ("docker", "podman", "buildah"):
        if shutil.which(tool) is None or not (below := _said(tool, "images", "--format", "{{.Size}}", base)):
            continue
        built = _said(tool, "build", "-q", *more, "--build-arg", f"BASE={base}", "-t", "localhost/sluice-bench", str(ROOT))
        if built and (size := _said(tool, "images", "--format", "{{.Size}}", "localhost/sluice-bench")):
            return f"{size}, of it {below} the base ({base})"
    return "not measured"


def _said(*command: str) -> str:
    """Nothing where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    return "" if done.returncode else done.stdout.strip()


def document(found: figures.Found, rows: figures.Rows, image: str) -> str:
    ledgers = [row["ledger"] for row in rows if "ledger" in row]
    count, cost = sum(one["rows"] for one in ledgers), sum(one["cost_nanousd"] for one in ledgers)
    versions = f"Python {platform.python_version()}" + (", nginx" if "nginx" in found.names else "; nginx is not installed")
    written = {
        "@DATE@": f"{datetime.date.today()}",
        "@MACHINE@": f"{platform.machine()}, {os.cpu_count()} cores, {versions}; medians of {len(found.rounds)} rounds",
        "@BOOKS@": f"{count:,} calls in the ledgers, ${cost / 1e9:,.6f}",
        "@VOID@": "\n".join(["**VOID:**", "", *(f"* {text}" for text in found.void)]) if found.void else "Nothing was void.",
        "@BESIDE@": _company(rows),
        "@TARGETS@": figures.targets(found),
        "@TABLE@": figures.side_by_side(found),
        "@IMAGE@": image,
        "@GROWTH@": growth.read_text().strip() if (growth := bench.BIN / "growth.md").exists() else "Not measured.",
    }
    text = HERE.joinpath("performance.md.in").read_text()
    for name, value in written.items():
        text = text.replace(name, value)
    return text


def _company(rows: figures.Rows) -> str:
    """What others took of the machine in the worst of these rows."""
    worst = max((row["beside"] for row in rows if "beside" in row), key=lambda taken: sum(taken.values()), default=None)
    if worst is None:
        return "What others took of the machine meanwhile was not looked at."
    if company := beside.worded(worst):
        return f"**Not alone:** {company}."
    return f"Other processes took no more than {sum(worst.values()):.1f} % of a core meanwhile."


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    args = argparse.ArgumentParser(prog="make bench")
    args.add_argument("-n", "--rounds", type=int, default=3)
    args.add_argument("-t", "--targets", default="")
    args.add_argument("-s", "--scenarios", default="")
    args.add_argument("--to", help="the document; docs/performance.md")
    args.add_argument("--json", type=pathlib.Path, default=bench.BIN / "results.jsonl", help="where the rows are kept")
    args.add_argument("--from", dest="kept", type=pathlib.Path, help="rows of an earlier run: nothing is measured")
    args.add_argument("--base", default=IMAGE, help="an image that is here, for the size of Sluice's")
    asked = args.parse_args()
    if asked.kept is None:
        subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={bench.BIN}"], check=True)
        only, scenarios = ([one for one in text.split(",") if one] for text in (asked.targets, asked.scenarios))
        run(asked.rounds, only, scenarios, asked.json)
    rows = [json.loads(line) for line in (asked.kept or asked.json).read_text().splitlines()]
    found = figures.Found(rows)
    to = asked.to or (None if asked.targets or asked.scenarios else ROOT / "docs" / "performance.md")
    if to:
        pathlib.Path(to).write_text(document(found, rows, image_size(asked.base)))
    print(figures.targets(found), figures.side_by_side(found), sep="\n\n")
    for text in found.void:
        print("VOID:", text, file=sys.stderr)
    return 1 if found.void else 0


if __name__ == "__main__":
    sys.exit(main())
