"""Reads what an admin request asks for, out of its query or body. Touches neither the ledger nor the wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal, get_args

from proxy.admin.say import AdminProblem
from proxy.exchange import NANO

DEFAULT_ROWS, MAX_ROWS = 100, 100_000  # design.md section 9
DEFAULT_CALLS, MAX_CALLS = 10, 1000
Grouping = Literal["caller", "team", "model", "provider", "tier", "day"]
GROUPS: tuple[Grouping, ...] = get_args(Grouping)
FIELDS = ("name", "tier", "team", "expires")
INSTANT = "RFC 3339 (2026-11-21T09:30:00Z), a day (2026-11-21) or Unix seconds"
Query = Mapping[str, str]
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class RowsAsked:
    limit: int
    since_ns: int | None
    caller: str | None
    is_csv: bool = False


@dataclass(frozen=True, slots=True)
class SpanAsked:
    """Of what began in [since, until), ns since the epoch; None: open. What else is asked stands at its default where it is not."""

    since_ns: int | None = None
    until_ns: int | None = None
    is_csv: bool = False
    by: Grouping = "caller"
    limit: int = DEFAULT_CALLS
    provider: str | None = None


def read_rows_asked(query: Query) -> RowsAsked:
    """Raises AdminProblem 400."""
    _known_only(query, ("limit", "since", "caller", "format"))
    limit = _limit(query, "rows", DEFAULT_ROWS, MAX_ROWS)
    return RowsAsked(limit, _instant(query, "since"), query.get("caller"), _is_csv(query))


def read_span_asked(query: Query, *more: str) -> SpanAsked:
    """`more`: which of by, limit and provider may be asked for. Raises AdminProblem 400."""
    _known_only(query, ("since", "until", "format", *more))
    asked = query.get("by", "caller")
    by = next((one for one in GROUPS if one == asked), None)
    if by is None:
        raise _bad("`by` is nothing that usage is grouped by", "give one of " + ", ".join(GROUPS))
    limit = _limit(query, "calls", DEFAULT_CALLS, MAX_CALLS)
    return SpanAsked(_instant(query, "since"), _instant(query, "until"), _is_csv(query), by, limit, query.get("provider"))


def _limit(query: Query, what: str, default: int, most: int) -> int:
    text = query.get("limit", str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= most:
        raise _bad(f"`limit` is not a number of {what}", f"give a whole number from 1 to {most}")
    return int(text)


def _is_csv(query: Query) -> bool:
    form = query.get("format", "json")
    if form not in ("json", "csv"):
        raise _bad("`format` is none of ours", "give json or csv")
    return form == "csv"


def _instant(query: Query, name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    try:
        return read_instant(text)
    except ValueError:
        raise _bad(f"`{name}` is no instant", f"give {INSTANT}") from None


def read_instant(text: str) -> int:
    """Ns since the epoch; without a zone it is UTC. Raises ValueError."""
    if text.isascii() and text.isdecimal() and len(text) <= 11:
        return int(text) * NANO
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 1000
    except OverflowError as problem:
        raise ValueError from problem


def _known_only(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    if any(name not in known for name in given):
        raise _bad("there is a parameter or field that is not known here", "known are " + ", ".join(known))


def _bad(message: str, fix: str) -> AdminProblem:
    return AdminProblem(400, "invalid_request", message, fix)
