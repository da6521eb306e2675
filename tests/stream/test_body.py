"""A request body is read once, and what two readers could read differently is refused."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import Refusal
from proxy.stream.body import POLICY_FIELDS, read_json


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"1",
        b"{",
        b'{"a":1,}',
        b'{"a":1} {"b":2}',
        b'{"a":1}x',
        b"{/* c */}",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'\xef\xbb\xbf{"a":1}',
        '{"a":1}'.encode("utf-16"),
        b'{"a":"\\ud800"}',
        b'{"a":"\xff"}',
        b"[" * 100_000,
        b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
        b'{"a":' * 65 + b"1" + b"}" * 65,
    ],
)
def test_what_is_no_one_shallow_object_is_malformed(raw):
    with pytest.raises(Refusal) as no:
        read_json(raw)
    assert (no.value.status, no.value.code, no.value.should_retry) == (400, "malformed_json", False)


@pytest.mark.parametrize(
    "raw",
    [
        b"{}",
        b' {"a": [1, 2.5, null]} ',
        b'{"a":' + b"[" * 63 + b"]" * 63 + b"}",
        b'{"a":[' * 32 + b"]}" * 32,
        json.dumps({"m": [{"c": [[]]}] * 100}).encode(),
    ],
)
def test_64_levels_and_any_width_are_read(raw):
    assert read_json(raw) == json.loads(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"stream":false,"stream":true}',
        b'{"model":"a","messages":[],"model":"b"}',
        b'{"model":"a","m\\u006fdel":"b"}',
        b'{"max_tokens" : 1 , "x":{"max_tokens":2}, "max_tokens":3}',
        b'{"model": "a", "x": "' + b'\\"' * 5000 + b'", "model": "b"}',  # more quotes than are few
    ],
)
def test_a_policy_field_that_stands_twice_is_refused(raw):
    with pytest.raises(Refusal) as no:
        read_json(raw)
    assert (no.value.status, no.value.code) == (400, "duplicate_key")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"m","messages":[{"content":"model"},{"model":"nested"}]}',
        b'{"metadata":1,"metadata":2,"model":"m"}',
        b'{"model":"model","x":"m\\u006fdel"}',
    ],
)
def test_the_same_name_elsewhere_is_no_duplicate(raw):
    assert read_json(raw) == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "is_fine"),
    [
        (b'{"model":"a\\u0000"}', False),
        (b'{"user":"\\u0000"}', False),
        (b'{"input":"\\u0000"}', True),
        (b'{"model":"a","user":"\\u0000"}', False),
        (b'{"model":7,"user":"\\u0000"}', False),
        (b'{"model":["\\u0000"],"user":7}', True),
    ],
)
def test_nul_is_for_texts_not_for_identifiers(raw, is_fine):
    if is_fine:
        assert read_json(raw) == json.loads(raw)
    else:
        with pytest.raises(Refusal, match="invalid_request"):
            read_json(raw)


NAMES = st.sampled_from(["model", "messages", "x", "stream", "mod\\u0065l", "a\\u0022b", 'a\\"b', "user"])
LEAVES = st.sampled_from(
    ['"model"', '"a\\"b"', '"\\u0022"', '"\\\\"', '"\\\\u0022"', '"\u00e9"', "1", "1.0", "1e5", "null", "123456789012345678901"]
)
BLANKS = st.sampled_from(["", "", " ", "\n"])


def written(values):
    """JSON in anybody's writing: keys twice, blanks anywhere, escapes that need not be."""
    member = st.tuples(NAMES, BLANKS, BLANKS, values).map(lambda parts: '"{}"{}:{}{}'.format(*parts))
    return st.tuples(BLANKS, st.lists(member, max_size=4)).map(lambda parts: "{" + (parts[0] + "," + parts[0]).join(parts[1]) + "}")


@given(written(st.recursive(LEAVES, lambda inner: written(inner) | st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"))))
def test_no_policy_field_stands_twice_in_what_is_read_however_it_is_written(text):
    pairs = json.loads(text, object_pairs_hook=lambda pairs: Pairs(key for key, _ in pairs))
    is_twice = any(pairs.count(name) > 1 for name in POLICY_FIELDS)
    try:
        read_json(text.encode())
    except Refusal as no:
        assert (no.code, is_twice) == ("duplicate_key", True)
    else:
        assert not is_twice


class Pairs(list):
    """The keys of an object as they stand."""
