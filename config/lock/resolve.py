"""Resolves pyproject.toml into the three hashed lock files beside this one (`make lock`), for Python 3.11 to 3.14. Installs nothing."""

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text())
FLAGS = ["--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate", "--no-strip-markers"]


def resolve(name: str, wanted: list[str], within: Path | None = None) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder, "asked.in")
        asked.write_text("\n".join(wanted) + "\n")
        target = HERE / name
        target.unlink(missing_ok=True)  # else its versions are kept
        bounds = ["--constraint", within] if within else []
        subprocess.run([sys.executable, "-m", "uv", "pip", "compile", *FLAGS, *bounds, "-o", target, asked], check=True)
        print(f"{target.name}: {target.read_text().count('==')} packages")


groups = PROJECT["dependency-groups"]
resolve("build.txt", [*PROJECT["build-system"]["requires"], "editables"])
resolve("run.txt", PROJECT["project"]["dependencies"])
resolve("dev.txt", [*groups["check"], *groups["test"], *groups["sdk"]], HERE / "run.txt")
