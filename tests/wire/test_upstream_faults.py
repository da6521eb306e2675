"""What a sick provider leads to, end to end, where no retry is made: status, code, the shape of the end, and what is charged."""

import asyncio
import gzip
import json
import time

import pytest
from support import chat
from support.caller import Caller, Cut, ask
from support.provider import Reply

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONCE = ("x-stainless-retry-count", "1")
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def writes(data, then="close"):
    async def script(seen, reply: Reply):
        await reply.raw(data)
        reply.keeps = False
        if then == "reset":
            reply.abort()
        elif then == "hang":
            await asyncio.wait_for(seen.gone.wait(), 10)

    return script


WITHOUT_AN_ANSWER = {
    "reset before the head": (writes(b"", "reset"), 502, "upstream_reset"),
    "closed before the head": (writes(b""), 502, "upstream_reset"),
    "closed inside the head": (writes(HEAD), 502, "upstream_reset"),
    "not HTTP": (writes(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"), 502, "upstream_protocol"),
    "a garbage header": (writes(b"HTTP/1.1 200 OK\r\n\x00\x01: a\r\n\r\n"), 502, "upstream_protocol"),
    "two lengths": (writes(HEAD + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\nabc"), 502, "upstream_protocol"),
    "length and chunks": (writes(HEAD + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 502, "upstream_protocol"),
    "an upgrade nobody asked for": (
        writes(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"),
        502,
        "upstream_protocol",
    ),
    "a head of 100 kB": (writes(HEAD + b"x: " + b"y" * 100_000 + b"\r\n\r\n"), 502, "upstream_protocol"),
    "silence": (writes(b"", "hang"), 504, "upstream_first_byte_timeout"),
    "half a head, then silence": (writes(HEAD, "hang"), 504, "upstream_first_byte_timeout"),
}


@pytest.mark.parametrize("fault", WITHOUT_AN_ANSWER)
@pytest.mark.parametrize("is_streamed", [False, True], ids=["whole", "streamed"])
async def test_a_provider_that_gives_no_answer_is_named_and_what_was_sent_stays_charged_at_its_estimate(case, fault, is_streamed):
    script, status, code = WITHOUT_AN_ANSWER[fault]
    case.answers(script)
    began = time.monotonic()
    got = await case.ask(chat.asked(stream=is_streamed, max_tokens=50), ONCE)
    assert time.monotonic() - began < 20
    assert (got.status, got.code, got.json["error"]["code"]) == (status, code, code)
    assert case.name in got.json["error"]["message"]
    (row,) = await case.rows(got)
    assert (row["end"], row["kind"], row["status"], row["usage_source"]) == (f"refused:{code}", "first", None, "estimate")
    assert row["cost_nanousd"] == row["held_nanousd"] > 0
    assert row["usage_note"] == "unconfirmed"
    assert len(case.seen()) == 1


async def test_a_provider_that_is_not_there_costs_nothing(world):
    got = await ask(world.sluice.port, "POST", "/closed/v1/chat/completions", [chat.JSON, chat.KEY, ONCE], chat.asked())
    assert (got.status, got.code) == (502, "upstream_connect")
    (row,) = [row for row in await world.sluice.rows() if row["request_id"] == got.header("x-sluice-request-id")]
    assert (row["end"], row["cost_nanousd"], row["usage_source"]) == ("refused:upstream_connect", 0, "none")


BODY = json.dumps(chat.whole()).encode()
CUT_WHOLE = {
    "short of its length": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY[:40],
    "no body at all": HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY),
    "inside a chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(BODY) + BODY[:40],
    "between chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n28\r\n" + BODY[:40] + b"\r\n",
    "garbage between chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n28\r\n" + BODY[:40] + b"\r\nzz\r\n",
}


@pytest.mark.parametrize("then", ["close", "reset"])
@pytest.mark.parametrize("fault", CUT_WHOLE)
async def test_a_json_answer_that_breaks_off_never_looks_whole(case, row_soon, fault, then):
    case.answers(writes(CUT_WHOLE[fault], then))
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, chat.KEY, ONCE], chat.asked(max_tokens=50))
        head = await caller.head()
        if head.status == 200:
            with pytest.raises(Cut):
                await caller.rest()
        else:
            assert (head.status, head.code) == (502, "upstream_protocol")
    row = await row_soon(case.sluice, head.header("x-sluice-request-id"))
    assert row["end"] == "upstream_cut"
    assert 0 < row["cost_nanousd"] <= row["held_nanousd"]


WORDS = b"".join(b"data: %b\n\n" % json.dumps(chat.delta(text)).encode() for text in (None, "one ", "two "))
ZIPPED = gzip.compress(WORDS)
CUT_STREAM = {
    "inside a chunk": SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(WORDS) + 20) + WORDS,
    "between chunks": SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(WORDS) + WORDS + b"\r\n",
    "a clean end without [DONE]": SSE + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(WORDS) + WORDS + b"\r\n0\r\n\r\n",
    "a close that looks like an end": SSE + b"\r\n" + WORDS,
    "a length that is all there": SSE + b"Content-Length: %d\r\n\r\n" % len(WORDS) + WORDS,
    "between the lines of an event": SSE + b"\r\n" + WORDS + b"event: x\n",
}


def last_event(body):
    return json.loads(body.rstrip(b"\n").rpartition(b"\n")[2].removeprefix(b"data: "))


@pytest.mark.parametrize("fault", CUT_STREAM)
async def test_a_stream_that_breaks_off_ends_with_an_error_event_and_without_a_clean_end(case, row_soon, fault):
    case.answers(writes(CUT_STREAM[fault]))
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, chat.KEY, ONCE], chat.asked(stream=True, max_tokens=50))
        head = await caller.head()
        with pytest.raises(Cut) as cut:
            await caller.rest()
    body = cut.value.body
    assert body.startswith(WORDS)
    assert last_event(body)["error"]["code"] == "upstream_cut"
    assert b"[DONE]" not in body
    row = await row_soon(case.sluice, head.header("x-sluice-request-id"))
    assert (row["end"], row["status"], row["usage_source"]) == ("upstream_cut", 200, "counted")
    assert row["output_tokens"] >= 2 and 0 < row["cost_nanousd"] <= row["held_nanousd"]


async def test_a_stream_that_breaks_off_inside_an_event_is_aborted_without_a_word(case, row_soon):
    """An event that we ended for the provider would be read as the provider's: SDKs stumble over its half JSON, and never see our error."""
    case.answers(writes(SSE + b"\r\n" + WORDS + b'data: {"id":'))
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, chat.KEY, ONCE], chat.asked(stream=True, max_tokens=50))
        head = await caller.head()
        with pytest.raises(Cut) as cut:
            await caller.rest()
    assert cut.value.body == WORDS + b'data: {"id":'
    assert (await row_soon(case.sluice, head.header("x-sluice-request-id")))["end"] == "upstream_cut"


async def test_a_compressed_stream_that_breaks_off_is_aborted_with_the_bytes_that_came(case, row_soon):
    case.answers(writes(SSE + b"Content-Encoding: gzip\r\n\r\n" + ZIPPED[:-12]))
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, chat.KEY, ONCE, ("Accept-Encoding", "gzip")],
                          chat.asked(stream=True, stream_options={"include_usage": True}))  # fmt: skip
        head = await caller.head()
        with pytest.raises(Cut) as cut:
            await caller.rest()
    assert cut.value.body == ZIPPED[:-12], "plain text inside a gzip stream would be garbage"
    assert (await row_soon(case.sluice, head.header("x-sluice-request-id")))["end"] == "upstream_cut"


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
async def test_an_answer_that_stalls_is_cut_after_the_idle_time_and_pings_of_ours_do_not_hide_it(case, row_soon, is_streamed):
    begun = SSE + b"\r\n" + WORDS if is_streamed else HEAD + b"Content-Length: 500\r\n\r\n{"
    case.answers(writes(begun, "hang"))
    began = time.monotonic()
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, chat.KEY, ONCE], chat.asked(stream=is_streamed))
        head = await caller.head()
        with pytest.raises(Cut) as cut:
            await caller.rest()
    assert 0.9 < time.monotonic() - began < 20
    if is_streamed:
        assert last_event(cut.value.body)["error"]["code"] == "upstream_idle_timeout"
    assert (await row_soon(case.sluice, head.header("x-sluice-request-id")))["end"] == "upstream_cut"
    await asyncio.wait_for(case.seen()[-1].gone.wait(), 20)


async def test_a_redirect_of_a_call_is_never_followed(case):
    async def script(seen, reply):
        await reply.whole(307, b"", headers=[("Location", "http://127.0.0.1:1/elsewhere")])

    case.answers(script)
    got = await case.ask(None, ONCE)
    assert (got.status, got.code, got.header("x-should-retry")) == (502, "upstream_redirect", "false")
    assert got.header("location") is None
    assert len(case.seen()) == 1


async def test_a_200_that_is_no_json_passes_verbatim_and_is_charged_at_its_estimate(case):
    async def script(seen, reply):
        await reply.whole(200, b"<html>maintenance</html>")

    case.answers(script)
    got = await case.ask()
    assert (got.status, got.body) == (200, b"<html>maintenance</html>")
    (row,) = await case.rows(got)
    assert row["usage_source"] in ("estimate", "counted") and row["cost_nanousd"] > 0


REFUSED_KEY = {
    "error": {"message": "Incorrect API key provided: sk-provider-key-one-1111", "type": "invalid_request_error", "code": "invalid_api_key"}
}


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_of_ours_that_is_refused_is_502_and_nothing_of_the_answer_passes(case, status):
    async def script(seen, reply):
        await reply.json(REFUSED_KEY, status, [("www-authenticate", "Bearer sk-provider-key-one-1111")])

    case.answers(script)
    got = await case.ask(key=None)
    assert (got.status, got.code, got.header("x-should-retry")) == (502, "upstream_auth", "false")
    shown = got.body + repr(got.headers).encode()
    assert b"sk-provider" not in shown and b"Incorrect API key" not in shown
    assert [seen.header("authorization") for seen in case.seen()] == [f"Bearer sk-provider-key-{n}" for n in ("one-1111", "two-2222")]
    rows = await case.rows(got)
    assert [(row["credential"], row["status"], row["cost_nanousd"]) for row in rows] == [("KEY_1", status, 0), ("KEY_2", status, 0)]


@pytest.mark.parametrize("status", [401, 403])
async def test_a_key_of_the_callers_that_is_refused_is_the_callers_business(case, status):
    async def script(seen, reply):
        await reply.json(REFUSED_KEY, status)

    case.answers(script)
    got = await case.ask()
    assert (got.status, got.json, got.code) == (status, REFUSED_KEY, None)
    assert [seen.header("authorization") for seen in case.seen()] == [chat.KEY[1]]


@pytest.mark.parametrize("is_streamed", [True, False], ids=["streamed", "whole"])
async def test_a_provider_that_sends_our_key_back_is_cut_off_before_it(case, row_soon, is_streamed):
    def echo(seen):
        return seen.header("authorization")

    async def script(seen, reply):
        if is_streamed:
            await reply.start(headers=[("x-echo", echo(seen))])
            await reply.event(chat.delta("before"))
            half = json.dumps(chat.delta(f"your key: {echo(seen)}"))
            at = half.index("sk-") + 9
            await reply.chunk(f"data: {half[:at]}")
            await asyncio.sleep(0.05)
            await reply.chunk(half[at:] + "\n\n")
            await chat.stream_end(reply)
        else:
            await reply.json(chat.error(f"bad request with {echo(seen)}"), 400, [("x-echo", echo(seen))])

    case.answers(script)
    async with Caller(case.sluice.port) as caller:
        await caller.send("POST", case.target, [chat.JSON, ONCE], chat.asked(stream=is_streamed))
        head = await caller.head()
        assert head.header("x-echo") == "Bearer [redacted]"
        with pytest.raises(Cut) as cut:
            await caller.rest()
    assert b"sk-" not in cut.value.body and (b"before" in cut.value.body) == is_streamed
    assert (await row_soon(case.sluice, head.header("x-sluice-request-id")))["end"] == "upstream_cut"


async def test_the_connection_of_a_broken_answer_is_never_used_again(case, in_turn):
    async def good(seen, reply):
        await reply.json(chat.whole("good"))

    broken = writes(HEAD + b"Content-Length: 10\r\n\r\n0123456789HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen", "hang")
    case.answers(in_turn(broken, good))
    assert (await case.ask(None, ONCE)).body == b"0123456789"
    for _ in range(3):
        assert (await case.ask(None, ONCE)).json == chat.whole("good")
