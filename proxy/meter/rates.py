"""Rates: what one of each unit costs, and costs at most, from each number of input tokens on. Knows no model and no usage."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd
from types import MappingProxyType

Rate = tuple[tuple[int, int], ...]  # (starts above this many input tokens, nano-dollars per PER units), ascending; the first starts at -1
Rates = Mapping[str, Rate]
NO_RATES: Rates = MappingProxyType({})

_MTOK = 1_000_000
PER: Mapping[str, int] = MappingProxyType(  # how many units a rate buys
    {
        "input": _MTOK, "cached_input": _MTOK, "cache_write": _MTOK, "cache_write_1h": _MTOK,
        "input_audio": _MTOK, "cached_audio": _MTOK, "input_image": _MTOK, "cached_image": _MTOK, "input_video": _MTOK,
        "cached_video": _MTOK,
        "output": _MTOK, "reasoning": _MTOK, "output_audio": _MTOK, "output_image": _MTOK, "output_video": _MTOK,
        "characters": 1_000_000, "audio_ms": 3_600_000, "searches": 1_000, "storage_searches": 1_000, "pages": 1_000, "requests": 1_000,
        "preview_searches": 1_000, "containers": 1_000,
    }
)  # fmt: skip
COMMON = 18_000_000  # least common multiple of PER: costs are summed over it and divided once

# A share of the tokens that the row does not price apart costs what its nearest ancestor costs.
_RATE_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "cached_input": ("cached_input", "input"),
        "cache_write": ("cache_write", "input"),
        "cache_write_1h": ("cache_write_1h", "cache_write", "input"),
        "cached_audio": ("cached_audio", "input_audio", "cached_input", "input"),
        "cached_image": ("cached_image", "input_image", "cached_input", "input"),
        "cached_video": ("cached_video", "input_video", "cached_input", "input"),
        "input_audio": ("input_audio", "input"),
        "input_image": ("input_image", "input"),
        "input_video": ("input_video", "input"),
        "reasoning": ("reasoning", "output"),
        "output_audio": ("output_audio", "output"),
        "output_image": ("output_image", "output"),
        "output_video": ("output_video", "output"),
    }
)
_MEDIA = ("input_audio", "input_image", "input_video", "cached_audio", "cached_image", "cached_video")

# Above this many input tokens: what one of each unit costs, per COMMON; and apart, what one of input, output and requests does.
Factors = tuple[int, Mapping[str, int], int, int, int]
Plain = tuple[int, int, int, int]  # what one token in, one out and the call cost, and per how many
Step = tuple[int, int, int, int]  # above this many input tokens: what one token in, one out and the call cost at most, per COMMON


def plain(inward: int, outward: int, once: int) -> Plain:
    """The same as these per COMMON, in the smallest figures: most prices are whole nano-dollars per token."""
    most = gcd(COMMON, inward, outward, once)
    return inward // most, outward // most, once // most, COMMON // most


def rate_as_json(rate: Rate) -> int | list[list[int]]:
    return rate[0][1] if len(rate) == 1 else [list(step) for step in rate]


def flat(nanousd: int) -> Rate:
    return ((-1, nanousd),)


def steps_of(rates: Rates, special: Rates, *, has_media: bool) -> tuple[Step, ...]:
    """The dearest of two sets of rates from each number of input tokens on at which one changes; ascending, the first at -1."""
    ways = (rates, special)
    starts = {-1, *(start for way in ways for rate in way.values() for start, _ in rate)}

    def dearest(start: int, *units: str) -> int:
        return max(dearest_of(way, unit, start + 1) for way in ways for unit in units)

    inward = ("input", "cached_input", "cache_write", "cache_write_1h", *(_MEDIA if has_media else ()))
    outward = ("output", "reasoning", "output_audio", "output_image", "output_video")
    return tuple(
        # a body of n bytes has at most n characters, and n ms of audio at 8 kbit/s
        (
            start,
            dearest(start, *inward) + dearest(start, "characters") + dearest(start, "audio_ms"),
            dearest(start, *outward),
            dearest(start, "requests"),
        )
        for start in sorted(starts)
    )


def factors_of(rates: Rates) -> tuple[Factors, ...]:
    """By the number of input tokens from which on a rate changes; ascending, the first at -1."""
    named = {unit: next((name for name in (unit, *_RATE_OF.get(unit, ())) if name in rates), None) for unit in PER}
    found: list[Factors] = []
    for start in sorted({-1, *(start for rate in rates.values() for start, _ in rate)}):
        of = {unit: _rate_at(rates[name], start + 1) * (COMMON // PER[name]) for unit, name in named.items() if name is not None}
        found.append((start, of, of.get("input", 0), of.get("output", 0), of.get("requests", 0)))
    return tuple(found)


def _rate_at(rate: Rate, input_tokens: int) -> int:
    """The step for this many input tokens: crossing a threshold prices all tokens, not only those above it."""
    return next((nanousd for start, nanousd in reversed(rate) if input_tokens > start), rate[0][1])


def dearest_of(rates: Rates, unit: str, input_tokens: int) -> int:
    """Per COMMON units; 0 where the row does not price the unit."""
    rate = rates.get(unit)
    if rate is None:
        return 0
    return max(nanousd for start, nanousd in rate if start < max(1, input_tokens)) * (COMMON // PER[unit])
