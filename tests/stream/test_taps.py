"""A line passes events through its taps in order and lets go of everything at the end."""

import gzip

import pytest

from proxy.refusal import UpstreamCut
from proxy.stream.coding import Inflater
from proxy.stream.sse import SseDecoder
from proxy.stream.taps import Line, streaming
from proxy.stream.whole import WholeDecoder


class Shout:
    """Holds one event back, and shouts."""

    def __init__(self):
        self.held = []

    def feed(self, event):
        self.held.append(event.with_data(event.data.upper()))
        return [self.held.pop(0)] if len(self.held) > 1 else []

    def end(self):
        held, self.held = self.held, []
        return held


def test_a_line_without_taps_changes_nothing():
    line = Line(SseDecoder(), [])
    assert line.feed(b"data: a\r\n\r\nda") + line.feed(b"ta: b") + line.end() == b"data: a\r\n\r\ndata: b"


def test_what_a_tap_holds_at_the_end_passes_the_taps_behind_it():
    line = Line(SseDecoder(), [Shout(), Shout()])
    assert line.feed(b"data: a\n\ndata: b\n\n") == b""
    assert line.feed(b"data: c\n\n") == b"data: A\n\n"
    assert line.end() == b"data: B\n\ndata: C\n\n"
    assert line.end() == b""


def test_a_line_that_is_cut_ends_between_two_events_and_gives_what_taps_hold():
    line = streaming("sse", [Shout()])
    assert line.feed(b"data: a\n\ndata: b\n\ndata: c") == b"data: A\n\n"
    line.cut()
    assert line.end() == b"data: B\n\n"


@pytest.mark.parametrize(("form", "body"), [("sse", b"data: a\n\n"), ("ndjson", b'{"a":1}\n'), ("json-array", b'[{"a":1}')])
def test_a_stream_of_each_form_passes_whole_events_alone(form, body):
    line = streaming(form, [], "gzip")
    assert line.feed(gzip.compress(body + body[:3])) == body


def test_a_coded_answer_leaves_decoded():
    line = Line(SseDecoder(), [], Inflater("gzip", 1000))
    coded = gzip.compress(b"data: a\n\n")
    assert line.feed(coded[:7]) + line.feed(coded[7:]) == b"data: a\n\n"


def test_a_whole_body_is_one_event_at_its_end():
    line = Line(WholeDecoder(), [Shout()])
    assert line.feed(b'{"a":') + line.feed(b"\n1}") == b""
    assert line.end() == b'{"A":\n1}'
    assert Line(WholeDecoder(), []).end() == b""


def test_a_whole_body_above_its_bound_cuts_the_answer():
    line = Line(WholeDecoder(limit=10), [])
    with pytest.raises(UpstreamCut, match="too large"):
        line.feed(b"x" * 11)
    assert line.end() == b""


@pytest.mark.parametrize("form", ["sse", "ndjson"])
def test_whole_events_that_concern_no_tap_pass_undecoded(form):
    end = b"\n\n" if form == "sse" else b"\n"
    line = streaming(form, [Shout()], is_calm=lambda data: b"!" not in data)
    assert line.feed(b"data: a" + end + b"data: b" + end) == b"data: a" + end + b"data: b" + end
    assert line.feed(b"data: c!" + end) == b""  # held by the tap
    assert line.feed(b"data: d") == b""
    assert line.feed(b"e" + end) == (b"data: C!" if form == "sse" else b"DATA: C!") + end  # its first half was under way


@pytest.mark.parametrize("form", ["json-array", "ndjson", "sse"])
def test_bytes_that_may_be_no_whole_events_are_decoded(form):
    line = streaming(form, [Shout()], is_calm=lambda data: True)
    assert line.feed(b'[{"a":1}') == b""
