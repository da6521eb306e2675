"""A call that is stopped from outside, by the end of a drain: told so in its dialect, cut, charged for what passed."""

import asyncio
import contextlib
import json

import pytest
from support.inside import Sink, chat, completion, delta, talk

STREAMS = {
    "openai": ("/openai/v1/chat/completions", chat(stream=True), (delta("one"), delta("two"))),
    "anthropic": (
        "/anthropic/v1/messages",
        b'{"model":"claude-sonnet-4-5","max_tokens":9,"stream":true,"messages":[]}',
        (
            b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":1}}}\n\n',
            b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}\n\n',
        ),
    ),
}


async def stopped(path, body, answer, **call):
    sink = Sink()
    never = asyncio.Event()
    answer.after = lambda passed: never.wait() if passed == len(answer.chunks) else None
    task = asyncio.ensure_future(path.run(body, answer, sink=sink, **call))
    while answer.passed < len(answer.chunks):
        await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return sink


@pytest.mark.parametrize("dialect", STREAMS)
async def test_a_stream_ends_with_the_dialects_error_and_is_charged_for_what_passed(path, dialect):
    target, body, chunks = STREAMS[dialect]
    sink = await stopped(path, body, talk(*chunks), target=target)
    assert sink.is_aborted
    last = json.loads(sink.body.decode().strip().split("data: ")[-1])
    assert "stopped_drain" in json.dumps(last)
    assert last["error"]
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["usage_source"]) == ("stopped:drain", "stopped:drain", "counted")
    assert 0 < row["cost_nanousd"] < row["held_nanousd"]
    await path.assert_nothing_is_left()


async def test_what_was_held_back_comes_out_before_the_error(path_with):
    path = await path_with("guard: {pii: {default: mask}, restore: true}")
    sink = await stopped(path, chat("I am bob@example.org", stream=True), talk(delta("see [EMAIL_"), delta("1")))
    *said, error = [json.loads(line[6:]) for line in sink.body.decode().splitlines() if line.startswith("data: ")]
    assert "".join(one["choices"][0]["delta"]["content"] for one in said) == "see [EMAIL_1"
    assert error["error"]["code"] == "stopped_drain"
    await path.assert_nothing_is_left()


async def test_a_whole_answer_is_cut_with_nothing_added(path):
    answer = completion()
    sink = await stopped(path, chat(), answer)
    assert sink.is_aborted
    assert sink.body == b"".join(answer.chunks)
    assert path.story.end == "stopped:drain"
    await path.assert_nothing_is_left()


async def test_a_call_that_has_no_answer_yet_is_refused_with_503_and_may_be_retried(path):
    sink = Sink()
    task = asyncio.ensure_future(path.run(chat(), completion(), sink=sink))
    await asyncio.sleep(0)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert (sink.status, sink.headers["x-sluice-error"], sink.headers["retry-after"]) == (503, "draining", "1")
    await path.assert_nothing_is_left()
