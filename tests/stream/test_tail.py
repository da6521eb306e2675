"""Where an error event of ours may stand in a stream that broke off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.tail import Tail

GAPS = [
    ("sse", b"", b""),
    ("sse", b"data: 1\n\n", b""),
    ("sse", b"data: 1\r\n\r\n", b""),
    ("sse", b"data: 1\r\r", b""),
    ("sse", b"data: 1\n", b"\n"),
    ("sse", b"data: 1\r\n", b"\r\n"),
    ("sse", b"data: 1\r", b"\r"),
    ("sse", b"data: 1", None),
    ("sse", b"data: 1\n\nd", None),
    ("sse", b"\n", b"\n"),
    ("ndjson", b"", b""),
    ("ndjson", b"{}\n", b""),
    ("ndjson", b"{}\n{", None),
    ("json-array", b"", None),
    ("json-array", b'[{"a": 1}', b""),
    ("json-array", b'[{"a": 1}\n', b""),
    ("json-array", b'[{"a": 1},', None),
    ("json-array", b'[{"a": "', None),
]


class AsIs:
    def feed(self, data):
        return data

    def end(self):
        return b""


class HoldsBack:
    """Keeps everything until the end."""

    def __init__(self):
        self.held = b""

    def feed(self, data):
        self.held += data
        return b""

    def end(self):
        return self.held


@pytest.mark.parametrize(("form", "passed", "gap"), GAPS)
def test_an_event_can_stand_behind_a_whole_one_and_never_inside(form, passed, gap):
    tail = Tail(AsIs())
    assert tail.feed(passed) == passed
    assert tail.gap(form) == gap


@given(st.lists(st.text("d\r\n}").map(str.encode)), st.sampled_from(["sse", "ndjson", "json-array"]))
def test_any_split_tells_the_same_and_no_byte_changes(pieces, form):
    split, whole = Tail(AsIs()), Tail(AsIs())
    assert b"".join(split.feed(piece) for piece in pieces) == whole.feed(b"".join(pieces))
    assert split.gap(form) == whole.gap(form)


@pytest.mark.parametrize("size", [3, 4, 4096, 4097, 300_000])
def test_a_piece_of_any_size_may_be_the_last(size):
    tail = Tail(AsIs())
    for end, gap in ((b"\n", b"\n"), (b"x", None), (b"\n", b"\n")):
        tail.feed(b"d" * (size - 1) + end)
        assert tail.gap("sse") == gap
    tail.feed(b"\n")
    assert tail.gap("sse") == b""


def test_what_was_held_back_counts_when_it_comes_out():
    tail = Tail(HoldsBack())
    tail.feed(b"data: 1")
    assert tail.gap("sse") == b""
    assert tail.end() == b"data: 1"
    assert tail.gap("sse") is None
