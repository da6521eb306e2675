"""The usage chunk that Sluice asked for is taken out at any split; every other byte passes, and passes at once."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.meter.strip import StripUsage

USAGE = '{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}'
SPACED = '{ "id": "c", "choices": [ ], "usage": { "prompt_tokens": 1 } }'
KEPT = [
    "data: " + json.dumps({"choices": [{"delta": {"content": "a"}}], "usage": None}, separators=(",", ":")),
    'data: {"choices":[],"prompt_filter_results":[{"x":1}],"usage":null}',
    "data: " + json.dumps({"choices": [{"delta": {"content": '"choices":[] "usage":{'}}]}),
    'data: {"choices":[{"delta":{}}],"usage":{"total_tokens":3}}',
    ": keep-alive",
    "event: x\ndata: {}",
    "data: [DONE]",
    "data: " + "x" * 40_000,
]
EOLS = [b"\n", b"\r\n", b"\r"]


class Through:
    """Stands for the watch."""

    def __init__(self):
        self.seen = b""

    def feed(self, data):
        self.seen += data
        return data

    def end(self):
        return b""


def framed(event, eol):
    return event.encode().replace(b"\n", eol) + eol + eol


@given(st.lists(st.sampled_from([*KEPT, "data: " + USAGE, "data: " + SPACED]), max_size=8), st.sampled_from(EOLS), st.data())
def test_only_the_usage_chunk_is_taken_out_wherever_chunks_are_cut(events, eol, data):
    body = b"".join(framed(event, eol) for event in events)
    expected = b"".join(framed(event, eol) for event in events if event in KEPT)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=40)))
    watch = Through()
    strip = StripUsage(watch)
    pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert b"".join([*map(strip.feed, pieces), strip.end()]) == expected
    assert watch.seen == body


@pytest.mark.parametrize("eol", EOLS)
def test_every_single_byte_split_gives_the_same(eol):
    body = framed(KEPT[0], eol) + framed("data: " + USAGE, eol) + framed(KEPT[-2], eol)
    strip = StripUsage(Through())
    out = b"".join(strip.feed(bytes([byte])) for byte in body) + strip.end()
    assert out == framed(KEPT[0], eol) + framed(KEPT[-2], eol)


@pytest.mark.parametrize("event", [event for event in KEPT if "data" in event])
def test_a_complete_event_passes_at_once(event):
    assert StripUsage(Through()).feed(framed(event, b"\n")) == framed(event, b"\n")


def test_the_text_of_an_event_under_way_passes_as_soon_as_it_cannot_be_the_chunk():
    strip = StripUsage(Through())
    assert strip.feed(b'data: {"id":1,"choices":[') == b""
    assert strip.feed(b'{"delta"') == b'data: {"id":1,"choices":[{"delta"'
    assert strip.feed(b":{}}]") == b":{}}]"


def test_nothing_is_held_without_bound():
    strip = StripUsage(Through())
    assert strip.feed(b"data: " + b"x" * 20_000) == b"data: " + b"x" * 20_000


@pytest.mark.parametrize(("last", "out"), [("data: " + USAGE, b""), ("data: [DONE]", b"data: [DONE]")])
def test_a_last_event_without_its_blank_line_is_judged_as_it_is(last, out):
    strip = StripUsage(Through())
    assert strip.feed(last.encode()) + strip.end() == out
