"""The leaf values of the policy language: counts, rates, money, times, sizes, shares, secret references. Knows no key of the language."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date as Day
from decimal import Decimal
from typing import Literal
from zoneinfo import ZoneInfo

from proxy.exchange import NANO
from proxy.policy.plan import Rate, Spend

MAX_DOLLARS = 9_007_199  # per period: its nano-dollars stay below 2**53, which a Lua double holds exactly
MAX_COUNT = 10**15
NEVER_S = 100_000_000.0  # a timeout that is off: three years, finite because event loops refuse infinity
NUMBER = r"(\d+(?:_\d+)*(?:\.\d+)?)"
SCALE = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9}
PERIODS = {"min": 60, "hour": 3600, "day": 86400}
SECONDS: dict[str, Decimal | int] = {"ms": Decimal("0.001"), "s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES: dict[str, Decimal | int] = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class Trap(str):
    """A plain `yes`, `no`, `on` or `off`: text in YAML 1.2, a truth value in 1.1. Only a feature may take `off`."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Ref:
    """Where a secret stands; never the secret."""

    kind: Literal["env", "file"]
    name: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"


def text(value: object) -> str:
    """Any text of 1 to 1,000 characters without control characters."""
    if isinstance(value, Trap):
        raise ValueError("a plain yes, no, on or off is a truth value to other YAML readers: put it in quotes")
    if isinstance(value, bool) or not isinstance(value, str):
        raise ValueError("needs text; put a number or a truth value in quotes")
    if not value or value != value.strip() or len(value) > 1000 or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("needs 1 to 1,000 characters without control characters or blanks at the ends")
    return value


def flag(value: object) -> bool:
    """`true` or `false`; `off` is false."""
    if isinstance(value, bool):
        return value
    if value == "off":
        return False
    raise ValueError("needs true or false" + (f", not {value}" if isinstance(value, Trap) else ""))


def count(value: object) -> int:
    """A whole number ≥ 0, also as 10k or 2M."""
    if isinstance(value, str) and (found := re.fullmatch(NUMBER + "([kKMG]?)", value)):
        value = Decimal(found[1].replace("_", "")) * SCALE[found[2]]
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or value != int(value):
        raise ValueError("needs a whole number, like 200 or 10k")
    if not 0 <= value <= MAX_COUNT:
        raise ValueError("needs a number from 0 to 10^15")
    return int(value)


def positive(value: object) -> int:
    """A whole number ≥ 1."""
    if (number := count(value)) < 1:
        raise ValueError("needs at least 1")
    return number


def rate(value: object) -> Rate:
    """`10/min`, `10k/hour`, `1M/day`; a bare 0 denies all."""
    if value == 0 and not isinstance(value, bool):
        return Rate(0, 60)
    if not isinstance(value, str) or "/" not in value:
        raise ValueError("needs a number and a period: 10/min, 600/hour or 10k/day")
    number, _, period = (piece.strip() for piece in value.partition("/"))
    if period not in PERIODS:
        raise ValueError("requests and tokens are counted per min, hour or day")
    if number.startswith("$") or "USD" in number:
        raise ValueError("this counts requests or tokens, not money; money is `spend`")
    return Rate(count(number), PERIODS[period])


def nanodollars(number: Decimal) -> int:
    """Exact; refuses what has no whole number of nano-dollars, is negative or above $9,007,199."""
    if not 0 <= number <= MAX_DOLLARS:
        raise ValueError("needs an amount from $0 to $9,007,199")
    nano = number * NANO
    if nano != int(nano):
        raise ValueError("needs at most 9 decimals of a dollar")
    return int(nano)


def spend(value: object) -> Spend:
    """`$5/day`, `5 USD/day`, `$0.50/month`, `$100/total`; a bare 0 denies all."""
    if value == 0 and not isinstance(value, bool):
        return Spend(0, "total")
    if isinstance(value, str) and "/" in value:
        amount, _, period = (piece.strip() for piece in value.rpartition("/"))
        found = re.fullmatch(r"(?:\$\s*" + NUMBER + r"([kKM]?)|" + NUMBER + r"([kKM]?)\s*USD)", amount)
        if found and period in ("day", "month", "total"):
            number = Decimal((found[1] or found[3]).replace("_", "")) * SCALE[found[2] or found[4] or ""]
            return Spend(nanodollars(number), period)  # type: ignore[arg-type]  # the line above narrows it, mypy does not see
        if found:
            raise ValueError("money is counted per day, month or total")
    raise ValueError("money needs a currency and a period: $5/day or 5 USD/day (US dollars; day, month or total; not negative)")


def dollars(value: object) -> int:
    """A price in dollars per million tokens → nano-dollars per million tokens, exactly."""
    if isinstance(value, str) and (found := re.fullmatch(r"\$?" + NUMBER, value)):
        value = Decimal(found[1].replace("_", ""))
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("needs dollars per million tokens, like 2.50")
    return nanodollars(Decimal(value))


def _measured(units: dict[str, Decimal | int], example: str) -> Callable[[object], Decimal]:
    pattern = re.compile(NUMBER + r"\s*(" + "|".join(units) + ")")

    def read(value: object) -> Decimal:
        if not isinstance(value, str) or not (found := pattern.fullmatch(value)):
            raise ValueError(f"needs a number with a unit ({', '.join(units)}), like {example}")
        return Decimal(found[1].replace("_", "")) * units[found[2]]

    return read


_seconds = _measured(SECONDS, "5s")
_bytes = _measured(BYTES, "64MB")


def duration(value: object) -> float:
    """`5s`, `500ms`, `10m`, `24h`, `400d` → seconds."""
    if (seconds := float(_seconds(value))) > NEVER_S:
        raise ValueError("needs less than three years")
    return seconds


def timeout(value: object) -> float:
    """A duration above 0, or off (a wait of three years)."""
    if value is False or value == "off":
        return NEVER_S
    if (seconds := duration(value)) <= 0:
        raise ValueError("needs more than 0s; `off` means no limit")
    return seconds


def span(value: object) -> tuple[float, float]:
    """`0.5s..8s` → (0.5, 8.0) seconds; one duration is both ends."""
    low, dots, high = value.partition("..") if isinstance(value, str) else ("", "", "")
    found = (duration(low.strip()), duration((high if dots else low).strip()))
    if found[0] > found[1]:
        raise ValueError("needs the smaller time first, like 0.5s..8s")
    return found


def size(value: object) -> int:
    """`64MB`, `1GB`, `512KiB` → bytes (MB is 10^6, MiB is 2^20)."""
    if (found := _bytes(value)) != int(found) or not 1 <= found <= MAX_COUNT:
        raise ValueError("needs a whole number of bytes, at least 1B")
    return int(found)


def parts_per_million(value: object) -> int:
    """`12%` → 120_000, from 0 to 100 %."""
    if not isinstance(value, str) or not (found := re.fullmatch(NUMBER + r"\s*%", value)):
        raise ValueError("needs a percentage, like 20%")
    parts = Decimal(found[1].replace("_", "")) * 10_000
    if parts > 1_000_000 or parts != int(parts):
        raise ValueError("needs 0% to 100%, with at most 4 decimals")
    return int(parts)


def share(value: object) -> float:
    """`50%` → 0.5."""
    return parts_per_million(value) / 1_000_000


def fraction(value: object) -> float:
    """A bare number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value <= 1:
        raise ValueError("needs a number from 0 to 1, like 0.7")
    return float(value)


def weight(value: object) -> float:
    """A bare number ≥ 0."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal) or not 0 <= value <= MAX_COUNT:
        raise ValueError("needs a number, 0 or more")
    return float(value)


def reference(value: object) -> Ref:
    """`env:NAME` or `file:path`; anything else is an inline secret and is refused unseen."""
    if isinstance(value, str):
        kind, _, name = value.partition(":")
        if kind == "env" and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
            return Ref("env", name)
        if kind == "file" and name and name == name.strip() and not any(ord(char) < 32 for char in name):
            return Ref("file", name)
    raise ValueError("a secret never stands in the policy: write env:NAME or file:path")


def text_or_reference(value: object) -> str | Ref:
    """Plain text, or where it stands (`env:` or `file:`)."""
    found = text(value)
    return reference(found) if found.startswith(("env:", "file:")) else found


def zone(value: object) -> str:
    """An IANA time zone."""
    try:
        ZoneInfo(name := text(value))
    except (LookupError, ValueError, OSError) as unknown:
        raise ValueError("needs an IANA time zone, like UTC or Europe/Berlin") from unknown
    return name


def date(value: object) -> str:
    """YYYY-MM-DD, kept as text: its instant depends on `time_zone`."""
    try:
        if isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value):
            Day.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise ValueError("needs a date like 2027-03-01")
