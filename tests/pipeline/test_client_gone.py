"""A client that leaves: the provider is let go, what was used is charged, and nothing is begun anew for nobody."""

import pytest
from support.inside import STREAM, Answer, Body, Sink, chat, completion, delta, error, talk, whole

from proxy.refusal import ClientGone


def leaves(sink: Sink, after: int):
    def look(passed: int) -> None:
        sink.is_gone = passed >= after

    return look


async def test_in_the_middle_of_a_stream_it_pays_for_what_it_got(path):
    sink = Sink()
    sink = await path.run(chat(stream=True), talk(delta("one two three"), *[delta("more")] * 50, after=leaves(sink, 1)), sink=sink)
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["usage_source"]) == ("client_gone", "client_gone", "counted")
    assert 0 < row["output_tokens"] < 50
    assert 0 < row["cost_nanousd"] < row["held_nanousd"]
    assert sink.body == delta("one two three")
    await path.assert_nothing_is_left()


async def test_before_a_whole_answer_it_pays_what_the_answer_may_have_cost(path):
    sink = Sink()
    answer = completion()
    answer.after = leaves(sink, 1)
    await path.run(chat(), answer, sink=sink)
    (row,) = await path.rows()
    assert (row["end"], row["usage_source"], row["cost_nanousd"]) == ("client_gone", "estimate", row["held_nanousd"])
    await path.assert_nothing_is_left()


async def test_while_a_retry_waits_no_other_attempt_is_begun(path):
    sink = Sink()

    def fails():
        sink.is_gone = True
        return error(503)

    await path.run(chat(), fails, completion(), sink=sink)
    (row,) = await path.rows()
    assert (path.story.end, row["status"], row["cost_nanousd"]) == ("client_gone", 503, 0)
    await path.assert_nothing_is_left()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_that_is_finished_anyway_is_charged_exactly(path_with, stream):
    path = await path_with("on_client_gone: finish")
    sink = Sink()
    answer = talk() if stream else completion()
    answer.after = leaves(sink, 1)
    await path.run(chat(stream=stream), answer, sink=sink)
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["usage_source"]) == ("client_gone", "client_gone", "provider")
    assert (row["input_tokens"], row["output_tokens"]) == (9, 4)
    assert answer.passed == len(answer.chunks)
    await path.assert_nothing_is_left()


async def test_in_its_own_upload_it_pays_nothing(path_with):
    path = await path_with("unknown_price: allow")
    body = Body(b"x" * 100, length=1000, breaks=ClientGone())
    await path.run(body, whole({}), target="/openai/v1/audio/transcriptions", content_type="audio/mp3")
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["cost_nanousd"], row["usage_source"]) == ("client_gone", "client_gone", 0, "none")
    await path.assert_nothing_is_left()


async def test_a_client_that_leaves_is_no_fault_of_the_providers(path):
    for _ in range(8):
        sink = Sink()
        await path.run(chat(stream=True), Answer(200, (delta("a"), delta("b")), STREAM, after=leaves(sink, 1)), sink=sink)
    assert (await path.run(chat(), completion())).status == 200
