"""Why a request cost what it cost: every attempt with what was held and settled, the source of each number, and the sum. Asks no ledger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from proxy.meter.recompute import lines_of, recompute
from proxy.record.rows import rfc3339

Row = Mapping[str, Any]

ATTEMPT = (
    *("attempt", "kind", "caller", "team", "tier", "provider", "model", "operation", "credential", "status", "end"),
    *("streamed", "duration_ms", "policy_generation"),
)
INPUT = ("input_tokens", "cached_input_tokens", "cache_write_tokens")
OUTPUT = ("output_tokens", "reasoning_tokens")
SOURCES = {
    "provider": "the provider's own final figures",
    "counted": "the provider did not finish: what it had stated, and the output counted as it passed",
    "estimate": "the provider stated nothing: the upper bound that was held",
    "none": "nothing was used, or this is not billed",
}
NOTES = {
    "unconfirmed": "whether the provider worked on it is not known",
    "usage_missing": "the answer states no usage",
    "usage_unparsed": "the answer could not be read",
    "usage_odd": "a figure of the provider's usage was negative, absurd or no number",
    "usage_decreased": "a running figure went down within the stream: the last one counts",
    "fallback_price": "no price is known: `fallback_price` of the policy was charged",
    "unpriced": "no price is known: the policy lets it pass at no cost",
    "unpriced_units": "the price row has no rate for some of what was used",
    "unmetered": "no reply states what this operation costs",
    "job": "the provider works on it and bills it later: it is settled by its job",
}
MARKS = {
    "table": "the built-in table",
    "override": "`prices:` of the policy",
    "fallback": "`fallback_price` of the policy",
    "free": "the provider does not bill this",
    "unmetered": "no reply states what this operation costs",
    "unpriced": "no price is known, and the policy lets it pass",
}


def evidence(request_id: str, rows: Sequence[Row]) -> dict[str, object]:
    """`rows`: of the ledger, with their `id`. A caller may give one request id to several calls: each is told apart."""
    calls: dict[str, list[Row]] = {}
    for row in rows:
        if row["kind"] != "job":
            calls.setdefault(str(row["id"]).rpartition("/")[0], []).append(row)
    return {
        "request_id": request_id,
        "cost_nanousd": sum(row["cost_nanousd"] for row in rows),
        "calls": [_call(sorted(attempts, key=lambda row: int(row["attempt"]))) for attempts in calls.values()],
        "jobs": [{"parent_id": row["parent_id"], **_attempt(row)} for row in rows if row["kind"] == "job"],
    }


def _call(rows: Sequence[Row]) -> dict[str, object]:
    attempts = []
    for before, row in zip((None, *rows), rows, strict=False):
        is_repeat = before is not None and row["kind"] in ("retry", "fallback")
        attempts.append({**_attempt(row), "retries_attempt": before["attempt"] if before is not None and is_repeat else None})
    return {"cost_nanousd": sum(row["cost_nanousd"] for row in rows), "attempts": attempts}


def _attempt(row: Row) -> dict[str, object]:
    return {
        **{name: row[name] for name in ATTEMPT},
        "at": rfc3339(row["at"]),
        "held_nanousd": row["held_nanousd"],
        "settled_nanousd": row["cost_nanousd"],
        "usage": _usage(row),
        "price": _price(row),
        "arithmetic": _arithmetic(row),
    }


def _usage(row: Row) -> dict[str, object]:
    source = row["usage_source"]
    stated = "provider" if row["usage_detail"] else "estimate"  # a stream that broke had stated its input, or it had not
    inward, outward = (stated, "counted") if source == "counted" else (source, source)
    units = (row["price_row"] or {}).get("units", {})
    notes = [note for note in str(row["usage_note"] or "").split(",") if note]
    return {
        "source": source,
        "why": "; ".join((SOURCES[source], *(NOTES.get(note, note) for note in notes))),
        "notes": notes,
        "numbers": {
            **{name: {"count": row[name], "source": inward} for name in INPUT},
            **{name: {"count": row[name], "source": outward} for name in OUTPUT},
            **{name: {"count": count, "source": inward} for name, count in units.items()},
        },
        "as_the_provider_said": row["usage_detail"],
    }


def _price(row: Row) -> dict[str, object] | None:
    price = row["price_row"]
    if price is None:
        return None
    shown = {name: price.get(name) for name in ("name", "provider", "source", "date", "mark", "tier")}
    return {**shown, "why": MARKS.get(price.get("mark"), price.get("mark")), "rates": price.get("rates")}


def _arithmetic(row: Row) -> dict[str, object]:
    """Each line units x rate ÷ per, exact (a fraction where it does not come out even); their sum less the discount, rounded up once."""
    price, source = row["price_row"], row["usage_source"]
    cost = {"cost_nanousd": row["cost_nanousd"], "is_recomputed": recompute(row) == row["cost_nanousd"]}
    if price is None or source == "none" or price.get("mark") == "free":
        return {"how": "nothing is charged", "lines": [], **cost}
    if source == "estimate":
        return {"how": "what was held is charged", "lines": [], **cost}
    if "stated_nanousd" in price:
        return {"how": "the provider itself stated the cost", "lines": [], **cost}
    lines = [line for line in lines_of(row) if line.priced_as or line.unit != "requests"]
    return {
        "how": "units x rate ÷ per, summed, less the discount, rounded up",
        "lines": [
            {
                "unit": line.unit,
                "count": line.count,
                "priced_as": line.priced_as or None,
                "rate_nanousd": line.rate,
                "per": line.per,
                "nanousd": str(line.nanousd),
            }
            for line in lines
        ],
        "sum_nanousd": str(sum((line.nanousd for line in lines), Fraction())),
        "discount_ppm": price.get("discount_ppm", 0),
        **cost,
    }
