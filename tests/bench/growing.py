"""For growth.py: sidecars side by side on core 0, a closed-loop client with many keys on core 1, and what a call costs meanwhile.

CPU time is that of all threads, from the scheduler; instructions are those in user space, from `perf` where it works (else None).
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.admit import keys_offline
from proxy.admit.keyring import Kept
from proxy.policy.plan_callers import KeyRecord
from tests.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
CORE, OTHER = 0, 1
START_S, SETTLE_S = 180.0, 1.0  # the latter: what the threads do behind the last call
STREAMS = 2_000
PROSE = (
    "Please summarise ticket 48213 for the customer in Leeds: the parcel left on 2025-03-14, was scanned twice, and the refund of "
    "129.90 has not arrived. Keep it under 80 words, and be kind. "
)


def key_of(number: int) -> str:
    return f"slk-growth-{number:036d}"


def mint(state: Path, count: int, tier: str) -> None:
    """Keys into a state that nobody uses yet, all in one transaction."""
    digests = [hashlib.sha256(key_of(number).encode()).digest() for number in range(count)]
    records = [KeyRecord(f"caller-{number}", digest, tier=tier) for number, digest in enumerate(digests)]
    with keys_offline(state) as keys:
        keys.change(lambda _: [Kept(record, time.time_ns()) for record in records])


def request(port: int, number: int, size: int = 1000, model: str = "mock", stream: bool = False) -> bytes:
    doc = {"model": model, "max_tokens": 1000, "stream": stream, "messages": [{"role": "user", "content": ""}]}
    body = json.dumps(doc).encode().replace(b'"content": ""', b'"content": "%b"')
    body %= (PROSE * (size // len(PROSE) + 1))[: size - len(body)].encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    return f"{head}Authorization: Bearer {key_of(number)}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@dataclass
class Cost:
    """Of one call; instructions in thousands."""

    us: float
    kinstr: float | None

    def times(self, other: Cost) -> Cost:
        return Cost(self.us / other.us, self.kinstr / other.kinstr if self.kinstr and other.kinstr else None)

    def more(self, other: Cost, count: float) -> Cost:
        """Than the other, each of `count` things."""
        k = self.kinstr and other.kinstr and (self.kinstr - other.kinstr) / count
        return Cost((self.us - other.us) / count, k or None)


class Sidecar:
    """One process on the core of targets; `state` may hold keys and rows already."""

    def __init__(self, folder: Path, up: int, policy: str, callers: int = 1, size: int = 1000, *, is_kept: bool = False) -> None:
        """`is_kept`: a connection is one caller's to its end; else all callers take turns, whatever connection is free."""
        self.folder, self.callers, self._calls, self._is_kept = folder, callers, 0, is_kept
        self.port, self.admin = free_port(), free_port()
        self._requests = itertools.cycle([request(self.port, number, size) for number in range(callers)])
        folder.mkdir(exist_ok=True)
        (folder / "policy.yaml").write_text(policy.replace("@UP@", str(up)))
        command = f"-m proxy serve --policy {folder}/policy.yaml --listen 127.0.0.1:{self.port} --admin 127.0.0.1:{self.admin}"
        command = f"taskset -c {CORE} {sys.executable} {command} --state sqlite:{folder / 'state'}"
        with (folder / "log").open("wb") as log:
            self._process = subprocess.Popen(command.split(), stdout=log, stderr=log, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        began = time.monotonic()
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() - began > START_S:
                self.stop()
                raise SystemExit(f"no sidecar: {(folder / 'log').read_text()[-3000:]}")
            time.sleep(0.05)
        self.started_s = time.monotonic() - began

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/healthz/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except OSError:
            return False

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def warm(self, calls: int) -> None:
        load(self.port, self._requests, 32, calls=calls)
        time.sleep(SETTLE_S)

    def begin(self) -> None:
        """From now to `cost`, all that it does counts, also what it does between calls and after them."""
        self._perf, self._before, self._calls = Perf(self._process.pid, self.folder / "perf"), self._cpu_ns(), 0

    def load(self, seconds: float, connections: int) -> None:
        self._calls += load(self.port, self._requests, connections, seconds=seconds, is_kept=self._is_kept)

    def cost(self) -> Cost:
        us = (self._cpu_ns() - self._before) / self._calls / 1000
        instructions = self._perf.stop()
        return Cost(us, None if instructions is None else instructions / self._calls / 1000)

    def _cpu_ns(self) -> int:
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{self._process.pid}/task").glob("*/schedstat"))

    def resident(self) -> int:
        """Bytes."""
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{self._process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) * 1024


class Perf:
    """Instructions in user space of one process, from here to `stop`."""

    def __init__(self, pid: int, path: Path) -> None:
        self._path = path
        command = ["perf", "stat", "-x,", "-e", "instructions:u", "-p", str(pid), "-o", str(path)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL) if shutil.which("perf") else None
        time.sleep(0.2)

    def stop(self) -> int | None:
        if self._process is None:
            return None
        self._process.send_signal(signal.SIGINT)
        self._process.wait()
        found = re.search(r"^(\d+),.*instructions", self._path.read_text() if self._path.exists() else "", re.MULTILINE)
        return int(found[1]) if found else None


def load(port: int, requests: Iterator[bytes], connections: int, *, seconds: float = 0.0, calls: int = 0, is_kept: bool = False) -> int:
    """Calls in flight on all connections for so many seconds, or so many calls; how many were answered, each with 200. `is_kept`: each
    connection asks the same again and again."""
    poll, ones, got, asks = select.epoll(), {}, {}, {}
    for _ in range(connections):
        one = socket.create_connection(("127.0.0.1", port))
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(one, select.EPOLLIN)
        ones[one.fileno()], got[one.fileno()] = one, b""
        asks[one.fileno()] = itertools.repeat(next(requests)) if is_kept else requests
        one.sendall(next(asks[one.fileno()]))
    done, until = 0, time.monotonic() + seconds
    busy = set(ones)
    while busy:
        for fd, _ in poll.poll(30) or silent():
            data = got[fd] + ones[fd].recv(1 << 20)
            got[fd] = data
            if not is_whole(data):
                continue
            done += 1
            got[fd] = b""
            if done + len(busy) <= calls or time.monotonic() < until:
                ones[fd].sendall(next(asks[fd]))
            else:
                busy.discard(fd)
    for one in ones.values():
        one.close()
    return done


def is_whole(data: bytes) -> bool:
    head, end, body = data.partition(b"\r\n\r\n")
    if not end:
        if not data:
            raise SystemExit("VOID: a connection was closed")
        return False
    if not head.startswith(b"HTTP/1.1 200 "):
        raise SystemExit(f"VOID: {data[:1000]!r}")
    at = head.lower().index(b"content-length: ") + 16
    return len(body) == int(head[at:].split(b"\r", 1)[0])


def silent() -> list[tuple[int, int]]:
    raise SystemExit("VOID: no answer for 30 s")


def compare(sidecars: Sequence[Sidecar], rounds: int, seconds: float, connections: int = 32) -> list[Cost]:
    """All in turn, so that what else the machine does meets all of them."""
    for one in sidecars:
        one.begin()
    for _ in range(rounds):
        for one in sidecars:
            one.load(seconds, connections)
    time.sleep(SETTLE_S)
    return [one.cost() for one in sidecars]


def idle_streams(sidecar: Sidecar, count: int) -> list[socket.socket]:
    """Open, each with its first event, and silent from then on."""
    ones = []
    asked = request(sidecar.port, 0, model="mock-n200-g600000", stream=True)
    for _ in range(count):
        one = socket.create_connection(("127.0.0.1", sidecar.port), timeout=30)
        one.sendall(asked)
        ones.append(one)
    for one in ones:
        got = b""
        while b"data: " not in got:
            more = one.recv(65536)
            if not more or not (got + more).startswith(b"HTTP/1.1 200"[: len(got + more)]):
                raise SystemExit(f"VOID: a stream does not begin: {(got + more)[:500]!r}")
            got += more
    return ones
