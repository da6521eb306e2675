"""Policy prices over the table, and what is said of a call before it is sent and after."""

import pytest

from proxy.dialect.wire import Operation
from proxy.exchange import Usage
from proxy.meter.price import Prices, PriceTable, cost
from proxy.meter.rates import flat
from proxy.meter.recompute import recompute
from proxy.meter.refresh import written
from proxy.policy.plan import Origin, PriceOverride, Pricing, Provider
from proxy.refusal import Refusal

MODELS = [
    {"id": "gpt-4o", "match": ["=gpt-4o"], "prices": [{"rates": {"input": [[-1, 2000], [9, 3000]], "cached_input": 1000, "output": 8000}}],
     "tiers": [{"tier": "flex", "rates": {"input": 500, "output": 600}}]},
    {"id": "sound", "match": ["=sound"], "prices": [{"rates": {"audio_ms": 7200}}]},
]  # fmt: skip
TABLE = PriceTable.load(written("t", "2026-01-01", {"openai": {"models": MODELS}}))
PRICING = Pricing()
HERE = Provider("here", "openai", "openai", Origin("https", "example.com", 443, b"example.com"), price_id="openai")
CHAT = Operation("chat")


def prices(*overrides):
    return Prices(TABLE, overrides, PRICING)


def used(**fields):
    return Usage(**({"source": "provider"} | fields))


def test_without_overrides_the_table_speaks():
    assert prices().find("here", "openai", "gpt-4o", 0) == TABLE.row("openai", "gpt-4o", 0)
    assert prices().find("here", "openai", "new", 0) is None
    assert prices().find("here", "openai", None, 0) is None


@pytest.mark.parametrize(
    ("names", "model", "input_rate"),
    [
        (["gpt-4o"], "gpt-4o", 1),
        (["other", "here/gpt-4o", "gpt-4o"], "gpt-4o", 2),  # the target's own name goes first
        (["gpt-*", "gpt-4o"], "gpt-4o", 2),  # an exact name before a glob
        (["*", "gpt-4o"], "gpt-4o-2024-05-13", 2),  # a snapshot falls under its model
        (["gpt-4o", "gpt-4o-2024-05-13"], "gpt-4o-2024-05-13", 2),
        (["gpt-4"], "gpt-4-0613", 1),
        (["*", "command-r"], "command-r-08-2024", 2),
        (["*", "gemini-2.5-pro-preview"], "gemini-2.5-pro-preview-05-20", 2),
        (["*", "claude-sonnet-4-5"], "claude-sonnet-4-5@20250929", 2),
        (["x", "here/*"], "gpt-4o", 2),
        (["x", "gpt-4o*"], "gpt-4o-mini-latest", 2),
        (["openai/gpt-4o"], "openai/gpt-4o", 1),  # a router's model has a slash of its own
    ],
)
def test_the_closest_entry_of_prices_is_the_one(names, model, input_rate):
    found = prices(*(PriceOverride(name, input=n, output=n) for n, name in enumerate(names, 1)))
    for _ in range(2):
        row = found.find("here", "openai", model, 0)
        assert (row.rates["input"], row.mark) == (flat(input_rate), "override")


def test_a_discount_is_taken_off_the_tables_row_and_names_both_sources():
    row = prices(PriceOverride("here/gpt-4o", discount_ppm=120_000)).find("here", "openai", "gpt-4o", 0)
    assert cost(row, used(output=1_000_000)) == 8000 * 88 // 100
    assert (row.source, row.name) == ("t, policy", "gpt-4o")
    assert prices(PriceOverride("new", discount_ppm=1)).find("here", "openai", "new", 0) is None


def test_a_rate_replaces_the_tables_in_every_tier_and_keeps_the_rest():
    row = prices(PriceOverride("gpt-4o", input=7)).find("here", "openai", "gpt-4o", 0)
    assert row.rates == {"input": flat(7), "cached_input": flat(1000), "output": flat(8000)}
    assert row.tiers == {"flex": {"output": flat(600)}}


def test_an_unknown_model_gets_the_rates_it_is_given_and_the_fallback_for_the_other_side():
    row = prices(PriceOverride("mine", input=3, cached_input=1, cache_write=4)).find("here", "openai", "mine", 0)
    assert row.rates == {"input": flat(3), "cached_input": flat(1), "cache_write": flat(4), "output": flat(PRICING.fallback_output)}


def test_names_from_outside_are_remembered_within_bounds(monkeypatch):
    monkeypatch.setattr("proxy.meter.price._MEMORY", 4)
    found = prices(PriceOverride("gpt-4o", input=7))
    for number in range(20):
        found.find("here", "openai", f"guess-{number}", 0)
    assert len(found._known) <= 4


@pytest.mark.parametrize(
    ("pricing", "is_limited", "mark", "note"),
    [
        (Pricing(), False, "fallback", "fallback_price"),
        (Pricing(), True, None, "unpriced_model"),
        (Pricing(unknown_price="deny"), False, None, "unpriced_model"),
        (Pricing(unknown_price="flag"), True, "fallback", "fallback_price"),
        (Pricing(unknown_price="allow"), True, "unpriced", "unpriced"),
    ],
)
def test_an_unknown_price_is_what_the_policy_says_and_never_a_silent_nothing(pricing, is_limited, mark, note):
    if mark is None:
        with pytest.raises(Refusal) as no:
            prices().quote(pricing, is_limited, HERE, "secret-model", CHAT, 0)
        assert (no.value.status, no.value.code, no.value.should_retry) == (400, note, False)
        assert "prices:" in no.value.message and "here" in no.value.message and "secret" not in no.value.message
        return
    quote = prices().quote(pricing, is_limited, HERE, "new", CHAT, 0)
    priced = prices().priced(quote, used(input=1_000_000))
    assert (quote.row.mark, quote.note, quote.is_known, priced.is_known, priced.note) == (mark, note, False, False, note)
    assert priced.cost_nanousd == (5_000_000_000 if mark == "fallback" else 0)


@pytest.mark.parametrize(
    ("unmetered", "is_limited", "note"),
    [(None, False, "unmetered"), (None, True, None), ("deny", False, None), ("flag", True, "unmetered"), ("allow", True, "")],
)
def test_an_unmetered_operation_is_what_the_policy_says(unmetered, is_limited, note):
    op = Operation("batches", is_metered=False)
    if note is None:
        with pytest.raises(Refusal) as no:
            prices().quote(Pricing(unmetered=unmetered), is_limited, HERE, None, op, 0)
        assert (no.value.status, no.value.code, no.value.should_retry) == (400, "unmetered_operation", False)
        return
    quote = prices().quote(Pricing(unmetered=unmetered), is_limited, HERE, None, op, 0)
    priced = prices().priced(quote, Usage())
    assert (quote.row.mark, priced.cost_nanousd, priced.note) == ("unmetered", 0, note)


def test_an_operation_thought_unmetered_is_charged_when_its_reply_states_usage_after_all():
    op = Operation("other", is_metered=False)
    asked = prices().quote(PRICING, False, HERE, None, op, 0)
    assert prices().priced(asked, used(input=1_000_000, model="gpt-4o")).note == ""
    assert prices().priced(asked, used(input=1_000_000, model="gpt-4o")).cost_nanousd == 3000
    named = prices().quote(PRICING, False, HERE, "gpt-4o", op, 0)
    assert [prices().priced(named, usage).note for usage in (Usage(), used(input=1))] == ["unmetered", ""]


@pytest.mark.parametrize("op", [Operation("models", is_billed=False), Operation("responses", is_billed=False, is_read_back=True)])
def test_what_the_provider_gives_away_and_a_read_back_cost_nothing(op):
    quote = prices().quote(Pricing(unknown_price="deny", unmetered="deny"), True, HERE, None, op, 0)
    priced = prices().priced(quote, used(input=1000, cost_nanousd=9), 77)
    assert (quote.row.mark, priced.cost_nanousd, priced.is_known, priced.note) == ("free", 0, True, "")
    assert prices().priced(quote, used(source="estimate"), 77).cost_nanousd == 0


def test_a_model_that_only_the_reply_names_is_priced_by_that_name():
    quote = prices().quote(PRICING, False, HERE, "my-deployment", CHAT, 0)
    priced = prices().priced(quote, used(output=1_000_000, model="gpt-4o"))
    assert (priced.cost_nanousd, priced.price_row["name"], priced.note, priced.is_known) == (8000, "gpt-4o", "", True)
    unknown = prices().priced(quote, used(output=1_000_000, model="nobody-knows"))
    assert (unknown.cost_nanousd, unknown.note) == (15_000_000_000, "fallback_price")


def test_an_estimate_costs_what_was_held_and_notes_join_up():
    quote = prices().quote(PRICING, False, HERE, "new", CHAT, 0)
    priced = prices().priced(quote, Usage(input=3, source="estimate", note="usage_missing"), 1234)
    assert (priced.cost_nanousd, priced.note) == (1234, "usage_missing,fallback_price")


def test_usage_that_the_row_has_no_rate_for_is_noted():
    quote = prices().quote(PRICING, False, HERE, "sound", Operation("audio"), 0)
    assert prices().priced(quote, used(output=5)).note == "unpriced_units"
    assert prices().priced(quote, used(units={"images": 2})).note == "unpriced_units"
    heard = prices().priced(quote, used(output=5, units={"audio_ms": 3_600_000}))
    assert (heard.note, heard.cost_nanousd) == ("", 7200)


def test_the_stored_row_recomputes_to_the_cost():
    usage = used(input=20, cached_input=5, output=7, tier="FLEX", units={"searches": 2})
    priced = prices(PriceOverride("gpt-4o", discount_ppm=5)).priced(prices().quote(PRICING, False, HERE, "gpt-4o", CHAT, 0), usage)
    assert priced.price_row["tier"] == "flex"
    fields = {"input_tokens": 20, "cached_input_tokens": 5, "output_tokens": 7, "usage_source": "provider", "price_row": priced.price_row}
    assert recompute(fields) == priced.cost_nanousd


TOOLS = {"openai": {"models": [
    {"id": "seeks", "match": ["=seeks"], "prices": [{"rates": {"input": 2000, "output": 8000, "searches": 10_000}}]},
    {"id": "by-call", "match": ["=by-call"], "prices": [{"rates": {"input": 2000, "output": 8000, "requests": 5000}}]},
]}}  # fmt: skip
SEEKING = Prices(PriceTable.load(written("t", "2026-01-01", TOOLS)), (), PRICING)


def test_a_tool_with_a_fee_that_no_row_knows_is_denied_as_an_unknown_price_is():
    for pricing, is_limited in ((Pricing(), True), (Pricing(unknown_price="deny"), False)):
        with pytest.raises(Refusal) as no:
            SEEKING.quote(pricing, is_limited, HERE, "seeks", CHAT, 0, ("searches", "containers"))
        assert (no.value.status, no.value.code, no.value.should_retry) == (400, "unpriced_model", False)
        assert "containers" in no.value.message and "searches" not in no.value.message
    assert SEEKING.quote(Pricing(), True, HERE, "seeks", CHAT, 0, ("searches",)).is_known
    assert SEEKING.quote(Pricing(), True, HERE, "by-call", CHAT, 0, ("searches",)).is_known  # a price for the request covers them
    assert SEEKING.quote(Pricing(unknown_price="flag"), True, HERE, "seeks", CHAT, 0, ("containers",)).is_known


def test_a_provider_that_states_the_whole_cost_needs_no_price_of_a_tool():
    router = Provider("r", "openai", "openai", Origin("https", "example.com", 443, b"example.com"), price_id="openrouter")
    rows = {"openrouter": TOOLS["openai"]}
    prices_ = Prices(PriceTable.load(written("t", "2026-01-01", rows)), (), PRICING)
    quote = prices_.quote(Pricing(), True, router, "seeks", CHAT, 0, ("containers",))
    assert prices_.priced(quote, used(input=1, units={"containers": 2}, cost_nanousd=99)).unpriced == ""


def test_tools_that_were_used_are_charged_and_those_without_a_price_are_noted():
    quote = SEEKING.quote(PRICING, False, HERE, "seeks", CHAT, 0)
    paid = SEEKING.priced(quote, used(units={"searches": 3}))
    assert (paid.cost_nanousd, paid.unpriced, paid.note) == (30, "", "")
    noted = SEEKING.priced(quote, used(input=1_000_000, units={"searches": 3, "containers": 1}))
    assert (noted.cost_nanousd, noted.unpriced, noted.note, noted.is_known) == (2030, "unpriced_units", "unpriced_units", False)
    row = {"input_tokens": 1_000_000, "usage_source": "provider", "price_row": noted.price_row}
    assert recompute(row) == noted.cost_nanousd


@pytest.mark.parametrize(
    ("model", "op", "choice", "reason"),
    [("new", CHAT, "flag", "fallback_price"), ("new", CHAT, "allow", "unpriced"),
     (None, Operation("batches", is_metered=False), "flag", "unmetered"),
     (None, Operation("batches", is_metered=False), "allow", "unmetered"), ("gpt-4o", CHAT, "flag", "")],
)  # fmt: skip
def test_every_charge_without_a_known_price_says_why(model, op, choice, reason):
    quote = prices().quote(Pricing(unknown_price=choice, unmetered=choice), True, HERE, model, op, 0)
    assert prices().priced(quote, used(input=5)).unpriced == reason


@pytest.mark.parametrize(("tier", "note"), [("flex", ""), ("priority", "unpriced_tier"), ("default", ""), ("batch", ""), (None, "")])
def test_a_dearer_service_tier_without_a_price_is_noted(tier, note):
    quote = prices().quote(PRICING, False, HERE, "gpt-4o", CHAT, 0)
    priced = prices().priced(quote, used(input=1_000_000, tier=tier))
    assert (priced.note, priced.unpriced) == (note, note) and priced.cost_nanousd > 0


def test_what_was_quoted_once_is_told_apart_by_provider_model_and_generation():
    dear, cheap = prices(PriceOverride("here/gpt-4o", input=9)), prices(PriceOverride("gpt-4o", input=1))
    there = Provider("there", "openai", "openai", HERE.origin, price_id="openai")
    for _ in range(2):
        found = [of.quote(PRICING, False, at, "gpt-4o", CHAT, 0) for of in (dear, cheap) for at in (HERE, there)]
        assert [quote.row.rates["input"][0][1] for quote in found] == [9, 2000, 1, 1]
        assert [quote.provider for quote in found] == ["here", "there"] * 2
    assert dear.quote(PRICING, False, HERE, "gpt-4o", CHAT, 0) is dear.quote(PRICING, True, HERE, "gpt-4o", CHAT, 5)
    free = dear.quote(PRICING, False, HERE, "gpt-4o", Operation("chat", is_billed=False), 0)
    assert free.row.mark == "free"


def test_what_was_quoted_once_holds_no_longer_than_its_price():
    hours = [{"rates": {"input": 1}}, {"rates": {"input": 2}, "hours": [79200, 3600]}, {"rates": {"input": 3}, "from": "2026-03-02"}]
    tiers = [{"tier": "flex", "rates": {"input": 4}, "from": "2026-03-03"}]
    model = {"id": "m", "match": ["=m"], "prices": hours, "tiers": tiers}
    table = PriceTable.load(written("t", "2026-01-01", {"openai": {"models": [model]}}))
    found = Prices(table, (PriceOverride("x", input=7),), PRICING)
    hour, first = 3600 * 10**9, 1772323200 * 10**9  # 2026-03-01
    for at in (*range(first, first + 72 * hour, hour // 2), first - 1, first + 22 * hour - 1, first):  # back in time, too
        for moment in (at, at + 1):
            asked = found.quote(PRICING, False, HERE, "m", CHAT, moment)
            assert (asked.row.rates, asked.row.tiers) == (table.row("openai", "m", moment).rates, table.row("openai", "m", moment).tiers)
