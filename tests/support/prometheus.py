"""Starts a real Prometheus before a sidecar's admin listener, in a folder of its own. Ends it by its id."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import yaml
from support.ports import free_port

SCRAPE_S = 0.25


class Prometheus:
    """One running Prometheus, scraping one target as job `sluice`."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def query(self, promql: str) -> list[dict]:
        """Instant query → its samples, each {"metric": labels, "value": [time, text]}."""
        return list((await self._get("/api/v1/query", {"query": promql}))["result"])

    async def alerts(self) -> list[dict]:
        """Pending and firing ones, with their rendered annotations."""
        return list((await self._get("/api/v1/alerts", {}))["alerts"])

    async def until(self, promql: str, patience_s: float = 20) -> list[dict]:
        """Asks until there is an answer."""
        end = time.monotonic() + patience_s
        while not (found := await self.query(promql)):
            assert time.monotonic() < end, f"no data for {promql}"
            await asyncio.sleep(0.1)
        return found

    async def _get(self, path: str, params: dict[str, str]) -> dict:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, params=params) as reply:
            doc = await reply.json()
            assert doc["status"] == "success", f"{params}: {doc.get('error')}"
            return doc["data"]


@asynccontextmanager
async def prometheus(binary: Path, folder: Path, target: str, rules: Path | None = None) -> AsyncIterator[Prometheus]:
    """`target` is http://HOST:PORT of an admin listener."""
    folder.mkdir(exist_ok=True)  # noqa: ASYNC240  # a local disk, in a test
    config = {
        "global": {
            "scrape_interval": f"{int(SCRAPE_S * 1000)}ms",
            "scrape_timeout": f"{int(SCRAPE_S * 1000)}ms",
            "evaluation_interval": "500ms",
        },
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [{"job_name": "sluice", "static_configs": [{"targets": [target.removeprefix("http://")]}]}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address, log = f"127.0.0.1:{free_port()}", folder / "prometheus.log"
    command = [str(binary), f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
               f"--web.listen-address={address}", "--log.level=warn"]  # fmt: skip
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, cwd=folder)
    try:
        one = Prometheus(f"http://{address}")
        end = time.monotonic() + 20
        while not await _is_ready(one.url):
            assert process.returncode is None and time.monotonic() < end, log.read_text(errors="replace")
            await asyncio.sleep(0.05)
        yield one
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _is_ready(url: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(url + "/-/ready") as reply:
            return reply.status == 200
    except (aiohttp.ClientError, OSError):
        return False
