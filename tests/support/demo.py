"""`sluice demo --keep` as a subprocess: it has made its calls and still answers."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from support.sluice import ROOT


@asynccontextmanager
async def kept_demo(folder: Path) -> AsyncIterator[str]:
    """The URL of its admin listener."""
    environ = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
    demo = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "demo", "--keep", cwd=folder, env=environ, stdout=asyncio.subprocess.PIPE
    )
    assert demo.stdout is not None
    try:
        said = await asyncio.wait_for(demo.stdout.readuntil(b"Ctrl-C ends it"), 60)
        admin = re.search(rb"admin (http://[\d.:]+)", said)
        assert admin is not None
        yield admin[1].decode()
    finally:
        if demo.returncode is None:
            demo.terminate()
        await demo.communicate()
