"""What the ledger must say of a recording: its expected usage, field by field, and a cost that follows from the row alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal

from contract.recordings import ASKED_FOR, FOREIGN, Exchange

from proxy.exchange import NANO
from proxy.meter.recompute import recompute

NOTED = {"028c3ea91e2cb0d0": ["usage_decreased"]}  # Gemini took its prompt count back from 169 to 79 within the stream


def _units(row: dict, name: str) -> int:
    return ((row["price_row"] or {}).get("units") or {}).get(name, 0)


FIELDS: dict[str, Callable[[dict], object]] = {
    **{name: (lambda row, name=name: row[name]) for name in
       ("input_tokens", "output_tokens", "cached_input_tokens", "cache_write_tokens", "reasoning_tokens")},
    "uncached_input_tokens": lambda row: row["input_tokens"] - row["cached_input_tokens"] - row["cache_write_tokens"],
    "cache_write_1h_tokens": lambda row: _units(row, "cache_write_1h"),
    "billed_input_tokens": lambda row: _units(row, "billed_input"),
    "billed_output_tokens": lambda row: _units(row, "billed_output"),
    "search_units": lambda row: _units(row, "searches"),
    "web_search_requests": lambda row: _units(row, "searches"),
    "audio_seconds": lambda row: _units(row, "audio_ms") / 1000,
    "cost_reported_usd": lambda row: float(Decimal(row["price_row"]["stated_nanousd"]) / NANO),
    "total_tokens_reported": lambda row: row["usage_detail"].get("total_tokens", row["usage_detail"].get("totalTokenCount")),
    "tool_use_prompt_tokens": lambda row: row["usage_detail"]["toolUsePromptTokenCount"],
    **{f"{side}_{kind}_tokens": (lambda row, unit=f"{side}_{kind}": _units(row, unit))
       for side in ("input", "output") for kind in ("audio", "image", "video")},
}  # fmt: skip
TIER = "service_tier"  # no field of the ledger: it chooses the rates


def not_counted(exchange: Exchange) -> str | None:
    """Why the usage of this recording is none of ours, by provider or path."""
    row = exchange.row
    if row["provider"] == "ollama" and row["path"].startswith("/api/"):
        return "ollama's native format; its /v1 is counted"
    return FOREIGN.get(row["provider"])


def differences(exchange: Exchange, rows: list[dict]) -> Iterator[str]:
    jobs, rows = [row for row in rows if row["kind"] == "job"], [row for row in rows if row["kind"] != "job"]
    if len(rows) != 1:
        yield f"{len(rows)} rows in the ledger"
        return
    (row,) = rows
    for job in jobs:  # begun by this exchange, settled when a later one read its usage
        if (job["parent_id"], job["usage_source"]) != (f"{row['request_id']}/1", "provider") or "job" not in row["usage_note"]:
            yield f"a job told as {job}"
        if not job["cost_nanousd"] == recompute(job) > 0 or row["cost_nanousd"]:
            yield f"a job of {job['cost_nanousd']}, recomputed {recompute(job)}; its creation cost {row['cost_nanousd']}"
    if (cost := recompute(row)) != row["cost_nanousd"]:
        yield f"cost {row['cost_nanousd']}, recomputed {cost}"
    end = "upstream_cut" if exchange.has_no_end else "done"
    told = (row["attempt"], row["kind"], row["status"], row["end"], row["provider"])
    if told != (1, "first", exchange.row["status"], end, exchange.entry.name):
        yield f"told as {told}"
    if not_counted(exchange) is None:
        yield from _usage_differences(exchange, row)


def _usage_differences(exchange: Exchange, row: dict) -> Iterator[str]:
    expected = exchange.row["expected_usage"]
    if exchange.gains_usage:
        expected = {"input_tokens": ASKED_FOR["prompt_tokens"], "output_tokens": ASKED_FOR["completion_tokens"]}
    if expected is None or expected.get("billable") is False:
        if row["usage_source"] == "provider" and (row["input_tokens"] or row["output_tokens"]):
            yield f"nothing is stated, the row says {row['usage_detail']}"
        if expected is not None and row["cost_nanousd"]:
            yield f"counting costs nothing, the row says {row['cost_nanousd']}"
        return
    if row["usage_source"] != "provider":
        yield f"{expected} is stated, the row's source is {row['usage_source']}"
        return
    for field, value in expected.items():
        if field != TIER and FIELDS[field](row) != value:
            yield f"{field}: {value} expected, {FIELDS[field](row)} in the row"
    noted = [note for note in row["usage_note"].split(",") if note not in ("", "fallback_price")]  # of the usage, not of the price
    if noted != NOTED.get(exchange.id, []):
        yield f"noted as {noted}"
