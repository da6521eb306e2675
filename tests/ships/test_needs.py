"""tests/needs.py: the list that `make test` begins with."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import needs

ROOT = Path(__file__).resolve().parents[2]


def listed(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tests/needs.py")]
    return subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=300)


def test_it_lists_what_is_here_and_ends_well() -> None:
    done = listed()
    assert done.returncode == 0, done.stderr
    for what in ("Python", "config/lock/run.txt", "config/lock/dev.txt", "Valkey", "hadolint", "promtool", "../shared", "mmdebstrap"):
        assert what in done.stdout


def test_every_package_of_the_locks_is_read_from_them() -> None:
    for lock in ("run.txt", "dev.txt"):
        text = (ROOT / "config/lock" / lock).read_text()
        assert len(needs._locked(text)) == sum(1 for line in text.splitlines() if line and not line.startswith((" ", "#")))
        assert all("==" in line and "\\" not in line for line in needs._locked(text))


def test_a_package_at_another_version_is_named_and_fails(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "config/lock").mkdir(parents=True)
    (tmp_path / "config/lock/run.txt").write_text("aiohttp==0.0.1 \\\n    --hash=sha256:0\nno-such-package==1.0 \\\n    --hash=sha256:0\n")
    monkeypatch.setattr(needs, "ROOT", tmp_path)
    assert needs._packages("run.txt", "Sluice itself").found is None
    said = capsys.readouterr().err
    assert "aiohttp 0.0.1" in said and "no-such-package 1.0 (found nothing)" in said


def test_where_debian_cannot_be_asked_the_tests_of_it_are_announced_as_skipped(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "TOOLS", tmp_path / "tools")
    assert needs.debian_tools("prometheus", "promtool", "prometheus") is None
    assert needs.main() == 0
    assert "SKIPPED: the tests of the alerts and the dashboard (for want of promtool and prometheus)" in capsys.readouterr().out


def test_a_failing_download_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    fake = tmp_path / "apt-get"
    fake.write_text("#!/bin/sh\nexit 100\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(needs, "TOOLS", tmp_path / "tools")
    assert needs.debian_tools("prometheus", "promtool") is None
    assert not (tmp_path / "tools").exists()
