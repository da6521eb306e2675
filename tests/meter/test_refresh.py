"""The committed price table is what the generator makes of the locked package, and matches as the package matches."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import orjson
from genai_prices.data import providers

from proxy.meter import refresh, table
from proxy.meter.table import PriceTable

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_the_committed_table_is_the_generated_one():
    assert Path(table.__file__).with_name("prices.jsonl").read_bytes() == refresh.make(), "run `make prices`"


def test_every_model_id_of_the_package_finds_the_row_that_the_package_finds():
    ours = PriceTable.read()
    differing = []
    for provider in providers:
        if provider.id in refresh.PROVIDERS:
            for model in provider.models:
                theirs = provider.find_model(model.id, all_providers=providers)
                row = ours.row(provider.id, model.id, int(NOW.timestamp()) * 10**9)
                is_priced = theirs and (theirs.get_prices(NOW).__dict__ or theirs.id.endswith(":free"))
                if is_priced and set(theirs.get_prices(NOW).__dict__) & set(refresh.UNITS) and (row is None or row.name != theirs.id):
                    differing.append((provider.id, model.id, theirs.id, row and row.name))
    assert not differing


def test_prices_are_nano_dollars_and_float_noise_is_none():
    assert refresh._nano(Decimal("2.5")) == 2_500_000_000
    assert refresh._nano(Decimal("0.33999999999999997")) == 340_000_000


SUPPLEMENT = orjson.loads(Path(table.__file__).with_name("supplement.json").read_bytes())


def test_every_fact_of_the_supplement_has_a_page_and_a_day_and_is_in_the_table():
    ours, at = PriceTable.read(), int(NOW.timestamp()) * 10**9
    assert SUPPLEMENT["read"] <= "2026-11-21" and all(fact["source"].startswith("https://") for fact in SUPPLEMENT["facts"])
    for fact in SUPPLEMENT["facts"]:
        if "id" in fact:
            name = fact["match"][0].lstrip("=^") + ("04-14:org::id" if fact["id"].startswith("ft:") else "")
            row = ours.row(fact["provider"], name, at)
            assert (
                row.name == fact["id"] and row.source == f"{fact['source']}, read {SUPPLEMENT['read']}" and row.date == SUPPLEMENT["read"]
            )
            assert {unit: rate[0][1] for unit, rate in row.rates.items()} == {
                unit: round(float(d) * 10**9) for unit, d in fact["rates"].items()
            }


def test_what_the_package_lacks_is_added_and_what_it_says_stays():
    ours, at = PriceTable.read(), int(NOW.timestamp()) * 10**9
    opus = ours.row("anthropic", "claude-opus-4-1", at)
    assert {unit: rate[0][1] for unit, rate in opus.tiers["batch"].items()} == {
        unit: rate[0][1] // 2 for unit, rate in opus.rates.items() if unit != "searches"
    }
    assert opus.source == f"genai-prices 0.2.3; {next(f['source'] for f in SUPPLEMENT['facts'] if 'tier' in f)}, read {SUPPLEMENT['read']}"
    on_vertex = ours.row("google", "claude-opus-4-6", at)
    assert on_vertex.rates["cache_write_1h"] == tuple((start, 2 * rate) for start, rate in on_vertex.rates["input"])
    assert ours.row("openai", "gpt-5", at).rates["containers"] == ((-1, 30 * 10**9),)
    package = {model.id: model for provider in providers if provider.id == "openai" for model in provider.models}
    assert ours.row("openai", "gpt-4o", at).rates["input"][0][1] == package["gpt-4o"].prices.input_mtok * 10**9


def test_a_fine_tuned_model_has_its_own_price_or_none():
    ours, at = PriceTable.read(), int(NOW.timestamp()) * 10**9
    known = {
        "ft:gpt-4o-2024-08-06:org::id": 3_750_000_000, "ft:gpt-4o-mini-2024-07-18:org::id": 300_000_000,
        "ft:gpt-4.1-2025-04-14:org:x:id": 3_000_000_000, "ft:gpt-4.1-mini-2025-04-14:org::id": 800_000_000,
        "ft:o4-mini-2025-04-16:org::id": 4_000_000_000,
    }  # fmt: skip
    assert {name: ours.row("openai", name, at).rates["input"][0][1] for name in known} == known
    assert ours.row("openai", "ft:gpt-5-2025-08-07:org::id", at) is None
    assert ours.row("openai", "ft:gpt-9-2030-01-01:org::id", at) is None
