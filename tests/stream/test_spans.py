"""Spans point at exactly the bytes of a value, and an edit changes no other byte."""

import json
import re

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.stream.spans import decode, edit, insert_key, locate, strings, top_level, value_end, value_span

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=20,
)
STYLES = (
    {"separators": (",", ":")},
    {"indent": 2},
    {"ensure_ascii": False},
    {"separators": (" ,\r\n", "\t: ")},
)


def dumped(value, style):
    return json.dumps(value, **style).encode("utf-8", "surrogatepass")


def leaves(value):
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, dict):
        return [leaf for key, child in value.items() for leaf in [*leaves(key), *leaves(child)]]
    return [leaf for child in value for leaf in leaves(child)] if isinstance(value, list) else []


def long_numbers(value):
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [json.dumps(value)] if re.match(r"-?\d{7}", json.dumps(value)) else []
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [number for child in children for number in long_numbers(child)]


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5), st.sampled_from(STYLES))
def test_each_top_level_span_parses_to_its_value(doc, style):
    raw = dumped(doc, style)
    assert {key: orjson.loads(raw[start:end]) for key, (start, end) in top_level(raw).items()} == orjson.loads(raw)


@given(JSON, st.sampled_from(STYLES))
def test_every_string_at_any_depth_is_reached_in_order(doc, style):
    raw = dumped(doc, style)
    found = strings(raw, ("**",))
    texts = [orjson.loads(b'"' + raw[span.start : span.end] + b'"') for span in found if not span.is_number]
    assert texts == leaves(orjson.loads(raw))
    assert [raw[span.start : span.end].decode() for span in found if span.is_number] == long_numbers(json.loads(raw))


def paths(value, so_far=()):
    yield so_far, value
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from paths(child, (*so_far, key))


@given(JSON, st.sampled_from(STYLES))
def test_every_path_leads_to_its_value(doc, style):
    raw = dumped(doc, style)
    for path, value in paths(orjson.loads(raw)):
        start, end = locate(raw, path)
        assert orjson.loads(raw[start:end]) == value


@pytest.mark.parametrize("path", [("b",), ("a", 2), ("a", "0"), (0,), ("a", 0, "x"), ("s", 0)])
def test_a_path_that_is_not_there_leads_nowhere(path):
    assert locate(b'{"a": [1, {"x": 2}], "s": "text"}', path) is None


@pytest.mark.parametrize(
    ("surface", "reached"),
    [
        (("messages.*.content",), ["hello", "plain"]),
        (("messages.*.content.*.text",), ["part"]),
        (("messages.*.content", "messages.*.content.*.text"), ["hello", "part", "plain"]),
        (("messages.*.input.**",), ["to", "a@b.cc", "cc", "d@e.ff", "scalar"]),
        (("tools.**.description",), ["outer", "inner"]),
        (("**.text",), ["part", "deep"]),
        (("absent.*.x", "messages.0.content"), []),
        ((), []),
    ],
)
def test_a_surface_reaches_what_it_spells(surface, reached):
    raw = dumped(
        {
            "model": "m",
            "messages": [
                {"role": "user", "content": "hello"},
                {"content": [{"type": "text", "text": "part"}, {"image": {"url": "data:..."}}]},
                {"input": {"to": "a@b.cc", "cc": ["d@e.ff", 5, None, ""]}},
                {"input": "scalar", "content": "plain"},
            ],
            "tools": [{"function": {"description": "outer", "parameters": {"x": {"description": "inner", "name": "n"}}}}],
            "other": [[], {}, {"text": "deep"}],
        },
        STYLES[0],
    )
    assert [raw[span.start : span.end].decode() for span in strings(raw, surface)] == reached


def test_json_inside_a_string_is_marked():
    raw = rb'{"arguments":"{\"a\":\"b\"}","text":"x"}'
    assert [(raw[s.start : s.end], s.is_json) for s in strings(raw, ("arguments!json", "text"))] == [
        (rb"{\"a\":\"b\"}", True),
        (b"x", False),
    ]


def test_a_string_that_may_be_base64_is_read_where_it_is_text():
    raw = b'{"d":[{"x":"' + b"QUJD" * 30 + b'"},{"x":"' + b"words and words " * 30 + b'"},{"x":"short"}]}'
    assert [raw[span.start : span.start + 5] for span in strings(raw, ("d.*.x!text",))] == [b"words", b"short"]
    assert not any(span.is_json for span in strings(raw, ("d.*.x!text",)))


def test_a_key_spelt_with_escapes_is_the_same_key_and_a_repeated_key_is_read_twice():
    raw = rb'{"c\u006fntent":"one","content":"two"}'
    assert [raw[s.start : s.end] for s in strings(raw, ("content",))] == [b"one", b"two"]
    assert raw[slice(*top_level(raw)["content"])] == b'"two"'


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.data())
def test_offsets_of_a_decoded_text_lead_back_to_the_raw_bytes(text, data):
    def spelt(char):
        ways = [json.dumps(char)[1:-1], json.dumps(char, ensure_ascii=False)[1:-1]]
        if ord(char) < 0x10000:
            ways += [f"\\u{ord(char):04x}", f"\\u{ord(char):04X}"]
        return data.draw(st.sampled_from(ways))

    spellings = [spelt(char) for char in text]
    raw = ('"' + "".join(spellings) + '"').encode()
    decoded = decode(raw, 1, len(raw) - 1)
    assert decoded.text == text.encode()
    here, there = 0, 1
    for char, spelling in zip(text, spellings, strict=True):
        assert decoded.raw_at(here) == there
        here, there = here + len(char.encode()), there + len(spelling.encode())
    assert decoded.raw_at(here) == there


def test_offsets_pass_through_json_inside_json():
    inner = json.dumps({"mail": "é\n<bob@x.org>"})
    raw = json.dumps({"arguments": inner}).encode()
    outer = decode(raw, *strings(raw, ("arguments",))[0][:2])
    span = strings(outer.text, ("mail",))[0]
    text = decode(outer.text, span.start, span.end, outer)
    at = text.text.index(b"bob@x.org")
    assert raw[text.raw_at(at) : text.raw_at(at + 9)] == b"bob@x.org"


def test_edits_change_their_spans_only_in_any_order():
    assert edit(b"0123456789", [(7, 9, b"B"), (2, 2, b"+"), (0, 1, b"")]) == b"1+23456B9"
    assert edit(b"same", []) == b"same"


@pytest.mark.parametrize("raw", [b"{}", b'{"a":1}', b' { "a" : [1] } ', b"{ }"])
def test_an_inserted_key_is_there_and_nothing_else_moves(raw):
    grown = insert_key(raw, 'stream_"options', b'{"include_usage":true}')
    assert orjson.loads(grown) == {'stream_"options': {"include_usage": True}, **orjson.loads(raw)}
    assert grown.endswith(raw[raw.index(b"{") + 1 :])


def test_deep_nesting_is_walked_without_recursion():
    raw = b'{"a":' * 1000 + b'"x"' + b"}" * 1000
    assert [raw[s.start : s.end] for s in strings(raw, ("**",))][-1] == b"x"


@pytest.mark.parametrize(("raw", "end"), [(b"", 0), (b"[1", 2), (b'{"a":[', 6), (b"12,", 2)])
def test_a_value_that_is_cut_short_ends_with_the_text(raw, end):
    assert value_end(raw, 0) == end


@given(st.lists(st.sampled_from(["\\\\", '\\"', "\\n", "a", " ", "\\u0022", "é", "[", "1234567"]), max_size=8).map("".join))
def test_a_string_ends_where_the_parser_says(inner):
    raw = b'{"a":"' + inner.encode() + b'","b":"c"}'
    assert [raw[span.start : span.end] for span in strings(raw, ("a", "b"))] == ([inner.encode()] if inner else []) + [b"c"]
    text = decode(raw, 6, 6 + len(inner.encode()))
    assert text.text.decode() == orjson.loads(raw)["a"]
    at = 0
    for char in text.text.decode():
        spelt = raw[text.raw_at(at) : text.raw_at(at := at + len(char.encode()))]
        assert orjson.loads(b'"' + spelt + b'"') == char


def test_a_key_is_what_it_spells():
    raw = b'{"\\u0061":"x","b":"y","c":{"a":"z"}}'
    assert [raw[span.start : span.end] for span in strings(raw, ("a", "c.*"))] == [b"x", b"z"]


FEW = st.text(':,"\\/\n\u00e9a', max_size=3)  # texts that repeat, overlap with what is around them, and may be spelt in several ways
CROWDED = st.recursive(FEW, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FEW, inner, max_size=4), max_leaves=12)


@given(CROWDED, st.sampled_from(STYLES), st.booleans())
def test_a_string_is_found_by_what_it_says_where_it_is_found_by_its_path(value, style, is_php):
    raw = dumped(value, style).replace(b"/", b"\\/" if is_php else b"/")
    for path, text in paths(orjson.loads(raw)):
        if isinstance(text, str):
            assert value_span(raw, path, text) == locate(raw, path)


def test_a_string_that_another_spells_is_not_taken_for_it():
    raw = b'{"a": "\\u0041", "b": "A", ":": ":", "c": ""}'
    for path, text in ((("a",), "A"), (("b",), "A"), ((":",), ":"), (("c",), "")):
        assert value_span(raw, path, text) == locate(raw, path)
