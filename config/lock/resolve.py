"""Resolves pyproject.toml into the three hashed lock files beside this one (`make lock`). Installs nothing."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())
FLAGS = ["-q", "--generate-hashes", "--allow-unsafe", "--strip-extras", "--no-header", "--no-annotate",
         "--no-emit-index-url", "--no-emit-find-links", "--no-emit-trusted-host"]  # fmt: skip


def resolve(name: str, wanted: list[str], within: Path | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "asked.in")
        lines = wanted + ([f"-c {within}"] if within else [])
        asked.write_text("\n".join(lines) + "\n")
        target = HERE / name
        subprocess.run([sys.executable, "-m", "piptools", "compile", *FLAGS, "-o", target, asked], check=True)
        print(f"{target.name}: {target.read_text().count('==')} packages")


groups = PROJECT["dependency-groups"]
resolve("build.txt", [*PROJECT["build-system"]["requires"], "editables"])
resolve("run.txt", PROJECT["project"]["dependencies"])
resolve("dev.txt", [*groups["check"], *groups["test"], *groups["sdk"]], HERE / "run.txt")
