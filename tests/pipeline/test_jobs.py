"""Work that the provider goes on with after its answer: held until a later answer shows what it used, and then settled once."""

import json

import pytest
from support.inside import Answer, chat, completion, event, inside, talk, whole

from proxy.refusal import UpstreamCut

RESPONSES = "/openai/v1/responses"
ASK = json.dumps({"model": "gpt-4o", "input": "x", "background": True, "max_output_tokens": 50}).encode()
USAGE = {"input_tokens": 1000, "output_tokens": 200, "total_tokens": 1200}
COST = 1000 * 2_500 + 200 * 10_000
UNMETERED = "unmetered: flag"


def response(status: str, **more: object) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "model": "gpt-4o", "status": status, "background": True, "output": [],
            "usage": None, **more}  # fmt: skip


def spent(here) -> int:
    return sum(here.store.held_spend(["tier t"]).values())


async def begin(here) -> dict[str, object]:
    sink = await here.run(ASK, whole(response("queued")), target=RESPONSES)
    assert sink.status == 200
    return (await here.rows())[0]


async def read(here, doc: dict[str, object], key: str = "ann"):
    return await here.run(b"", whole(doc), target=RESPONSES + "/resp_1", method="GET", key=key)


async def jobs(here) -> list[dict[str, object]]:
    return [row for row in await here.store.rows(1000) if row["kind"] == "job"]


async def test_a_background_response_costs_nothing_until_it_is_read_back_and_then_what_it_used(tmp_path):
    async with inside(tmp_path) as here:
        row = await begin(here)
        assert (row["cost_nanousd"], row["usage_source"], row["usage_note"], row["usage_detail"]) == (0, "none", "job", {"job": "resp_1"})
        assert spent(here) == row["held_nanousd"] > 0, "what it may cost stays held"
        assert await jobs(here) == []
        await read(here, response("in_progress"))
        assert await jobs(here) == [] and spent(here) == row["held_nanousd"]
        await read(here, response("completed", usage=USAGE), key="bob")
        [job] = await jobs(here)
        assert (job["cost_nanousd"], job["usage_source"], job["caller"], job["request_id"]) == (COST, "provider", "ann", row["request_id"])
        assert job["parent_id"] == f"{row['request_id']}/1" and job["held_nanousd"] == row["held_nanousd"]
        assert (await here.rows())[0]["cost_nanousd"] == 0, "reading is free, for whoever reads"
        assert spent(here) == COST and not here.store.holds
        await read(here, response("completed", usage=USAGE))
        assert len(await jobs(here)) == 1 and spent(here) == COST, "once"


async def test_a_job_outlives_a_restart_and_is_not_closed_as_crashed(tmp_path):
    async with inside(tmp_path) as here:
        row = await begin(here)
    async with inside(tmp_path) as here:
        assert here.store.recovery.crashed == 0 and spent(here) == row["held_nanousd"]
        await read(here, response("completed", usage=USAGE))
        [job] = await jobs(here)
        assert (job["cost_nanousd"], job["request_id"]) == (COST, row["request_id"]) and spent(here) == COST
    async with inside(tmp_path) as here:
        assert spent(here) == COST and len(await jobs(here)) == 1
        await read(here, response("completed", usage=USAGE))
        assert spent(here) == COST and len(await jobs(here)) == 1


class Later:
    """A clock that is `days` ahead."""

    days = 0

    @classmethod
    def now_ns(cls) -> int:
        import time

        return time.time_ns() + cls.days * 86_400 * 10**9

    @staticmethod
    def monotonic() -> float:
        import time

        return time.monotonic()

    @staticmethod
    def monotonic_ns() -> int:
        import time

        return time.monotonic_ns()


async def test_what_nobody_reads_back_for_a_month_is_charged_its_estimate_and_says_so(tmp_path):
    async with inside(tmp_path) as here:
        row = await begin(here)

    class Soon(Later):
        days = 30

    async with inside(tmp_path, clock=Soon) as here:
        assert await jobs(here) == []

    class Late(Later):
        days = 32

    async with inside(tmp_path, clock=Late) as here:
        [job] = await jobs(here)
        assert (job["cost_nanousd"], job["usage_source"], job["usage_note"]) == (row["held_nanousd"], "estimate", "unconfirmed")
        assert not here.store.holds


@pytest.mark.parametrize(
    ("doc", "is_estimate"),
    [
        (response("failed"), False),
        (response("cancelled"), False),
        (response("cancelled", output=[{"type": "message", "content": []}]), True),
        (response("completed"), True),
    ],
    ids=["failed before any work", "cancelled before any work", "cancelled in its middle", "over, and it says nothing"],
)
async def test_a_job_that_ends_without_usage_is_free_where_it_did_nothing_and_else_its_estimate(tmp_path, doc, is_estimate):
    async with inside(tmp_path) as here:
        row = await begin(here)
        await read(here, doc)
        [job] = await jobs(here)
        assert job["cost_nanousd"] == (row["held_nanousd"] if is_estimate else 0) == spent(here)


async def test_a_background_stream_that_breaks_off_is_settled_by_the_end_of_the_one_that_resumes_it(tmp_path):
    async with inside(tmp_path) as here:
        created = event({"type": "response.created", "response": response("in_progress")})
        ask = json.dumps(json.loads(ASK) | {"stream": True}).encode()
        await here.run(ask, talk(created), target=RESPONSES)
        [row] = await here.rows()
        assert (row["cost_nanousd"], row["usage_note"], row["end"]) == (0, "job", "upstream_cut")
        over = event({"type": "response.completed", "response": response("completed", usage=USAGE)})
        await here.run(b"", talk(over), target=RESPONSES + "/resp_1?stream=true&starting_after=1", method="GET")
        [job] = await jobs(here)
        assert job["cost_nanousd"] == COST == spent(here)


async def test_a_batch_is_held_at_nothing_where_the_policy_lets_it_pass_and_settled_at_batch_prices(tmp_path):
    async with inside(tmp_path, UNMETERED) as here:
        batch = {"id": "batch_1", "object": "batch", "status": "validating", "request_counts": {"total": 0, "completed": 0, "failed": 0}}
        await here.run(b'{"input_file_id":"f"}', whole(batch), target="/openai/v1/batches")
        assert (await here.rows())[0]["usage_note"] == "unmetered,job" and spent(here) == 0
        done = {**batch, "status": "completed", "model": "gpt-4o-mini-2024-07-18", "usage": USAGE, "request_counts": {"completed": 3}}
        await here.run(b"", whole(done), target="/openai/v1/batches/batch_1", method="GET")
        [job] = await jobs(here)
        assert job["model"] == "gpt-4o-mini-2024-07-18" and job["price_row"]["tier"] == "batch"
        assert job["cost_nanousd"] == (1000 * 150 + 200 * 600) // 2 == spent(here)


def line(model: str, kind: str = "succeeded") -> bytes:
    message = {"model": model, "usage": {"input_tokens": 100, "output_tokens": 10}}
    return json.dumps({"custom_id": "c", "result": {"type": kind, **({"message": message} if kind == "succeeded" else {})}}).encode()


AT = 'http://127.0.0.1:9", key: env:KEY}\n  anthropic: {url: "http://127.0.0.1:9'  # one provider more


RESULTS = "/anthropic/v1/messages/batches/msgbatch_1/results"
BATCH = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress", "request_counts": {"succeeded": 0}}


async def a_batch(here) -> None:
    body = json.dumps({"requests": [{"custom_id": "c", "params": {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": []}}]})
    await here.run(body.encode(), whole(BATCH), target="/anthropic/v1/messages/batches")
    assert (await here.rows())[0]["usage_note"] == "unmetered,job"


def results(*lines: bytes, **more: object) -> Answer:
    return Answer(200, tuple(one + b"\n" for one in lines), "application/x-jsonl", **more)


async def test_the_results_of_a_message_batch_are_added_up_line_by_line_and_settled_for_each_model(tmp_path):
    async with inside(tmp_path, UNMETERED, AT) as here:
        await a_batch(here)
        await here.run(b"", whole({**BATCH, "processing_status": "ended", "request_counts": {"succeeded": 3}}),
                       target="/anthropic/v1/messages/batches/msgbatch_1", method="GET")  # fmt: skip
        assert await jobs(here) == [], "its own object states no usage"
        lines = [line("claude-sonnet-4-5")] * 2 + [line("claude-haiku-4-5"), line("", "errored")]
        for _ in range(2):
            await here.run(b"", results(*lines), target=RESULTS, method="GET")
        sonnet, haiku = await jobs(here)
        assert (sonnet["model"], sonnet["input_tokens"], sonnet["output_tokens"]) == ("claude-sonnet-4-5", 200, 20)
        assert sonnet["cost_nanousd"] == (200 * 3_000 + 20 * 15_000) // 2
        assert haiku["cost_nanousd"] == (100 * 1_000 + 10 * 5_000) // 2
        assert spent(here) == sonnet["cost_nanousd"] + haiku["cost_nanousd"]


async def test_results_that_break_off_settle_nothing_until_they_are_read_whole(tmp_path):
    async with inside(tmp_path, UNMETERED, AT) as here:
        await a_batch(here)
        one = line("claude-sonnet-4-5")
        await here.run(b"", results(one, breaks=UpstreamCut("upstream_cut", "gone")), target=RESULTS, method="GET")
        assert await jobs(here) == []
        await here.run(b"", results(one, one), target=RESULTS, method="GET")
        assert [job["input_tokens"] for job in await jobs(here)] == [200]


async def test_a_message_batch_of_which_nothing_succeeded_is_free(tmp_path):
    async with inside(tmp_path, UNMETERED, AT) as here:
        await a_batch(here)
        await here.run(b"", whole({**BATCH, "processing_status": "ended"}),
                       target="/anthropic/v1/messages/batches/msgbatch_1", method="GET")  # fmt: skip
        [job] = await jobs(here)
        assert (job["cost_nanousd"], job["usage_source"]) == (0, "none") and spent(here) == 0


async def test_a_batch_under_a_spend_limit_is_refused_as_no_bound_of_it_is_known(tmp_path):
    async with inside(tmp_path) as here:
        sink = await here.run(b'{"input_file_id":"f"}', target="/openai/v1/batches")
        assert (sink.status, sink.no.code) == (400, "unmetered_operation")


TUNE = {"id": "ftjob-1", "object": "fine_tuning.job", "model": "gpt-4o", "status": "validating_files", "trained_tokens": None}
VIDEO = {"id": "video_1", "object": "video", "model": "sora-2", "status": "queued", "seconds": "4", "progress": 0}
OPERATION = {"name": "batches/b1", "metadata": {"model": "models/gemini-2.5-flash", "state": "BATCH_STATE_PENDING"}}
ANSWER = {"response": {"usageMetadata": {"promptTokenCount": 1000, "candidatesTokenCount": 200, "totalTokenCount": 1200}}}
ANSWERS = {"inlinedResponses": {"inlinedResponses": [ANSWER, ANSWER, {"error": {"code": 3}}]}}
GEMINI = AT.replace("anthropic", "gemini")
KINDS = {  # target, what begins it, where it is read, the answers to both
    "a fine-tuning job": (
        "/openai/v1/fine_tuning/jobs", {"model": "gpt-4o", "training_file": "file-1"}, "/openai/v1/fine_tuning/jobs/ftjob-1",
        TUNE, {**TUNE, "status": "succeeded", "trained_tokens": 9_000},
    ),
    "a video": (
        "/openai/v1/videos", {"model": "sora-2", "prompt": "a cat", "seconds": "4"}, "/openai/v1/videos/video_1",
        VIDEO, {**VIDEO, "status": "completed", "progress": 100},
    ),
    "a batch of Gemini's": (
        "/gemini/v1beta/models/gemini-2.5-flash:batchGenerateContent", {"batch": {"input_config": {}}}, "/gemini/v1beta/batches/b1",
        OPERATION, {**OPERATION, "done": True, "response": ANSWERS},
    ),
}  # fmt: skip
kinds = pytest.mark.parametrize("kind", KINDS)


async def begun(here, kind: str):
    target, ask, _, doc, _ = KINDS[kind]
    return await here.run(json.dumps(ask).encode(), whole(doc), target=target)


async def shown(here, kind: str, *, is_over: bool = True) -> None:
    _, _, target, doc, over = KINDS[kind]
    assert (await here.run(b"", whole(over if is_over else doc), target=target, method="GET", key="bob")).status == 200


def counted(here, name: str, *labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    lines = b"".join(here.rooms.metrics.exposition()).decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(f"sluice_{name}") and all(it in line for it in labels))


@kinds
async def test_what_states_no_cost_when_it_begins_is_refused_under_a_spend_limit(tmp_path, kind):
    async with inside(tmp_path, url=GEMINI) as here:
        sink = await begun(here, kind)
        assert (sink.status, sink.no.code) == (400, "unmetered_operation") and not here.upstream.sent


@kinds
@pytest.mark.parametrize("choice", ["flag", "allow"])
async def test_where_the_policy_lets_it_pass_it_is_a_job_that_is_settled_once_when_it_is_read_back(tmp_path, kind, choice):
    async with inside(tmp_path, f"unmetered: {choice}", GEMINI) as here:
        assert (await begun(here, kind)).status == 200
        [row] = await here.rows()
        assert (row["cost_nanousd"], row["usage_note"]) == (0, "unmetered,job" if choice == "flag" else "job")
        assert counted(here, "unpriced_total", 'reason="unmetered"') == (choice == "flag")
        await shown(here, kind, is_over=False)
        assert await jobs(here) == []
        for _ in range(2):
            await shown(here, kind)
        [job] = await jobs(here)
        assert (job["caller"], job["parent_id"]) == ("ann", f"{row['request_id']}/1") and not here.store.holds
        assert spent(here) == job["cost_nanousd"]
        assert counted(here, "cost_usd_total", 'caller="ann"') == pytest.approx(job["cost_nanousd"] / 10**9)


async def test_a_batch_of_geminis_costs_what_its_answers_used_at_batch_prices(tmp_path):
    async with inside(tmp_path, UNMETERED, GEMINI) as here:
        await begun(here, "a batch of Gemini's")
        await shown(here, "a batch of Gemini's")
        [job] = await jobs(here)
        assert (job["input_tokens"], job["output_tokens"], job["price_row"]["tier"]) == (2000, 400, "batch")
        assert job["cost_nanousd"] == (2000 * 300 + 400 * 2_500) // 2 == spent(here)


@pytest.mark.parametrize(("kind", "detail"), [("a fine-tuning job", {"trained_tokens": 9_000}), ("a video", {"seconds": "4"})])
async def test_what_is_billed_by_a_figure_without_a_price_is_never_a_silent_nothing(tmp_path, kind, detail):
    async with inside(tmp_path, UNMETERED, GEMINI) as here:
        await begun(here, kind)
        held = spent(here)
        assert (held > 0) == (kind == "a fine-tuning job"), "of a model that has a price something is held"
        await shown(here, kind)
        [job] = await jobs(here)
        assert (job["usage_detail"], job["usage_note"], job["usage_source"]) == (detail, "unpriced_units", "estimate")
        assert job["cost_nanousd"] == job["held_nanousd"] == held == spent(here)
        assert counted(here, "unpriced_total", 'reason="unpriced_units"') == 1


async def test_what_a_job_cost_and_used_is_in_the_metrics_once_for_whoever_began_it(tmp_path):
    async with inside(tmp_path) as here:
        await begin(here)
        assert counted(here, "cost_usd_total", 'caller="ann"') == counted(here, "tokens_total", 'caller="ann"') == 0
        for _ in range(2):
            await read(here, response("completed", usage=USAGE), key="bob")
        assert counted(here, "cost_usd_total", 'caller="ann"', 'model="gpt-4o"') == pytest.approx(COST / 10**9)
        assert counted(here, "tokens_total", 'caller="ann"') == 1200
        assert counted(here, "cost_usd_total", 'caller="bob"') == counted(here, "tokens_total", 'caller="bob"') == 0


async def test_reading_back_takes_none_of_the_readers_tokens_of_this_minute(tmp_path):
    async with inside(tmp_path, "limits: [{name: few, match: {}, tokens: 2500/min}]") as here:
        for _ in range(3):
            assert (await read(here, response("completed", usage=USAGE), key="bob")).status == 200
            assert (await here.rows())[0]["input_tokens"] == 1000, "its row shows them"
        assert (await here.run(chat(), completion(), key="bob")).status == 200, "three times 1200 tokens would be too many"
