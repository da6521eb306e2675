"""Computes the cost of a ledger row again, from that row alone. Shares no arithmetic with `row.cost`: it is the second opinion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

# unit → how many of it one rate buys, and what it is priced as where the row has no rate of its own
_TOKENS = 10**6
_PARENTS: dict[str, list[str]] = {
    "cached_audio": ["input_audio", "cached_input", "input"],
    "cached_image": ["input_image", "cached_input", "input"],
    "cached_video": ["input_video", "cached_input", "input"],
    "cached_input": ["input"],
    "cache_write_1h": ["cache_write", "input"],
    "cache_write": ["input"],
    "input_audio": ["input"],
    "input_image": ["input"],
    "input_video": ["input"],
    "reasoning": ["output"],
    "output_audio": ["output"],
    "output_image": ["output"],
    "output_video": ["output"],
}
_LOTS = {
    "characters": 10**6, "audio_ms": 3600 * 1000, "searches": 1000, "preview_searches": 1000, "storage_searches": 1000,
    "containers": 1000, "pages": 1000, "requests": 1000,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Line:
    """`count` of a unit, priced as `priced_as` at `rate` nano-dollars for each `per` of them."""

    unit: str
    count: int
    priced_as: str
    rate: int
    per: int

    @property
    def nanousd(self) -> Fraction:
        """Exact; only the sum of all lines is rounded."""
        return Fraction(self.count * self.rate, self.per)


def recompute(row: Mapping[str, object]) -> int:
    """Nano-dollars of one ledger row (the fields of `exchange.Row`, as a mapping; JSON round-trips are fine).

    An estimated row costs what was held; a row without usage, or of an operation that the provider gives away, nothing;
    a cost that the vendor stated stands as stated.
    """
    price = row.get("price_row")
    source = row.get("usage_source")
    if not isinstance(price, Mapping) or source == "none" or price.get("mark") == "free":
        return 0
    if source == "estimate":
        return _int(row, "held_nanousd")
    if "stated_nanousd" in price:
        return _int(price, "stated_nanousd")
    nanousd = sum((line.nanousd for line in lines_of(row)), Fraction())
    return ceil(nanousd * (1 - Fraction(_int(price, "discount_ppm"), 10**6)))


def lines_of(row: Mapping[str, object]) -> list[Line]:
    """What the row's counts cost by its own price row, before its discount: `recompute`, line by line."""
    price = _mapping(row, "price_row")
    amounts = _amounts(row, _mapping(price, "units"))
    rates, whole = _mapping(price, "rates"), _int(row, "input_tokens")
    return [Line(unit, count, *_rate_of(unit, rates, whole)) for unit, count in amounts.items() if count]


def _amounts(row: Mapping[str, object], units: Mapping[str, object]) -> dict[str, int]:
    """Every count exactly once: shares first, most special first, then the rest of input and output."""
    wanted = {unit: _int(units, unit) for unit in {*_PARENTS, *_LOTS} if unit in units}
    wanted["cached_input"] = _int(row, "cached_input_tokens")
    for kind in ("audio", "image", "video"):
        from_cache = wanted.get(f"cached_{kind}", 0)
        wanted["cached_input"] -= from_cache
        wanted[f"input_{kind}"] = wanted.get(f"input_{kind}", 0) - from_cache
    wanted["cache_write"] = _int(row, "cache_write_tokens") - wanted.get("cache_write_1h", 0)
    wanted["reasoning"] = _int(row, "reasoning_tokens")
    left = {"input": _int(row, "input_tokens"), "output": _int(row, "output_tokens")}
    if not units.keys().isdisjoint({"billed_input", "billed_output"}):
        left = {"input": _int(units, "billed_input"), "output": _int(units, "billed_output")}
    left = {whole: max(0, count) for whole, count in left.items()}
    amounts = {unit: wanted.get(unit, 0) for unit in _LOTS} | {"requests": 1}
    for unit, parents in _PARENTS.items():
        amounts[unit] = min(max(wanted.get(unit, 0), 0), left[parents[-1]])
        left[parents[-1]] -= amounts[unit]
    return amounts | left


def _rate_of(unit: str, rates: Mapping[str, object], input_tokens: int) -> tuple[str, int, int]:
    """What the unit is priced as, and nano-dollars for how many of it; ("", 0, 1) where the row has no price for it."""
    for name in [unit, *_PARENTS.get(unit, [])]:
        if name in rates:
            rate = rates[name]
            if isinstance(rate, list | tuple):
                passed = [step for step in rate if step[0] < input_tokens]
                rate = max(passed, key=lambda step: step[0])[1] if passed else rate[0][1]
            if not isinstance(rate, int):
                raise ValueError(f"price_row: the rate of {name} is no integer")
            return name, rate, _LOTS.get(name, _TOKENS)
    return "", 0, 1


def _mapping(holder: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = holder.get(key)
    return value if isinstance(value, Mapping) else {}


def _int(holder: Mapping[str, object], key: str) -> int:
    value = holder.get(key, 0)
    if not isinstance(value, int):
        raise ValueError(f"ledger row: {key} is no integer")
    return value
