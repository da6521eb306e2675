"""`sluice demo`: the real `sluice serve` before a fake provider, a dozen calls, and what became of each. Needs no key and no network."""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

import proxy
from proxy.cli.demo_calls import CALLS, Outcome, make
from proxy.cli.fake_provider import FakeProvider, Seen
from proxy.cli.terminal import fail, printable, section, table
from proxy.identify.keys import KEY_BYTES, mint
from proxy.policy.explain import money

START_S = 20.0
END_S = 5.0
INTERRUPTED = 130
SETTLE_S = 3.0  # for the attempt whose client hung up

POLICY = """\
server: {{drain: 2s}}
providers:
  openai: {{url: "{provider}", key: env:DEMO_OPENAI_KEY}}
  anthropic: {{url: "{provider}", key: env:DEMO_ANTHROPIC_KEY}}
callers:
  keys:
    - {{name: alice, hash: "sha256:{alice}", tier: premium}}
    - {{name: bob, hash: "sha256:{bob}", tier: free}}
tiers:
  premium: {{requests: 60/min, spend: $5/day}}
  free: {{requests: 3/min, spend: $0.05/day}}
guard: {{pii: {{default: mask, credit_card: block}}, restore: true}}
retry: {{attempts: 3, backoff: 0.1s..0.3s}}
"""
TITLES = ("call", "caller", "kind", "model", "status", "end", "in", "out", "usage", "guard", "charged")


class CannotRun(Exception):
    """The demo could not be shown: one line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keep", action="store_true", help="leave it running until Ctrl-C, to look at its metrics and ledger")


def run(options: argparse.Namespace) -> int:
    try:
        return asyncio.run(_demo(keep=options.keep))
    except (CannotRun, OSError, aiohttp.ClientError) as problem:
        return fail(f"the demo cannot run: {str(problem) or type(problem).__name__}")
    except (KeyboardInterrupt, asyncio.CancelledError):
        return INTERRUPTED


async def _demo(*, keep: bool) -> int:
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    keys = {name: mint(os.urandom(KEY_BYTES)) for name in ("alice", "bob", "nobody")}
    with tempfile.TemporaryDirectory(prefix="sluice-demo-") as folder:
        async with FakeProvider() as provider, aiohttp.ClientSession() as session:
            digests = {name: digest.hex() for name, (_, digest) in keys.items()}
            policy = Path(folder) / "policy.yaml"
            text = POLICY.format(provider=provider.url, **digests)
            policy.write_text(text)
            async with _sluice(session, Path(folder), policy) as (base, admin):
                print(f"sluice serve on {base}, admin {admin}, before a fake provider on {provider.url}\n\n{text[text.index('tiers:') :]}")
                outcomes = [
                    _told(number, await make(session, base, call, keys[call.key][0], number, provider.seen))
                    for number, call in enumerate(CALLS, 1)
                ]
                _tell(outcomes, await _ledger(session, admin, outcomes), provider.seen)
                if keep:
                    print(f"\nstill running: {base}, {admin}/metrics, {admin}/admin/ledger; Ctrl-C ends it", flush=True)
                    with suppress(asyncio.CancelledError):
                        await asyncio.Event().wait()
    wrong = [one for one in outcomes if one.status != one.call.expected]
    return fail(f"{wrong[0].call.title}: HTTP {wrong[0].status} where {wrong[0].call.expected} was due") if wrong else 0


@asynccontextmanager
async def _sluice(session: aiohttp.ClientSession, folder: Path, policy: Path) -> AsyncIterator[tuple[str, str]]:
    """The real command as a subprocess; its own URL and its admin listener's. Ended by its id, whatever happens."""
    listen, admin = (f"127.0.0.1:{port}" for port in _free_ports())
    log = folder / "sluice.log"
    places = {"--policy": policy, "--listen": listen, "--admin": admin, "--state": f"sqlite:{folder / 'state'}"}
    command = ["-m", "proxy", "serve", *(str(word) for pair in places.items() for word in pair)]
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(sys.executable, *command, stdout=out, stderr=out, env=_environ())
    try:
        await _ready(session, f"http://{admin}/healthz/ready", process, log)
        yield f"http://{listen}", f"http://{admin}"
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), END_S)
        except TimeoutError:
            process.kill()
            await process.wait()


async def _ready(session: aiohttp.ClientSession, url: str, process: asyncio.subprocess.Process, log: Path) -> None:
    until = time.monotonic() + START_S
    while True:
        with suppress(aiohttp.ClientError):
            async with session.get(url) as reply:
                if reply.status == 200:
                    return
        if process.returncode is not None or time.monotonic() > until:
            raise CannotRun(f"sluice serve did not start: {_last_words(log)}")
        await asyncio.sleep(0.05)


def _last_words(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines()
    return lines[-1].removeprefix("sluice: ") if lines else "it said nothing"


def _free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as other:
        return _bound(one), _bound(other)


def _bound(one: socket.socket) -> int:
    """Below the ports of outgoing connections (32768 upwards): none of those takes it before the sidecar has it."""
    for _ in range(100):
        with suppress(OSError):
            one.bind(("127.0.0.1", 10_000 + secrets.randbelow(22_768)))
            return int(one.getsockname()[1])
    raise CannotRun("no free port on 127.0.0.1 between 10000 and 32767; end what listens there")


def _environ() -> dict[str, str]:
    """Ours, without what would steer the sidecar elsewhere."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    path = os.pathsep.join(filter(None, (str(Path(proxy.__file__).parents[1]), own.get("PYTHONPATH"))))
    return own | {"PYTHONPATH": path, "DEMO_OPENAI_KEY": "the-openai-key", "DEMO_ANTHROPIC_KEY": "the-anthropic-key"}


def _told(number: int, one: Outcome) -> Outcome:
    """One line as it goes."""
    print(f"{number:2}  {one.call.key:6}  {one.call.title:34}  {one.status}  {printable(one.did)}", flush=True)
    return one


async def _ledger(session: aiohttp.ClientSession, admin: str, outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """Its rows, once the call that hung up is settled too."""
    left = {one.id for one in outcomes if one.call.hangs_up}
    until = time.monotonic() + SETTLE_S
    while True:
        async with session.get(f"{admin}/admin/ledger") as reply:
            rows: list[dict[str, Any]] = (await reply.json())["rows"]
        if left <= {row["request_id"] for row in rows} or time.monotonic() > until:
            return rows
        await asyncio.sleep(0.05)


def _tell(outcomes: list[Outcome], rows: list[dict[str, Any]], seen: list[Seen]) -> None:
    guarded = {one.id: one.told.get("guard", "-") for one in outcomes}
    print("\nThe ledger (GET /admin/ledger): one row per attempt, and per refusal of a known caller.\n")
    table(TITLES, [(*_row(row), guarded.get(row["request_id"], "-"), money(row["cost_nanousd"])) for row in rows])
    print(f"\nCharged in all: {money(sum(row['cost_nanousd'] for row in rows))}.")
    for one in outcomes:
        if one.saw not in (None, one.call.says):
            lines = (f"the client sent      {one.call.says}", f"the provider saw     {one.saw}", f"the client got back  {one.text}")
            section(f"{one.id}, {one.call.title}:", lines)
    section("Refused before a byte left:", (f"{one.id}  {one.text}" for one in outcomes if one.saw is None))
    section("Keys that the provider saw, its own and no caller's:", sorted({one.key for one in seen}))


def _row(row: dict[str, Any]) -> tuple[str | int, ...]:
    words = (str(row[name] if row[name] is not None else "-") for name in ("request_id", "caller", "kind", "model", "status", "end"))
    return (*words, row["input_tokens"], row["output_tokens"], row["usage_source"])
