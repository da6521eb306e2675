"""`make prices`: writes prices.jsonl from the genai-prices package and supplement.json. Never runs in the data path and fetches nothing.

The file, an object a line: {source, released}; then each {provider, claims?, fallbacks?}, behind it its models, each
{id, match, window?, source?, read?, prices, tiers?}.
match: any of these rules (see `table._is_match`). prices: [{from? | hours?, rates}], tiers: [{tier, from?, rates}].
rates: unit → nano-dollars per `row.PER` units, or [[above this input, nano-dollars], …].
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from decimal import ROUND_HALF_EVEN, Decimal
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any

import orjson

RELEASED = {"0.2.3": "2026-11-10"}  # the day the package version came out: the date of every price without a start date of its own
# Makers first: a search without a provider asks in this order.
PROVIDERS = (
    "openai", "anthropic", "google", "mistral", "cohere", "deepseek", "x-ai", "perplexity", "groq", "together", "fireworks", "openrouter",
    "azure",
)  # fmt: skip
# Prices of what no dialect reports (citations, annotated pages, messages) are left out.
UNITS = {
    "input_mtok": "input", "cache_read_mtok": "cached_input", "cache_write_mtok": "cache_write", "cache_write_1h_mtok": "cache_write_1h",
    "input_audio_mtok": "input_audio", "cache_audio_read_mtok": "cached_audio", "input_image_mtok": "input_image",
    "cache_image_read_mtok": "cached_image", "input_video_mtok": "input_video", "output_mtok": "output",
    "output_reasoning_mtok": "reasoning", "output_audio_mtok": "output_audio", "output_image_mtok": "output_image",
    "output_video_mtok": "output_video", "input_mchars": "characters", "input_audio_hours": "audio_ms", "audio_hours": "audio_ms",
    "web_searches_kcount": "searches", "storage_searches_kcount": "storage_searches", "input_document_kpages": "pages",
    "requests_kcount": "requests",
}  # fmt: skip
TIERS = ("service_tier", "processing", "speed")  # what of the package's price context a reply names
KINDS = {
    "ClauseEquals": ("=", "equals"),
    "ClauseStartsWith": ("^", "starts_with"),
    "ClauseEndsWith": ("$", "ends_with"),
    "ClauseContains": ("*", "contains"),
    "ClauseRegex": ("~", "regex"),
}


def make() -> bytes:
    """The table as bytes, the same for the same package version."""
    package = version("genai-prices")
    known = {provider.id: provider for provider in importlib.import_module("genai_prices.data").providers}
    table: dict[str, Any] = {}
    for name in PROVIDERS:
        provider = known[name]
        head: dict[str, Any] = {}
        if provider.model_match:
            head["claims"] = _rules(provider.model_match)
        if provider.fallback_model_providers:
            head["fallbacks"] = [other for other in provider.fallback_model_providers if other in PROVIDERS]
        models = [model for model in map(_model, provider.models) if model]
        for fact in _supplement(name):
            _add(fact, models)
        table[name] = {**head, "models": models}
    return written(f"genai-prices {package}", RELEASED[package], table)


def written(source: str, released: str, providers: Mapping[str, Mapping[str, Any]]) -> bytes:
    """One model a line: so a refresh shows in a diff, and whoever reads it need not hold all of it as maps."""
    lines: list[Mapping[str, Any]] = [{"source": source, "released": released}]
    for name, said in providers.items():
        lines += [{"provider": name, **{key: said[key] for key in said if key != "models"}}, *said["models"]]
    return b"".join(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in lines)


def _supplement(provider: str) -> list[dict[str, Any]]:
    stored = orjson.loads(Path(__file__).with_name("supplement.json").read_bytes())
    return [{**fact, "read": stored["read"]} for fact in stored["facts"] if fact["provider"] == provider]


def _add(fact: dict[str, Any], models: list[dict[str, Any]]) -> None:
    """A row of its own, or what is missing in those that the package has."""
    source = f"{fact['source']}, read {fact['read']}"
    rates = {unit: _nano(Decimal(dollars)) for unit, dollars in sorted(fact.get("rates", {}).items())}
    if "id" in fact:
        prices = [{"rates": rates}]
        models.append({"id": fact["id"], "match": fact["match"], "source": source, "read": fact["read"], "prices": prices})
        return
    for model in models:
        if any(fnmatchcase(model["id"], name) for name in fact.get("models", ["*"])) and _adds(fact, rates, model):
            model["source"] = "; ".join(dict.fromkeys([*model.get("source", "").split("; "), source])).removeprefix("; ")


def _adds(fact: dict[str, Any], rates: dict[str, int], model: dict[str, Any]) -> bool:
    """Puts in what the model lacks; False where it lacks nothing."""
    if "tier" in fact:
        if any(tier["tier"] == fact["tier"] for tier in model.get("tiers", [])) or len(model["prices"]) > 1:
            return False
        whole = model["prices"][0]["rates"]
        less = {unit: _share(rate, fact["percent"]) for unit, rate in whole.items() if unit not in ("searches", "storage_searches")}
        model.setdefault("tiers", []).append({"tier": fact["tier"], "rates": less})
        return True
    has_added = False
    for price in model["prices"]:
        known = price["rates"]
        wanted = rates if "of" not in fact else {fact["unit"]: _share(known[fact["of"]], fact["percent"])} if fact["of"] in known else {}
        more = {unit: rate for unit, rate in wanted.items() if unit not in known}
        if more and fact.get("having", "input") in known:
            price["rates"] = dict(sorted({**known, **more}.items()))
            has_added = True
    return has_added


def _share(rate: int | list[list[int]], percent: int) -> int | list[list[int]]:
    if isinstance(rate, int):
        return -(-rate * percent // 100)
    return [[start, -(-nanousd * percent // 100)] for start, nanousd in rate]


def _model(info: Any) -> dict[str, Any] | None:
    priced = [(None, info.prices)] if not isinstance(info.prices, list) else [(price.constraint, price.prices) for price in info.prices]
    free = {"input": 0, "output": 0} if info.id.endswith(":free") else {}  # no price without that name may mean unknown as well
    prices = [{**_condition(constraint), "rates": _rates(price) or free} for constraint, price in priced]
    if not any(price["rates"] for price in prices):
        return None
    model: dict[str, Any] = {"id": info.id, "match": _rules(info.match)}
    if info.context_window:
        model["window"] = info.context_window
    model["prices"] = prices
    tiers = [
        {"tier": tier, **_condition(variant.constraint), "rates": _rates(variant.prices)}
        for variant in info.price_variants or []
        if len(variant.when) == 1
        for key, tier in variant.when.items()
        if key in TIERS and _rates(variant.prices)
    ]
    return {**model, "tiers": tiers} if tiers else model


def _rules(clause: Any) -> list[str | list[str]]:
    kind = type(clause).__name__
    if kind == "ClauseOr":
        return [rule for part in clause.or_ for rule in _rules(part)]
    if kind == "ClauseAnd":
        return [[_simple(part) for part in clause.and_]]
    return [_simple(clause)]


def _simple(clause: Any) -> str:
    sign, field = KINDS[type(clause).__name__]
    text: str = getattr(clause, field)
    return sign + (text if sign == "~" else text.lower())


def _condition(constraint: Any) -> dict[str, Any]:
    if constraint is None:
        return {}
    if type(constraint).__name__ == "StartDateConstraint":
        return {"from": constraint.start_date.isoformat()}
    return {"hours": [time.hour * 3600 + time.minute * 60 + time.second for time in (constraint.start_time, constraint.end_time)]}


def _rates(price: Any) -> dict[str, Any]:
    rates = {UNITS[key]: _rate(value) for key, value in price.__dict__.items() if value is not None and key in UNITS}
    return dict(sorted(rates.items()))


def _rate(value: Any) -> int | list[list[int]]:
    if isinstance(value, Decimal):
        return _nano(value)
    return [[-1, _nano(value.base)], *([tier.start, _nano(tier.price)] for tier in value.tiers)]


def _nano(dollars: Decimal) -> int:
    """Some prices of the package are floats written out (0.33999999999999997): nine digits are the price, the rest is noise."""
    return int((dollars * 10**9).quantize(Decimal(1), ROUND_HALF_EVEN))


if __name__ == "__main__":
    Path(__file__).with_name("prices.jsonl").write_bytes(make())
