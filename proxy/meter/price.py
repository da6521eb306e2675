"""What a call may cost and what it did cost: the table under the policy's `prices:`. Never lets an unknown price pass as 0 unsaid."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

from proxy.dialect.wire import Operation
from proxy.exchange import Usage, value
from proxy.meter.rates import flat, plain
from proxy.meter.row import DEARER, PriceRow, bound_cost, cost, has_unpriced, unpriced_fees
from proxy.meter.table import PriceTable
from proxy.policy.plan import PriceOverride, Pricing, Provider
from proxy.refusal import Refusal

__all__ = ["PriceRow", "PriceTable", "Priced", "Prices", "Quote", "bound_cost", "cost"]

_MAX_NAME = 256  # characters of those
_MEMORY = 4096  # remembered look-ups: model names come from outside
UNBOUNDED = 1 << 65  # tokens: more than a JSON integer can name
_SNAPSHOT = re.compile(r"(?:[-@]latest|[-@]\d{4}-\d\d-\d\d|[-@]\d{8}|-\d{4}|-\d\d-\d{4}|-\d\d-\d\d)$")  # as in policy.match
_POLICY = "policy"
UNITS, TIER = "unpriced_units", "unpriced_tier"
KNOWN = ("table", "override", "free")  # marks of rows that are no stand-ins
STATES_COST = ("openrouter", "perplexity")  # these state the whole cost of each call themselves
_STAND_INS = {"fallback": "fallback_price", "unpriced": "unpriced", "unmetered": "unmetered"}


@value(frozen=True, slots=True)
class Quote:
    """The row a call will be priced by, found before it is sent. `note` belongs into the ledger's usage_note; `at_ns`: an instant
    at which it is the row."""

    row: PriceRow
    note: str
    provider: str
    price_id: str
    at_ns: int

    @property
    def is_known(self) -> bool:
        """False: the price is a stand-in, and the unpriced counter should say so."""
        return self.row.mark in KNOWN


@value(frozen=True, slots=True)
class Priced:
    """One attempt, settled: the ledger's cost_nanousd, price_row and usage_note."""

    cost_nanousd: int
    price_row: Mapping[str, object]
    note: str
    unpriced: str = ""  # why some or all of it has no known price: fallback_price, unpriced, unmetered, unpriced_units, unpriced_tier

    @property
    def is_known(self) -> bool:
        return not self.unpriced


class _Found(NamedTuple):
    """What a model costs between two instants (ns since the epoch)."""

    since: float
    until: float
    quote: Quote | None  # None: no price is known


# What text may cost at most at one target under one service tier: `bound_cost` worked out in advance. Since when and until when; the quote
# (None: nothing is said in advance); tokens that the model has room for, and those that it reads, UNBOUNDED where they are not known;
# tokens in, above which it costs more; what one token in, one out and the call cost at most, and per how many.
Tariff = tuple[float, float, Quote | None, int, int, int, int, int, int, int]


class Prices:
    """Rows by target, policy first."""

    def __init__(self, table: PriceTable, overrides: tuple[PriceOverride, ...], pricing: Pricing) -> None:
        self._table, self._pricing = table, pricing
        self._overrides = [(override, _matcher(override.name)) for override in overrides]
        self._known: dict[tuple[str, str, str], _Found] = {}
        self.tariffs: dict[tuple[str, str, str, str | None], Tariff] = {}  # `tariff`, by provider, price id, model and tier

    def find(self, provider_name: str, price_id: str, model: str | None, at_ns: int) -> PriceRow | None:
        """The row for a model (our name for it) at a provider of the policy; None: unknown. `at_ns` is ns since the epoch.

        An entry of `prices:` named provider/model goes before one named model; exact names before those a snapshot or
        `-latest` falls under, these before globs. A discount is taken off the table's row, a rate replaces the table's.
        """
        quote = self._found(provider_name, price_id, model, at_ns).quote if model else None
        return None if quote is None else quote.row

    def _found(self, provider_name: str, price_id: str, model: str, at_ns: int) -> _Found:
        known = self._known.get((provider_name, price_id, model))
        if known is None or not known.since <= at_ns < known.until:
            known = self._looked_up(provider_name, price_id, model, at_ns)
        return known

    def _looked_up(self, provider_name: str, price_id: str, model: str, at_ns: int) -> _Found:
        override, row = self._override(provider_name, model), self._table.row(price_id, model, at_ns)
        if override is not None:
            row = self._with_override(row, override)
        if len(self._known) >= _MEMORY:
            self._known.clear()
        quote = None if row is None else Quote(row, "", provider_name, price_id, at_ns)
        found = _Found(*self._table.period(price_id, model, at_ns), quote)
        if len(model) <= _MAX_NAME:
            self._known[(provider_name, price_id, model)] = found
        return found

    def tariff(self, provider: Provider, model: str, tier: str | None, at_ns: int) -> Tariff:
        """Of calls that are billed and metered, and that bring and ask nothing but text. `tier`: as `bound_cost` has it. Remembered."""
        key = (provider.name, provider.price_id, model, tier)
        kept = self.tariffs.get(key)
        if kept is not None and kept[0] <= at_ns < kept[1]:
            return kept
        since, until, quote = self._found(provider.name, provider.price_id, model, at_ns)
        row = None if quote is None else quote.row
        if row is None or row.mark not in ("table", "override") or row.discount_ppm:
            found: Tariff = (since, until, None, 0, 0, 0, 0, 0, 0, 1)
        else:
            (_, inward, outward, once), *later = row.dearest(tier, has_media=False)
            window, reads = (UNBOUNDED if it is None else it for it in (row.window, row.reads))
            found = (since, until, quote, window, reads, later[0][0] if later else UNBOUNDED, *plain(inward, outward, once))
        if len(self.tariffs) >= _MEMORY:
            self.tariffs.clear()
        if len(model) <= _MAX_NAME and len(tier or "") <= _MAX_NAME:
            self.tariffs[key] = found
        return found

    def quote(
        self,
        pricing: Pricing,
        is_under_spend_limit: bool,
        provider: Provider,
        model: str | None,
        op: Operation,
        at_ns: int,
        tools: tuple[str, ...] = (),
    ) -> Quote:
        """To be asked before an attempt is sent. `tools`: fees of tools that it may lead to, by the unit of their price.

        Raises Refusal 400 `unmetered_operation` and `unpriced_model` where policy says deny.
        """
        if model and op.is_metered and op.is_billed and not op.is_read_back and not tools:
            known = self._found(provider.name, provider.price_id, model, at_ns)
            if known.quote is not None:
                return known.quote
        row, note = self._row(pricing, is_under_spend_limit, provider, model, op, at_ns)
        is_ours_to_price = row.mark in ("table", "override") and provider.price_id not in STATES_COST
        missing = unpriced_fees(row, tools) if tools and is_ours_to_price else []
        if missing and _choice(pricing.unknown_price, is_under_spend_limit) == "deny":
            raise Refusal(400, "unpriced_model", _UNPRICED_TOOL.format(", ".join(missing), provider.name), should_retry=False)
        return Quote(row, note, provider.name, provider.price_id, at_ns)

    def _row(
        self, pricing: Pricing, is_limited: bool, provider: Provider, model: str | None, op: Operation, at_ns: int
    ) -> tuple[PriceRow, str]:
        if not op.is_billed or op.is_read_back:
            return _free("read-back" if op.is_read_back else op.name), ""
        found = self.find(provider.name, provider.price_id, model, at_ns)
        if not op.is_metered:
            choice = _choice(pricing.unmetered, is_limited)
            if choice == "deny":
                raise Refusal(400, "unmetered_operation", _UNMETERED, should_retry=False)
            note = "unmetered" if choice == "flag" else ""
            return found or _stand_in("unmetered"), note
        if found:
            return found, ""
        match _choice(pricing.unknown_price, is_limited):
            case "deny":
                raise Refusal(400, "unpriced_model", _UNPRICED.format(provider.name), should_retry=False)
            case "flag":
                return _fallback(pricing.fallback_input, pricing.fallback_output), "fallback_price"
            case _:
                return _stand_in("unpriced"), "unpriced"

    def priced(self, quote: Quote, usage: Usage, held_nanousd: int = 0) -> Priced:
        """What an attempt did cost. An estimated usage costs what was held for it.

        Where no price was known before and the reply names a model that has one (a deployment's, a router's choice), that row counts.
        """
        row, note = quote.row, quote.note
        if usage.source == "provider" and row.mark in KNOWN:
            note = ""  # an operation that was thought unmetered has stated its usage
        elif usage.source == "provider" and usage.model:
            found = self.find(quote.provider, quote.price_id, usage.model, quote.at_ns)
            row, note = (found, "") if found else (row, note)
        amount = held_nanousd if usage.source == "estimate" and row.mark != "free" else cost(row, usage)
        unpriced = "" if usage.cost_nanousd is not None else _STAND_INS.get(row.mark, "")
        is_from_table = row.mark in ("table", "override") and usage.cost_nanousd is None
        if is_from_table and usage.source in ("provider", "counted"):
            used = [unit for unit, count in usage.units.items() if count > 0]
            if unpriced_fees(row, used) or (amount == 0 and has_unpriced(row, usage)):
                unpriced = UNITS
            elif _is_dearer(row, usage.tier):
                unpriced = TIER
            note = f"{note},{unpriced}" if note and unpriced else note or unpriced
        return Priced(amount, row.as_json(usage), f"{usage.note},{note}" if usage.note and note else usage.note or note, unpriced)

    def _override(self, provider: str, model: str) -> PriceOverride | None:
        ranked = [(rank, override) for override, matches in self._overrides if (rank := matches(f"{provider}/{model}", model))]
        return max(ranked, key=lambda pair: pair[0])[1] if ranked else None

    def _with_override(self, row: PriceRow | None, override: PriceOverride) -> PriceRow | None:
        named = {
            "input": override.input,
            "output": override.output,
            "cached_input": override.cached_input,
            "cache_write": override.cache_write,
        }
        rates = {unit: flat(rate) for unit, rate in named.items() if rate is not None}
        if row is None:
            if not rates:
                return None  # a discount on nothing is nothing
            fallback = {"input": flat(self._pricing.fallback_input), "output": flat(self._pricing.fallback_output)}
            return PriceRow(override.name, _POLICY, _POLICY, "", {**fallback, **rates}, mark="override", discount_ppm=override.discount_ppm)
        tiers = {tier: {unit: rate for unit, rate in special.items() if unit not in rates} for tier, special in row.tiers.items()}
        source = f"{row.source}, {_POLICY}"
        merged = {**row.rates, **rates}
        return replace(row, source=source, rates=merged, tiers=tiers, mark="override", discount_ppm=override.discount_ppm)


def _matcher(name: str) -> Callable[[str, str], int]:
    """How well an entry of `prices:` fits: 0 not at all; provider/model above model, exact above snapshot above glob."""
    glob = re.compile(".*".join(map(re.escape, name.split("*"))))

    def rank(target: str, model: str) -> int:
        for spelt, base in ((target, 3), (model, 0)) if "/" in name else ((model, 0),):
            if spelt == name:
                return base + 3
            if _SNAPSHOT.sub("", spelt) == name:
                return base + 2
            if "*" in name and glob.fullmatch(spelt):
                return base + 1
        return 0

    return rank


def _is_dearer(row: PriceRow, tier: str | None) -> bool:
    """Does the reply name a service tier that costs more elsewhere, and here has no price? Anthropic's priority is paid beforehand."""
    return bool(tier) and tier in DEARER and not row.tier_of(tier) and (row.provider, tier) != ("anthropic", "priority")


def _choice(named: Literal["deny", "flag", "allow"] | None, is_limited: bool) -> Literal["deny", "flag", "allow"]:
    return named or ("deny" if is_limited else "flag")


@lru_cache(maxsize=64)
def _free(name: str) -> PriceRow:
    return PriceRow(name, "", "the provider charges nothing", "", mark="free")


@lru_cache(maxsize=8)
def _stand_in(mark: Literal["unmetered", "fallback", "unpriced"]) -> PriceRow:
    return PriceRow(mark, "", _POLICY, "", mark=mark)


@lru_cache(maxsize=8)
def _fallback(input_nanousd: int, output_nanousd: int) -> PriceRow:
    return replace(_stand_in("fallback"), rates={"input": flat(input_nanousd), "output": flat(output_nanousd)})


_UNMETERED = (
    "no reply states what this operation costs, and this call is under a spend limit or the policy denies it; "
    "set `unmetered: flag` (or allow) in the policy to let it pass"
)
_UNPRICED_TOOL = (
    "no price is known for tools that this call lets the provider run ({} at provider {}), and it is under a spend limit or the policy "
    "denies it; leave the tool out, or set `unknown_price: flag` in the policy to let it pass"
)
_UNPRICED = (
    "no price is known for this model at provider {}, and this call is under a spend limit or the policy denies it; name the model's "
    "price under `prices:` in the policy, or set `unknown_price: flag` to charge `fallback_price`"
)
