"""A price row and the exact cost of a usage under it, in integer nano-dollars. Looks nothing up and never rounds twice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from orjson import Fragment, dumps

from proxy.exchange import Usage
from proxy.meter.rates import COMMON, NO_RATES, Factors, Plain, Rates, Step, dearest_of, factors_of, plain, rate_as_json, steps_of

NO_TIERS: Mapping[str, Rates] = MappingProxyType({})

_PPM = 1_000_000

_CACHED_MEDIA = (("cached_audio", "input_audio"), ("cached_image", "input_image"), ("cached_video", "input_video"))
BILLED_APART = ("billed_input", "billed_output")
DEARER = ("priority", "fast")  # service tiers
FEES = ("searches", "preview_searches", "storage_searches", "containers")  # of tools that the provider runs; containers by the GB
_TIMED = frozenset({"audio_ms", "characters"})
_BESIDE = ("characters", "audio_ms", "pages", *FEES)  # billed beside the tokens

Mark = Literal["table", "override", "fallback", "free", "unmetered", "unpriced"]


@dataclass(frozen=True, slots=True)
class PriceRow:
    """What one model costs. `tiers`: service tier named by the reply → the rates that it replaces.

    `mark`: table, override (policy `prices:`), fallback (`fallback_price`), free (the provider charges nothing),
    unmetered (no reply states a cost), unpriced (`unknown_price: allow`). `window`: context window in tokens, if known; `reads`: the
    same where it bounds the input, as it does not where audio or characters are billed.
    """

    name: str
    provider: str
    source: str
    date: str
    rates: Rates = field(default_factory=lambda: NO_RATES)
    tiers: Mapping[str, Rates] = field(default_factory=lambda: NO_TIERS)
    mark: Mark = "table"
    discount_ppm: int = 0
    window: int | None = None
    reads: int | None = field(init=False, repr=False, compare=False)
    said: Fragment = field(init=False, repr=False, compare=False)  # `as_json` of a usage that states nothing unusual, as JSON
    plain: Plain | None = field(init=False, repr=False, compare=False)  # what tokens cost where nothing but their number decides
    _shown: dict[str, dict[str, object]] = field(default_factory=dict, init=False, repr=False, compare=False)  # by tier: what does not vary
    _factors: dict[str, tuple[Factors, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)  # by tier
    _dearest: dict[tuple[str, bool], tuple[Step, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)  # tier, media

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads", self.window if _TIMED.isdisjoint(self.rates) else None)
        shown = self._shown[""] = self._constant("")
        object.__setattr__(self, "said", Fragment(b"%b" % dumps(shown)))  # a copy: what orjson makes takes up 4 kB
        factors = factors_of(self.rates)
        is_priced = self.mark in ("table", "override") and not self.discount_ppm
        object.__setattr__(self, "plain", plain(*factors[0][2:]) if is_priced and len(factors) == 1 else None)

    def tier_of(self, tier: str | None) -> str:
        """The service tier as it is priced apart here; "" where it is not."""
        return name if tier and (name := tier.lower()) in self.tiers else ""

    def rates_for(self, tier: str | None) -> Rates:
        """The rates under a service tier; a tier without prices of its own costs the standard ones."""
        special = self.tiers.get(self.tier_of(tier))
        return {**self.rates, **special} if special else self.rates

    def dearest(self, tier: str | None, has_media: bool) -> tuple[Step, ...]:
        """What one of each may cost at most under a service tier, which the reply alone tells for sure."""
        key = (self.tier_of(tier) if tier else "", has_media)
        steps = self._dearest.get(key)
        if steps is None:
            steps = self._dearest[key] = steps_of(self.rates, self.rates_for(key[0]), has_media=has_media)
        return steps

    def factors(self, tier: str | None, input_tokens: int) -> Factors:
        """What one of each unit costs, per COMMON, where it costs anything: at this many input tokens under this service tier."""
        name = self.tier_of(tier) if tier else ""
        steps = self._factors.get(name)
        if steps is None:
            steps = self._factors[name] = factors_of(self.rates_for(name))
        if len(steps) == 1:
            return steps[0]
        return next((step for step in reversed(steps) if input_tokens > step[0]), steps[0])

    def as_json(self, usage: Usage | None = None) -> Mapping[str, object]:
        """The ledger's `price_row`: with the row's token fields, all that `recompute` needs. One and the same object for most calls.

        Rates are nano-dollars per PER units: an int, or [[above this input, rate], …] where long context costs more.
        `units` are the usage's normalised counts that have no column of their own.
        """
        tier = self.tier_of(usage.tier) if usage is not None and usage.tier else ""
        shown = self._shown.get(tier)
        if shown is None:
            shown = self._shown[tier] = self._constant(tier)
        if usage is None or not (usage.units or tier or usage.cache_write_1h > 0 or usage.cost_nanousd is not None):
            return shown
        stored = shown.copy()
        units = {unit: max(0, count) for unit, count in usage.units.items() if count > 0 or unit in BILLED_APART}
        units["cache_write_1h"] = usage.cache_write_1h  # a field of its own, whatever the units say
        if usage.cache_write_1h <= 0:
            del units["cache_write_1h"]
        if units:
            stored["units"] = units
        if tier:
            stored["tier"] = tier
        if usage.cost_nanousd is not None and self.mark != "free":
            stored["stated_nanousd"] = max(0, usage.cost_nanousd)
        return stored

    def _constant(self, tier: str) -> dict[str, object]:
        stored: dict[str, object] = {"name": self.name, "provider": self.provider, "source": self.source, "date": self.date}
        stored |= {"mark": self.mark, "rates": {unit: rate_as_json(rate) for unit, rate in self.rates_for(tier).items()}}
        return {**stored, "discount_ppm": self.discount_ppm} if self.discount_ppm else stored


def cost(row: PriceRow, usage: Usage) -> int:
    """Nano-dollars, rounded up once. What the vendor itself states wins, unless the provider charges nothing by its own rules."""
    if row.mark == "free" or usage.source == "none":
        return 0
    if usage.cost_nanousd is not None:
        return max(0, usage.cost_nanousd)
    return metered(row, usage)


def usual_cost(row: PriceRow, usage: Usage) -> int:
    """The same of most answers, which state tokens in and out and no more; `row.said` is their `price_row`. 0: it wants a closer look."""
    rates, tier = row.plain, usage.tier
    if rates is None or not (usage.is_plain or _is_plain(usage)) or (tier and (tier in DEARER or row.tier_of(tier))):
        return 0
    of_input, of_output, total, per = rates
    return -(-(total + usage.input * of_input + usage.output * of_output) // per)


def _is_plain(usage: Usage) -> bool:
    if usage.source != "provider" or usage.units or usage.cached_input or usage.cache_write or usage.cache_write_1h or usage.reasoning:
        return False
    return usage.cost_nanousd is None and usage.input >= 0 and usage.output >= 0


def metered(row: PriceRow, usage: Usage) -> int:
    """The same of its counts alone, at the rates of the row."""
    input, output, cached, reasoning = usage.input, usage.output, usage.cached_input, usage.reasoning
    _, factors, of_input, of_output, total = row.factors(usage.tier, input)
    if usage.units or usage.cache_write or usage.cache_write_1h or not (0 <= cached <= input and 0 <= reasoning <= output):
        total = sum([count * factors.get(unit, 0) for unit, count in counts(usage)])
    else:  # most answers
        total += (input - cached) * of_input + (output - reasoning) * of_output
        if cached or reasoning:
            total += cached * factors.get("cached_input", 0) + reasoning * factors.get("reasoning", 0)
    return _settled(row, total)


def has_unpriced(row: PriceRow, usage: Usage) -> bool:
    """Something was consumed and the row has a rate for none of it: a cost of 0 would be silent."""
    used = [unit for unit, _ in counts(usage) if unit != "requests"] + ["images"] * (usage.units.get("images", 0) > 0)
    factors = row.factors(usage.tier, usage.input)[1]
    return bool(used) and not any(unit in factors for unit in used)


def unpriced_fees(row: PriceRow, units: Iterable[str]) -> list[str]:
    """Those of `units` that are fees of tools and have no rate. A price for each request covers what it searches."""
    return [unit for unit in units if unit in FEES and unit not in row.rates and not (unit == "searches" and "requests" in row.rates)]


def counts(usage: Usage) -> list[tuple[str, int]]:
    """The usage as disjoint counts by unit. A share never exceeds what is left of its whole, whatever the provider says.

    Where a provider bills other counts than it reports as tokens (Cohere's billed_units), those are the wholes.
    """
    units = usage.units
    written = ("cache_write_1h", usage.cache_write_1h), ("cache_write", usage.cache_write - usage.cache_write_1h)
    if not units:
        found = _shares("input", usage.input, (("cached_input", usage.cached_input), *written))
        found += _shares("output", usage.output, (("reasoning", usage.reasoning),))
        return [*found, ("requests", 1)]
    whole_in, whole_out = usage.input, usage.output
    if not units.keys().isdisjoint(BILLED_APART):
        whole_in, whole_out = units.get("billed_input", 0), units.get("billed_output", 0)
    cached = [(kind, max(0, units.get(kind, 0))) for kind, _ in _CACHED_MEDIA]  # below 0 it is nothing, and takes nothing from its whole
    fresh = [(kind, units.get(kind, 0) - count) for (_, kind), (_, count) in zip(_CACHED_MEDIA, cached, strict=True)]
    plainly = ("cached_input", usage.cached_input - sum(count for _, count in cached))
    spoken = [(unit, units.get(unit, 0)) for unit in ("output_audio", "output_image", "output_video")]
    found = _shares("input", whole_in, (*cached, plainly, *written, *fresh))
    found += _shares("output", whole_out, (("reasoning", usage.reasoning), *spoken))
    found += [(unit, units[unit]) for unit in _BESIDE if units.get(unit, 0) > 0]
    return [*found, ("requests", 1)]


def _shares(whole: str, total: int, shares: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    left = max(0, total)
    found = []
    for unit, count in shares:
        if count > 0 and left:
            taken = min(count, left)
            left -= taken
            found.append((unit, taken))
    if left:
        found.append((whole, left))
    return found


def bound_cost(
    row: PriceRow,
    input_tokens: int,
    output_tokens: int,
    images: int = 0,
    files: int = 0,
    fees: Iterable[tuple[str, int]] = (),
    tier: str | None = None,
) -> tuple[int, int]:
    """Nano-dollars that an attempt may cost at most, and without its output: each bound at the dearest rate that could apply to it.

    `tier` is the service tier asked for, or what replies to calls that asked for none have told. `fees`: tools that the provider
    runs, and how often at most.
    """
    if row.mark == "free":
        return 0, 0
    steps = row.dearest(tier, bool(images or files))
    step = steps[0] if len(steps) == 1 else next(step for step in reversed(steps) if step[0] < max(1, input_tokens))
    _, inward, outward, total = step
    total += input_tokens * inward
    for unit, uses in fees:
        total += uses * dearest_of(row.rates, unit, input_tokens)
    most = total + output_tokens * outward
    return _settled(row, most), _settled(row, total)


def _settled(row: PriceRow, total: int) -> int:
    if row.discount_ppm:
        return -(-total * (_PPM - row.discount_ppm) // (COMMON * _PPM))
    return -(-total // COMMON)
