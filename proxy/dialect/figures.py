"""Counts out of a provider's usage object, under whichever of their names they stand. Invents none, and adds none up."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import ROUND_CEILING, Decimal

from proxy.dialect.fields import ODD
from proxy.dialect.wire import Json
from proxy.exchange import NANO, Usage

ABSURD = 1_000_000_000  # tokens of one call; kept, but noted
IMPOSSIBLE = 2**53  # no count; left out and noted
LEVELS = 2  # of objects inside a usage object that a figure may stand in
_DEEPER = ""  # no figure: they stand one level further down


class Figures:
    """The figures that a wire format states, each with the names it may have: dotted paths, the first with a usable count is it."""

    def __init__(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self._names = names
        self._at: dict[str, str | dict[str, str]] = {}  # the figure under a name, or those in the object under it
        for figure, spellings in names.items():
            for spelling in spellings:
                place, *inner = spelling.split(".")
                if not inner:
                    self._at[place] = figure
                else:
                    within = self._at.setdefault(place, {})
                    assert isinstance(within, dict)
                    within[inner[0]] = figure if len(inner) == 1 else _DEEPER

    def read(self, raw: Json) -> tuple[dict[str, int], bool]:
        """What stands there, and whether any of it was odd (which is passed over, but for what is merely absurd)."""
        found: dict[str, int] = {}
        places = self._at
        for name, value in raw.items():
            place = places.get(name)
            if place is None or value is None:
                continue
            if type(value) is int and type(place) is str:
                if place in found or not 0 <= value <= ABSURD:
                    return self._chosen(raw)
                found[place] = value
            elif type(value) is dict and type(place) is dict:
                for inner, one in value.items():
                    figure = place.get(inner)
                    if figure is None or one is None:
                        continue
                    if type(one) is not int or figure in found or not 0 <= one <= ABSURD or figure == _DEEPER:
                        return self._chosen(raw)
                    found[figure] = one
            else:
                return self._chosen(raw)
        return found, False

    def _chosen(self, raw: Json) -> tuple[dict[str, int], bool]:
        """The same of any object: a figure under several of its names, or no count under one of them."""
        flat: dict[str, object] = {}
        _flatten(raw, "", flat, LEVELS)
        found: dict[str, int] = {}
        is_odd = False
        for figure, names in self._names.items():
            for name in names:
                value = flat.get(name)
                if value is None:
                    continue
                number = whole(value)
                is_odd = is_odd or number is None or number > ABSURD
                if number is not None:
                    found[figure] = number
                    break
        return found, is_odd


def finished(usage: Usage, is_odd: bool) -> Usage:
    """Shares cannot exceed their whole; what was odd is noted."""
    cached, written = usage.cached_input, usage.cache_write
    if cached + written > usage.input:
        is_odd = True
        cached = min(cached, usage.input)
        written = min(written, usage.input - cached)
    elif not is_odd and usage.cache_write_1h <= written:
        return usage
    return replace(
        usage,
        cached_input=cached,
        cache_write=written,
        cache_write_1h=min(usage.cache_write_1h, written),
        note=ODD if is_odd else usage.note,
    )


def whole(value: object) -> int | None:
    """A count; None for what is none."""
    if isinstance(value, float) and value.is_integer():  # some providers type counts as doubles
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < IMPOSSIBLE else None


def milliseconds(values: Iterable[object]) -> tuple[int, bool]:
    """The first of these seconds, rounded up to whole milliseconds, and whether anything before it was odd."""
    is_odd = False
    for seconds in values:
        if seconds is not None:
            if _is_amount(seconds):
                return math.ceil(Decimal(repr(seconds)) * 1000), is_odd
            is_odd = True
    return 0, is_odd


def nanousd(values: Iterable[object]) -> tuple[int | None, bool]:
    """The first of these costs in dollars as nano-dollars: exact by its decimal text, rounded up below a nano-dollar."""
    is_odd = False
    for dollars in values:
        if dollars is not None and not isinstance(dollars, dict):
            if _is_amount(dollars):
                return int((Decimal(repr(dollars)) * NANO).to_integral_value(ROUND_CEILING)), is_odd
            is_odd = True
    return None, is_odd


def _flatten(value: Json, root: str, flat: dict[str, object], levels: int) -> None:
    for name, one in value.items():
        if "." not in name:  # else it would pass for a path
            flat[root + name] = one
            if levels and isinstance(one, dict):
                _flatten(one, f"{root}{name}.", flat, levels - 1)


def _is_amount(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < ABSURD  # NaN compares false
