"""Lines of JSON come out one by one, at any split, with every byte."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import UpstreamCut
from proxy.stream.ndjson import NdjsonDecoder


@given(
    st.lists(st.sampled_from([b'{"a":1}\n', b'{"b":"\xc3\xa9"}\r\n', b"\n"]), max_size=5),
    st.booleans(),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_any_split_gives_the_lines_and_every_byte(lines, is_cut, places):
    raw = b"".join(lines) + b'{"c":2}' * is_cut
    decoder = NdjsonDecoder()
    edges = [0, *sorted(min(place, len(raw)) for place in places), len(raw)]
    events = [event for a, b in pairwise(edges) for event in decoder.feed(raw[a:b])] + decoder.end()
    assert b"".join(event.raw for event in events) == raw
    assert [event.data for event in events] == raw.replace(b"\r", b"").removesuffix(b"\n").split(b"\n") if raw else not events


def test_a_changed_line_keeps_its_end_and_a_copy_of_an_unended_one_begins_a_new_line():
    decoder = NdjsonDecoder()
    (line,) = decoder.feed(b'{"a":1}\r\n{"b"')
    assert line.with_data(b"{}").raw == b"{}\r\n"
    assert decoder.end()[0].copy_with(b"{}").raw == b"\n{}"


def test_a_line_above_the_bound_cuts_the_stream():
    with pytest.raises(UpstreamCut, match="line too long"):
        NdjsonDecoder(limit=10).feed(b"x" * 11)
