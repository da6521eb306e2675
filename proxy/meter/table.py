"""The built-in price table: which row a model name means at a moment. Knows nothing of policy, and fetches nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any

import orjson

from proxy.meter.rates import Rate, Rates, flat
from proxy.meter.row import PriceRow

_PRICES = Path(__file__).with_name("prices.jsonl")
_MEMORY = 4096  # model names come from outside: remembered up to this many, then forgotten all at once
_NAME_LIMIT = 256  # no provider has a model name this long
_EPOCH = date(1970, 1, 1)
_DAY_NS = 86_400_000_000_000
_COMPACT_DATE = re.compile(r"-(20\d\d)(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
ALWAYS = (-math.inf, math.inf)
_SNAPSHOT = re.compile(r"(?:-latest|[-@]20\d\d-?(?:0[1-9]|1[0-2])-?(?:0[1-9]|[12]\d|3[01]))$")


class PriceTable:
    """Rows by provider and model. Built by `load` or `read`; `refresh.py` says what the file looks like."""

    def __init__(self, source: str, released: str, providers: Iterable[_Provider]) -> None:
        self.source, self.released = source, released
        self._providers = {provider.name: provider for provider in providers}
        self._found: dict[tuple[str, str], _Model | None] = {}

    @classmethod
    def load(cls, text: bytes) -> PriceTable:
        """From the bytes of `prices.jsonl`. Raises ValueError, KeyError or TypeError for anything else."""
        about, *lines = text.splitlines() or [b""]
        head, providers = orjson.loads(about), list[_Provider]()
        for line in lines:
            raw = orjson.loads(line)
            if "provider" in raw:
                providers.append(_Provider(raw["provider"], raw))
            else:
                providers[-1].add(raw, line)
        return cls(head["source"], head["released"], providers)

    @classmethod
    def read(cls) -> PriceTable:
        """The committed table."""
        return cls.load(_PRICES.read_bytes())

    def row(self, provider_price_id: str, model: str, at_ns: int) -> PriceRow | None:
        """The row for a model at a moment (ns since the epoch), or None: unknown.

        Names match as genai-prices matches them; then a compact date is read as a dashed one; then a dated snapshot or
        `-latest` means the model without it. A fine-tuned name (`ft:…`) only ever means a row for fine-tuned models.
        Price id "" asks every provider in the order of the table: makers before resellers, each only for names it spells or claims.
        """
        found = self._model(provider_price_id, model)
        return found.row(self.source, self.released, at_ns) if found else None

    def period(self, provider_price_id: str, model: str, at_ns: int) -> tuple[float, float]:
        """From when until when `row` is the one of this moment; until: not included."""
        found = self._model(provider_price_id, model)
        return found.period(at_ns) if found else ALWAYS

    def _model(self, provider_price_id: str, model: str) -> _Model | None:
        if len(model) > _NAME_LIMIT:
            return None
        key = (provider_price_id, model)
        if key not in self._found:
            if len(self._found) >= _MEMORY:
                self._found.clear()
            self._found[key] = self._find(provider_price_id, _plain(model))
        return self._found[key]

    def models(self) -> frozenset[str]:
        """Names of all rows: labels may hold them."""
        return frozenset(model for provider in self._providers.values() for model in provider.ids)

    def _find(self, price_id: str, name: str) -> _Model | None:
        for spelling in _spellings(name):
            for provider in self._asked(price_id, spelling):
                if found := provider.find(spelling):
                    return found
        return None

    def _asked(self, price_id: str, name: str) -> Iterator[_Provider]:
        if not price_id:
            yield from (provider for provider in self._providers.values() if provider.claims(name))
        elif price_id in self._providers:
            provider = self._providers[price_id]
            yield provider
            yield from (self._providers[other] for other in provider.fallbacks if other in self._providers)


def _plain(model: str) -> str:
    return model.lower().strip().removeprefix("models/").rpartition("publishers/")[2].rpartition("/models/")[2]


def _spellings(name: str) -> Iterator[str]:
    yield name
    dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
    if dashed != name:
        yield dashed
    undated = _SNAPSHOT.sub("", name)
    if undated != name and not name.startswith("ft:"):
        yield undated


def _is_match(rule: str | list[str], name: str) -> bool:
    """A rule is a kind (`=` equals, `^` starts with, `$` ends with, `*` contains, `~` pattern) and its text; a list means all."""
    if isinstance(rule, list):
        return all(_is_match(part, name) for part in rule)
    kind, text = rule[0], rule[1:]
    match kind:
        case "=":
            return name == text
        case "^":
            return name.startswith(text)
        case "$":
            return name.endswith(text)
        case "*":
            return text in name
        case _:  # `re`, not re2: the patterns are our own table's, some look ahead, all are linear, and names are short
            return re.search(text, name) is not None


class _Provider:
    """One provider's models; equal names by dict, other rules in the order of the table, first match wins. A model is kept as its line,
    a sixth of what its maps take."""

    def __init__(self, name: str, raw: Mapping[str, Any]) -> None:
        self.name = name
        self.fallbacks: list[str] = raw.get("fallbacks", [])
        self._claims: list[str | list[str]] = raw.get("claims", [])
        self.ids: list[str] = []
        self._models: list[bytes] = []
        self._equal: dict[str, int] = {}
        self._rules: list[tuple[int, str | list[str]]] = []

    def add(self, model: Mapping[str, Any], line: bytes) -> None:
        """The next of its models, and the line it stands in."""
        index = len(self._models)
        self._models.append(line)
        self.ids.append(model["id"])
        for rule in model["match"]:
            if rule[0] == "=":
                self._equal.setdefault(rule[1:], index)
            else:
                self._rules.append((index, rule))

    def claims(self, name: str) -> bool:
        """Is this a name that nobody else would use? Where no provider is given, a loose rule must not catch a stranger's model."""
        return not self._claims or name in self._equal or any(_is_match(rule, name) for rule in self._claims)

    def find(self, name: str) -> _Model | None:
        index = self._equal.get(name, len(self._models))
        is_tuned = name.startswith("ft:")
        for other, rule in self._rules:
            if other >= index:
                break
            if _is_match(rule, name) and (not is_tuned or rule[1:4] == "ft:"):
                index = other
                break
        return _Model(self.name, orjson.loads(self._models[index])) if index < len(self._models) else None


class _Model:
    """One model's prices over time."""

    def __init__(self, provider: str, raw: Mapping[str, Any]) -> None:
        self._provider, self._raw = provider, raw
        self._rows: dict[tuple[int, ...], PriceRow] = {}

    def row(self, source: str, released: str, at_ns: int) -> PriceRow:
        """The last price in force wins, the first where none is; of a service tier's the first in force, rate by rate."""
        prices, tiers = self._raw["prices"], self._raw.get("tiers", [])
        chosen = next((n for n in range(len(prices) - 1, -1, -1) if _in_force(prices[n], at_ns)), 0)
        special = tuple(n for n, tier in enumerate(tiers) if _in_force(tier, at_ns))
        key = (chosen, *special)
        if key not in self._rows:
            special_rates: dict[str, dict[str, Rate]] = {}
            for n in special:
                special_rates[tiers[n]["tier"]] = {**_rates(tiers[n]["rates"]), **special_rates.get(tiers[n]["tier"], {})}
            self._rows[key] = PriceRow(
                self._raw["id"],
                self._provider,
                _source(self._raw, source),
                prices[chosen].get("from", self._raw.get("read", released)),
                _rates(prices[chosen]["rates"]),
                MappingProxyType(special_rates),
                window=self._raw.get("window"),
            )
        return self._rows[key]

    def period(self, at_ns: int) -> tuple[float, float]:
        """Between which two instants nothing begins or ends."""
        changes = [at for price in (*self._raw["prices"], *self._raw.get("tiers", [])) for at in _changes(price, at_ns)]
        since, until = ALWAYS
        return max((at for at in changes if at <= at_ns), default=since), min((at for at in changes if at > at_ns), default=until)


def _source(raw: Mapping[str, Any], table: str) -> str:
    """Of a row of the supplement its own page; of one that it completes both."""
    if "read" in raw:
        return str(raw["source"])
    return f"{table}; {raw['source']}" if "source" in raw else table


def _rates(raw: Mapping[str, Any]) -> Rates:
    return MappingProxyType(
        {unit: flat(rate) if isinstance(rate, int) else tuple((start, nanousd) for start, nanousd in rate) for unit, rate in raw.items()}
    )


def _in_force(price: Mapping[str, Any], at_ns: int) -> bool:
    """`from`: from the first instant of that UTC day on; `hours`: between two UTC times of day, in seconds, over midnight too."""
    if "from" in price:
        return at_ns >= _day_ns(price["from"])
    if "hours" in price:
        start, end = int(price["hours"][0]), int(price["hours"][1])
        second = at_ns % _DAY_NS // 1_000_000_000
        return start <= second < end if start <= end else second >= start or second < end
    return True


def _changes(price: Mapping[str, Any], at_ns: int) -> list[int]:
    """The instants around this one at which a price begins or ends."""
    if "from" in price:
        return [_day_ns(price["from"])]
    days = range(at_ns - at_ns % _DAY_NS - _DAY_NS, at_ns + 2 * _DAY_NS, _DAY_NS)
    return [day + int(second) * 1_000_000_000 for day in days for second in price.get("hours", ())]


def _day_ns(day: str) -> int:
    return (date.fromisoformat(day) - _EPOCH).days * _DAY_NS
