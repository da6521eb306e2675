"""A stream is read in slices, or but its end: where they end, and how its lines end, changes no figure."""

import json
import re

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import Asked
from proxy.meter import reading
from proxy.meter.reading import STEP, StreamReading
from proxy.meter.tap import Watch


@pytest.mark.parametrize("eol", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("step", [1, 7, 100, 5000, 100_000])
def test_usage_does_not_depend_on_line_ends_and_slices(small_streams, eol, step):
    noise = b": ping\n\n" + 200 * b'data: {"note":"usage"}\n\n'
    for stream in (*small_streams[:3], small_streams[4]):
        body = stream.body.replace(b"\r\n", b"\n")
        first = body.index(b"\n\n") + 2
        body = (body[:first] + noise + body[first:]).replace(b"\n", eol.encode())
        watch = Watch(dialect_of(stream.dialect), stream.op, Asked(stream=True), content_type=stream.content_type)
        for at in range(0, len(body), step):
            watch.feed(body[at : at + step])
        assert (watch.usage().input, watch.usage().output, watch.usage().source) == (stream.input, stream.output, "provider")
        assert watch.ended


@pytest.mark.parametrize("size", [100, 70_000, 250_000])
def test_the_end_of_a_stream_is_kept_in_bounded_memory_however_large_its_events(small_streams, size):
    stream = small_streams[0]
    reading = StreamReading(dialect_of(stream.dialect), stream.op, "sse")
    event = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n' % (b"x" * size)
    for _ in range(30):
        reading.take(event * max(1, STEP // size))
        assert sum(map(len, reading._recent)) <= max(64 * 1024, 2 * len(event))
    assert len(reading._first) <= max(2 * STEP, len(event))
    reading.take(stream.body)
    reading.look()
    assert reading.is_whole


@pytest.mark.parametrize("name", [b"usage", b"usageMetadata", b"x_usage", b"usages", b"Usage", b"usagemetadata"])
@pytest.mark.parametrize("between", [b":", b" : ", b"\t:\n", b"\v:\f", b"\r\n:", b"\x1c:", b"\x85:", b"\\", b""])
@pytest.mark.parametrize("value", [b"{}", b"null", b" {", b"[{"])
def test_usage_is_looked_for_by_one_pattern_in_two_engines(name, between, value):
    for before in (b"", b"\xff\xfe\x00", "ü".encode() * 20_000):
        data = before + b'"' + name + b'"' + between + value + b"\xc3"
        assert (reading._may_state_usage(data) is None) == (reading._STATES_USAGE.search(data) is None)


def read(stream, body, pieces=None):
    """Of all of it, each event that states usage among it; else of the pieces that a line hears at the end."""
    if pieces is None:
        reading = StreamReading(dialect_of(stream.dialect), stream.op, "sse")
        reading.take(body)
        reading._read()  # before the look, which may find that the end says it all
        reading.look()
        return reading.usage, reading.error, reading.is_whole, False
    watch = Watch(dialect_of(stream.dialect), stream.op, Asked(stream=True), content_type=stream.content_type)
    watch.hear(pieces)
    reading = watch._look()
    return reading.usage, watch.error, watch.ended, bool(watch._chunks)


def chunk(**more):
    doc = {"id": "c1", "object": "chat.completion.chunk", "model": "gpt-4o", "choices": [], **more}
    return b"data: %b\n\n" % json.dumps(doc, separators=(",", ":")).encode()


USAGE = {"prompt_tokens": 9, "completion_tokens": 6, "total_tokens": 15}
SAID = chunk(choices=[{"index": 0, "delta": {"content": "xyz"}, "finish_reason": None}], usage=None)
ENDS = {  # of a stream; does it tell all?
    "usual": (chunk(usage=USAGE) + b"data: [DONE]\n\n", True),
    "details that are nought": (chunk(usage=USAGE | {"prompt_tokens_details": {"cached_tokens": 0}}) + b"data: [DONE]\n\n", True),
    "details": (chunk(usage=USAGE | {"prompt_tokens_details": {"cached_tokens": 3}}) + b"data: [DONE]\n\n", False),
    "no end": (chunk(usage=USAGE), False),
    "cut": (chunk(usage=USAGE) + b"data: [DO", False),
    "last line alone": (chunk(usage=USAGE) + b"data: [DONE]\n", False),
    "no usage": (SAID + b"data: [DONE]\n\n", False),
    "an error": (chunk(usage=USAGE) + b'data: {"error":{"type":"server_error","message":"no"}}\n\ndata: [DONE]\n\n', False),
    "an error before": (b'data: {"error":{"type":"server_error"}}\n\n' + 4 * SAID + chunk(usage=USAGE) + b"data: [DONE]\n\n", False),
    "with a choice": (chunk(choices=[{"delta": {}, "finish_reason": "stop"}], usage=USAGE) + b"data: [DONE]\n\n", False),
    "carriage returns": ((SAID + chunk(usage=USAGE) + b"data: [DONE]\n\n").replace(b"\n", b"\r\n"), False),
}


@pytest.mark.parametrize("size", [1, 40, 260, 5000, 100_000])
@pytest.mark.parametrize("end", ENDS)
def test_the_end_of_a_stream_tells_what_all_of_it_does(small_streams, end, size):
    stream, (last, is_usual) = small_streams[0], ENDS[end]
    body = 300 * SAID + last
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    if size == 260:  # each event by itself, as they come
        pieces = [event + b"\n\n" for event in body.split(b"\n\n") if event]
        pieces[-1] = pieces[-1][: len(pieces[-1]) - sum(map(len, pieces)) + len(body)]
    *told, is_by_its_end = read(stream, body, pieces)
    assert told == [*read(stream, body)[:3]]
    assert is_by_its_end == (is_usual and size >= 260)


def test_what_came_before_the_end_counts_where_the_end_does_not_state_all(small_streams):
    """xAI's running figures, and a last one that leaves a field out."""
    running = chunk(choices=[{"index": 0, "delta": {"content": "xyz"}}], usage=USAGE | {"prompt_tokens_details": {"cached_tokens": 4}})
    last = chunk(choices=[{"index": 0, "delta": {}, "finish_reason": "stop"}], usage=USAGE)
    body = running + 100 * SAID + last + b"data: [DONE]\n\n"
    usage, *_ = read(small_streams[0], body, [event + b"\n\n" for event in body.split(b"\n\n") if event])
    assert (usage.input, usage.cached_input, usage.output) == (9, 4, 6)


@pytest.mark.parametrize("step", [1000, 70_000])
def test_a_stream_that_is_longer_than_what_is_kept_of_it_states_its_usage_and_is_counted_to_its_end(small_streams, step):
    stream = small_streams[0]
    for last, source, output in ((chunk(usage=USAGE), "provider", 6), (b"", "counted", 4000)):
        body = 4000 * SAID + last + b"data: [DONE]\n\n"
        watch = Watch(dialect_of(stream.dialect), stream.op, Asked(stream=True), content_type=stream.content_type)
        for at in range(0, len(body), step):
            watch.feed(body[at : at + step])
        assert (watch.usage().source, watch.usage().output, watch.usage().note) == (source, output, "")
        assert watch._reading._uncounted_bytes <= reading.UNCOUNTED + 2 * step


def test_of_recorded_streams_the_end_tells_what_all_of_them_does(recorded_streams):
    told = 0
    for stream in recorded_streams:
        usages = []
        for pieces in ([event for event in re.split(rb"(?<=\n\n)", stream.body) if event], [stream.body]):
            watch = Watch(dialect_of(stream.dialect), stream.op, Asked(stream=True), content_type=stream.content_type)
            watch.hear(pieces)
            if len(pieces) == 1:
                watch._digest()
                watch._reading._read()
            usages.append((watch.usage(), watch.error, watch.ended))
            told += bool(watch._chunks)
        assert usages[0] == usages[1], stream.path
    assert told
