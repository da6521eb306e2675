"""Attempts after a failure: what is repeated and what is not, with which key, and what each costs."""

import asyncio
import time

import pytest
from support import chat
from support.caller import ask

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE = ("x-stainless-retry-count", "1")


async def resets(seen, reply):
    reply.abort()


def kinds(rows):
    return [(row["attempt"], row["kind"], row["status"], row["cost_nanousd"] > 0) for row in rows]


async def test_5xx_is_repeated_and_each_attempt_has_its_row(case, in_turn):
    case.answers(in_turn(chat.fails(500), chat.fails(529), chat.good))
    got = await case.ask()
    assert (got.status, got.json, got.header("x-sluice-attempts")) == (200, chat.whole("good"), "3")
    assert got.header("x-should-retry") is None
    rows = await case.rows(got)
    assert kinds(rows) == [(1, "first", 500, False), (2, "retry", 529, False), (3, "retry", 200, True)]
    assert [row["parent_id"] for row in rows] == [None, *[f"{rows[0]['request_id']}/1"] * 2]
    assert rows[2]["cost_nanousd"] == chat.COST
    await asyncio.sleep(0.3)  # the log is written ten times a second
    retries = [line for line in case.sluice.log_lines() if line["event"] == "retry" and line["provider"] == case.name]
    assert [(line["attempt"], line["status"], line["error"]) for line in retries] == [(1, 500, "500"), (2, 529, "529")]


async def test_after_the_last_attempt_the_providers_own_answer_passes_and_no_sdk_repeats_ours(case):
    doc = chat.error("the model is overloaded, é")
    case.answers(chat.fails(503, [("Retry-After", "0"), ("X-Odd", "kept"), ("request-id", "theirs")], doc))
    got = await case.ask()
    assert (got.status, got.json, got.code) == (503, doc, None)
    assert (got.header("retry-after"), got.header("x-odd"), got.header("request-id")) == ("0", "kept", "theirs")
    assert (got.header("x-should-retry"), got.header("x-sluice-attempts")) == ("false", "3")
    assert len(case.seen()) == 3
    assert len({seen.body for seen in case.seen()}) == 1, "every attempt starts from the same call"


@pytest.mark.parametrize("headers", [[("retry-after-ms", "300")], [("Retry-After", "1")], []], ids=["ms", "seconds", "none"])
async def test_429_is_repeated_no_sooner_than_the_provider_asks(case, in_turn, headers):
    case.answers(in_turn(chat.fails(429, headers), chat.good))
    began = time.monotonic()
    got = await case.ask()
    least = 0.3 if headers and headers[0][0] == "retry-after-ms" else 1.0 if headers else 0.0
    assert least <= time.monotonic() - began < least + 15
    assert (got.status, len(case.seen())) == (200, 2)


@pytest.mark.parametrize(
    ("status", "headers", "doc"),
    [
        (429, [("Retry-After", "30")], None),
        (429, [], chat.error("no credit", "insufficient_quota", "insufficient_quota")),
        (503, [("x-should-retry", "false")], None),
        (400, [], chat.error("bad", "invalid_request_error")),
        (404, [], chat.error("no such model", "invalid_request_error", "model_not_found")),
        (422, [], None),
        (501, [], None),
    ],
    ids=["waits too long", "no credit", "says no", "bad request", "not found", "unprocessable", "never implemented"],
)
async def test_what_a_repetition_cannot_mend_passes_at_once_and_verbatim(case, status, headers, doc):
    case.answers(chat.fails(status, headers, doc))
    got = await case.ask()
    assert (got.status, got.json, len(case.seen())) == (status, doc or chat.error("overloaded"), 1)
    assert [got.header(name.lower()) for name, _ in headers] == [value for _, value in headers]
    assert got.header("x-sluice-attempts") == "1"


@pytest.mark.parametrize("status", [408, 409, 425])
async def test_what_may_be_billed_twice_is_repeated_once(case, status):
    case.answers(chat.fails(status))
    assert (await case.ask()).status == status
    assert len(case.seen()) == 2


async def test_a_reset_is_repeated_once_and_the_lost_attempt_stays_charged(case, in_turn):
    case.answers(in_turn(resets, chat.good))
    got = await case.ask()
    assert got.status == 200
    lost, kept = await case.rows(got)
    assert (lost["end"], lost["usage_note"], lost["cost_nanousd"]) == ("refused:upstream_reset", "unconfirmed", lost["held_nanousd"])
    assert (kept["kind"], kept["end"], kept["cost_nanousd"]) == ("retry", "done", chat.COST)


async def test_what_was_sent_and_may_be_billed_is_repeated_once_and_not_twice(case):
    case.answers(resets)
    got = await case.ask()
    assert (got.status, got.code, got.header("x-should-retry")) == (502, "upstream_reset", "false")
    assert len(case.seen()) == len(await case.rows(got)) == 2


async def test_a_provider_that_is_not_there_is_asked_again_and_costs_nothing(world):
    got = await ask(world.sluice.port, "POST", "/closed/v1/chat/completions", [chat.JSON, chat.KEY], chat.asked())
    assert (got.status, got.code) == (502, "upstream_connect")
    rows = [row for row in await world.sluice.rows() if row["request_id"] == got.header("x-sluice-request-id")]
    assert kinds(rows) == [(1, "first", None, False), (2, "retry", None, False), (3, "retry", None, False)]


async def stream_of(reply, *docs):
    await reply.start()
    for doc in docs:
        await reply.event(doc)


async def error_first(seen, reply):
    await stream_of(reply, chat.delta(None), chat.error("The server had an error", "server_error"))
    await reply.end()


async def cut_first(seen, reply):
    await stream_of(reply, chat.delta(None))
    reply.abort()


async def streams(seen, reply):
    await stream_of(reply, chat.delta(None), chat.delta("good"))
    await chat.stream_end(reply)


@pytest.mark.parametrize("first", [error_first, cut_first], ids=["an error event", "a cut"])
async def test_a_stream_that_fails_before_its_first_content_is_repeated_and_nothing_of_it_shows(case, in_turn, first):
    case.answers(in_turn(first, streams))
    got = await case.ask(chat.asked(stream=True))
    assert (got.status, got.header("x-sluice-attempts")) == (200, "2")
    assert got.body.count(b'"role"') == 1 and b"error" not in got.body and got.body.endswith(b"[DONE]\n\n")
    rows = await case.rows(got)
    assert [row["kind"] for row in rows] == ["first", "retry"]
    assert rows[1]["cost_nanousd"] == chat.COST


async def test_a_stream_that_fails_after_its_first_content_is_never_repeated(case):
    async def script(seen, reply):
        await stream_of(reply, chat.delta(None), chat.delta("some"), chat.error("The server had an error", "server_error"))
        await reply.end()

    case.answers(script)
    got = await case.ask(chat.asked(stream=True))
    assert b"some" in got.body and b'"server_error"' in got.body
    assert b"upstream_cut" not in got.body, "the provider's own error event ends it"
    assert len(case.seen()) == 1


async def test_anthropics_overload_inside_a_200_is_repeated(world, in_turn):
    begin = {"type": "message_start", "message": {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
             "content": [], "stop_reason": None, "usage": {"input_tokens": 10, "output_tokens": 1}}}  # fmt: skip

    async def overloaded(seen, reply):
        await reply.start()
        await reply.event(begin, "message_start")
        await reply.event({"type": "ping"}, "ping")
        await reply.event({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "error")
        await reply.end()

    async def answers(seen, reply):
        await reply.start()
        await reply.event(begin, "message_start")
        await reply.event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}, "content_block_start")
        delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "good"}}
        await reply.event(delta, "content_block_delta")
        await reply.event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        await reply.event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}}, "message_delta")
        await reply.event({"type": "message_stop"}, "message_stop")
        await reply.end()

    world.scripts["anthropic"] = in_turn(overloaded, answers)
    got = await ask(
        world.sluice.port, "POST", "/anthropic/v1/messages", [chat.JSON], chat.asked(model="claude-sonnet-4-5", stream=True, max_tokens=9)
    )
    assert (got.status, got.header("x-sluice-attempts")) == (200, "2")
    assert b"overloaded" not in got.body and b"good" in got.body and got.body.count(b"message_start") == 2  # its name and its type


async def test_an_sdk_that_repeats_already_gets_one_attempt(case):
    case.answers(chat.fails(503))
    got = await case.ask(None, ONCE)
    assert (got.status, len(case.seen()), got.header("x-should-retry")) == (503, 1, None)
    got = await case.ask(None, ("x-stainless-retry-count", "0"))
    assert len(case.seen()) == 1 + 3


async def test_no_attempt_starts_that_the_sdk_would_not_wait_for(case):
    case.answers(chat.fails(429, [("retry-after-ms", "900")]))
    got = await case.ask(None, ("x-stainless-timeout", "1.5"))
    assert (got.status, len(case.seen())) == (429, 1)


async def test_a_streamed_upload_is_never_repeated(case):
    case.answers(chat.fails(503))
    target = f"/{case.name}/v1/audio/transcriptions"
    got = await ask(case.sluice.port, "POST", target, [("Content-Type", "multipart/form-data; boundary=x"), chat.KEY], b"--x--\r\n")
    assert (got.status, len(case.seen())) == (503, 1)


# --- keys ---


async def test_a_key_that_is_refused_gives_way_to_the_next_and_stays_behind_after_three_refusals(case):
    async def script(seen, reply):
        bad = seen.header("authorization") == "Bearer sk-provider-key-one-1111"
        await reply.json(*((chat.error("bad key", "invalid_request_error", "invalid_api_key"), 401) if bad else (chat.whole("good"), 200)))

    case.answers(script)
    for _ in range(4):
        got = await case.ask(key=None)
        assert (got.status, got.json) == (200, chat.whole("good"))
    used = [seen.header("authorization")[-4:] for seen in case.seen()]
    assert used == ["1111", "2222"] * 3 + ["2222"]
    rows = await case.rows(got)
    assert [(row["credential"], row["status"]) for row in rows] == [("KEY_2", 200)]


async def test_a_key_without_credit_gives_way_at_once_and_the_last_ones_answer_passes(case):
    doc = chat.error("You exceeded your current quota", "insufficient_quota", "insufficient_quota")
    case.answers(chat.fails(429, [], doc))
    got = await case.ask(key=None)
    assert (got.status, got.json, got.header("x-should-retry")) == (429, doc, "false")
    assert [seen.header("authorization")[-4:] for seen in case.seen()] == ["1111", "2222"]


async def test_a_kept_connection_that_dies_under_a_call_is_replaced_and_both_attempts_have_a_row(case, in_turn):
    case.answers(in_turn(chat.good, resets, chat.good))
    assert (await case.ask()).status == 200
    got = await case.ask(None, ONCE)  # replaced even where no retry of ours is allowed
    assert (got.status, got.header("x-sluice-attempts")) == (200, "2")
    lost, kept = await case.rows(got)
    assert (lost["end"], lost["usage_source"], lost["cost_nanousd"]) == ("refused:upstream_reset", "estimate", lost["held_nanousd"])
    assert (kept["kind"], kept["cost_nanousd"]) == ("retry", chat.COST)
