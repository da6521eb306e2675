"""`sluice reconcile INVOICE.csv`: the ledger against a provider's exported bill, by UTC day and model. Corrects neither."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from proxy.admit import read_billed
from proxy.cli import asking
from proxy.cli.asking import PROBLEMS, Question, ask
from proxy.cli.terminal import Cell, fail, table
from proxy.exchange import NANO
from proxy.policy.explain import money
from proxy.policy.match import covering
from proxy.record import totals
from proxy.record.invoice import Bill, Billed, BillProblem, read_bill
from proxy.record.rows import rfc3339

MAX_FILE = 256 * 1024 * 1024
PERCENT, CENT = 100, NANO // 100  # within a hundredth, or a cent, or what the bill's own rounding leaves open: no difference
ALL = "(all models)"
NONE = "(no model)"


@dataclass(frozen=True, slots=True)
class Line:
    """One UTC day and model; nano-dollars. None: not there, or not said. `estimated`: what of ours the provider never confirmed."""

    day: str
    model: str
    billed_nanousd: int | None
    ledger_nanousd: int | None
    difference_nanousd: int | None  # ledger less bill
    estimated_nanousd: int
    billed_input_tokens: int | None
    ledger_input_tokens: int | None
    billed_output_tokens: int | None
    ledger_output_tokens: int | None
    mark: str  # "", missing in the ledger, missing in the bill, differs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("invoice", type=Path, metavar="INVOICE.csv", help="as OpenAI or Anthropic export it, or date, model, cost_usd")
    parser.add_argument("--provider", metavar="P", help="whose rows of the ledger are compared (default: by the form of the bill)")
    parser.add_argument("--json", action="store_true", dest="is_json", help="as JSON; money in nano-dollars")
    asking.add_arguments(parser)


def run(options: argparse.Namespace) -> int:
    try:
        bill = _read(options.invoice)
        if not bill.sums:
            return fail(f"{options.invoice}: nothing is billed in it")
        provider = options.provider or bill.provider
        lines = compare(bill, ask(options, _question(bill, provider)))
    except (BillProblem, *PROBLEMS) as problem:
        return fail(str(problem))
    except (KeyError, TypeError):
        return fail("the sums are none of a Sluice of this version; see --admin")
    is_good = not any(line.mark for line in lines)
    if options.is_json:
        said = {"form": bill.form, "provider": provider, "is_reconciled": is_good, "lines": [asdict(line) for line in lines]}
        print(json.dumps(said, indent=2))
    else:
        _tell(bill, provider, lines)
    return 0 if is_good else 1


def _read(file: Path) -> Bill:
    """Raises BillProblem."""
    try:
        if file.stat().st_size > MAX_FILE:
            raise BillProblem(f"{file}: is larger than {MAX_FILE // 1024 // 1024} MiB: split it by month")
        with file.open(encoding="utf-8", newline="") as lines:
            return read_bill(str(file), lines)
    except OSError as problem:
        raise BillProblem(f"{file}: cannot be read ({problem.strerror})") from None


def _question(bill: Bill, provider: str | None) -> Question:
    """The ledger's figures for the days of the bill, from the first to the last."""
    days = [date.fromisoformat(day) for day, _ in bill.sums]
    since, until = (_start_ns(day) for day in (min(days), max(days) + timedelta(days=1)))
    span = {"since": rfc3339(since), "until": rfc3339(until)}
    return Question(
        "/admin/usage/billed",
        {"provider": provider, **span},
        lambda path: read_billed(path, provider, since, until),
        lambda rows: totals.billed(totals.within(rows, span["since"], span["until"]), provider),
    )


def _start_ns(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * NANO


# -- the comparison ------------------------------------------------------------------------------------------------------


def folded(model: str) -> str:
    """The name that both sides share: without its snapshot, as a display name would be spelt ("Claude 3.5 Sonnet 2024-10-22" and
    claude-3-5-sonnet-20241022 → claude-sonnet-3-5), fine-tuned ones by their base (ft:gpt-4o-2024-08-06:org::id → ft-gpt-4o)."""
    name = "-".join(model.lower().split())
    if name.startswith("ft:"):
        name = "ft-" + name.split(":")[1]
    name = min(covering(name), key=len)
    if name.startswith("claude-"):
        parts = name.replace(".", "-").split("-")[1:]
        name = "-".join(("claude", *(part for part in parts if not part.isdecimal()), *(part for part in parts if part.isdecimal())))
    return name


def compare(bill: Bill, ours: Iterable[Mapping[str, Any]]) -> list[Line]:
    """`ours`: rows as `/admin/usage/billed` gives them. By day, the largest differences of a day first."""
    is_whole = all(model is None for _, model in bill.sums)

    def named(model: str | None) -> str:
        return ALL if is_whole else NONE if model is None else folded(model)

    theirs: dict[tuple[str, str], list[Billed]] = {}
    for (day, model), billed in bill.sums.items():
        theirs.setdefault((day, named(model)), []).append(billed)
    booked: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in ours:
        booked.setdefault((row["day"], named(row["model"])), []).append(row)
    has_money = any(billed.nanousd is not None for billed in bill.sums.values())
    lines = [_line(*key, theirs.get(key, []), booked.get(key, []), has_money) for key in {**theirs, **booked}]
    return sorted(lines, key=lambda line: (line.day, -abs(line.difference_nanousd or 0), line.model))


def _line(day: str, model: str, theirs: list[Billed], ours: list[Mapping[str, Any]], has_money: bool) -> Line:
    billed = _sum(it.nanousd for it in theirs)
    ledger = sum(row["cost_nanousd"] for row in ours) if ours else None
    tokens = [
        (_sum(getattr(it, name) for it in theirs), sum(row[name] for row in ours) if ours else None)
        for name in ("input_tokens", "output_tokens")
    ]
    if has_money:
        rounding = sum(it.rounding_nanousd for it in theirs)
        mark = _mark(bool(theirs), bool(ours), [(billed, ledger)], max(CENT, rounding))
    else:
        mark = _mark(bool(theirs), bool(ours), tokens, 0)
    difference = (ledger or 0) - (billed or 0) if has_money else None
    estimated = sum(row["estimated_cost_nanousd"] for row in ours)
    (billed_in, ledger_in), (billed_out, ledger_out) = tokens
    return Line(day, model, billed, ledger, difference, estimated, billed_in, ledger_in, billed_out, ledger_out, mark)


def _mark(is_billed: bool, is_booked: bool, pairs: list[tuple[int | None, int | None]], slack: int) -> str:
    """`slack`: how far both may be apart in any case."""
    if all(_is_near(bill or 0, ledger or 0, slack) for bill, ledger in pairs):
        return ""
    return "differs" if is_billed and is_booked else "missing in the bill" if is_booked else "missing in the ledger"


def _is_near(bill: int, ledger: int, slack: int) -> bool:
    return abs(ledger - bill) * PERCENT <= max(slack * PERCENT, abs(bill))


def _sum(counts: Iterable[int | None]) -> int | None:
    said = [count for count in counts if count is not None]
    return sum(said) if said else None


# -- the table -----------------------------------------------------------------------------------------------------------


def _tell(bill: Bill, provider: str | None, lines: list[Line]) -> None:
    titles = (
        "day",
        "model",
        "billed",
        "ledger",
        "difference",
        "of it estimated",
        "input billed",
        "input ledger",
        "output billed",
        "output ledger",
        "",
    )
    table(titles, [_cells(line) for line in lines])
    marked = [line for line in lines if line.mark]
    billed, ledger = sum(line.billed_nanousd or 0 for line in lines), sum(line.ledger_nanousd or 0 for line in lines)
    estimated = sum(line.estimated_nanousd for line in lines)
    whose = provider or "all providers"
    print(f"\n{bill.form}: billed {signed(billed)}, in the ledger of {whose} {signed(ledger)}, of it estimated {signed(estimated)}")
    if marked:
        print(f"{len(marked)} of {len(lines)} lines are further apart than 1 % of the bill and a cent")
    else:
        print(f"all {len(lines)} lines are within 1 % of the bill or a cent")


def _cells(line: Line) -> tuple[Cell, ...]:
    amounts = (line.billed_nanousd, line.ledger_nanousd, line.difference_nanousd, line.estimated_nanousd)
    counts = (line.billed_input_tokens, line.ledger_input_tokens, line.billed_output_tokens, line.ledger_output_tokens)
    shown = ("-" if amount is None else signed(amount) for amount in amounts)
    return (line.day, line.model, *shown, *("-" if count is None else f"{count:,}" for count in counts), line.mark)


def signed(nanousd: int) -> str:
    return f"-{money(-nanousd)}" if nanousd < 0 else money(nanousd)
