"""What an attempt is quoted before it leaves: the same straight and thoroughly, for whatever text, limit, tier and price."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.admit.learned import EACH, RECENT, UNKNOWN, UNSEEN, Learned
from proxy.charging import learn, quoted
from proxy.dialect.wire import NAME, Operation, usual
from proxy.exchange import Try, Usage
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
    assert PRICES.tariff(HERE, model, tier, 0)[2] is not None


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
    assert len(prices.tariffs) <= (4 if len(names) > 1 else 0)


class Calls:
    """Of one model, from hold to lesson."""

    def __init__(self):
        self.lessons = Learned()
        self._rooms = SimpleNamespace(store=SimpleNamespace(lessons=self.lessons))

    def held(self, kind=0, sent=1000, is_open=False):
        try_ = Try(1, "first", "here", "plain", None)
        try_.held_usage = sent, 10, kind, is_open
        try_.known = self.lessons.of(("here", "plain"))
        try_.like = try_.known.like(kind, sent)
        return try_

    def over(self, try_, input, output=0, tier=None, source="provider"):
        learn(
            self._rooms, try_, Usage(input=input, output=output, source=source, tier=tier, ended=True), usual("plain", False, False, None)
        )

    def done(self, times, input=100, **more):
        for _ in range(times):
            self.over(self.held(), input, **more)

    @property
    def known(self):
        return self.lessons.of(("here", "plain"))


def test_of_calls_that_are_well_known_one_in_a_few_teaches_and_stands_for_all():
    calls = Calls()
    calls.done(RECENT)
    spread = calls.known.like(0, 1000)
    assert spread.total == RECENT and not spread.skips  # each of them
    calls.done(1)
    assert spread.total == RECENT + EACH and spread.skips == EACH - 1
    calls.done(EACH - 1, input=10**6)
    assert spread.total == RECENT + EACH and not spread.skips
    calls.done(1, input=10**6)
    assert spread.total == RECENT + 2 * EACH
    calls.done(RECENT, input=300)
    assert spread.tokens(1000) >= 300


def test_calls_of_another_kind_or_size_each_teach_however_well_others_are_known():
    calls = Calls()
    calls.done(RECENT + 1)
    for number in range(1, 9):
        calls.over(calls.held(kind=1), 100)
        calls.over(calls.held(sent=100_000), 100)
        assert calls.known.like(1, 1000).total == calls.known.like(0, 100_000).total == number


def test_what_a_reply_says_of_the_tier_and_of_an_open_answer_is_learned_of_each_call():
    calls = Calls()
    calls.done(RECENT + 1)
    assert calls.known.like(0, 1000).skips
    for tier in ("flex", None, "default"):
        calls.done(1, tier=tier)
        assert calls.known.tier == tier
    before = calls.known.outputs.total
    for _ in range(EACH):
        calls.over(calls.held(is_open=True), 100, output=50, tier="default")
    assert calls.known.outputs.total == before + EACH


def test_what_was_counted_or_was_of_a_forgotten_model_changes_nothing_that_all_share():
    calls = Calls()
    calls.done(9, source="counted")
    assert calls.known is UNKNOWN and calls.known.like(0, 1000) is UNSEEN
    first = calls.held()
    calls.done(RECENT + 1)
    skips = calls.known.like(0, 1000).skips
    calls.over(first, 100)  # nothing was known when it was held
    assert calls.known.like(0, 1000).skips == skips - 1
    assert not UNSEEN.total and not UNSEEN.skips and not UNKNOWN.inputs and UNKNOWN.tier is None
