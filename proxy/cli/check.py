"""`sluice check FILE`: all that is wrong with a policy, in place, or what it means. Starts nothing; reads no secret unless told."""

from __future__ import annotations

import argparse
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

from proxy.admit.fleet.address import SCHEMES, read_address
from proxy.cli.terminal import hint, section, table
from proxy.meter.table import PriceTable
from proxy.policy.build import compile_policy, start_problem
from proxy.policy.document import Document
from proxy.policy.explain import Explained, explain
from proxy.policy.plan import Rulebook
from proxy.policy.problems import PolicyErrors
from proxy.policy.read import read_policy

WIDTH = 118


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", type=Path, help="the policy file")
    parser.add_argument("--resolve", action="store_true", help="also read every secret that the policy names")


def run(options: argparse.Namespace) -> int:
    try:
        document, rulebook = _compiled(options.file, resolve=options.resolve)
    except PolicyErrors as errors:
        for problem in errors.problems:
            print(problem)
        count = len(errors.problems)
        hint(f"{options.file}: {count} error{'s' if count > 1 else ''}; nothing would start with this policy")
        return 1
    _tell(options.file, explain(rulebook, document, PriceTable.read().models()))
    return 0


def _compiled(file: Path, *, resolve: bool) -> tuple[Document, Rulebook]:
    """As `serve` would start with it. Raises PolicyErrors."""
    document = read_policy(file)
    rulebook = compile_policy(
        document, environ=os.environ, base=file.parent, generation=1, resolve=resolve, now_ns=time.time_ns()
    )  # fmt: skip
    if (problem := start_problem(rulebook, rulebook.server.listen)) is not None:
        raise PolicyErrors([document.problem(("server", "listen"), problem)])
    if rulebook.state.partition("://")[0] in SCHEMES:
        try:
            read_address(rulebook.state)
        except ValueError as error:
            raise PolicyErrors([document.problem(("state",), str(error))]) from None
    return document, rulebook


def _tell(file: Path, explained: Explained) -> None:
    print(f"{file}: a valid policy\n")
    titles = ("caller", "tier", "team", "limits", "guard", "targets")
    table(titles, [(one.caller, one.tier, one.team, one.limits or "none", *_parted(one.guard, one.targets)) for one in explained.callers])
    section("where each limit is counted", explained.counted)
    section("what each model name covers", _covered(explained))
    section("what this policy weakens", explained.weakenings or ("nothing",))
    section("bytes that this policy claims to change", explained.changes)
    section("warnings", explained.warnings)


def _parted(*texts: str) -> tuple[list[str], ...]:
    return tuple(text.split("; ") for text in texts)


def _covered(explained: Explained) -> Iterator[str]:
    for name, models in explained.covers.items():
        text = f"{name}: {', '.join(models) or 'no model of the price table, and those of this very name'}"
        first, *more = textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
        yield first
        yield from (f"    {line}" for line in more)
