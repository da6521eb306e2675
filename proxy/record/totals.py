"""The sums of `sluice usage` over rows that came from a stream: the same figures as the ledger's own index gives. Reads no store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from proxy.record.rows import TOKENS

Shown = Mapping[str, Any]  # a ledger row as JSON shows it, with its attempt's `id` and its `day`
Sums = dict[str, Any]


def within(rows: Iterable[Shown], since: str | None, until: str | None) -> Iterator[Shown]:
    """Of the rows those that began in [since, until): RFC 3339 in UTC to the millisecond, as rows have it, so that texts compare."""
    return (row for row in rows if (since is None or row["at"] >= since) and (until is None or row["at"] < until))


def usage(rows: Iterable[Shown], by: str) -> list[Sums]:
    """As `/admin/usage`: the dearest first, days in order."""
    sums = _summed(rows, (by,), _counted)
    return sorted(sums, key=(lambda it: it[by]) if by == "day" else (lambda it: (-it["cost_nanousd"], -it["attempts"], it[by] or "")))


def failed(rows: Iterable[Shown]) -> list[Sums]:
    """As `/admin/usage/failed`: by provider, model and end."""
    names = ("provider", "model", "end")
    sums = _summed((row for row in rows if row["kind"] != "refusal" and _is_failed(row)), names, _cost_alone)
    return sorted(sums, key=lambda it: (-it["cost_nanousd"], -it["attempts"], *(it[name] or "" for name in names)))


def dearest(rows: Iterable[Shown], limit: int) -> list[Sums]:
    """As `/admin/usage/dearest`: the calls that cost most, all attempts of a call together."""
    calls: dict[str, Sums] = {}
    for row in sorted(rows, key=lambda it: int(it["attempt"]), reverse=True):  # the first attempt is met last and says who and what
        call = str(row["id"]).rpartition("/")[0]  # also of a job, whose rows are its models
        so_far = calls.get(call, {"attempts": 0, "cost_nanousd": 0, "at": row["at"]})
        calls[call] = {
            **{name: row[name] for name in ("request_id", "at", "caller", "team", "provider", "model")},
            "at": min(so_far["at"], row["at"]),
            "attempts": so_far["attempts"] + (row["kind"] != "refusal"),
            "cost_nanousd": so_far["cost_nanousd"] + row["cost_nanousd"],
        }
    return sorted(calls.values(), key=lambda it: (-it["cost_nanousd"], it["at"]))[:limit]


def billed(rows: Iterable[Shown], provider: str | None = None) -> list[Sums]:
    """As `/admin/usage/billed`: by UTC day, provider and model."""
    ours = ({**row, "day": row["at"][:10]} for row in rows if row["kind"] != "refusal" and provider in (None, row["provider"]))
    sums = _summed(ours, ("day", "provider", "model"), _counted)
    return sorted(sums, key=lambda it: (it["day"], it["provider"], it["model"] or ""))


def _summed(rows: Iterable[Shown], names: tuple[str, ...], figures: Callable[[Shown], dict[str, int]]) -> list[Sums]:
    sums: dict[tuple[str | None, ...], dict[str, int]] = {}
    for row in rows:
        who = tuple(row[name] for name in names)
        counted = figures(row)
        so_far = sums.get(who)
        sums[who] = counted if so_far is None else {name: so_far[name] + count for name, count in counted.items()}
    return [dict(zip(names, who, strict=True)) | counted for who, counted in sums.items()]


def _is_failed(row: Shown) -> bool:
    return row["end"] != "done" or (row["status"] or 0) >= 400


def _cost_alone(row: Shown) -> dict[str, int]:
    return {"attempts": 1, "cost_nanousd": row["cost_nanousd"]}


def _counted(row: Shown) -> dict[str, int]:
    cost = row["cost_nanousd"]
    return {
        "requests": int(row["kind"] in ("first", "turn")),
        "attempts": int(row["kind"] != "refusal"),
        "refusals": int(row["kind"] == "refusal"),
        **{name: row[name] for name in TOKENS},
        "cost_nanousd": cost,
        "failed_cost_nanousd": cost if _is_failed(row) else 0,
        "estimated_cost_nanousd": cost if row["usage_source"] in ("estimate", "counted") else 0,
    }
