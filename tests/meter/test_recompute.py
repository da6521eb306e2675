"""A second arithmetic gives the same cost from the ledger row alone, through JSON and back."""

from dataclasses import replace

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.exchange import Usage
from proxy.meter.rates import PER, flat
from proxy.meter.recompute import recompute
from proxy.meter.row import PriceRow, cost

TOKENS = st.integers(-3, 500_000)
STEPS = st.lists(st.tuples(st.integers(0, 300_000), st.integers(0, 10**11)), max_size=2, unique_by=lambda step: step[0])
RATE = st.builds(lambda base, steps: ((-1, base), *sorted(steps)), st.integers(0, 10**11), STEPS)
ROWS = st.builds(
    PriceRow,
    st.just("m"),
    st.just("p"),
    st.just("s"),
    st.just("2026-01-01"),
    st.dictionaries(st.sampled_from([*PER]), RATE),
    st.dictionaries(st.just("flex"), st.dictionaries(st.sampled_from([*PER]), RATE, max_size=4)),
    mark=st.sampled_from(["table", "override", "fallback", "free", "unpriced"]),
    discount_ppm=st.integers(0, 10**6),
)
USAGES = st.builds(
    Usage,
    input=TOKENS,
    output=TOKENS,
    cached_input=TOKENS,
    cache_write=TOKENS,
    cache_write_1h=TOKENS,
    reasoning=TOKENS,
    source=st.sampled_from(["provider", "counted", "none"]),
    units=st.dictionaries(st.sampled_from([*PER, "billed_input", "billed_output", "images"]), TOKENS, max_size=8),
    tier=st.sampled_from([None, "flex", "FLEX", "default"]),
    cost_nanousd=st.none() | st.integers(-3, 10**12),
)


def ledger_row(usage, price, nanousd=0):
    return {
        "input_tokens": usage.input,
        "cached_input_tokens": usage.cached_input,
        "cache_write_tokens": usage.cache_write,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "usage_source": usage.source,
        "cost_nanousd": nanousd,
        "held_nanousd": 5,
        "price_row": price.as_json(usage),
    }


@given(ROWS, USAGES)
@example(
    PriceRow("m", "p", "s", "2026-01-01", {"input": flat(0), "cached_input": flat(1)}, {}),
    Usage(source="provider", units={"cached_audio": -1, "billed_input": 1}),
)
@example(PriceRow("m", "p", "s", "2026-01-01", {"cache_write": flat(1)}, {}), Usage(1, source="provider", units={"cache_write_1h": 1}))
def test_the_second_arithmetic_agrees_on_every_row(price, usage):
    assert recompute(orjson.loads(orjson.dumps(ledger_row(usage, price)))) == cost(price, usage)


def test_a_changed_figure_is_noticed():
    price = PriceRow(
        "m", "p", "s", "", {"input": flat(3_000_000_000), "cache_write": flat(4_000_000_000), "cache_write_1h": flat(6_000_000_000)}
    )
    usage = Usage(input=1000, cache_write=100, cache_write_1h=50, source="provider")
    kept = ledger_row(usage, price)
    assert recompute(kept) == cost(price, usage) == 900 * 3000 + 50 * 4000 + 50 * 6000
    assert recompute(kept | {"input_tokens": 999}) != recompute(kept)
    assert recompute(kept | {"price_row": price.as_json(replace(usage, cache_write_1h=0))}) != recompute(kept)


def test_counts_that_are_billed_apart_from_tokens_are_what_is_charged():
    price = PriceRow("m", "p", "s", "", {"input": flat(1_000_000), "output": flat(2_000_000)})
    usage = Usage(input=70, output=40, source="provider", units={"billed_input": 3, "billed_output": 2})
    assert recompute(ledger_row(usage, price)) == cost(price, usage) == 7


def test_an_estimated_row_costs_what_was_held_and_one_without_a_price_nothing():
    price = PriceRow("m", "p", "s", "", {"input": flat(1)})
    assert recompute(ledger_row(Usage(input=9, source="estimate"), price)) == 5
    assert recompute({"usage_source": "provider", "input_tokens": 9, "price_row": None}) == 0


@pytest.mark.parametrize("change", [{"input_tokens": "9"}, {"price_row": {"rates": {"input": 1.5}}}, {"price_row": {"discount_ppm": "1"}}])
def test_a_row_that_is_none_is_refused(change):
    row = ledger_row(Usage(input=9, source="provider"), PriceRow("m", "p", "s", "", {"input": flat(1)}))
    with pytest.raises(ValueError, match="no integer"):
        recompute(row | change)
