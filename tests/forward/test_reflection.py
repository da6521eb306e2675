"""A provider that sends our own key back, whole or in pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.reflection import KeyReflected, NoReflection, without_key

KEY = b"sk-sk-secret-of-ours"


class AsIs:
    def feed(self, data):
        return data

    def end(self):
        return b""


class LastWord(AsIs):
    def end(self):
        return b" sk-"


def split_at(data, places):
    places = sorted({min(place, len(data)) for place in places})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(st.lists(st.sampled_from([KEY[:5], KEY[:-1], b"s", b"sk-", b"text", b"\n\n"])).map(b"".join), st.lists(st.integers(0, 80)))
def test_what_is_no_key_passes_whatever_the_split(data, places):
    if KEY in data:
        return
    line = NoReflection(AsIs(), KEY)
    assert b"".join(line.feed(piece) for piece in split_at(data, places)) + line.end() == data


@given(st.binary(max_size=20), st.binary(max_size=20), st.lists(st.integers(0, 60)))
def test_not_a_byte_of_the_key_passes_whatever_the_split(before, after, places):
    line, passed = NoReflection(AsIs(), KEY), b""
    with pytest.raises(KeyReflected):
        for piece in split_at(before + KEY + after, places):
            passed += line.feed(piece)
    assert before.startswith(passed)


def test_what_the_line_held_back_is_looked_at_too():
    line = NoReflection(LastWord(), KEY)
    assert line.feed(b"text") == b"text"
    assert line.end() == b" sk-"


def test_an_event_passes_at_once():
    assert NoReflection(AsIs(), KEY).feed(b"data: ask\n\n") == b"data: ask\n\n"


def test_headers_lose_the_key_and_keep_all_else():
    headers = ((b"X-Echo", b"Bearer " + KEY + b", " + KEY), (b"x-echo", b"other"))
    assert without_key(headers, KEY) == ((b"X-Echo", b"Bearer [redacted], [redacted]"), (b"x-echo", b"other"))
