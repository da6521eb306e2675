"""`make` on a machine that lacks something, and that what the README tells people to write is right."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from support.sluice import ROOT

from proxy.policy.read import read_policy

README = (ROOT / "README.md").read_text()
NO_VENV = '#!/bin/sh\ncase "$*" in *"import venv"*) exit 1;; esac\nexec python3 "$@"\n'
TOO_OLD = '#!/bin/sh\ncase "$*" in -V) echo Python 3.9.2;; *) exit 1;; esac\n'


@pytest.mark.skipif(shutil.which("make") is None, reason="without make nobody types make")
@pytest.mark.parametrize("target", ["run", "install", "test"])
@pytest.mark.parametrize(
    ("python", "said"),
    [
        (NO_VENV, "has no venv module; on Debian: apt-get install python3-venv"),
        (TOO_OLD, "Python 3.11 or newer is needed, "),
        (None, "is not here; on Debian: apt-get install python3 python3-venv"),
    ],
    ids=["no venv module", "too old", "no Python"],
)
def test_a_machine_that_lacks_something_gets_one_clear_line_and_code_78(tmp_path: Path, target: str, python: str | None, said: str) -> None:
    """make itself ends with 2 whatever its recipe ends with; it says the recipe's 78 on a line of its own."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("run", "build", "dev"):
        (tmp_path / "config/lock").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"config/lock/{name}.txt").touch()
    (tmp_path / "pyproject.toml").touch()
    command = tmp_path / "python"
    if python is not None:
        command.write_text(python)
        command.chmod(0o755)
    done = subprocess.run(["make", target, f"PYTHON={command}"], cwd=tmp_path, capture_output=True, text=True, timeout=30)
    first, *rest = done.stderr.splitlines()
    assert first.startswith("sluice: ") and said in first
    assert len(rest) == 1 and rest[0].endswith("Error 78")
    assert not (tmp_path / ".venv").exists()


def test_every_policy_line_of_the_readme_is_a_policy() -> None:
    table = README[README.index("## The policy, by task") : README.index("`sluice check FILE` says")]
    cells = [cell for row in re.findall(r"^\| (?!I want)[^|]*\| (.*) \|$", table, re.M) for cell in re.findall(r"`([^`]*)`", row)]
    lines = [cell for cell in cells if ": " in cell and "…" not in cell]
    assert len(lines) >= 6
    around = "providers: {azure-eu: {dialect: azure-openai, url: 'https://x.openai.azure.com', region: eu}}\n"
    for line in lines:
        teams = "" if line.startswith("teams") else "teams: {medical: {}}\n"
        read_policy(None, around + teams + line)


def test_every_make_target_the_readme_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"(?m)(?:`|^    )make ([a-z]+)", README))
    assert {"run", "test", "demo"} <= named <= targets


def test_every_path_the_readme_links_to_exists_and_compose_is_where_it_says() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked and [path for path in linked if not (ROOT / path).exists()] == []
    assert yaml.safe_load((ROOT / "config/compose.yaml").read_text())["services"]["redis"]["image"].startswith("redis:")
