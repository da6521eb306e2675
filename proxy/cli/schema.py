"""`sluice schema`: the JSON Schema of the policy on stdout, as committed in config/policy.schema.json. Writes no file."""

from __future__ import annotations

import argparse
import sys

from proxy.policy.schema import schema_text


def add_arguments(_: argparse.ArgumentParser) -> None:
    """It takes none."""


def run(_: argparse.Namespace) -> int:
    sys.stdout.write(schema_text())
    return 0
