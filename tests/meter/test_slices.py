"""A stream is read in slices: where they end, and how its lines end, changes no figure."""

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
