"""A provider that is sick: its model is left alone, others stand in for it, and an outage is never amplified."""

import asyncio
import time

import pytest
from support import chat
from support.caller import Caller, ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE = ("x-stainless-retry-count", "1")


def state_of(metrics, provider, model):
    lines = [line for line in metrics.splitlines() if line.startswith("sluice_breaker_state{") and f'provider="{provider}"' in line]
    return next((float(line.rpartition(" ")[2]) for line in lines if f'model="{model}"' in line), None)


async def test_the_breaker_opens_for_the_sick_model_alone_and_closes_after_probes(case):
    sick = True

    async def script(seen, reply):
        if seen.json["model"] == "gpt-4o" and sick:
            await reply.json(chat.error(), 500)
        else:
            await reply.json(chat.whole())

    case.answers(script)
    for _ in range(5):
        assert (await case.ask(None, ONCE)).status == 500
    hits = len(case.seen())
    got = await case.ask(None, ONCE)
    assert (got.status, got.code) == (503, "breaker_open")
    assert 1 <= int(got.header("retry-after")) <= 2
    (row,) = await case.rows(got)
    assert (row["kind"], row["end"], row["cost_nanousd"]) == ("refusal", "refused:breaker_open", 0)
    assert len(case.seen()) == hits
    assert (await case.ask(chat.asked(model="gpt-4.1-mini"), ONCE)).status == 200, "a model of the same provider that is well"
    metrics = await case.sluice.metrics()
    assert state_of(metrics, case.name, "gpt-4o") != state_of(metrics, case.name, "gpt-4.1-mini")
    opened = time.monotonic()
    while (await case.ask(None, ONCE)).code == "breaker_open":
        assert time.monotonic() - opened < 20
        await asyncio.sleep(0.05)
    assert time.monotonic() - opened > 0.5, "1 s times 0.8 … 1.4, from the fifth failure on"
    assert (await case.ask(None, ONCE)).code == "breaker_open", "the probe failed: open again, twice as long"
    sick = False
    await asyncio.sleep(2 * 1.4)
    assert [(await case.ask(None, ONCE)).status for _ in range(4)] == [200] * 4


async def test_so_it_is_for_models_that_no_price_table_knows(case):
    async def script(seen, reply):
        await reply.json(
            chat.error() if seen.json["model"] == "home-made-sick" else chat.whole(), 500 if "sick" in seen.json["model"] else 200
        )

    case.answers(script)
    for _ in range(5):
        assert (await case.ask(chat.asked(model="home-made-sick"), ONCE)).status == 500
    assert (await case.ask(chat.asked(model="home-made-sick"), ONCE)).code == "breaker_open"
    assert (await case.ask(chat.asked(model="home-made-well"), ONCE)).status == 200


async def test_a_failed_call_of_many_attempts_opens_it_and_what_is_open_is_not_asked(case):
    case.answers(chat.fails(500))
    codes = [(await case.ask()).code for _ in range(6)]
    assert codes[-1] == "breaker_open"
    assert len(case.seen()) == 5


# --- fallback ---


async def test_a_fallback_of_the_family_gets_the_call_under_its_own_name_path_and_key(world, case):
    case.answers(chat.fails(500))

    async def azure(seen, reply):
        await reply.json(chat.whole("from azure"))

    case.answers(azure, "azure")
    body = b'{ "messages": [{"role":"user","content":"h\\u0069"}],  "model" :"gpt-4.1","temperature":1.0}'
    got = await case.ask(body, key=None)
    assert (got.status, got.json["choices"][0]["message"]["content"]) == (200, "from azure")
    assert (got.header("x-sluice-provider"), got.header("x-sluice-attempts")) == ("azure", "4")
    seen = case.seen("azure")[-1]
    assert seen.target == "/openai/deployments/prod-gpt41-eu/chat/completions?api-version=2025-04-01-preview"
    assert (seen.header("api-key"), seen.header("authorization")) == ("azure-key-3333", None)
    assert seen.body in (body, body.replace(b'"gpt-4.1"', b'"prod-gpt41-eu"')), "only the model's name may differ"
    rows = await case.rows(got)
    assert [(row["kind"], row["provider"], row["model"]) for row in rows][2:] == [
        ("retry", case.name, "gpt-4.1"),
        ("fallback", "azure", "gpt-4.1"),
    ]
    assert rows[-1]["credential"] == "KEY_AZURE" and rows[-1]["cost_nanousd"] > 0


async def test_a_callers_own_key_is_never_sent_to_a_fallback(case):
    case.answers(chat.fails(500))
    case.answers(chat.good, "azure")
    before = len(case.seen("azure"))
    got = await case.ask(chat.asked(model="gpt-4.1"))
    assert (got.status, len(case.seen("azure"))) == (500, before)


@pytest.mark.parametrize(("caller", "expected"), [("eu" * 20, "azure"), (None, "elsewhere")], ids=["EU only", "anywhere"])
async def test_the_allowed_regions_hold_on_every_attempt(case, caller, expected):
    case.answers(chat.fails(500))
    for entry in ("azure", "elsewhere"):
        case.answers(chat.good, entry)
    before = len(case.seen("elsewhere"))
    key = ("Authorization", f"Bearer {caller}") if caller else None
    got = await case.ask(chat.asked(model="gpt-4o-mini"), key=key)
    assert (got.status, got.header("x-sluice-provider")) == (200, expected)
    assert len(case.seen("elsewhere")) == before + (expected == "elsewhere")


async def test_a_region_that_is_not_allowed_is_refused_before_anything_leaves(world, case):
    before = len(case.seen("elsewhere"))
    headers = [chat.JSON, ("Authorization", "Bearer " + "eu" * 20)]
    got = await ask(world.sluice.port, "POST", "/elsewhere/v1/chat/completions", headers, chat.asked())
    assert (got.status, got.code) == (403, "not_allowed")
    assert len(case.seen("elsewhere")) == before


# --- a total outage ---


async def test_a_total_outage_is_not_amplified(case):
    case.answers(chat.fails(503))
    requests, answers = 200, []

    async def caller():
        async with Caller(case.sluice.port) as one:
            for _ in range(requests // 10):
                answers.append(await one.ask("POST", case.target, [chat.JSON, chat.KEY], chat.asked()))

    await asyncio.gather(*(caller() for _ in range(10)))
    assert len(answers) == requests
    assert {(got.status, got.code) for got in answers} <= {(503, None), (503, "breaker_open")}
    assert len(case.seen()) <= 1.25 * requests
    hits, opened = len(case.seen()), time.monotonic()
    while time.monotonic() - opened < 2.5:
        await case.ask()
        await asyncio.sleep(0.01)
    assert len(case.seen()) - hits <= 3, "one probe an open period"
    await asyncio.sleep(1)  # rows of refusals are sampled above ten a second: other tests want theirs
