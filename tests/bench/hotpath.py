#!/usr/bin/env python3
"""What a call executes, counted: without a clock, and the same on any machine with this minor version of Python.

    tests/bench/hotpath.py                      # beside hotpath.json; exit 1 where something is more than 5 % above it
    tests/bench/hotpath.py --by function        # where it is executed, scenario by scenario (-s NAME,… -t TOP -n CALLS)
    tests/bench/hotpath.py --renew              # `make hotpath`: writes hotpath.json; what rises above 5 % wants --rise too

Another tree is counted by PYTHONPATH=TREE. What is counted, and what is not, stands in counted.py.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import select
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BASELINE = HERE / "hotpath.json"
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
KEY = "slk-" + "b" * 43  # a key for this benchmark only; its hash stands in the policy below
TICK_S, EVENT_S = 0.005, 0.001  # of the App's time, after a call and after a piece of an answer
WARM, PEAKS = 10, 9  # calls
MOST = 0.05

OFF = """
version: 1
default_provider: mock
providers: {mock: {dialect: openai, url: "http://127.0.0.1:@PORT@", allow_private: true}}
prices: {mock: {input: 2.50, output: 10.00}}
"""
ON = """
guard: {pii: {default: mask}, restore: true}
tiers:
  bench: {requests: 100M/min, tokens: 100000M/min, concurrency: 100000, spend: [$1000000/day, $9000000/month]}
@TIERS@
callers:
  pass_through: deny
  keys:
  - {name: bench, hash: "sha256:@HASH@", tier: bench}
@KEYS@
"""
OTHERS = {  # lines of a policy that are about other callers and models
    "@TIERS@": (100, "  tier-@: {requests: 60/min, spend: $5/day}"),
    "@KEYS@": (200, "  - {name: other-@, hash: 'sha256:%064d', tier: tier-1}"),
    "limits:": (200, "  - {name: limit-@, match: {caller: other-@}, per: caller, requests: 60/min}"),
    "rules:": (200, "  - {match: {caller: other-@}, retry: {attempts: 2}}"),
    "fallback:": (200, "  model-@: [mock/another-@]"),
}
PROSE = (
    "Please summarise ticket 48213 for the customer in Leeds: the parcel left on 2025-03-14, was scanned twice, and the refund of "
    "129.90 has not arrived. Keep it under 80 words, and be kind. "
)
LINES = PROSE.replace(". ", '.\n"') + "Write to anna.schmidt@example.org about it.\n"
USAGE = {"prompt_tokens": 250, "completion_tokens": 200, "total_tokens": 450}
CHUNK = {"id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 1700000000, "model": "mock", "system_fingerprint": "fp_mock"}


def longer(policy: str) -> str:
    """A policy of a thousand lines, as dear as the short one for whom none of them is about."""
    for where, (count, line) in OTHERS.items():
        lines = "\n".join(line.replace("@", str(number)).replace("%064d", f"{number:064d}") for number in range(count))
        policy = policy.replace(where, lines) if where in policy else f"{policy}{where}\n{lines}\n"
    return policy


Answer = Callable[[bytes], list[bytes]]
Figures = dict[str, float]  # per call: calls, bytecodes, c_calls, c_bytes; of a whole scenario, peak_bytes
Function = tuple[str, str, Figures]  # its file, its name


# --- the calls ---


def request(prompt: str, *, stream: bool = False, key: str = KEY) -> bytes:
    doc: dict[str, Any] = {"model": "mock", "max_tokens": 1000, "temperature": 0.2}
    if stream:
        doc |= {"stream": True, "stream_options": {"include_usage": True}}
    doc["messages"] = [{"role": "system", "content": "You are a helpful assistant."}, {"role": "user", "content": prompt}]
    body = json.dumps(doc, separators=(",", ":")).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: bench\r\nAccept: application/json\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nAuthorization: Bearer {key}\r\n\r\n"
    )
    return head.encode() + body


def whole(asked: bytes) -> list[bytes]:
    text = f"{placeholder(asked) or 'the quick brown fox jumps over a lazy dog,'} and so on"
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body = json.dumps(CHUNK | {"object": "chat.completion", "choices": [choice], "usage": USAGE}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nx-request-id: req_mock\r\nContent-Length: {len(body)}\r\n\r\n"
    return [head.encode() + body]


def streamed(asked: bytes) -> list[bytes]:
    """200 events, each by itself; where a value was masked, every twentieth names it."""
    mark = placeholder(asked)
    texts = [f" {mark}" if mark and number % 20 == 10 else " fox " for number in range(200)]
    docs = [CHUNK | {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]} for text in texts]
    docs += [CHUNK | {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}, CHUNK | {"choices": [], "usage": USAGE}]
    events = [b"data: " + json.dumps(doc).encode() + b"\n\n" for doc in docs] + [b"data: [DONE]\n\n"]
    pieces = [b"%x\r\n%b\r\n" % (len(event), event) for event in events]
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: req_mock\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [head + pieces[0], *pieces[1:-1], pieces[-1] + b"0\r\n\r\n"]


def placeholder(asked: bytes) -> str:
    """What the provider got in place of the e-mail address."""
    rest = json.loads(asked)["messages"][-1]["content"].partition("Write to ")[2]
    return rest.split()[0] if rest else ""


SCENARIOS: dict[str, tuple[str, bytes, Answer, int]] = {  # policy, request, answer, calls to count
    "json_1k": (OFF + ON, request((PROSE * 9)[:820]), whole, 40),
    "json_8k_restore": (OFF + ON, request((LINES * 50)[:7500]), whole, 30),
    "stream_200": (OFF + ON, request((PROSE * 9)[:820], stream=True), streamed, 4),
    "stream_200_restore": (OFF + ON, request(LINES * 3, stream=True), streamed, 4),
    "json_1k_long": (longer(OFF + ON), request((PROSE * 9)[:820]), whole, 20),
    "json_1k_off": (OFF, request((PROSE * 9)[:820], key="sk-mock-0123456789abcdef"), whole, 40),
}


# --- one App, driven step by step ---


class Driver:
    """Client and provider of an App that does nothing but what follows from what it is sent. `sown`: see counted.py."""

    def __init__(self, folder: Path, policy: str, sown: str) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        port, digest = str(self._listener.getsockname()[1]), hashlib.sha256(KEY.encode()).hexdigest()
        (folder / "policy.yaml").write_text(re.sub("@(TIERS|KEYS)@", "", policy).replace("@PORT@", port).replace("@HASH@", digest))
        (folder / "sown.py").write_text(sown)
        self._line, theirs = socket.socketpair()
        env = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "PYTHONPATH") if name in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(HERE / "counted.py"), str(folder), str(theirs.fileno())],
                env={"PYTHONPATH": str(HERE.parents[1]), **env, "PYTHONHASHSEED": "0"},
                pass_fds=[theirs.fileno()],
                stdout=subprocess.DEVNULL,
            )
        self._told = self._line.makefile("rb")
        self._client = at_once(socket.create_connection(("127.0.0.1", self._hear())))
        self._provider: socket.socket | None = None

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        for one in (self._told, self._line, self._listener, self._client, self._provider):
            if one is not None:
                one.close()

    def tell(self, what: str) -> Any:
        self._line.sendall(what.encode() + b"\n")
        return self._hear()

    def _hear(self) -> Any:
        line = self._told.readline()
        if not line:
            raise RuntimeError(f"the App ended with {self._process.wait()}")
        return json.loads(line)

    def call(self, request: bytes, answer: Answer) -> None:
        """One call; nothing is under way when the next thing arrives."""
        self._client.sendall(request)
        asked = self._asked()
        self.tell("settle 0")
        assert self._provider is not None
        got = b""
        for piece in answer(asked):
            self._provider.sendall(piece)
            self.tell(f"settle {EVENT_S}")
            got += arrived(self._client)
        self.tell(f"settle {TICK_S}")
        got += arrived(self._client)
        head, _, body = got.partition(b"\r\n\r\n")
        is_whole = body.endswith(b"0\r\n\r\n") if b"chunked" in head else b"content-length: %d\r\n" % len(body) in head.lower() + b"\r\n"
        if not got.startswith(b"HTTP/1.1 200 ") or not is_whole:
            raise RuntimeError(f"the call failed: {got[:2000]!r}")

    def _asked(self) -> bytes:
        """The body of the request that the provider gets, on the connection it had or on a new one."""
        got = b""
        while True:
            ready = select.select([one for one in (self._listener, self._provider) if one is not None], [], [], 30)[0]
            if self._listener in ready:
                self._provider = at_once(self._listener.accept()[0])
                continue
            more = self._provider.recv(1 << 20) if self._provider in ready and self._provider is not None else b""
            if not more:
                said = arrived(self._client) if self._process.poll() is None else f"the App ended with {self._process.returncode}"
                raise RuntimeError(f"the provider is not asked: {said!r}")
            got += more
            head, end, body = got.partition(b"\r\n\r\n")
            if end and len(body) == int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
                return body


def arrived(one: socket.socket) -> bytes:
    try:
        return one.recv(1 << 20, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return b""


def at_once(one: socket.socket) -> socket.socket:
    """Without Nagle's algorithm, which would hold back what is sent."""
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return one


@contextlib.contextmanager
def driving(policy: str, sown: str) -> Iterator[Driver]:
    with tempfile.TemporaryDirectory(prefix="sluice-hotpath-") as folder:
        driver = Driver(Path(folder), policy, sown)
        try:
            yield driver
        finally:
            driver.close()


# --- figures ---


def count(name: str, calls: int | None = None, sown: str = "") -> tuple[list[Function], float | None]:
    """Each function that the scenario's calls ran, and the most bytes one of them held (of streams, that spreads too much)."""
    policy, asked, answer, usual = SCENARIOS[name]
    calls = calls or usual
    with driving(policy, sown) as driver:
        for _ in range(WARM):
            driver.call(asked, answer)
        driver.tell("count")
        for _ in range(calls):
            driver.call(asked, answer)
        told = driver.tell("counted")
        peaks = []
        for _ in range(PEAKS if answer is whole else 0):
            driver.tell("allocate")
            driver.call(asked, answer)
            peaks.append(driver.tell("allocated"))
    functions = [(file, function, {figure: it / calls for figure, it in figures.items()}) for file, function, figures in told]
    return functions, statistics.median(peaks) if peaks else None


def summed(functions: list[Function], key: Callable[[str, str], str]) -> dict[str, Figures]:
    sums: dict[str, Figures] = {}
    for file, function, figures in functions:
        into = sums.setdefault(key(file, function), dict.fromkeys(figures, 0.0))
        for figure, it in figures.items():
            into[figure] += it
    return dict(sorted(sums.items(), key=lambda it: -it[1]["bytecodes"]))


def room(file: str, _: str = "") -> str:
    """Of a file: the room, "spine" for what joins the rooms, or the package it comes from."""
    first, *rest = file.split("/")
    return first if first != "proxy" else rest[0] if len(rest) > 1 else "spine"


def measure(name: str, sown: str = "") -> dict[str, Figures]:
    """ "all", and each room."""
    functions, peak = count(name, sown=sown)
    found = summed(functions, lambda *_: "all") | summed(functions, room)
    if peak is not None:
        found["all"]["peak_bytes"] = peak
    return {what: {figure: round(it, 1) for figure, it in figures.items()} for what, figures in found.items()}


def changes(before: dict[str, Figures], now: dict[str, Figures]) -> Iterator[tuple[float, str]]:
    """By how much each figure has changed (0.07: 7 % more), and a text that names the rooms it changed in most."""
    for figure, old in before["all"].items():
        new = now["all"][figure]
        by_room = {it: now.get(it, {}).get(figure, 0) - before.get(it, {}).get(figure, 0) for it in {*before, *now} - {"all"}}
        most = sorted(by_room, key=lambda it: -abs(by_room[it]))[:3]
        where = ", ".join(f"{it} {by_room[it]:+,.0f}" for it in most if by_room[it]) if figure != "peak_bytes" else ""
        yield new / old - 1, f"{figure} {old:,.0f} → {new:,.0f} ({new / old - 1:+.1%}){where and f': {where}'}"


def baseline() -> dict[str, dict[str, Figures]] | None:
    """Of this minor version of Python; None: there is none."""
    found: dict[str, Any] = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    return found.get(PYTHON)


def write(now: dict[str, dict[str, Figures]]) -> None:
    """Beside those of other versions; a room a line."""
    held = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    text = json.dumps(held | {PYTHON: now}, indent=1)
    BASELINE.write_text(re.sub(r"\n {4,}|\n {3}(?=})", " ", text) + "\n")


def show(functions: list[Function], by: str, top: int) -> None:
    keys = {"room": room, "file": lambda file, _: file, "function": lambda file, function: f"{file} {function}"}
    total = summed(functions, lambda *_: "all")
    steps = total["all"]["bytecodes"]
    print(f"{'':76}{'calls':>10}{'bytecodes':>12}{'share':>8}{'c_calls':>10}{'c_bytes':>12}")
    for what, it in [*total.items(), *list(summed(functions, keys[by]).items())[:top]]:
        share = it["bytecodes"] / steps
        print(f"{what[-76:]:76}{it['calls']:10.1f}{it['bytecodes']:12.1f}{share:8.1%}{it['c_calls']:10.1f}{it['c_bytes']:12.0f}")


def judge(renews: bool, may_rise: bool) -> int:
    before, now, risen = baseline() or {}, {}, 0
    for name in SCENARIOS:
        now[name] = measure(name)
        for change, text in changes(before[name], now[name]) if name in before else ():
            risen += change > MOST
            print(f"{name}: {text}{'  ABOVE 5 %' if change > MOST else ''}")
    if renews and risen and not may_rise:
        print(f"not written: {risen} figures rise above 5 %. Mend it, or say that it must be so: --rise", file=sys.stderr)
    elif renews:
        write(now)
    return 1 if risen and not (renews and may_rise) else 0


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("--renew", action="store_true")
    args.add_argument("--rise", action="store_true")
    args.add_argument("--by", choices=("room", "file", "function"))
    args.add_argument("-s", "--scenarios", default=",".join(SCENARIOS))
    args.add_argument("-t", "--top", type=int, default=40)
    args.add_argument("-n", "--calls", type=int)
    opts = args.parse_args()
    if opts.by is None:
        return judge(opts.renew, opts.rise)
    for name in opts.scenarios.split(","):
        print(f"\n== {name}")
        show(count(name, opts.calls)[0], opts.by, opts.top)
    return 0


if __name__ == "__main__":
    sys.exit(main())
