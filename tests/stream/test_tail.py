"""Where an error event of ours may stand in a stream that broke off."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.tail import LONGEST, gap

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


@pytest.mark.parametrize(("form", "passed", "before"), GAPS)
def test_an_event_can_stand_behind_a_whole_one_and_never_inside(form, passed, before):
    assert gap(passed, form) == before


@given(st.text("d\r\n}").map(str.encode), st.sampled_from(["sse", "ndjson", "json-array"]))
def test_the_last_bytes_tell_the_same_as_all(passed, form):
    assert gap(passed[-LONGEST:], form) == gap(passed, form)
