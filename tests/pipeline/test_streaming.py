"""A call that goes well: the provider's own bytes and headers, ours beside them, and the true cost."""

import asyncio
import gzip
import json
import socket
import sys

import pytest
from support.inside import STREAM, TALK, Answer, Body, Sink, chat, completion, delta, event, talk, whole

from proxy.meter.recompute import recompute
from proxy.refusal import Refusal


async def test_each_piece_of_a_stream_reaches_the_client_before_the_next_is_asked_for(path):
    sink = Sink()
    heard = []
    await path.run(chat(stream=True), talk(after=lambda passed: heard.append(sink.body)), sink=sink)
    assert heard[0] == TALK[0]
    assert heard[1] == TALK[0] + TALK[1]
    assert sink.length is None
    assert sink.is_finished


async def test_what_has_come_for_another_stream_goes_out_before_the_end_of_one_is_booked(path):
    loop, order = asyncio.get_running_loop(), []
    ours, theirs = socket.socketpair()
    with ours, theirs:
        loop.add_reader(ours, lambda: order.append(ours.recv(99)))

        def has_come(passed):
            if passed == len(TALK):  # and from here on the loop does not look at its sockets before the stream is over
                loop.call_soon(theirs.send, b"another's")

        sink = Sink()
        path.store.settle = lambda *what, settle=path.store.settle: (order.append("booked"), settle(*what))
        await path.run(chat(stream=True), talk(after=has_come), sink=sink)
        loop.remove_reader(ours)
    assert order == [b"another's", "booked"]
    assert sink.is_finished


async def test_the_usage_we_asked_for_is_taken_out_again_and_charged(path):
    sink = await path.run(chat(stream=True), talk(), accept_encoding="gzip, br")
    assert json.loads(path.upstream.bodies[0])["stream_options"] == {"include_usage": True}
    assert dict(path.upstream.sent[0].headers)[b"accept-encoding"] == b"identity"
    assert b'"choices": []' not in sink.body
    (row,) = await path.rows()
    assert (row["input_tokens"], row["output_tokens"], row["usage_source"], row["end"]) == (9, 4, "provider", "done")
    assert row["cost_nanousd"] == 9 * 2500 + 4 * 10000
    await path.assert_nothing_is_left()


async def test_also_where_the_provider_says_that_it_is_not_encoded(path):
    sink = await path.run(chat(stream=True), talk(more=((b"content-encoding", b"identity"),)))
    assert b'"choices": []' not in sink.body


async def test_the_usage_the_caller_asked_for_stays(path):
    sink = await path.run(chat(stream=True, stream_options={"include_usage": True}), talk())
    assert sink.body == b"".join(TALK)


async def test_a_whole_answer_keeps_its_length_and_its_headers_and_says_what_was_reserved(path):
    sink = await path.run(chat(), completion(), x_request_id="mine-1")
    assert sink.length == len(sink.body)
    headers = sink.headers
    assert (headers["x-sluice-request-id"], headers["x-sluice-provider"], headers["x-sluice-attempts"]) == ("mine-1", "openai", "1")
    (row,) = await path.rows("mine-1")
    assert headers["x-sluice-reserved-usd"] == f"{row['held_nanousd'] / 1e9:.9f}"
    assert "x-sluice-cost-usd" not in headers  # nobody knows it before the last byte
    assert {"x-sluice-limit", "x-ratelimit-limit", "ratelimit", "server-timing"} <= set(headers)


async def test_a_body_that_was_masked_is_held_by_nobody_when_the_call_has_left(path_with):
    path = await path_with("guard: {pii: {default: mask}, restore: true}")
    body, held = Body(chat("write to bob@x.org")), []

    def answered():
        held.append(sys.getrefcount(body.pieces[0]))
        return completion()

    before = sys.getrefcount(body.pieces[0])
    await path.run(body, answered)
    assert held == [before]


async def test_a_rewritten_answer_has_neither_the_length_nor_the_coding_it_came_with(path_with):
    path = await path_with("guard: {pii: {default: mask}, restore: true}")
    packed = gzip.compress(json.dumps({"choices": [{"message": {"content": "to [EMAIL_1]"}}], "usage": {}}).encode())
    answer = Answer(200, (packed[:9], packed[9:]), more=((b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(packed))))
    sink = await path.run(chat("I am bob@example.org"), answer, accept_encoding="gzip")
    assert sink.length is None
    assert "content-encoding" not in sink.headers
    assert sink.json["choices"][0]["message"]["content"] == "to bob@example.org"
    assert sink.headers["x-sluice-guard"] == "masked email=1"


async def test_placeholders_come_back_in_the_wire_format_of_another_provider_of_the_family(path_with):
    path = await path_with("guard: {pii: {default: mask}, restore: true}\nfallback: {gpt-4o: [spare/gpt-4o]}\nretry: {attempts: 1}")
    sink = await path.run(
        chat("I am bob@example.org", stream=True), whole({}, 503), talk(delta("to [EMA"), delta("IL_1]"), *TALK[2:])
    )  # fmt: skip
    said = [json.loads(line[6:]) for line in sink.body.decode().splitlines() if line.startswith("data: {")]
    assert "".join(one["choices"][0]["delta"].get("content", "") for one in said) == "to bob@example.org"


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 304), ("GET", 204), ("DELETE", 204)])
async def test_an_answer_without_a_body_is_one(path, method, status):
    answer = Answer(status, (), more=((b"content-length", b"77"),) if status != 204 else (), length=0)
    sink = await path.run(b"", answer, target="/openai/v1/files/f", method=method, content_type="")
    assert (sink.status, sink.body, sink.is_finished) == (status, b"", True)
    assert sink.headers.get("content-length") == ("77" if status != 204 else None)
    (row,) = await path.rows()
    assert (row["cost_nanousd"], row["end"]) == (0, "done")
    await path.assert_nothing_is_left()


async def test_a_list_of_models_shows_those_the_caller_may_use_and_its_cost_is_known(path):
    listed = {"object": "list", "data": [{"id": "gpt-4o"}, {"id": "o3"}, {"id": "gpt-4o-2024-08-06"}]}
    packed = gzip.compress(json.dumps(listed).encode())
    answer = Answer(200, (packed,), more=((b"content-encoding", b"gzip"),), length=len(packed))
    sink = await path.run(b"", answer, target="/openai/v1/models", method="GET", key="bob", accept_encoding="gzip")
    assert [one["id"] for one in sink.json["data"]] == ["gpt-4o", "gpt-4o-2024-08-06"]
    assert sink.length == len(sink.body)
    assert "content-encoding" not in sink.headers
    assert sink.headers["x-sluice-cost-usd"] == "0.000000000"
    answer = Answer(200, (packed,), more=((b"content-encoding", b"gzip"),), length=len(packed))
    sink = await path.run(b"", answer, target="/openai/v1/models", method="GET", key="ann", accept_encoding="gzip")
    assert sink.body == packed


async def test_an_error_answer_with_usage_is_charged_that_usage(path):
    answer = whole({"error": {"message": "filtered"}, "usage": {"prompt_tokens": 7, "completion_tokens": 0, "total_tokens": 7}}, 400)
    await path.run(chat(), answer)
    (row,) = await path.rows()
    assert (row["status"], row["input_tokens"], row["cost_nanousd"]) == (400, 7, 7 * 2500)


async def test_an_upload_streams_through_and_is_charged_by_its_answer(path_with):
    path = await path_with("unknown_price: allow")
    body = Body(b"a" * 50, b"b" * 50, length=None)
    sink = await path.run(body, whole({"text": "hello"}), target="/openai/v1/audio/transcriptions", content_type="audio/mp3")
    assert sink.status == 200
    assert path.upstream.bodies == [b"a" * 50 + b"b" * 50]
    assert path.upstream.sent[0].upload_length is None
    await path.assert_nothing_is_left()


@pytest.mark.parametrize("length", [0, None], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize(("kind", "said"), [("text/plain", b"hello\n"), ("application/json", b'{"text": "hello"}')])
async def test_a_transcription_that_states_no_duration_is_charged_the_longest_that_its_bytes_can_be(path, kind, said, length):
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b\r\n'
    body = Body(form, b"a" * 50_000, b"b" * 50_000, length=length)
    answer = Answer(200, (said,), kind)
    await path.run(body, answer, target="/openai/v1/audio/transcriptions", content_type="multipart/form-data; boundary=b")
    (row,) = await path.rows()
    sent_ms = len(form) + 100_000  # a byte is a millisecond at 8 kbit/s
    assert (row["model"], row["usage_source"], row["price_row"]["units"]) == ("whisper-1", "counted", {"audio_ms": sent_ms})
    assert row["cost_nanousd"] == recompute(row) == sent_ms * 100  # $0.006 a minute
    await path.assert_nothing_is_left()


@pytest.mark.parametrize(("length", "status"), [(0, 200), (None, 400)], ids=["Content-Length", "chunked"])
async def test_an_upload_under_a_budget_is_held_by_its_length_or_by_the_most_that_is_taken(path_with, length, status):
    path = await path_with("limits: [{name: poor, match: {operation: audio}, per: caller, spend: $1/day}]")
    form = b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b\r\n'
    body = Body(form, b"a" * 50_000, length=length)
    answer = whole({"text": "hi", "usage": {"type": "duration", "seconds": 3}})
    sink = await path.run(body, answer, target="/openai/v1/audio/transcriptions", content_type="multipart/form-data; boundary=b")
    assert (sink.status, sink.headers.get("x-sluice-error")) == (status, "exceeds_limit" if status == 400 else None)
    assert (b"send Content-Length" in sink.body) == (status == 400)
    (row,) = await path.rows()
    assert row["held_nanousd"] == (100 * (len(form) + 50_000) if status == 200 else 0)
    await path.assert_nothing_is_left()


async def test_an_upload_that_breaks_is_refused_and_costs_nothing(path_with):
    path = await path_with("unknown_price: allow")
    body = Body(b"a" * 50, length=100, breaks=Refusal(408, "request_timeout"))
    sink = await path.run(body, whole({}), target="/openai/v1/audio/transcriptions", content_type="audio/mp3")
    assert (sink.status, sink.headers["x-sluice-error"]) == (408, "request_timeout")
    (row,) = await path.rows()
    assert (row["cost_nanousd"], row["usage_source"]) == (0, "none")
    await path.assert_nothing_is_left()


async def test_a_provider_that_shows_our_key_is_cut_off(path):
    key = b"sk-provider-secret-1"
    sink = await path.run(chat(stream=True), talk(delta("a"), event(b'{"key":"' + key + b'"}'), more=((b"x-debug", b"is " + key),)))
    assert key not in sink.body
    assert key.decode() not in str(sink.headers)
    assert sink.is_aborted
    await path.assert_nothing_is_left()


async def test_a_callers_own_key_travels_and_may_come_back(path):
    sink = await path.run(chat(), completion("sk-mine-and-mine-alone"), key="Bearer sk-mine-and-mine-alone")
    assert dict(path.upstream.sent[0].headers)[b"authorization"] == b"Bearer sk-mine-and-mine-alone"
    assert b"sk-mine-and-mine-alone" in sink.body
    assert sink.is_finished


@pytest.mark.parametrize(
    ("location", "back"),
    [
        (b"http://127.0.0.1:9/v1/files/x?a=1", "http://127.0.0.1/openai/v1/files/x?a=1"),
        (b"/v1/files/x", "/openai/v1/files/x"),
        (b"//elsewhere.example/x", "//elsewhere.example/x"),
        (b"https://elsewhere.example/x", "https://elsewhere.example/x"),
    ],
)
async def test_a_redirect_of_a_get_leads_back_through_here(path, location, back):
    sink = await path.run(
        b"", Answer(302, (), more=((b"location", location),), length=0), target="/openai/v1/files/f", method="GET", content_type=""
    )  # fmt: skip
    assert (sink.status, sink.headers["location"]) == (302, back)


async def test_a_stream_of_another_kind_is_passed_as_it_is(path_with):
    path = await path_with("unmetered: allow")
    sink = await path.run(chat(), Answer(200, (b"event: x\n\n",), STREAM), target="/openai/v1/something/new")
    assert (sink.body, sink.is_finished) == (b"event: x\n\n", True)
