"""Work that is billed later, by the SDKs that begin it: held until it is read back, then settled, and told apart in the ledger."""

import asyncio
import json
import sys

import anthropic
import openai
import pytest
import pytest_asyncio
from support.world import slk, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers: {openai: {url: A_URL}, anthropic: {url: A_URL}}
callers:
  default_tier: tight
  keys: [{name: bot, hash: HASH(bot)}, {name: free, hash: HASH(free), tier: free}, {name: reader, hash: HASH(reader), tier: free}]
tiers: {tight: {spend: $0.015/day}, free: {}}
prices: {gpt-4o: {input: 0, cached_input: 0, cache_write: 0, output: 10}}
"""
HELD, USED = 1000 * 10_000, 200 * 10_000
USAGE = {"input_tokens": 500, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 200,
         "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 700}  # fmt: skip


def response(status: str, usage: object = None) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": status, "background": True,
            "output": [], "usage": usage, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("jobs"), POLICY) as one:
        yield one


def answers(here, doc: object) -> None:
    async def script(seen, reply):
        await reply.json(doc)

    here.provider.script = script


async def evidence(here, request_id: str) -> dict:
    """Of a call whose row may come a moment after its answer."""
    async with asyncio.timeout(20):
        while not any(row["request_id"] == request_id for row in await here.sluice.rows()):
            await asyncio.sleep(0.02)
    return await here.sluice.get(f"/admin/ledger/{request_id}")


async def dearest(here) -> list[dict]:
    """As `sluice usage --top` tells it."""
    command = [sys.executable, "-m", "proxy", "usage", "--top", "10", "--json", "--admin", here.sluice.admin]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1, env=here.sluice._env)
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    return json.loads(out)["rows"]


async def test_a_background_response_holds_its_budget_until_it_is_retrieved_and_then_costs_what_it_used(here):
    async with openai.AsyncOpenAI(base_url=f"{here.sluice.url}/openai/v1", api_key=slk("bot"), max_retries=0) as client:

        async def begin(most: int = 1000):
            return await client.responses.with_raw_response.create(model="gpt-4o", input="x", background=True, max_output_tokens=most)

        answers(here, response("queued"))
        raw = await begin()
        assert raw.parse().status == "queued"
        told = await evidence(here, request_id := raw.headers["x-sluice-request-id"])
        [attempt] = told["calls"][0]["attempts"]
        assert (attempt["settled_nanousd"], attempt["held_nanousd"], attempt["usage"]["notes"]) == (0, HELD, ["job"])
        assert told["jobs"] == [] and told["cost_nanousd"] == 0
        with pytest.raises(openai.APIStatusError) as refused:
            await begin()
        assert refused.value.status_code == 402, "what it may cost is held while nobody knows what it did"
        answers(here, response("in_progress"))
        assert (await client.responses.retrieve("resp_1")).status == "in_progress"
        with pytest.raises(openai.APIStatusError):
            await begin()
        answers(here, response("completed", USAGE))
        for _ in range(2):
            assert (await client.responses.retrieve("resp_1")).usage.output_tokens == 200

    async with asyncio.timeout(20):
        while not (told := await evidence(here, request_id))["jobs"]:
            await asyncio.sleep(0.02)
    [job] = told["jobs"]
    assert (job["settled_nanousd"], job["held_nanousd"], job["caller"]) == (USED, HELD, "bot")
    assert job["parent_id"] == f"{request_id}/1" and job["arithmetic"]["is_recomputed"]
    assert told["cost_nanousd"] == USED
    assert await here.metric("cost_usd_total", caller="bot") == USED / 10**9
    here.forget()
    left = 15_000_000 - USED
    assert (await here.chat("bot", max_tokens=left // 10_000 + 1)).status == 402
    assert (await here.chat("bot", max_tokens=left // 10_000, headers=[("x-usage", "0,1")])).status == 200, "the rest is free again"
    [top, *_] = await dearest(here)
    assert (top["request_id"], top["caller"], top["cost_nanousd"], top["attempts"]) == (request_id, "bot", USED, 1)


async def test_a_message_batch_is_settled_for_who_began_it_by_the_results_that_another_caller_reads(here):
    batch = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress", "created_at": "2026-01-01T00:00:00Z",
             "expires_at": "2026-01-02T00:00:00Z", "results_url": None,
             "request_counts": {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}}  # fmt: skip
    ask = {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": [{"role": "user", "content": "x"}]}
    answers(here, batch)
    base = f"{here.sluice.url}/anthropic"
    async with anthropic.AsyncAnthropic(base_url=base, api_key=slk("free"), max_retries=0) as client:
        raw = await client.messages.batches.with_raw_response.create(requests=[{"custom_id": "a", "params": ask}])
        assert (await client.messages.batches.retrieve("msgbatch_1")).processing_status == "in_progress"
    request_id = raw.headers["x-sluice-request-id"]
    assert (await evidence(here, request_id))["jobs"] == []

    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "content": [],
               "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 100, "output_tokens": 10}}  # fmt: skip
    lines = b"".join(json.dumps({"custom_id": id, "result": {"type": "succeeded", "message": message}}).encode() + b"\n" for id in "ab")

    async def results(seen, reply):
        if seen.target.endswith("/results"):
            await reply.whole(200, lines, "application/x-jsonl")
        else:
            counts = {**batch["request_counts"], "processing": 0, "succeeded": 2}
            where = f"{base}/v1/messages/batches/msgbatch_1/results"
            await reply.json({**batch, "processing_status": "ended", "request_counts": counts, "results_url": where})

    here.provider.script = results
    async with anthropic.AsyncAnthropic(base_url=base, api_key=slk("reader"), max_retries=0) as client:
        for _ in range(2):
            read = [one async for one in await client.messages.batches.results("msgbatch_1")]
            assert [one.result.message.usage.output_tokens for one in read] == [10, 10]
    async with asyncio.timeout(20):
        while not (told := await evidence(here, request_id))["jobs"]:
            await asyncio.sleep(0.02)
    [job] = told["jobs"]
    cost = (200 * 3_000 + 20 * 15_000) // 2
    assert (job["caller"], job["settled_nanousd"], job["price"]["tier"]) == ("free", cost, "batch")
    assert await here.metric("cost_usd_total", caller="free") == cost / 10**9
    assert await here.metric("cost_usd_total", caller="reader") == 0


async def test_a_batch_under_a_spend_limit_is_refused_before_it_leaves(here):
    here.forget()
    async with openai.AsyncOpenAI(base_url=f"{here.sluice.url}/openai/v1", api_key=slk("bot"), max_retries=0) as client:
        with pytest.raises(openai.BadRequestError) as refused:
            await client.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h")
    assert refused.value.code == "unmetered_operation" and not here.provider.seen
