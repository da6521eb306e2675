"""`sluice usage`: what was used, from the running process, else read-only from its state. Changes nothing."""

from __future__ import annotations

import argparse
import json
from typing import Any

from proxy.admin.asked import GROUPS
from proxy.admit import StateProblem, read_usage
from proxy.cli import admin
from proxy.cli.state import state_path
from proxy.cli.terminal import fail, hint, table
from proxy.policy.explain import money

COLUMNS = ("requests", "attempts", "refusals", "input_tokens", "cached_input_tokens", "output_tokens", "reasoning_tokens")
Rows = list[dict[str, Any]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--by", choices=GROUPS, default="caller", help="what to sum by (default: caller)")
    parser.add_argument("--json", action="store_true", dest="is_json", help="as JSON; money in nano-dollars")
    admin.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    try:
        rows = _online(options)
        if rows is None:
            rows = _offline(options)
    except (admin.AdminError, admin.NoProcess, StateProblem, ValueError) as problem:
        return fail(str(problem))
    if options.is_json:
        print(json.dumps({"rows": rows}, indent=2))
        return 0
    try:
        _tell(options.by, rows)
    except (KeyError, TypeError):
        return fail("the sums are none of a Sluice of this version; see --admin")
    return 0


def _online(options: argparse.Namespace) -> Rows | None:
    """None where the state itself is meant."""
    if options.state and not options.admin:
        return None
    process = admin.read_admin(options.admin)
    try:
        rows = process.get(f"/admin/usage?by={options.by}").get("rows")
    except admin.NoProcess:
        if not process.is_local:
            raise
        return None
    if not isinstance(rows, list):
        raise admin.AdminError(f"what answers on {process.url} is no Sluice admin API; see --admin")
    return rows


def _offline(options: argparse.Namespace) -> Rows:
    path = state_path(admin.state_asked(options.state))
    if path is None:
        raise ValueError("memory: can be read through the process alone; name its listener with --admin")
    found = read_usage(path, options.by)
    lag = f"{found.behind:,} rows of its journal are not in these sums yet" if found.behind else "all of its journal is in these sums"
    hint(f"no process asked; read from the state {path}: {lag}")
    return found.rows


def _tell(by: str, rows: Rows) -> None:
    if not rows:
        print("nothing was used yet")
        return
    titles = (by, *(name.removesuffix("_tokens").replace("_", " ") for name in COLUMNS), "cost", "of it estimated")
    shown: list[tuple[str | int, ...]] = [(str(row[by] or "-"), *(int(row[name]) for name in COLUMNS), *_costs(row)) for row in rows]
    if len(rows) > 1:
        total = {name: sum(row[name] for row in rows) for name in (*COLUMNS, "cost_nanousd", "estimated_cost_nanousd")}
        shown.append(("total", *(total[name] for name in COLUMNS), *_costs(total)))
    table(titles, shown)


def _costs(row: dict[str, Any]) -> tuple[str, str]:
    return money(row["cost_nanousd"]), money(row["estimated_cost_nanousd"])
