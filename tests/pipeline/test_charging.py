"""What an attempt is quoted before it leaves: the same straight and thoroughly, for whatever text, limit, tier and price."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.charging import quoted
from proxy.dialect.wire import NAME, Operation, usual
from proxy.meter.price import Prices, PriceTable
from proxy.meter.refresh import written
from proxy.policy.plan import Origin, PriceOverride, Pricing, Provider
from proxy.refusal import Refusal

DAY_NS = 86_400 * 10**9
MODELS = [
    {"id": "plain", "match": ["=plain"], "prices": [{"rates": {"input": 2_500_000_000, "output": 10_000_000_000}}], "window": 128_000},
    {"id": "open", "match": ["=open"], "prices": [{"rates": {"input": 3, "cache_write": 7, "output": 11, "requests": 13}}]},
    {"id": "long", "match": ["=long"], "prices": [{"rates": {"input": [[-1, 2000], [9, 3000]], "output": 8000}}], "window": 200_000},
    {"id": "from 0", "match": ["=from 0"], "prices": [{"rates": {"input": [[-1, 2000], [0, 3000]], "output": [[-1, 8], [0, 9000]]}}]},
    {"id": "tiered", "match": ["=tiered"], "prices": [{"rates": {"input": 5, "output": 8}}],
     "tiers": [{"tier": "priority", "rates": {"input": 10**12}}]},
    {"id": "sound", "match": ["=sound"], "prices": [{"rates": {"input": 5, "output": 8, "audio_ms": 7200}}], "window": 1000},
    {"id": "dearer", "match": ["=dearer"], "prices": [{"rates": {"input": 5}}, {"from": "1970-01-03", "rates": {"input": 10**12}}]},
]  # fmt: skip
TABLE = PriceTable.load(written("t", "2026-01-01", {"openai": {"models": MODELS}}))
HERE = Provider("here", "openai", "openai", Origin("https", "example.com", 443, b"example.com"), price_id="openai")
CHAT = Operation("chat")


def priced(*overrides):
    return Prices(TABLE, overrides, Pricing())


PRICES = priced(PriceOverride("here/plain", discount_ppm=120_000), PriceOverride("own", input=9, output=9))


def quote(model, text_bytes=1000, limit=None, tier=None, at_ns=0, is_usual=True, default=4096, prices=PRICES, provider=HERE):
    plan = SimpleNamespace(pricing=Pricing(default_max_tokens=default), is_under_spend_limit=True)
    asked = usual(model, False, False, limit)
    assert asked.is_usual
    asked = asked if is_usual else replace(asked, is_usual=False)
    try:
        return quoted(prices, plan, provider, model, CHAT, asked, text_bytes, at_ns, tier)
    except Refusal as no:
        return no.code


SIZES = st.integers(0, 20) | st.integers(0, 300_000) | st.integers(0, 2**64 - 1)


@given(
    model=st.sampled_from(["plain", "open", "long", "from 0", "tiered", "sound", "dearer", "own", "nobody knows it", None]),
    text_bytes=SIZES,
    limit=st.none() | SIZES.map(lambda size: size or 1),
    tier=st.sampled_from([None, "", "auto", "default", "priority", "PRIORITY", "flex"]),
    at_ns=st.sampled_from([0, DAY_NS, 2 * DAY_NS, 5 * DAY_NS]),
    default=st.sampled_from([1, 4096, 10**6]),
)
@example("from 0", 0, 1000, None, 0, 1)  # no token is one token to a bound
@example("open", 1000, 2**64 - 1, None, 0, 1)  # nothing bounds it but the number itself
@example("long", 10, 1000, None, 0, 1)
def test_text_quoted_straight_is_quoted_as_the_thorough_way_has_it(model, text_bytes, limit, tier, at_ns, default):
    straight, thorough = (quote(model, text_bytes, limit, tier, at_ns, is_usual, default) for is_usual in (True, False))
    if isinstance(thorough, str):
        assert straight == thorough
        return
    assert replace(straight[0], at_ns=at_ns) == replace(thorough[0], at_ns=at_ns) and straight[1:] == thorough[1:]


@pytest.mark.parametrize(("model", "tier"), [("open", None), ("long", None), ("tiered", "priority"), ("sound", None), ("own", None)])
def test_most_is_told_in_advance(model, tier):
    assert PRICES.tariff(HERE, model, tier, 0).quote is not None


def test_what_is_told_in_advance_is_of_one_target_one_tier_one_time_and_one_policy():
    assert quote("tiered")[2] < quote("tiered", tier="priority")[2]
    assert quote("dearer", at_ns=0)[2] < quote("dearer", at_ns=2 * DAY_NS)[2] > quote("dearer", at_ns=DAY_NS)[2]
    assert quote("plain") != quote("plain", provider=replace(HERE, name="there"))  # without the discount
    assert quote("plain") != quote("plain", provider=replace(HERE, price_id="nobody")) == "unpriced_model"
    assert quote("plain") != quote("plain", prices=priced(PriceOverride("plain", input=1, output=1)))


@pytest.mark.parametrize("names", [[f"guess-{n}" for n in range(20)], ["long" * NAME]])
def test_names_from_outside_are_remembered_within_bounds(monkeypatch, names):
    monkeypatch.setattr("proxy.meter.price._MEMORY", 4)
    prices = priced(PriceOverride("*", input=1, output=1))
    for name in names:
        for tier in (None, "t" * (NAME + 1)):
            prices.tariff(HERE, name, tier, 0)
    assert len(prices._tariffs) <= (4 if len(names) > 1 else 0)
