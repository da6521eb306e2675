"""What a usage costs under a row: exact, rounded up once, each token charged once; and the bound that is held for it."""

import math
from dataclasses import replace
from fractions import Fraction

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Usage
from proxy.meter.rates import PER, flat
from proxy.meter.row import FEES, PriceRow, bound_cost, cost, counts, has_unpriced, metered, usual_cost

DOLLAR = 1_000_000_000
RATES = {
    "input": flat(3 * DOLLAR),
    "cached_input": flat(300_000_000),
    "cache_write": flat(3_750_000_000),
    "cache_write_1h": flat(6 * DOLLAR),
    "output": flat(15 * DOLLAR),
    "searches": flat(10 * DOLLAR),
}


def row(rates=RATES, **more):
    return PriceRow("m", "p", "s", "2026-01-01", rates, **more)


def used(**fields):
    return Usage(**({"source": "provider"} | fields))


@pytest.mark.parametrize(
    ("rates", "usage", "nanousd"),
    [
        (RATES, used(input=1000, output=100), 4_500_000),
        (RATES, used(input=1000, cached_input=400), 1_920_000),
        (RATES, used(input=1000, cache_write=400, cache_write_1h=100), 3_525_000),  # 600 plain, 300 for 5 minutes, 100 for an hour
        (RATES, used(output=10, reasoning=9), 150_000),  # reasoning costs what output costs
        (RATES | {"reasoning": flat(DOLLAR)}, used(output=10, reasoning=9), 24_000),
        (RATES, used(units={"searches": 3}), 30_000_000),
        ({"input": flat(1)}, used(input=1), 1),  # a millionth of a nano-dollar is one
        ({"input": flat(1), "output": flat(1)}, used(input=500_000, output=500_000), 1),  # two halves are one: rounded once
        ({"input": flat(2)}, used(input=500_001), 2),
        ({"input": flat(DOLLAR), "input_audio": flat(9 * DOLLAR)}, used(input=10, units={"input_audio": 4}), 42_000),
        ({"input": flat(DOLLAR)}, used(input=10, units={"input_audio": 4}), 10_000),
        (
            {"input": flat(DOLLAR), "cached_input": flat(0), "input_audio": flat(9 * DOLLAR), "cached_audio": flat(2 * DOLLAR)},
            used(input=10, cached_input=5, units={"input_audio": 4, "cached_audio": 3}),
            3 * 2_000 + 1 * 9_000 + 4 * 1_000,
        ),
        ({"input": flat(DOLLAR), "input_audio": flat(9 * DOLLAR)}, used(input=3, cached_input=3, units={"cached_audio": 3}), 27_000),
        ({"output": flat(DOLLAR), "output_image": flat(30 * DOLLAR)}, used(output=10, units={"output_image": 10}), 300_000),
        ({"audio_ms": flat(360_000_000)}, used(units={"audio_ms": 1}), 100),  # $0.36 an hour
        ({"characters": flat(15 * DOLLAR)}, used(units={"characters": 2}), 30_000),
        ({"requests": flat(5 * DOLLAR)}, used(), 5_000_000),
        ({"requests": flat(5 * DOLLAR)}, Usage(), 0),  # nothing was used: not even the request is charged
        ({"input": ((-1, DOLLAR), (200_000, 2 * DOLLAR))}, used(input=200_000), 200_000_000),
        ({"input": ((-1, DOLLAR), (200_000, 2 * DOLLAR))}, used(input=200_001), 400_002_000),  # all of it costs the long rate
        ({"output": ((-1, DOLLAR), (200_000, 2 * DOLLAR))}, used(input=200_001, output=1), 2_000),
        ({"output": ((-1, DOLLAR),)}, used(output=1), 1_000),  # no input at all
        (RATES, used(input=70, output=40, units={"billed_input": 3, "billed_output": 2}), 39_000),  # Cohere
        (RATES, used(input=9, units={"images": 4}), 27_000),
    ],
)
def test_a_usage_costs_what_its_units_cost(rates, usage, nanousd):
    assert cost(row(rates), usage) == nanousd


def test_a_service_tier_replaces_the_rates_it_names_and_keeps_the_rest():
    tiered = row(tiers={"flex": {"input": flat(DOLLAR)}})
    for tier, rate in (("flex", 1000), ("FLEX", 1000), ("default", 3000), (None, 3000)):
        assert cost(tiered, used(input=1, output=1, tier=tier)) == rate + 15_000


def test_a_discount_is_taken_off_before_rounding():
    assert cost(row({"input": flat(1_000_001)}, discount_ppm=120_000), used(input=1_000_000)) == math.ceil(Fraction(1_000_001 * 88, 100))


def test_a_cost_that_the_vendor_states_wins_but_for_what_is_free():
    assert cost(row(), used(input=5, cost_nanousd=77)) == 77
    assert cost(row(), used(input=5, cost_nanousd=-1)) == 0
    assert cost(row(mark="free"), used(input=5, cost_nanousd=77)) == 0


TOKENS = st.integers(-5, 400_000)
USAGES = st.builds(
    used,
    input=TOKENS,
    output=TOKENS,
    cached_input=TOKENS,
    cache_write=TOKENS,
    cache_write_1h=TOKENS,
    reasoning=TOKENS,
    units=st.dictionaries(st.sampled_from([*PER, "images", "billed_input"]), TOKENS, max_size=6),
)


@given(USAGES)
def test_every_token_is_counted_exactly_once_whatever_the_provider_says(usage):
    found = dict(counts(usage))
    billed = "billed_input" in usage.units
    inward = sum(n for unit, n in found.items() if unit.startswith(("input", "cache")))
    outward = sum(n for unit, n in found.items() if unit.startswith(("output", "reasoning")))
    assert inward == max(0, usage.units["billed_input"] if billed else usage.input)
    assert outward == (0 if billed else max(0, usage.output))
    assert all(n > 0 for n in found.values())


@given(USAGES, st.dictionaries(st.sampled_from([*PER]), st.integers(0, 10**12).map(flat)))
def test_no_usage_costs_less_than_nothing(usage, rates):
    assert cost(row(rates), usage) >= 0


@given(
    USAGES,
    st.fixed_dictionaries({unit: st.integers(0, 10**12).map(flat) for unit in PER if unit != "pages"}),
    st.integers(0, 10**6),
)
def test_the_bound_is_never_below_the_cost_of_what_it_bounds(usage, rates, discount):
    priced = row(rates, discount_ppm=discount)
    inward = max(0, usage.input, usage.units.get("billed_input", 0), usage.units.get("characters", 0), usage.units.get("audio_ms", 0))
    fees = [(unit, max(0, usage.units.get(unit, 0))) for unit in FEES]
    most, unanswered = bound_cost(priced, input_tokens=inward, output_tokens=max(0, usage.output), files=1, fees=fees)
    assert most >= cost(priced, usage)
    assert most >= unanswered == bound_cost(priced, input_tokens=inward, output_tokens=0, files=1, fees=fees)[0]


def test_the_bound_takes_the_dearest_rate_that_could_apply():
    assert bound_cost(row(), input_tokens=1000, output_tokens=10) == (6_150_000, 6_000_000)  # all of it written to the cache for an hour
    long = row({"input": ((-1, DOLLAR), (500, 2 * DOLLAR))})
    assert [bound_cost(long, input_tokens=n, output_tokens=0)[0] for n in (0, 500, 501)] == [0, 500_000, 1_002_000]
    audio = row({"input": flat(DOLLAR), "input_audio": flat(9 * DOLLAR)})
    assert [bound_cost(audio, input_tokens=1, output_tokens=0, files=n)[0] for n in (0, 1)] == [1_000, 9_000]
    tiered = row(tiers={"priority": {"output": flat(30 * DOLLAR)}})
    assert [bound_cost(tiered, input_tokens=0, output_tokens=1, tier=tier)[0] for tier in (None, "priority")] == [15_000, 30_000]
    assert bound_cost(row(mark="free"), input_tokens=1000, output_tokens=10) == (0, 0)


def test_a_row_can_be_stored_before_any_usage_is_known():
    assert row({"input": ((-1, 2), (9, 3)), "output": flat(4)}, discount_ppm=7).as_json() == {
        "name": "m", "provider": "p", "source": "s", "date": "2026-01-01", "mark": "table", "discount_ppm": 7,
        "rates": {"input": [[-1, 2], [9, 3]], "output": 4},
    }  # fmt: skip


def test_a_usage_that_no_rate_covers_is_told():
    assert has_unpriced(row({"characters": flat(1)}), used(output=3))
    assert not has_unpriced(row({"characters": flat(1)}), used(output=3, units={"characters": 1}))
    assert not has_unpriced(row({"characters": flat(1)}), used())
    assert not has_unpriced(row(), used(input=1))


def test_a_row_is_shown_by_one_object_until_a_usage_adds_to_it():
    priced = row()
    plain = priced.as_json(used(input=3))
    assert plain is priced.as_json(used(output=9)) is priced.as_json()
    more = priced.as_json(used(units={"searches": 2}, cache_write=5, cache_write_1h=5, cost_nanousd=7))
    assert (more["units"], more["stated_nanousd"]) == ({"searches": 2, "cache_write_1h": 5}, 7)
    assert not plain.keys() & {"units", "stated_nanousd"}


@given(USAGES)
def test_a_usage_costs_the_same_unit_by_unit(usage):
    _, factors, *_ = row().factors(usage.tier, usage.input)
    units = {unit: next((RATES[name] for name in (unit, *_parents(unit)) if name in RATES), None) for unit in PER}
    assert factors == {unit: rate[0][1] * (18_000_000 // PER[unit]) for unit, rate in units.items() if rate is not None}


def _parents(unit):
    if unit == "cache_write_1h":
        return ("cache_write", "input")
    media = {f"cached_{kind}": (f"input_{kind}", "cached_input", "input") for kind in ("audio", "image", "video")}
    return media.get(
        unit, ("input",) if unit.startswith(("input", "cache")) else ("output",) if unit.startswith(("output", "reas")) else ()
    )


@given(USAGES, st.booleans())
def test_a_usage_costs_what_its_counts_cost_however_plain_it_is(usage, is_plain):
    usage = replace(usage, units={}, cache_write=0) if is_plain else usage
    _, factors, *_ = row().factors(None, usage.input)
    assert cost(row(), usage) == math.ceil(Fraction(sum(count * factors.get(unit, 0) for unit, count in counts(usage)), 18_000_000))


def usage_is_plain(usage):
    return usage == used(input=abs(usage.input), output=abs(usage.output), tier=usage.tier)


@given(
    USAGES | st.builds(used, input=TOKENS, output=TOKENS),
    st.sampled_from([None, "default", "priority", "flex"]),
    st.booleans(),
    st.sampled_from(["table", "free", "unpriced"]),
    st.booleans(),
)
def test_what_most_answers_cost_told_straight_is_what_the_thorough_way_tells(usage, tier, is_long, mark, is_said):
    priced = row({"input": ((-1, 2_500_000_000), (1000, 5_000_000_000)), "output": flat(10)}, mark=mark) if is_long else row(mark=mark)
    usage = replace(usage, tier=tier)
    if is_said and usage_is_plain(usage):
        usage.is_plain = True
    if amount := usual_cost(priced, usage):
        assert mark == "table" and tier in (None, "default", "flex") and not is_long
        assert amount == metered(priced, usage) == cost(priced, usage)
        assert orjson.loads(orjson.dumps(priced.said)) == priced.as_json(usage)
