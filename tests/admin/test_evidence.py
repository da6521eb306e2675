"""`/admin/ledger/<request id>`: what every attempt held and cost, where each number comes from, and how the sum is made."""

from __future__ import annotations

import asyncio
from fractions import Fraction

import aiohttp
import pytest
import pytest_asyncio
from support.chat import error, good
from support.world import world

from proxy.admin.evidence import MARKS, NOTES, evidence
from proxy.dialect.fields import DECREASED, ODD
from proxy.meter.tap import MISSING, UNPARSED

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
    providers: {openai: {url: A_URL}}
    callers: {keys: [{name: ada, hash: HASH(ada)}]}
    prices: {own: {input: 1.00, output: 3.00, cached_input: 0.10}}
    retry: {attempts: 2, backoff: 1ms..2ms}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("evidence"), POLICY) as one:
        yield one


async def told(here, got) -> dict:
    """The evidence, once the ledger has the call."""
    await here.rows(got)
    return await here.sluice.get(f"/admin/ledger/{got.header('x-sluice-request-id')}")


async def test_the_lines_of_an_attempt_sum_to_its_cost_and_every_number_has_its_source(here):
    here.forget()
    said = await told(here, await here.chat("ada", model="own", headers=[("x-usage", "1000,200,400")]))
    (attempt,) = said["calls"][0]["attempts"]
    assert attempt["price"]["mark"] == "override" and attempt["price"]["why"] == "`prices:` of the policy"
    assert attempt["policy_generation"] == 1
    assert attempt["usage"]["source"] == "provider" and attempt["usage"]["why"] == "the provider's own final figures"
    assert attempt["usage"]["numbers"]["input_tokens"] == {"count": 1000, "source": "provider"}
    arithmetic = attempt["arithmetic"]
    assert [(line["unit"], line["count"], line["rate_nanousd"], line["per"], line["nanousd"]) for line in arithmetic["lines"]] == [
        ("cached_input", 400, 100_000_000, 10**6, "40000"),
        ("input", 600, 1_000_000_000, 10**6, "600000"),
        ("output", 200, 3_000_000_000, 10**6, "600000"),
    ]
    assert (arithmetic["sum_nanousd"], arithmetic["cost_nanousd"], arithmetic["is_recomputed"]) == ("1240000", 1_240_000, True)
    assert attempt["settled_nanousd"] == said["cost_nanousd"] == 1_240_000 < attempt["held_nanousd"]


async def test_an_attempt_says_which_one_it_retries(here):
    here.forget()
    broken = iter((503, 200))

    async def script(seen, reply):
        if next(broken) == 503:
            await reply.json(error(), 503, [])
        else:
            await good(seen, reply)

    here.provider.script = script
    said = await told(here, await here.chat("ada"))
    first, second = said["calls"][0]["attempts"]
    assert (first["status"], first["settled_nanousd"], first["retries_attempt"]) == (503, 0, None)
    assert (second["kind"], second["status"], second["retries_attempt"]) == ("retry", 200, 1)
    assert (second["price"]["name"], second["price"]["mark"]) == ("gpt-4o", "table")
    assert second["price"]["source"] and second["price"]["date"] > "2024"


async def test_calls_that_share_a_callers_id_are_all_shown_apart(here):
    here.forget()
    id = "their:id_1.-"
    for _ in range(2):
        got = await here.chat("ada", model="own", headers=[("x-request-id", id), ("x-usage", "100,20,0")])
        assert got.header("x-sluice-request-id") == id
    async with asyncio.timeout(20):
        while len((said := await told(here, got))["calls"]) < 2:
            await asyncio.sleep(0.05)
    assert said["request_id"] == id and [len(call["attempts"]) for call in said["calls"]] == [1, 1]
    assert said["cost_nanousd"] == sum(call["cost_nanousd"] for call in said["calls"]) > 0


async def test_an_unknown_request_is_404(here):
    async with aiohttp.ClientSession() as session, session.get(f"{here.sluice.admin}/admin/ledger/nobody") as reply:
        assert reply.status == 404 and (await reply.json())["error"]["code"] == "unknown_request"


# -- rows as the ledger may hold them


def row(**changes: object) -> dict:
    return {
        "id": "slu-1/1", "request_id": "r", "attempt": 1, "kind": "first", "parent_id": None, "at": 1_790_000_000 * 10**9, "caller": "bot",
        "team": None, "tier": None, "provider": "openai", "model": "m", "operation": "chat", "credential": None, "status": 200,
        "end": "done", "input_tokens": 1000, "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 10,
        "reasoning_tokens": 0, "usage_detail": {}, "usage_source": "provider", "usage_note": "", "cost_nanousd": 0, "held_nanousd": 500,
        "price_row": None, "streamed": False, "duration_ms": 1.5, "policy_generation": 1, **changes,
    }  # fmt: skip


def price(mark: str = "table", **more: object) -> dict:
    return {"name": "m", "provider": "p", "source": "s", "date": "2026-01-01", "mark": mark, "rates": {}, **more}


def only(**changes: object) -> dict:
    return evidence("r", [row(**changes)])["calls"][0]["attempts"][0]


@pytest.mark.parametrize(
    ("changes", "how"),
    [
        ({"usage_source": "none", "price_row": price()}, "nothing is charged"),
        ({"price_row": None}, "nothing is charged"),
        ({"price_row": price("free")}, "nothing is charged"),
        ({"usage_source": "estimate", "price_row": price(), "cost_nanousd": 500}, "what was held is charged"),
        ({"price_row": price(stated_nanousd=77), "cost_nanousd": 77}, "the provider itself stated the cost"),
    ],
)
async def test_a_cost_that_is_no_sum_says_how_it_came_about(changes, how):
    said = only(**changes)["arithmetic"]
    assert (said["how"], said["lines"], said["is_recomputed"]) == (how, [], True)


async def test_what_does_not_come_out_even_is_a_fraction_and_rounded_up_once():
    shown = price(rates={"input": 1, "audio_ms": 1}, units={"audio_ms": 7}, discount_ppm=120_000)
    said = only(price_row=shown, cost_nanousd=1)["arithmetic"]
    lines = {line["unit"]: Fraction(line["nanousd"]) for line in said["lines"]}
    assert lines == {"input": Fraction(1, 1000), "output": 0, "audio_ms": Fraction(7, 3_600_000)}
    assert Fraction(said["sum_nanousd"]) == sum(lines.values()) and (said["discount_ppm"], said["is_recomputed"]) == (120_000, True)


async def test_a_broken_stream_says_what_was_stated_and_what_was_counted():
    stated, bound = (only(usage_source="counted", usage_detail=detail)["usage"]["numbers"] for detail in ({"input_tokens": 1000}, {}))
    assert (stated["input_tokens"]["source"], stated["output_tokens"]["source"]) == ("provider", "counted")
    assert (bound["input_tokens"]["source"], bound["output_tokens"]["source"]) == ("estimate", "counted")


async def test_every_note_and_mark_is_put_in_words():
    said = only(usage_source="estimate", usage_note="usage_missing,fallback_price,of-a-later-version")["usage"]
    assert said["why"].endswith(f"{NOTES['usage_missing']}; {NOTES['fallback_price']}; of-a-later-version")
    assert {"unconfirmed", MISSING, UNPARSED, ODD, DECREASED, "fallback_price", "unpriced", "unmetered", "unpriced_units"} <= NOTES.keys()
    for mark, words in MARKS.items():
        assert only(price_row=price(mark))["price"]["why"] == words


async def test_jobs_of_a_request_stand_beside_its_calls():
    said = evidence("r", [row(), row(id="batch_1", kind="job", parent_id="r/1", cost_nanousd=9, usage_source="none")])
    assert [len(call["attempts"]) for call in said["calls"]] == [1]
    assert (said["jobs"][0]["parent_id"], said["jobs"][0]["settled_nanousd"], said["cost_nanousd"]) == ("r/1", 9, 9)
