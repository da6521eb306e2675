"""The watch: bytes pass as they came, usage is the provider's or counted, and no cut, split or hostile byte changes that."""

import json
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.dialect import dialect_of
from proxy.dialect.wire import Asked, Operation
from proxy.meter.tap import Watch


def watch_of(stream, **more):
    more = {"content_type": stream.content_type, "input_bound": 1000, "output_bound": 4096} | more
    return Watch(dialect_of(stream.dialect), stream.op, Asked(stream=True), **more)


def fed(watch, body, cuts=()):
    """The body through the watch, cut at these places; checks that nothing is changed."""
    at = 0
    for cut in sorted({cut % (len(body) + 1) for cut in cuts} | {len(body)}):
        piece = body[at:cut]
        assert watch.feed(piece) is piece
        at = cut
    assert watch.end() == b""
    return watch


def whole(op_path, doc, *, dialect="openai", asked=None, **more):
    path, _, query = op_path.partition("?")
    body = doc if isinstance(doc, bytes) else json.dumps(doc).encode()
    more = {"content_type": "application/json", "input_bound": 1000, "output_bound": 4096} | more
    return fed(Watch(dialect_of(dialect), dialect_of(dialect).operation("POST", path, query), asked or Asked(), **more), body)


def test_a_stream_gives_the_providers_figures_and_its_end(stream):
    watch = fed(watch_of(stream), stream.body)
    usage = watch.usage()
    assert (usage.input, usage.output, usage.source, usage.ended) == (stream.input, stream.output, "provider", True)
    assert watch.ended and watch.is_stream and watch.error is None


def test_usage_of_recorded_streams_is_what_the_provider_billed(recorded_streams):
    for stream in recorded_streams:
        watch = fed(watch_of(stream), stream.body)
        usage = watch.usage()
        assert (usage.input, usage.output, usage.source) == (stream.input, stream.output, "provider"), stream.path
        assert watch.ended or not stream.ends, stream.path


@given(st.data())
@settings(max_examples=60)
def test_usage_does_not_depend_on_where_the_network_cut(recorded_streams, data):
    stream = data.draw(st.sampled_from(recorded_streams[:60]))
    cuts = data.draw(st.lists(st.integers(0, len(stream.body)), max_size=30))
    body = stream.body[: data.draw(st.sampled_from([len(stream.body), len(stream.body) // 2]))]
    split, at_once = fed(watch_of(stream), body, cuts), fed(watch_of(stream), body)
    assert (split.usage(), split.ended, split.error) == (at_once.usage(), at_once.ended, at_once.error)


@pytest.mark.parametrize("status", ["queued", "in_progress"])
def test_a_response_that_goes_on_in_the_background_is_charged_its_estimate(status):
    usage = whole("/v1/responses", {"status": status, "background": True, "tools": [{"description": "x"}], "usage": None}).usage()
    assert (usage.input, usage.output, usage.source, usage.note) == (1000, 4096, "estimate", "usage_missing")


def test_usage_does_not_depend_on_a_single_cut_anywhere(stream):
    expected = fed(watch_of(stream), stream.body).usage()
    for cut in range(len(stream.body)):
        assert fed(watch_of(stream), stream.body, [cut]).usage() == expected


def test_a_cut_stream_is_counted_at_no_less_than_what_passed_and_has_not_ended(stream):
    events = stream.body.count(b"text") + stream.body.count(b'"content": ')
    for share in range(1, 10):
        body = stream.body[: len(stream.body) * share // 10]
        watch = fed(watch_of(stream), body)
        usage = watch.usage()
        assert usage.source in ("counted", "provider")
        assert usage.output <= stream.output or usage.output <= events + len(body) // 3
        if usage.source == "counted":
            assert not watch.ended
            assert usage.input in (1000, stream.input)


def test_asking_early_and_often_changes_nothing(stream):
    watch = watch_of(stream)
    for at in range(0, len(stream.body), 7):
        watch.feed(stream.body[at : at + 7])
        watch.usage()
    assert watch.usage() == fed(watch_of(stream), stream.body).usage()


def test_anthropics_placeholder_is_not_taken_for_the_final_figure(small_streams):
    stream = small_streams[1]
    body = stream.body[: stream.body.index(b'data: {"type": "content_block_stop')]
    usage = fed(watch_of(stream), body).usage()
    text = "Hallo 世界, und noch mehr Text".encode()
    assert (usage.input, usage.output, usage.source) == (12, -(-len(text) // 3), "counted")


def test_every_event_with_text_counts_for_a_token_at_least(small_streams):
    stream = small_streams[0]
    body = b"".join(b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n' for _ in range(50))
    usage = fed(watch_of(stream), body).usage()
    assert (usage.input, usage.output, usage.source) == (1000, 50, "counted")


def test_a_text_repeated_as_a_whole_is_counted_once():
    events = [
        {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "Hello there, "},
        {"type": "response.output_text.delta", "item_id": "m1", "output_index": 0, "content_index": 0, "delta": "world of ours"},
        {"type": "response.output_text.done", "item_id": "m1", "output_index": 0, "content_index": 0, "text": "Hello there, world of ours"},
    ]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    assert whole("/v1/responses", body, content_type="text/event-stream").usage().output == -(-len("Hello there, world of ours") // 3)


def test_function_calls_that_come_whole_are_counted():
    call = {"functionCall": {"name": "f", "args": {"city": "a city with quite a long name"}}}
    body = b"data: " + json.dumps({"candidates": [{"content": {"parts": [call]}}]}).encode() + b"\r\n\r\n"
    path = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert whole(path, body, dialect="gemini", content_type="text/event-stream").usage().output >= 10


def test_a_client_that_leaves_before_the_first_event_pays_the_input(small_streams):
    watch = watch_of(small_streams[0])
    assert (watch.usage().input, watch.usage().output, watch.usage().source, watch.ended) == (1000, 0, "counted", False)


def test_a_long_stream_is_counted_as_it_goes_and_keeps_no_copy(small_streams):
    stream = small_streams[0]
    event = b'data: {"choices":[{"index":0,"delta":{"content":"' + b"x" * 90 + b'"}}]}\n\n'
    watch = watch_of(stream)
    for _ in range(9000):
        watch.feed(event)
    assert watch._reading._uncounted_bytes < 400_000
    assert watch.usage().output == 9000 * 30
    watch.feed(stream.body)
    assert (watch.usage().output, watch.usage().source, watch.ended) == (6, "provider", True)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate"])
def test_a_compressed_stream_is_read_by_a_copy_and_a_truncated_one_has_not_ended(small_streams, coding):
    stream = small_streams[1]
    engine = zlib.compressobj(wbits=15 if coding == "deflate" else 31)
    packed = engine.compress(stream.body) + engine.flush()
    watch = fed(watch_of(stream, content_encoding=coding.upper()), packed, range(0, len(packed), 5))
    assert (watch.usage().output, watch.usage().source, watch.ended) == (21, "provider", True)
    assert not fed(watch_of(stream, content_encoding=coding), packed[:-9]).ended


def test_a_compressed_bomb_is_not_inflated_and_costs_the_estimate(small_streams):
    stream = small_streams[0]
    engine = zlib.compressobj(9, wbits=31)
    packed = b"".join(engine.compress(b"\0" * 1_000_000) for _ in range(80)) + engine.flush()
    watch = fed(watch_of(stream, content_encoding="gzip"), packed, range(0, len(packed), 30_000))
    usage = watch.usage()
    assert (usage.input, usage.output, usage.source, usage.note) == (1000, 4096, "estimate", "usage_unparsed")
    assert watch.ended, "what cannot be read cannot be called cut"


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br"])
def test_a_stream_in_a_coding_that_nobody_reads_is_none_that_can_be_read_from_its_beginning(coding):
    watch = Watch(dialect_of("openai"), Operation("chat"), Asked(), "text/event-stream", coding)
    assert not watch.is_stream


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, br", "gzip"])
def test_an_answer_in_a_coding_that_cannot_be_read_costs_the_estimate(small_streams, coding):
    usage = fed(watch_of(small_streams[0], content_encoding=coding), b"\x28\xb5\x2f\xfd not what it says").usage()
    assert (usage.source, usage.note) == ("estimate", "usage_unparsed")


def test_an_event_above_four_megabytes_costs_the_estimate(small_streams):
    watch = watch_of(small_streams[0])
    for _ in range(90):
        watch.feed(b"data: " + b"x" * 50_000)
    assert (watch.usage().source, watch.usage().note) == ("estimate", "usage_unparsed")


@pytest.mark.parametrize("junk", [b"data: {not json\n\n", b"data: [1,2]\n\n", b": comment\n\n", b"\n\n\n", b"data:\n\n", b"event: x\r\r"])
def test_junk_between_events_changes_no_figure(small_streams, junk):
    for stream in (small_streams[0], small_streams[1]):
        first = stream.body.index(b"\n\n") + 2
        usage = fed(watch_of(stream), b"\xef\xbb\xbf" + stream.body[:first] + junk + stream.body[first:]).usage()
        assert (usage.input, usage.output, usage.source) == (stream.input, stream.output, "provider")


def test_a_stream_counted_past_an_event_that_is_no_json_says_so(small_streams):
    event = b'data: {"choices":[{"index":0,"delta":{"content":"abc"}}]}\n\n'
    usage = fed(watch_of(small_streams[0]), event + b": ping\n\ndata: {torn\n\n" + event).usage()
    assert (usage.output, usage.source, usage.note) == (2, "counted", "usage_unparsed")


def test_ever_new_channels_are_forgotten_and_still_counted():
    events = [{"type": "response.output_text.delta", "item_id": f"m{n}", "content_index": 0, "delta": "abc"} for n in range(5000)]
    body = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    watch = whole("/v1/responses", body, content_type="text/event-stream")
    assert watch.usage().output == 5000
    assert len(watch._reading._count._channels) < 5000


@given(st.binary(max_size=300), st.sampled_from(["text/event-stream", "application/json", "application/stream+json", "text/html"]))
def test_no_byte_string_breaks_the_watch(body, content_type):
    for dialect, path in (
        ("openai", "/v1/chat/completions"),
        ("gemini", "/v1beta/models/m:streamGenerateContent"),
        ("anthropic", "/v1/messages"),
    ):
        usage = whole(path, body, dialect=dialect, content_type=content_type).usage()
        assert usage.source in ("counted", "estimate")


def test_a_dialect_that_fails_costs_an_estimate_and_never_the_answer(small_streams):
    class Failing:
        def __getattr__(self, name):
            raise RuntimeError(name)

    for content_type in ("text/event-stream", "application/json"):
        watch = Watch(Failing(), Operation("chat"), Asked(), content_type=content_type, input_bound=7, output_bound=8)
        fed(watch, small_streams[0].body if "stream" in content_type else b"{}")
        assert (watch.usage().input, watch.usage().output, watch.usage().source) == (7, 8, "estimate")


def test_an_error_event_is_told_and_what_passed_is_counted(small_streams):
    stream = small_streams[1]
    cut = stream.body.index(b'data: {"type": "content_block_stop')
    body = stream.body[:cut] + b'event: error\ndata: {"type":"error","error":{"type":"overloaded_error","message":"x"}}\n\n'
    watch = fed(watch_of(stream), body)
    assert (watch.error, watch.ended, watch.usage().source, watch.usage().input) == ("overloaded_error", True, "counted", 12)


CHAT = {"model": "gpt-4o", "choices": [{"message": {"content": "Grüße"}}], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}


def test_a_whole_json_answer_gives_its_usage_and_a_torn_one_the_estimate():
    watch = whole("/v1/chat/completions", CHAT)
    assert (watch.usage().input, watch.usage().output, watch.usage().source, watch.ended) == (7, 3, "provider", True)
    torn = whole("/v1/chat/completions", json.dumps(CHAT).encode()[:-5])
    assert (torn.usage().output, torn.usage().source, torn.usage().note, torn.ended) == (4096, "estimate", "usage_missing", False)


def test_a_whole_answer_without_usage_is_counted_by_its_text():
    watch = whole("/v1/chat/completions", {"choices": [{"message": {"role": "assistant", "content": "é" * 30}}]})
    assert (watch.usage().input, watch.usage().output, watch.usage().source) == (1000, 20, "counted")


@pytest.mark.parametrize("size", [3_000_000, 5_000_000, 9_500_000])
def test_of_a_very_long_answer_the_usage_at_its_end_is_read(size):
    doc = {"object": "list", "data": [{"b64_json": "A" * size}], "note": '"usage": {"prompt_tokens": 1}', "model": "m",
           "usage": {"prompt_tokens": 70, "completion_tokens": 9}}  # fmt: skip
    watch = whole("/v1/chat/completions", doc)
    assert (watch.usage().input, watch.usage().output, watch.usage().source, watch.ended) == (70, 9, "provider", True)


@pytest.mark.parametrize("end", ["", ',"usage":{"prompt_tokens"', ',"usage":' + '{"a":' * 5000])
def test_a_very_long_answer_without_a_readable_end_costs_the_estimate(end):
    usage = whole("/v1/chat/completions", b'{"x":"' + b"A" * 4_300_000 + b'"' + end.encode()).usage()
    assert (usage.source, usage.note) == ("estimate", "usage_missing")


@pytest.mark.parametrize(
    ("dialect", "path", "status"),
    [
        ("anthropic", "/v1/messages/count_tokens", 200),
        ("openai", "/v1/moderations", 200),
        ("openai", "/v1/batches", 200),
        ("openai", "/v1/chat/completions", 400),
        ("anthropic", "/v1/messages", 529),
    ],
)
def test_what_is_not_billed_not_metered_or_failed_uses_nothing(dialect, path, status):
    usage = whole(path, {"input_tokens": 5, "error": {"type": "x", "message": "y"}}, dialect=dialect, status=status).usage()
    assert (usage.source, usage.input, usage.output) == ("none", 0, 0)


def test_an_error_object_under_a_200_is_told():
    assert whole("/v1/chat/completions", {"error": {"code": 502, "message": "x", "type": "server_error"}}).error is not None


def test_speech_is_bounded_by_what_was_sent():
    usage = whole("/v1/audio/speech", b"ID3\x04 sound", content_type="audio/mpeg").usage()
    assert (usage.source, usage.units) == ("counted", {"characters": 1000, "audio_ms": 1000})


def test_images_made_are_counted_and_embeddings_put_out_nothing():
    made = whole("/v1/images/generations", {"created": 1}, asked=Asked(images=3)).usage()
    assert (made.units, made.output) == ({"images": 3}, 0)
    embedded = whole("/v1/embeddings", {"data": [{"embedding": [0.1]}], "model": "m"}).usage()
    assert (embedded.input, embedded.output, embedded.source) == (1000, 0, "counted")


def test_an_html_page_under_a_200_costs_the_estimate():
    assert whole("/v1/chat/completions", b"<html>", content_type="text/html").usage().source == "estimate"
