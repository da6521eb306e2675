"""A provider that breaks off: never a clean end, the dialect's error event where one can stand, and a charge for what passed."""

import gzip
import json

import pytest
from support.inside import FINISH, STREAM, Answer, chat, completion, delta, event, talk, whole

from proxy.refusal import UpstreamCut

ERROR = {"error": {"message": "no", "type": "server_error", "code": None}}


@pytest.mark.parametrize("breaks", [UpstreamCut(), UpstreamCut("upstream_idle_timeout"), None])
async def test_a_stream_that_breaks_ends_with_an_error_event_and_no_clean_end(path, breaks):
    sink = await path.run(chat(stream=True), talk(delta("one"), delta("two"), breaks=breaks))
    assert sink.is_aborted
    assert not sink.is_finished
    *said, last = sink.body.decode().strip().split("\n\n")
    assert said == [one.decode().strip() for one in (delta("one"), delta("two"))]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == (breaks.code if breaks else "upstream_cut")
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["usage_source"]) == ("upstream_cut", "upstream_cut", "counted")
    assert 0 < row["cost_nanousd"] < row["held_nanousd"]
    await path.assert_nothing_is_left()


async def test_a_whole_answer_that_breaks_is_aborted_with_nothing_added_and_charged_at_its_estimate(path):
    answer = completion()
    answer.breaks = UpstreamCut()
    sink = await path.run(chat(), answer)
    assert sink.is_aborted
    assert sink.body == b"".join(answer.chunks)
    (row,) = await path.rows()
    assert row["end"] == "upstream_cut"
    await path.assert_nothing_is_left()


async def test_an_answer_that_breaks_before_it_began_for_the_client_is_a_refusal(path):
    list_ = whole({"data": [{"id": "gpt-4o"}, {"id": "o3"}]}, breaks=UpstreamCut("upstream_idle_timeout"))
    sink = await path.run(b"", list_, target="/openai/v1/models", method="GET", key="bob")
    assert (sink.status, sink.headers["x-sluice-error"]) == (504, "upstream_idle_timeout")
    await path.assert_nothing_is_left()


async def test_a_coding_cut_short_is_no_clean_end_of_an_answer_that_is_rewritten(path_with):
    path = await path_with("guard: {pii: {default: mask}, restore: true}")
    packed = gzip.compress(json.dumps({"choices": [{"message": {"content": "to [EMAIL_1]"}}], "usage": {}}).encode())
    answer = Answer(200, (packed[:-12],), more=((b"content-encoding", b"gzip"),))
    sink = await path.run(chat("bob@example.org"), answer, accept_encoding="gzip")
    assert sink.is_aborted
    assert path.story.end == "upstream_cut"
    await path.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("answer", "opens"),
    [
        (lambda: whole(ERROR, 400), False),
        (lambda: whole(ERROR, 404), False),
        (lambda: talk(delta("a"), event({"error": {"type": "invalid_request_error", "message": "no"}})), False),
        (lambda: talk(delta("a"), event({"error": {"type": "server_error", "message": "no"}})), True),
        (lambda: talk(delta("a"), breaks=UpstreamCut()), True),
        (lambda: Answer(200, (delta("a"), FINISH, event(b"[DONE]")), STREAM), False),
    ],
)
async def test_only_the_providers_own_failures_open_the_breaker(path, answer, opens):
    """Else one caller's bad requests would shut out all the others."""
    for _ in range(5):
        await path.run(chat(stream=True), answer())
    sink = await path.run(chat(), completion())
    assert (sink.headers.get("x-sluice-error") == "breaker_open") == opens
    await path.assert_nothing_is_left()
