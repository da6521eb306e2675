"""`sluice usage`: what was used, from the running process, its state or a fleet's stream. Changes nothing."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from proxy.admin.asked import GROUPS, MAX_CALLS
from proxy.admit import Reading, read_dearest, read_failed, read_usage
from proxy.cli import asking
from proxy.cli.asking import PROBLEMS, Question, Rows, ask, instant
from proxy.cli.terminal import Cell, fail, table
from proxy.policy.explain import money
from proxy.record import totals
from proxy.record.rows import DEAREST, FAILED, USAGE, csv_text, rfc3339, shown_row

SUMMED = ("requests", "attempts", "refusals", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
BROKEN = ("provider", "model", "end", "attempts")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--by", choices=GROUPS, default="caller", help="what to sum by (default: caller)")
    what.add_argument("--top", type=_calls, metavar="N", help="the N calls that cost most, instead of sums")
    what.add_argument("--failed", action="store_true", help="what failed attempts cost, instead of sums")
    parser.add_argument("--since", type=instant, metavar="D", help="from this day (UTC) or instant on: 2026-11-01, 2026-11-01T09:00:00Z")
    parser.add_argument("--until", type=instant, metavar="D", help="up to this day or instant, itself left out")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", dest="is_json", help="as JSON; money in nano-dollars")
    form.add_argument("--csv", action="store_true", dest="is_csv", help="as CSV; money in nano-dollars")
    asking.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    try:
        rows = ask(options, _question(options))
        if options.is_json:
            print(json.dumps({"rows": rows}, indent=2))
        elif options.is_csv:
            sys.stdout.write(csv_text(_columns(options), rows))
        else:
            _tell(options, rows)
    except PROBLEMS as problem:
        return fail(str(problem))
    except (KeyError, TypeError):
        return fail("the sums are none of a Sluice of this version; see --admin")
    return 0


def _question(options: argparse.Namespace) -> Question:
    span = (options.since, options.until)
    since, until = (None if at is None else rfc3339(at) for at in span)
    query = {"since": since, "until": until}
    if options.top:
        return Question(
            "/admin/usage/dearest",
            {"limit": str(options.top), **query},
            lambda path: _shown(read_dearest(path, options.top, *span)),
            lambda rows: totals.dearest(totals.within(rows, since, until), options.top),
        )
    if options.failed:
        return Question(
            "/admin/usage/failed",
            query,
            lambda path: read_failed(path, *span),
            lambda rows: totals.failed(totals.within(rows, since, until)),
        )
    return Question(
        "/admin/usage",
        {"by": options.by, **query},
        lambda path: read_usage(path, options.by, *span),
        lambda rows: totals.usage(totals.within(rows, since, until), options.by),
    )


def _calls(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 6 and 1 <= int(text) <= MAX_CALLS):
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {MAX_CALLS}")
    return int(text)


def _shown(found: Reading) -> Reading:
    return replace(found, rows=[shown_row(row) for row in found.rows])


def _columns(options: argparse.Namespace) -> Sequence[str]:
    return DEAREST if options.top else FAILED if options.failed else (options.by, *USAGE)


def _tell(options: argparse.Namespace, rows: Rows) -> None:
    if not rows:
        print("no attempt failed" if options.failed else "nothing was used yet")
    elif options.top:
        names = ("at", "request_id", "caller", "team", "provider", "model", "attempts")
        table((*_titles(names), "cost"), [(*_cells(row, names), money(row["cost_nanousd"])) for row in rows])
    elif options.failed:
        table((*_titles(BROKEN), "cost"), _with_total(rows, BROKEN, ("cost_nanousd",)))
    else:
        titles = (*_titles((options.by, *SUMMED)), "cost", "of it failed", "of it estimated")
        table(titles, _with_total(rows, (options.by, *SUMMED), ("cost_nanousd", "failed_cost_nanousd", "estimated_cost_nanousd")))


def _titles(names: Sequence[str]) -> Sequence[str]:
    return [name.removesuffix("_tokens").replace("_", " ") for name in names]


def _with_total(rows: Rows, names: Sequence[str], costs: Sequence[str]) -> list[tuple[Cell, ...]]:
    lines = [(*_cells(row, names), *(money(row[cost]) for cost in costs)) for row in rows]
    if len(rows) > 1:
        sums = [sum(row[name] for row in rows) if isinstance(rows[0][name], int) else "" for name in names[1:]]
        lines.append(("total", *sums, *(money(sum(row[cost] for row in rows)) for cost in costs)))
    return lines


def _cells(row: dict[str, Any], names: Sequence[str]) -> tuple[Cell, ...]:
    return tuple(value if isinstance(value, int) else str(value or "-") for value in (row[name] for name in names))
