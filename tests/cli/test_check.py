"""`sluice check`: all errors at once and in place; of a clean policy, what it means."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support.sluice import ROOT

GOOD = """\
    server: {admin_token: env:ADMIN_TOKEN}
    providers:
      openai: {key: env:OPENAI_KEY}
      azure-eu: {dialect: azure-openai, url: "https://eu.openai.azure.com", key: file:azure.key, models: {gpt-4o: prod-gpt4o}}
    callers:
      default_tier: free
      keys:
        - {name: billing-bot, hash: "sha256:%s", tier: free, team: finance}
    tiers: {free: {requests: 10/min, spend: $5/day}}
    teams: {finance: {spend: $2000/month}}
    limits: [{name: dear, match: {model: gpt-4o}, per: caller, requests: 20/min}]
    fallback: {gpt-4o: [azure-eu/gpt-4o]}
    guard: {pii: {default: mask}, on_error: pass}
""" % ("a" * 64)


@pytest.fixture
def policy(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "policy.yaml"
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_all_errors_are_told_at_once_each_with_its_place_and_a_fix(sluice, policy):
    path = policy("""\
        teirs: {}
        tiers: {free: {spend: 5/day}}
        callers: {default_tier: fre}
        rpm: 10
    """)
    done = sluice("check", path)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert [line.removeprefix(f"{path}:").split(" ")[0] for line in lines] == ["1:1:", "2:23:", "3:25:", "4:1:"]
    assert "teirs: " in lines[0] and "did you mean `tiers`" in lines[0]
    assert "tiers.free.spend: " in lines[1] and "$" in lines[1]
    assert "callers.default_tier: " in lines[2]
    assert "requests" in lines[3]
    assert done.stderr == f"sluice: {path}: 4 errors; nothing would start with this policy\n"


def test_a_file_that_is_not_there_is_one_clear_line(sluice, tmp_path):
    done = sluice("check", tmp_path / "nowhere.yaml")
    assert (done.returncode, done.stdout) == (1, f"{tmp_path}/nowhere.yaml: cannot be read: No such file or directory\n")


def test_a_clean_policy_is_explained(sluice, policy):
    done = sluice("check", policy(GOOD))
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout
    row = next(line for line in said.splitlines() if line.startswith("billing-bot "))
    assert "free" in row and "finance" in row and "tier free: 10 requests/min, $5/day" in row and "mask email" in row
    assert "team finance: $2,000/month" in said
    assert "gpt-4o then azure-eu/gpt-4o" in said
    assert "N replicas may spend N x $2,000/month; use a shared state" in said
    assert "\n  gpt-4o: gpt-4o, gpt-4o-2024-05-13" in said
    assert "guard.on_error: pass" in said
    assert "azure-eu: model names become gpt-4o -> prod-gpt4o" in said
    assert "cookies are stripped" in said


def test_an_empty_policy_is_clean_and_weakens_nothing(sluice, policy):
    done = sluice("check", policy(""))
    assert done.returncode == 0
    assert "what this policy weakens\n  nothing\n" in done.stdout
    assert "\nanonymous " in done.stdout and "\npass-through:* " in done.stdout


def test_secrets_are_read_only_when_asked_for_and_never_shown(sluice, policy, tmp_path):
    path = policy(GOOD)
    missing = sluice("check", path, "--resolve")
    assert missing.returncode == 1
    assert [line.split(": ")[1] for line in missing.stdout.splitlines()] == [
        "server.admin_token", "providers.openai.key", "providers.azure-eu.key",
    ]  # fmt: skip
    (tmp_path / "azure.key").write_text("azure-secret\n")
    there = sluice("check", path, "--resolve", env={"ADMIN_TOKEN": "admin-secret", "OPENAI_KEY": "openai-secret"})
    assert there.returncode == 0
    assert "-secret" not in there.stdout + there.stderr


def test_a_policy_that_serve_would_refuse_to_start_with_is_an_error(sluice, policy):
    path = policy("""\
        server:
          listen: 0.0.0.0:8080
        providers: {openai: {key: env:OPENAI_KEY}}
    """)
    done = sluice("check", path)
    assert done.returncode == 1
    assert done.stdout.startswith(f"{path}:2:11: server.listen: 0.0.0.0:8080 can be reached from other machines")


def test_a_terminal_gets_drawn_tables_and_a_pipe_gets_plain_text(sluice, policy, alone):
    path = policy(GOOD)
    plain = sluice("check", path).stdout
    assert "\x1b" not in plain and "│" not in plain
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "proxy", "check", str(path)]
    with subprocess.Popen(command, stdout=theirs, env={**alone, "TERM": "xterm", "COLUMNS": "200"}, cwd=ROOT) as process:
        os.close(theirs)
        drawn = b""
        while chunk := _read(ours):
            drawn += chunk
    os.close(ours)
    assert process.returncode == 0
    assert "│ billing-bot" in drawn.decode()


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65536)
    except OSError:  # EIO: the other side is closed
        return b""
