"""Starts the real sidecar as a subprocess, in a state of its own, on ports of its own. Ends it by its id."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]


class Sluice:
    """One running sidecar."""

    def __init__(self, folder: Path, policy: str, env: dict[str, str] | None = None, args: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.policy = folder / "policy.yaml"
        self.policy.write_text(textwrap.dedent(policy))
        self.port, self.admin_port = free_port(), free_port()
        self.url, self.admin = f"http://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.admin_port}"
        self.state = folder / "state"
        self.log = folder / "sluice.log"
        clean = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy") and not k.startswith("SLUICE_")}
        self._env = {**clean, "PYTHONPATH": str(ROOT), **(env or {})}
        self._args = args
        self.process: asyncio.subprocess.Process | None = None

    def command(self) -> list[str]:
        return [sys.executable, "-m", "proxy", "serve", "--policy", str(self.policy), "--listen", f"127.0.0.1:{self.port}",
                "--admin", f"127.0.0.1:{self.admin_port}", "--state", f"sqlite:{self.state}", *self._args]  # fmt: skip

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(*self.command(), stdout=log, stderr=log, env=self._env, cwd=ROOT)
        until = time.monotonic() + 20
        while not await self._is_ready():
            assert self.process.returncode is None, f"sluice ended with {self.process.returncode}:\n{self.logged()}"
            assert time.monotonic() < until, f"sluice is not ready:\n{self.logged()}"
            await asyncio.sleep(0.02)

    async def _is_ready(self) -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        try:
            async with aiohttp.ClientSession() as session, session.get(self.admin + "/healthz/ready") as reply:
                return reply.status == 200
        except (aiohttp.ClientError, OSError):
            return False

    async def stop(self) -> int:
        """SIGTERM, patience, then SIGKILL; the exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                await asyncio.wait_for(self.process.wait(), 20)
            except TimeoutError:
                self.process.kill()
                await self.process.wait()
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        await self.process.wait()

    async def get(self, path: str) -> dict:
        """JSON of the admin API."""
        async with aiohttp.ClientSession() as session, session.get(self.admin + path) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    async def rows(self, limit: int = 100_000) -> list[dict]:
        """The ledger."""
        return list((await self.get(f"/admin/ledger?limit={limit}"))["rows"])

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as session, session.get(self.admin + "/metrics") as reply:
            return await reply.text()

    def logged(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def log_lines(self) -> list[dict]:
        return [json.loads(line) for line in self.logged().splitlines() if line.startswith("{")]


@asynccontextmanager
async def sidecar(folder: Path, policy: str, env: dict[str, str] | None = None, args: tuple[str, ...] = ()) -> AsyncIterator[Sluice]:
    one = Sluice(folder, policy, env, args)
    try:
        await one.start()
        yield one
    finally:
        if one.process is not None:
            await one.stop()
