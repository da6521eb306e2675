"""`durability`, against the real process: its fdatasync is made to wait, and a call must wait with it, or not."""

from __future__ import annotations

import asyncio
import os

import pytest
from support import chat
from support.caller import ask
from support.provider import Provider
from support.sluice import ROOT, sidecar

POLICY = """
version: 1
durability: {durability}
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: budget, per: total, spend: $100/day}}
"""

# read by Python at the start of the process: a disk that takes its time while `gate` is there, and says when it is asked
SLOW_DISK = """
import os, time
from pathlib import Path
here, fdatasync = Path(__file__).parent, os.fdatasync
def slowly(fd):
    (here / "asked").touch()
    while (here / "gate").exists():
        time.sleep(0.01)
    fdatasync(fd)
os.fdatasync = slowly
"""


@pytest.mark.parametrize("durability", ["disk", "process"])
async def test_with_disk_no_byte_leaves_before_the_hold_is_on_the_disk_and_with_process_it_need_not_be(tmp_path, durability):
    disk = tmp_path / "disk"
    disk.mkdir()
    (disk / "sitecustomize.py").write_text(SLOW_DISK)
    (disk / "gate").touch()
    environment = {"PYTHONPATH": f"{ROOT}{os.pathsep}{disk}"}

    async def script(seen, reply):
        await reply.json(chat.whole())

    async with (
        Provider(script) as provider,
        sidecar(tmp_path, POLICY.format(url=provider.url, durability=durability), environment) as sluice,
    ):
        calls = [asyncio.ensure_future(ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())) for _ in range(5)]
        if durability == "disk":
            async with asyncio.timeout(20):
                while not (disk / "asked").exists():
                    await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert provider.seen == []
        else:
            await asyncio.wait(calls, timeout=20)
            assert len(provider.seen) == 5
            assert not (disk / "asked").exists()
        (disk / "gate").unlink()
        assert [got.status for got in await asyncio.gather(*calls)] == [200] * 5
        assert len(await sluice.rows()) == len(provider.seen) == 5
