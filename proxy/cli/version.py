"""`sluice version`: prints the version. Asks nobody whether there is a newer one."""

from __future__ import annotations

import argparse

from proxy import __version__


def add_arguments(_: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(_: argparse.Namespace) -> int:
    print(f"sluice {__version__}")
    return 0
