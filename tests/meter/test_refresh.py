"""The committed price table is what the generator makes of the locked package, and matches as the package matches."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

from genai_prices.data import providers

from proxy.meter import refresh, table
from proxy.meter.table import PriceTable

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_the_committed_table_is_the_generated_one():
    assert Path(table.__file__).with_name("prices.json").read_bytes() == refresh.make(), "run `make prices`"


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
