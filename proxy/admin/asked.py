"""Reads what an admin request asks for, out of its query or body. Touches neither the ledger nor the wire."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Literal, get_args
from zoneinfo import ZoneInfo

import orjson

from proxy.admin.say import AdminProblem
from proxy.exchange import NANO
from proxy.policy.plan_callers import CallerRules, KeyRecord

DEFAULT_ROWS, MAX_ROWS = 100, 100_000  # design.md section 9
Grouping = Literal["caller", "model", "team", "day"]
GROUPS: tuple[Grouping, ...] = get_args(Grouping)
FIELDS = ("name", "tier", "team", "expires")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True)
class RowsAsked:
    limit: int
    since_ns: int | None
    caller: str | None


def read_rows_asked(query: Mapping[str, str]) -> RowsAsked:
    """Raises AdminProblem 400."""
    _known_only(query, ("limit", "since", "caller"))
    text = query.get("limit", str(DEFAULT_ROWS))
    if not text.isascii() or not text.isdecimal() or len(text) > 6 or not 1 <= int(text) <= MAX_ROWS:
        raise _bad("`limit` is not a number of rows", f"give a whole number from 1 to {MAX_ROWS}")
    return RowsAsked(int(text), _since(query), query.get("caller"))


def read_usage_asked(query: Mapping[str, str]) -> tuple[Grouping, int | None]:
    """What to group by, and since when (ns since the epoch). Raises AdminProblem 400."""
    _known_only(query, ("by", "since"))
    asked = query.get("by", "caller")
    for by in GROUPS:
        if by == asked:
            return by, _since(query)
    raise _bad("`by` is nothing that usage is grouped by", "give one of " + ", ".join(GROUPS))


def _since(query: Mapping[str, str]) -> int | None:
    text = query.get("since")
    if text is None:
        return None
    if text.isascii() and text.isdecimal() and len(text) <= 11:
        return int(text) * NANO
    try:
        at = datetime.fromisoformat(text)
        at = at if at.tzinfo else at.replace(tzinfo=UTC)
        return int((at - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000) * 1000
    except (ValueError, OverflowError):
        raise _bad("`since` is no instant", "give RFC 3339 (2026-11-21T09:30:00Z) or Unix seconds") from None


def read_key_asked(raw: bytes, digest: bytes, rules: CallerRules, time_zone: str) -> KeyRecord:
    """The record of a key to be minted, from the JSON body. Raises AdminProblem 400."""
    try:
        doc = orjson.loads(raw)
    except ValueError:
        raise _bad("the body is not JSON", f"send an object with {', '.join(FIELDS)}; only name is needed") from None
    if not isinstance(doc, dict):
        raise _bad("the body is not a JSON object", f"send an object with {', '.join(FIELDS)}; only name is needed")
    _known_only(doc, FIELDS)
    texts = {field: doc[field] for field in FIELDS if doc.get(field) is not None}
    if not all(isinstance(value, str) for value in texts.values()):
        raise _bad("a field is not a text", "all fields are strings")
    if not _NAME.fullmatch(texts.get("name", "")):
        raise _bad("`name` is missing or no name", "give 1 to 64 letters, digits, dots, dashes, underscores or @")
    for field, declared in (("tier", rules.tiers), ("team", rules.teams)):
        if field in texts and texts[field] not in declared:
            raise _bad(f"`{field}` is not declared in the policy", f"declare it under {field}s:, or leave it out")
    return KeyRecord(texts["name"], digest, texts.get("tier"), texts.get("team"), expires_ns=_expires_ns(texts.get("expires"), time_zone))


def _expires_ns(text: str | None, time_zone: str) -> int | None:
    """The first instant of that day in the policy's zone (design.md section 9)."""
    if text is None:
        return None
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text, re.ASCII):
            raise ValueError
        return int(datetime.combine(date.fromisoformat(text), time(), ZoneInfo(time_zone)).timestamp()) * NANO
    except (ValueError, OverflowError):
        raise _bad("`expires` is no date", "give YYYY-MM-DD") from None


def shown_row(row: Mapping[str, object]) -> dict[str, object]:
    """A ledger row as the API shows it: `at` as RFC 3339 in UTC, and no internal id."""
    shown = {name: value for name, value in row.items() if name != "id"}
    at = shown.get("at")
    if isinstance(at, int):
        shown["at"] = rfc3339(at)
    return shown


def rfc3339(at_ns: int) -> str:
    whole, rest = divmod(at_ns, NANO)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


def _known_only(given: Mapping[str, object], known: tuple[str, ...]) -> None:
    if any(name not in known for name in given):
        raise _bad("there is a parameter or field that is not known here", "known are " + ", ".join(known))


def _bad(message: str, fix: str) -> AdminProblem:
    return AdminProblem(400, "invalid_request", message, fix)
