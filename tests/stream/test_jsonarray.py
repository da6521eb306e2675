"""A streamed JSON array gives its elements at any split, and every byte back."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import UpstreamCut
from proxy.stream.jsonarray import JsonArrayDecoder

ELEMENT = st.dictionaries(st.text(max_size=4), st.text('{}[]",\\é ', max_size=8) | st.lists(st.integers(), max_size=3), max_size=3)


def decoded(pieces):
    decoder = JsonArrayDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.end()


@given(st.lists(ELEMENT, max_size=4), st.sampled_from([",", ",\r\n", "\n, "]), st.data())
def test_any_split_gives_the_elements_and_every_byte(elements, comma, data):
    raw = ("[" + comma.join(json.dumps(element) for element in elements) + "\n]\n").encode()
    places = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=6)))
    edges = [0, *places, len(raw)]
    events = decoded([raw[a:b] for a, b in itertools.pairwise(edges)])
    assert b"".join(event.raw for event in events) == raw
    assert [json.loads(event.data) for event in events if event.data[:1] == b"{"] == elements
    assert [event.data for event in events][len(elements)] == b"]"


@given(st.lists(ELEMENT, min_size=1, max_size=3), st.data())
def test_a_copy_in_front_of_or_behind_any_element_leaves_a_valid_array(elements, data):
    raw = json.dumps(elements).encode()
    events = decoded([raw])
    at = data.draw(st.integers(0, len(elements) - 1))
    parts = [event.raw for event in events]
    parts.insert(at + 1, events[at].copy_with(b'{"new":1}').raw)
    assert json.loads(b"".join(parts)) == [*elements[: at + 1], {"new": 1}, *elements[at + 1 :]]


def test_an_element_goes_out_with_its_closing_brace():
    decoder = JsonArrayDecoder()
    assert decoder.feed(b'[{"a":"}') == []
    assert [event.raw for event in decoder.feed(b'"}')] == [b'[{"a":"}"}']
    assert [event.raw for event in decoder.feed(b'\n,{"b":{}}')] == [b'\n,{"b":{}}']


def test_an_object_instead_of_an_array_is_one_event():
    (event,) = decoded([b'{"error":', b'{"code":429}}'])
    assert event.with_data(b"{}").raw == b"{}"


def test_what_is_cut_short_comes_out_as_it_came():
    assert [event.raw for event in decoded([b'[{"a":"\\'])] == [b'[{"a":"\\']


def test_an_element_above_the_bound_cuts_the_stream():
    decoder = JsonArrayDecoder(limit=100)
    with pytest.raises(UpstreamCut, match="too long"):
        decoder.feed(b'[{"a":"' + b"x" * 100)
