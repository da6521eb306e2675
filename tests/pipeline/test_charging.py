"""What an attempt is quoted before it leaves: the same straight and thoroughly, for whatever text, limit, tier and price."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.admit.learned import EACH, RECENT, SIZE_BITS, UNKNOWN, UNSEEN, Learned, Model, Spread
from proxy.charging import intended, learn_and_reckon
from proxy.dialect.wire import NAME, Operation, usual
from proxy.exchange import Try, Usage, story_of
from proxy.forward.attempts import Step
from proxy.forward.breaker import SPENT
from proxy.forward.lane import Lane
from proxy.lines import begun
from proxy.meter.price import Prices, PriceTable
from proxy.meter.refresh import written
from proxy.policy.plan import Credential, Origin, PriceOverride, Pricing, Provider, Target
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


def quote(model, text_bytes=1000, limit=None, tier=None, at_ns=0, is_usual=True, default=4096, prices=PRICES, provider=HERE, lane=None):
    """The row, what is held by it, and what it is likely to take."""
    pricing = Pricing(default_max_tokens=default)
    plan = SimpleNamespace(pricing=pricing, is_under_spend_limit=True, counts_tokens=True, claims=(), kept={})
    asked = usual(model, False, False, limit)
    assert asked.is_usual
    asked = asked if is_usual else replace(asked, is_usual=False)
    try_ = Try(1, "first", provider.name, model, None)
    try_.at_ns = at_ns
    known = Model(inputs={(0, text_bytes.bit_length() // SIZE_BITS): Spread({-20: RECENT // 2})}, tier=tier)
    store = SimpleNamespace(lessons=SimpleNamespace(of=lambda name: known), hold_at_once=lambda *what: False)  # it wants to be asked
    books = SimpleNamespace(held=lambda *what: what[3:])
    generation, story = SimpleNamespace(prices=prices), SimpleNamespace(call=SimpleNamespace(uid="u"))
    try:
        lane = lane or Lane(Step(Target(provider, model, model), None, "first"))
        row, intent = intended(SimpleNamespace(store=store, books=books), generation, plan, story, try_, lane, CHAT, asked, text_bytes)
    except Refusal as no:
        return no.code
    assert (intent.nanousd, row.row.said) == (try_.held_nanousd, try_.price_row) == (try_.cost_nanousd, row.row.said)
    assert try_.like is try_.known.like(0, intent.values[0])
    return row, try_.held_usage, intent


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
    def dollars(*what, **more):
        return quote(*what, **more)[2].nanousd

    assert dollars("tiered") < dollars("tiered", tier="priority")
    assert dollars("dearer", at_ns=0) < dollars("dearer", at_ns=2 * DAY_NS) > dollars("dearer", at_ns=DAY_NS)
    assert quote("plain") != quote("plain", provider=replace(HERE, name="there"))  # without the discount
    assert quote("plain") != quote("plain", provider=replace(HERE, price_id="nobody")) == "unpriced_model"
    assert quote("plain") != quote("plain", prices=priced(PriceOverride("plain", input=1, output=1)))


def test_a_lane_keeps_what_is_told_in_advance_for_one_tier_one_time_and_one_policy():
    dear = priced(PriceOverride("dearer", input=1, output=1))
    ways = [{"at_ns": at_ns, "prices": prices} for at_ns in (0, 2 * DAY_NS, DAY_NS) for prices in (PRICES, dear)]
    lane = Lane(Step(Target(HERE, "dearer", None), None, "first"))
    for how in (*ways, *ways):
        assert quote("dearer", lane=lane, **how) == quote("dearer", **how)
    lane = Lane(Step(Target(HERE, "tiered", None), None, "first"))
    for tier in (None, "priority", "flex", None):
        lane.known = None
        assert quote("tiered", tier=tier, lane=lane) == quote("tiered", tier=tier)
        lane.known.tier = "priority"  # a reply has told another
        assert quote("tiered", lane=lane) == quote("tiered", tier="priority")


def test_a_lane_asks_anew_for_a_model_that_was_not_known_or_is_forgotten():
    lane = Lane(Step(Target(HERE, "plain", None), None, "first"))
    lane.known = UNKNOWN
    quote("plain", lane=lane)
    known = lane.known
    assert known is not UNKNOWN
    quote("plain", lane=lane)
    assert lane.known is known
    known.is_forgotten = True
    quote("plain", lane=lane)
    assert lane.known is not known


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
        self._quote = PRICES.quote(Pricing(), True, HERE, "plain", CHAT, 0)

    def held(self, kind=0, sent=1000, is_open=False):
        try_ = Try(1, "first", "here", "plain", None)
        try_.held_usage = sent, 10, kind, is_open
        try_.known = self.lessons.of(("here", "plain"))
        try_.like = try_.known.like(kind, sent)
        return try_

    def over(self, try_, input, output=0, tier=None, source="provider"):
        usage, asked = Usage(input=input, output=output, source=source, tier=tier, ended=True), usual("plain", False, False, None)
        learn_and_reckon(self._rooms, PRICES, try_, self._quote, usage, CHAT, asked)
        assert try_.usage.input == input and try_.price_row is not None

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


def test_an_attempt_begins_with_all_that_one_has_which_is_made_by_its_class():
    credential = Credential("OPENAI_API_KEY", "secret")
    for kind in ("first", "retry"):
        story = story_of(SimpleNamespace(uid="u"), 1)
        story.tries = [] if kind == "first" else [Try(1, "first", "here", "plain", None)]
        lane = Lane(Step(Target(HERE, "plain", "plain"), credential, kind))
        try_ = begun(lane, "u", story, SPENT, 7, 0.5).try_
        number = len(story.tries)
        usual = Try(number, kind, "here", "plain", "OPENAI_API_KEY", f"u/{number}")
        assert story.tries[-1] is try_
        assert vars(try_) == {**vars(usual), "at_ns": 7, "began": 0.5}
