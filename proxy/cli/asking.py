"""Where a command's figures come from: the running process, the state beside it, or the stream of a fleet. Computes none itself."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from proxy.admin.asked import INSTANT, read_instant
from proxy.admit import Reading, StateProblem
from proxy.cli import admin
from proxy.cli.state import state_path
from proxy.cli.terminal import hint
from proxy.policy.origin import redis_url_problem
from proxy.record.rows import rfc3339
from proxy.record.stream import StreamProblem, read_stream, stream_key

Rows = list[dict[str, Any]]
PROBLEMS = (admin.AdminError, admin.NoProcess, StateProblem, StreamProblem, ValueError)  # one line each, fit to be printed


@dataclass(frozen=True, slots=True)
class Question:
    """One question in its three forms: to the admin API, to the ledger of a state, to the rows of a stream."""

    path: str
    query: Mapping[str, str | None]
    offline: Callable[[Path], Reading]
    streamed: Callable[[Iterable[Mapping[str, Any]]], Rows]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    admin.add_arguments(parser)
    parser.add_argument("--stream", metavar="REF", help="the Redis stream of a fleet (observe.ledger_stream): env:NAME, file:PATH or a URL")
    parser.add_argument("--namespace", metavar="NAME", default="default", help="the policy's namespace, which names the stream")


def instant(text: str) -> int:
    """A type of argparse: ns since the epoch."""
    try:
        return read_instant(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"no instant: give {INSTANT}") from None


def ask(options: argparse.Namespace, question: Question) -> Rows:
    """Raises one of PROBLEMS."""
    if options.stream:
        return question.streamed(read_stream(_stream_url(options.stream), stream_key(options.namespace)))
    rows = _online(options, question)
    return _offline(options, question) if rows is None else rows


def _online(options: argparse.Namespace, question: Question) -> Rows | None:
    """None where the state itself is meant."""
    if options.state and not options.admin:
        return None
    process = admin.read_admin(options.admin)
    query = urlencode({name: value for name, value in question.query.items() if value is not None})
    try:
        rows = process.get(f"{question.path}?{query}").get("rows")
    except admin.NoProcess:
        if not process.is_local:
            raise
        return None
    if not isinstance(rows, list):
        raise admin.AdminError(f"what answers on {process.url} is no Sluice admin API; see --admin")
    return rows


def _offline(options: argparse.Namespace, question: Question) -> Rows:
    path = state_path(admin.state_asked(options.state))
    if path is None:
        raise ValueError("memory: can be read through the process alone; name its listener with --admin")
    found = question.offline(path)
    lag = f"{found.behind:,} rows of its journal are not in these sums yet" if found.behind else "all of its journal is in these sums"
    gone = f"; rows before {rfc3339(found.pruned_ns)} are in the archive" if found.pruned_ns else ""
    hint(f"no process asked; read from the state {path}: {lag}{gone}")
    return found.rows


def _stream_url(given: str) -> str:
    """A secret stands in the environment or a file; what stands on the command line is none. Raises ValueError, not repeating it."""
    kind, _, name = given.partition(":")
    if kind == "env":
        url = os.environ.get(name, "")
    elif kind == "file":
        try:
            url = Path(name).expanduser().read_text().strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"the file {name} of --stream cannot be read") from None
    elif "@" in given:
        raise ValueError("a URL with a password does not belong on a command line: put it into a variable and give --stream env:NAME")
    else:
        url = given
    if not url:
        raise ValueError(f"--stream: {given} is empty")
    if (problem := redis_url_problem(url)) is not None:
        raise ValueError(f"--stream {problem}")
    return url
