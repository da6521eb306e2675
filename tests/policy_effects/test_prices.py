"""What a call may cost before it is sent, and what it did cost after: limits written in, tools for a fee, tokens as learned, metrics."""

import asyncio
import json

import pytest
import pytest_asyncio
from support.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers:
  openai: {url: A_URL}
  mistral: {url: A_URL}
  anthropic: {url: A_URL}
  gemini: {url: A_URL}
  cohere: {url: A_URL}
  groq: {url: A_URL}
callers: {anonymous: none, default_tier: none}
tiers: {none: {}}
limits:
  - {name: watched, match: {'header:x-case': watched}, spend: $100/day}
  - {name: narrow, match: {'header:x-case': narrow}, tokens: 2000/hour}
prices:
  free-in: {input: 0, output: 12}
default_max_tokens: 300
SAID
"""
WATCHED = [("x-case", "watched")]
ASKS = [{"role": "user", "content": "x"}]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("prices"), POLICY.replace("SAID", "")) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


def nanousd(got) -> int:
    whole, _, decimals = (got.header("x-sluice-reserved-usd") or "").partition(".")
    return int(whole) * 10**9 + int(decimals)


async def post(here: World, target: str, headers=(), **doc: object):
    return await here.ask("POST", target, json.dumps(doc).encode(), headers=headers)


async def test_with_max_tokens_given_and_free_input_what_is_held_is_exact(here):
    got = await here.chat(model="free-in", max_tokens=123, headers=[("x-usage", "999,123")])
    assert nanousd(got) == 123 * 12_000 == (await here.row(got))["cost_nanousd"] == (await here.row(got))["held_nanousd"]
    for_three = await here.chat(model="free-in", max_tokens=123, n=3)
    assert nanousd(for_three) == 3 * 123 * 12_000


async def test_without_max_tokens_the_default_is_held_and_nothing_is_written(here):
    got = await here.chat(model="free-in")
    assert nanousd(got) == 300 * 12_000 and "max" not in here.last.body.decode()


REQUESTS = {  # target, what the request says, where the limit is to be found
    "OpenAI chat": ("/openai/v1/chat/completions", {"model": "gpt-4o", "messages": ASKS}, ["max_completion_tokens"]),
    "a compatible server": ("/mistral/v1/chat/completions", {"model": "mistral-small-latest", "messages": ASKS}, ["max_tokens"]),
    "responses": ("/openai/v1/responses", {"model": "gpt-4o", "input": "x"}, ["max_output_tokens"]),
    "Gemini": ("/gemini/v1beta/models/gemini-2.5-flash:generateContent", {"contents": [{"parts": [{"text": "x"}]}]},
               ["generationConfig", "maxOutputTokens"]),
    "Cohere": ("/cohere/v2/chat", {"model": "command-r", "messages": ASKS}, ["max_tokens"]),
}  # fmt: skip


async def test_a_limit_is_written_into_generating_requests_that_name_none_where_the_policy_says_so(here):
    try:
        await here.reload(POLICY.replace("SAID", "inject_max_tokens: true"))
        for name, (target, doc, place) in REQUESTS.items():
            assert (await post(here, target, **doc)).status == 200, name
            found: object = here.last.json
            for key in place:
                assert isinstance(found, dict)
                found = found[key]
            assert found == 300, name
            assert {key: value for key, value in here.last.json.items() if key != place[0]} == doc, name
        said = {"model": "gpt-4o", "messages": ASKS, "max_tokens": 7}
        await post(here, REQUESTS["OpenAI chat"][0], **said)
        assert here.last.json == said  # the caller's own word stands
        await post(here, "/anthropic/v1/messages", model="claude-sonnet-4-5", messages=ASKS, max_tokens=9)
        assert here.last.json["max_tokens"] == 9
        embedded = {"model": "text-embedding-3-small", "input": "x"}
        await post(here, "/openai/v1/embeddings", **embedded)
        assert here.last.json == embedded
    finally:
        await here.reload(POLICY.replace("SAID", ""))


async def test_searches_of_the_provider_are_held_at_their_most_and_charged_as_they_were_used(here):
    async def searched(seen, reply):
        usage = {"input_tokens": 100, "output_tokens": 10, "server_tool_use": {"web_search_requests": 2}}
        doc = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [], "usage": usage}
        await reply.json(doc)

    here.provider.script = searched
    plain = {"model": "claude-sonnet-4-5", "max_tokens": 10, "messages": ASKS}
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 5}
    got = await post(here, "/anthropic/v1/messages", WATCHED, **plain, tools=[tool])
    row = await here.row(got)
    assert row["cost_nanousd"] == 100 * 3_000 + 10 * 15_000 + 2 * 10_000_000
    unbounded = await post(here, "/anthropic/v1/messages", WATCHED, **plain, tools=[{**tool, "max_uses": 0}])
    assert nanousd(unbounded) - nanousd(got) == (10 - 5) * 10_000_000  # where nothing bounds them, ten are assumed
    assert nanousd(got) > row["cost_nanousd"] and row["price_row"]["units"]["searches"] == 2


async def test_what_a_response_lists_of_searches_files_and_containers_is_charged(here):
    async def worked(seen, reply):
        calls = [{"type": "web_search_call", "action": {"type": kind}} for kind in ("search", "search", "open_page")]
        calls += [{"type": "file_search_call"}, {"type": "code_interpreter_call", "container_id": "c1"}]
        calls += [{"type": "code_interpreter_call", "container_id": "c1"}]
        usage = {"input_tokens": 1000, "output_tokens": 10, "total_tokens": 1010}
        doc = {"id": "r", "object": "response", "status": "completed", "model": "gpt-4o", "output": calls, "usage": usage}
        await reply.json({**doc, "tools": seen.json["tools"]})

    here.provider.script = worked
    tools = [
        {"type": "web_search"},
        {"type": "file_search"},
        {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}},
    ]
    got = await post(here, "/openai/v1/responses", WATCHED, model="gpt-4o", input="x", max_tool_calls=3, tools=tools)
    row = await here.row(got)
    assert row["cost_nanousd"] == 1000 * 2_500 + 10 * 10_000 + 2 * 10_000_000 + 2_500_000 + 4 * 30_000_000
    assert nanousd(got) >= row["cost_nanousd"] and row["usage_note"] == ""


async def test_a_tool_whose_price_nobody_knows_is_refused_under_a_spend_limit_and_noted_elsewhere(here):
    doc = {"model": "llama-3.3-70b-versatile", "messages": ASKS, "tools": [{"type": "browser_search"}]}
    refused = await post(here, "/groq/openai/v1/chat/completions", WATCHED, **doc)
    assert (refused.status, refused.code) == (400, "unpriced_model") and not here.provider.seen
    assert "searches" in refused.body.decode() and "unknown_price" in refused.body.decode()
    assert (await post(here, "/groq/openai/v1/chat/completions", **doc)).status == 200

    async def searched(seen, reply):
        usage = {"prompt_tokens": 5, "completion_tokens": 5, "server_tool_use_details": {"web_search_requests": 1}}
        await reply.json({"id": "c", "object": "chat.completion", "model": doc["model"], "choices": [], "usage": usage})

    here.provider.script = searched
    before = await here.metric("unpriced_total", reason="unpriced_units")
    row = await here.row(await post(here, "/groq/openai/v1/chat/completions", **doc))
    assert row["usage_note"] == "unpriced_units" and row["cost_nanousd"] > 0
    assert await here.metric("unpriced_total", reason="unpriced_units", provider="groq") == before + 1


async def test_rates_are_held_for_what_calls_of_a_model_are_known_to_take_and_money_is_not(here):
    text = "ten letters " * 240  # nearly 3,000 bytes: as tokens more than the whole limit
    narrow, usage = [("x-case", "narrow")], ("x-usage", "600,9")
    first = await here.chat(text=text, max_tokens=10, headers=[*narrow, usage])
    assert (first.status, first.code) == (400, "exceeds_limit")
    held = {nanousd(await here.chat(text=text, max_tokens=10, headers=[usage])) for _ in range(10)}
    then = await here.chat(text=text, max_tokens=10, headers=[*narrow, usage])
    assert then.status == 200 and {nanousd(then)} == held
    assert (await here.chat(text=text, max_tokens=10, model="gpt-4o-mini", headers=[*narrow, usage])).status == 400


async def test_unpriced_and_estimated_charges_show_with_their_reason(here):
    async def value(name, **labels):
        return await here.metric(name, provider="openai", **labels)

    await here.chat(model="never-heard-of")
    await post(here, "/openai/v1/batches", input_file_id="f")
    assert await value("unpriced_total", reason="fallback_price") >= 1
    assert await value("unpriced_total", reason="unmetered") >= 1

    async def silent(seen, reply):
        await reply.json({"id": "c", "object": "chat.completion", "choices": [{"message": {"content": "words"}}]})

    here.provider.script = silent
    row = await here.row(await here.chat())
    async with asyncio.timeout(10):
        while not await value("estimated_usage_total", model="gpt-4o", source=row["usage_source"], reason="done"):
            await asyncio.sleep(0.02)


async def test_a_service_tier_that_only_the_account_sets_is_held_for_once_a_reply_has_told_it(here):
    """OpenAI's projects have a default tier, which no request names; that of `gpt-4.1` costs more."""
    told = "priority"

    async def tiered(seen, reply):
        usage = {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}
        choice = {"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}
        await reply.json({"id": "c", "model": "gpt-4.1", "service_tier": told, "choices": [choice], "usage": usage})

    async def call(**more):
        got = await here.chat(model="gpt-4.1", max_tokens=100, **more)
        return nanousd(got), (await here.row(got))["cost_nanousd"]

    here.provider.script = tiered
    (first, paid), (second, _) = await call(), await call()
    assert first < paid <= second, "nobody could know before the first reply"
    assert (await call(service_tier="auto"))[0] > first
    assert (await call(service_tier="default"))[0] < paid, "who names a tier gets that one"
    told = "default"
    await call()
    assert (await call())[0] == first
