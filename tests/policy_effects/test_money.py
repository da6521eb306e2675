"""What a call costs: prices, discounts, and what happens where no price is known or no reply states the cost."""

import pytest
import pytest_asyncio
from support.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers:
  openai: {url: A_URL}
  cheap: {dialect: openai, url: A_URL}
  anthropic: {url: A_URL}
callers: {anonymous: none, default_tier: none}
tiers: {none: {}, paid: {spend: $100/day}}
limits: [{name: watched, match: {'header:x-case': watched}, spend: $100/day}]
prices:
  my-model: {input: 3.00, output: 12.00, cached_input: 0.30, cache_write: 3.75}
  half-known: {input: 1.5}
  cheap/gpt-4o: {discount: 12%}
  claude-sonnet-4-5: {cached_input: 1, cache_write: 20}
  'glob-*': {input: 1, output: 1}
fallback_price: {input: 7.00, output: 21.00}
SAID
"""
WATCHED = [("x-case", "watched")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("money"), POLICY.replace("SAID", "")) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


async def cost(here: World, usage: str, **how: object) -> int:
    got = await here.chat(headers=[("x-usage", usage)], **how)
    assert got.status == 200, got.body
    row = await here.row(got)
    assert row["usage_source"] == "provider"
    return row["cost_nanousd"]


async def test_an_own_price_is_charged_to_the_nano_dollar(here):
    assert await cost(here, "1001,77", model="my-model") == 1001 * 3_000 + 77 * 12_000
    assert await cost(here, "1001,77,501", model="my-model") == 500 * 3_000 + 501 * 300 + 77 * 12_000


async def test_a_price_covers_snapshots_and_globs_cover_what_they_spell(here):
    assert await cost(here, "10,10", model="my-model-2026-01-01") == 10 * 3_000 + 10 * 12_000
    assert await cost(here, "10,10", model="glob-anything") == 20_000


async def test_cache_writes_have_a_price_of_their_own(here):
    body = b'{"model":"claude-sonnet-4-5","max_tokens":9,"messages":[{"role":"user","content":"x"}]}'
    got = await here.ask("POST", "/anthropic/v1/messages", body, headers=[("x-usage", "100,10,30,20")])
    row = await here.row(got)
    assert (row["input_tokens"], row["cached_input_tokens"], row["cache_write_tokens"], row["output_tokens"]) == (100, 30, 20, 10)
    assert row["cost_nanousd"] == 50 * 3_000 + 30 * 1_000 + 20 * 20_000 + 10 * 15_000


async def test_a_discount_is_taken_off_the_price_of_that_provider_alone(here):
    full, less = await cost(here, "1000,100", model="gpt-4o"), await cost(here, "1000,100", model="gpt-4o", provider="cheap")
    assert full == 1000 * 2_500 + 100 * 10_000 and less == full * 88 // 100


async def test_a_price_that_is_left_out_of_an_own_entry_is_the_fallback_price(here):
    assert await cost(here, "1000,10", model="half-known") == 1000 * 1_500 + 10 * 21_000


async def test_an_unknown_price_is_charged_the_fallback_price_and_says_so_where_nothing_limits_spend(here):
    before = await here.metric("unpriced_total")
    got = await here.chat(model="never-heard-of", headers=[("x-usage", "10,10")])
    row = await here.row(got)
    assert row["cost_nanousd"] == 10 * 7_000 + 10 * 21_000 and "fallback_price" in row["usage_note"]
    assert await here.metric("unpriced_total") == before + 1


async def test_an_unknown_price_is_refused_where_a_spend_limit_matches(here):
    got = await here.chat(model="never-heard-of", headers=WATCHED)
    assert (got.status, got.code) == (400, "unpriced_model") and not here.provider.seen
    assert (await here.chat(model="my-model", headers=WATCHED)).status == 200


async def test_an_operation_without_a_stated_cost_is_flagged_or_under_a_spend_limit_refused(here):
    got = await here.ask("POST", "/openai/v1/batches", b'{"input_file_id":"f"}')
    assert got.status == 200 and "unmetered" in (await here.row(got))["usage_note"]
    refused = await here.ask("POST", "/openai/v1/batches", b'{"input_file_id":"f"}', headers=WATCHED)
    assert (refused.status, refused.code) == (400, "unmetered_operation")


SAID = {
    "deny": ("unknown_price: deny\nunmetered: deny", (400, "unpriced_model"), (400, "unmetered_operation"), None),
    "flag": (
        "unknown_price: flag\nunmetered: flag",
        (200, None),
        (200, None),
        ("fallback_price", 10 * 7_000 + 10 * 21_000, "unmetered,job"),
    ),
    "allow": ("unknown_price: allow\nunmetered: allow", (200, None), (200, None), ("unpriced", 0, "job")),
}


@pytest.mark.parametrize("choice", SAID)
async def test_the_policy_may_say_what_becomes_of_them_spend_limit_or_not(here, choice):
    said, model, operation, rows = SAID[choice]
    try:
        await here.reload(POLICY.replace("SAID", said))
        for headers in ([], WATCHED):
            unknown = await here.chat(model="never-heard-of", headers=[*headers, ("x-usage", "10,10")])
            unstated = await here.ask("POST", "/openai/v1/batches", b'{"input_file_id":"f"}', headers=headers)
            assert (unknown.status, unknown.code) == model and (unstated.status, unstated.code) == operation
            if rows:
                note, nanousd, unstated_note = rows
                row = await here.row(unknown)
                assert note in row["usage_note"] and row["cost_nanousd"] == nanousd
                assert (await here.row(unstated))["usage_note"] == unstated_note
    finally:
        await here.reload(POLICY.replace("SAID", ""))
