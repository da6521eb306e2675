"""Runs the real commands as subprocesses, away from any state, policy or process of this machine's user."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.ports import free_port
from support.sluice import ROOT

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """An environment in which nothing of Sluice is set and nothing listens on the admin port."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLUICE_", "XDG_")) and not k.lower().endswith("_proxy")}
    home = tmp_path / "home"
    home.mkdir()
    return {**clean, "HOME": str(home), "PYTHONPATH": str(ROOT), "SLUICE_ADMIN": f"127.0.0.1:{free_port()}"}


@pytest.fixture
def sluice(alone: dict[str, str]) -> Run:
    """`sluice("check", path)`; `env` adds to the environment."""

    def run(*words: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "proxy", *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, env={**alone, **(env or {})}, cwd=ROOT, timeout=60)

    return run
