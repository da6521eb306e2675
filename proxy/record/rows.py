"""How rows are shown: instants in words, no internal id, CSV that no spreadsheet runs. Asks nobody for them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime

import orjson

from proxy.exchange import NANO, Row

Shown = Mapping[str, object]

LEDGER = tuple(name for name in Row._fields if name != "id")
TOKENS = tuple(f"{kind}_tokens" for kind in ("input", "cached_input", "cache_write", "output", "reasoning"))
USAGE = ("requests", "attempts", "refusals", *TOKENS, "cost_nanousd", "failed_cost_nanousd", "estimated_cost_nanousd")  # after the group
DEAREST = ("request_id", "at", "caller", "team", "provider", "model", "attempts", "cost_nanousd")
FAILED = ("provider", "model", "end", "attempts", "cost_nanousd")
BILLED = ("day", "provider", "model", "attempts", *TOKENS, "cost_nanousd", "estimated_cost_nanousd")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what makes a spreadsheet take a text for a formula (OWASP, CSV injection)


def rfc3339(at_ns: int) -> str:
    """In UTC, to the millisecond."""
    whole, rest = divmod(at_ns, NANO)
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}.{rest // 1_000_000:03d}Z"


class Instant:
    """`rfc3339` of now, as JSON has it, made once in a millisecond: `text`, until the monotonic clock says `until`."""

    __slots__ = ("_now_ns", "_second", "_whole", "text", "until")

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self._now_ns = now_ns
        self._second, self._whole = -NANO, b""  # the last one, in ns since the epoch, and its text
        self.text, self.until = b"", 0.0

    def turn(self, now: float) -> bytes:
        """The next text. `now`: monotonic."""
        at_ns = self._now_ns()
        since = at_ns - self._second
        if not 0 <= since < NANO:
            whole, since = divmod(at_ns, NANO)
            self._second, self._whole = at_ns - since, datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S").encode()
        ms = since // 1_000_000
        self.until = now + ((ms + 1) * 1_000_000 - since) / 1e9
        self.text = b"%b.%03dZ" % (self._whole, ms)
        return self.text


def shown_row(row: Shown) -> dict[str, object]:
    """A ledger row as it leaves Sluice: `at` as RFC 3339 in UTC, and no internal id."""
    shown = {name: value for name, value in row.items() if name != "id"}
    at = shown.get("at")
    if isinstance(at, int):
        shown["at"] = rfc3339(at)
    return shown


def csv_text(columns: Sequence[str], rows: Iterable[Shown], *, has_header: bool = True) -> str:
    """RFC 4180: a header, CRLF, quotes where needed. Nothing is an empty field, a map its JSON; a text that a spreadsheet would run as a
    formula begins with ' instead."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    if has_header:
        writer.writerow(columns)
    writer.writerows([_field(row.get(name)) for name in columns] for row in rows)
    return out.getvalue()


def _field(value: object) -> object:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping | list | tuple):
        value = orjson.dumps(value).decode()
    if isinstance(value, str):
        text = value.replace("\0", "")  # which no CSV reader takes
        return f"'{text}" if text.startswith(_FORMULA) else text
    return value
