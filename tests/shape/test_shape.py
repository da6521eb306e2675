"""The shape of the project: what a reviewer would otherwise have to look for by hand."""

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import proxy

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "proxy").rglob("*.py"))
TOP = {
    "pyproject.toml", "README.md", "proxy", "config", "tests", "Dockerfile", "helm", ".ci", "Makefile", "CHANGELOG.md", "LICENSE", "docs",
    ".git", ".gitignore", ".dockerignore", ".venv",
}  # fmt: skip


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False) if shutil.which("git") else None
    if listed is None or listed.returncode:
        pytest.skip("needs git and a checkout: what is tracked cannot be known here")
    return listed.stdout.splitlines()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_300_lines_and_each_says_what_it_is(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    assert ast.get_docstring(ast.parse(text)), "a module says in a line or two what it is and what it will not do"


def test_the_top_level_holds_nothing_else():
    assert {path.partition("/")[0] for path in tracked()} <= TOP


def test_the_order_of_the_rooms_is_the_same_wherever_it_is_told():
    order = re.search(r"listen →.*", proxy.__doc__).group().split(" → ")
    told = (ROOT / "README.md").read_text()
    assert [room.strip() for room in re.search(r"listen → [^│\n]*", told).group().split("→")] == order
    source = "".join((ROOT / f"proxy/{name}.py").read_text() for name in ("pipeline", "forwarding", "relaying"))
    marks = ["identify.who(", "plan_of(", "store.enter(", "self._guard(", "intended(", "upstream.send(", "watch.told()", "settle("]
    at = 0
    for mark in marks:
        at = source.index(mark, at)


def test_importing_the_server_imports_no_command_and_nothing_only_some_policies_need():
    code = "import sys, proxy.app; print(*sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert not {"rich", "redis", "jwt", "genai_prices", "pydantic", "pydantic_core", "yaml", "proxy.policy.read"} & set(loaded)
    assert not [name for name in loaded if name.startswith("proxy.cli")]


ERRANDS = {
    "bridge.py",
    "identify/jwks.py",
    "record/webhook.py",
    "cli/demo.py",
    "cli/demo_calls.py",
}  # and what calls a Sluice as a client does


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_data_path_has_one_upstream_client_and_aiohttps_runs_errands_alone(path):
    if path.relative_to(ROOT / "proxy").as_posix() not in ERRANDS:
        named = {getattr(node, "attr", getattr(node, "id", getattr(node, "name", ""))) for node in ast.walk(ast.parse(path.read_text()))}
        assert not named & {"ClientSession", "TCPConnector"}


def test_the_committed_lock_files_hold_hashes_for_everything_the_project_asks_for():
    import tomllib

    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())
    run = (ROOT / "config/lock/run.txt").read_text()
    names = [re.match(r"[A-Za-z0-9-]+", line).group().lower() for line in asked["project"]["dependencies"]]
    for name in names:
        assert re.search(rf"(?m)^{name}==\S+( ;.*)? \\$", run), f"{name} is not locked: make lock"
    assert run.count("--hash=sha256:") > len(names)


def test_a_secret_is_never_committed():
    shaped = re.compile(r"(?<![A-Za-z0-9])(sk-[A-Za-z0-9]{32,}|sk-ant-[A-Za-z0-9-]{32,}|AIza[A-Za-z0-9_-]{35})")
    found = []
    for path in tracked():
        file = ROOT / path
        if file.is_file() and file.suffix not in (".png", ".gz"):
            found += [f"{path}: {match.group()[:12]}…" for match in shaped.finditer(file.read_text(errors="replace"))]
    assert not found
