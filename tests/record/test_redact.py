"""Nothing that has the shape of a key gets through, and what operators need to read does."""

import secrets

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record.redact import GONE, hidden_by, may_hold_key, plain, scrubbed, scrubbed_id


@pytest.mark.parametrize(
    "key",
    [
        "slk-" + "aB3_" * 10 + "abc",
        "sk-proj-abcdefgh12345",
        "sk-ant-api03-xxxxxxxxxxxx",
        "gsk_abcdefgh1234",
        "AIzaSyA1234567890abcdefg",
        "AKIAIOSFODNN7EXAMPLE",
        "Bearer abcd.efgh",
        "bearer: abcd",
        "Basic dXNlcjpwYXNz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
        "0123456789abcdef0123456789abcdef",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ],
)
def test_what_has_the_shape_of_a_key_goes(key):
    for text in (key, f"error: {key} is wrong", f'{{"k":"{key}"}}', f"a={key}&b=1"):
        assert GONE in scrubbed(text)
        assert key not in scrubbed(text) and key[-8:] not in scrubbed(text)


@given(st.binary(min_size=32, max_size=64), st.sampled_from(["", "x ", "/", "key="]))
def test_a_long_random_token_goes_unless_chance_made_it_look_like_words(random, before):
    import re
    from base64 import urlsafe_b64encode

    token = urlsafe_b64encode(random).decode().rstrip("=")
    if re.search(r"[A-Za-z0-9]{20}", token):
        assert token not in scrubbed(before + token)


def test_keys_of_ours_always_go():
    for _ in range(500):
        key = "slk-" + secrets.token_urlsafe(32)
        assert scrubbed(f"x {key} y") == f"x {GONE} y"


@given(st.uuids().map(str))
def test_an_id_that_stays_unlooked_at_has_nothing_to_take_out(id):
    assert scrubbed_id(id) == scrubbed(id) == id


@pytest.mark.parametrize(
    "text",
    [
        "gpt-4o-mini-2024-07-18",
        "meta-llama/Llama-4-Maverick-17B-128E-Instruct-FP8",
        "anthropic.claude-3-5-sonnet-20241022-v2:0",
        "123e4567-e89b-12d3-a456-426614174000",
        "task-abcdefghijkl",
        "pass-through:0123456789ab",
        "upstream_first_byte_timeout",
        "corp:alice@example.com",
    ],
)
def test_models_ids_and_names_stay(text):
    assert scrubbed(text) == text


def test_a_trace_id_stays_where_a_request_id_is_expected():
    assert scrubbed_id("0af7651916cd43dd8448eb211c80319c") == "0af7651916cd43dd8448eb211c80319c"
    assert scrubbed_id("sk-proj-abcdefgh12345") == GONE


def test_hidden_names_are_told_apart_and_do_not_tell_who():
    hidden = hidden_by(b"s" * 32)
    assert hidden("alice") == hidden("alice") != hidden("bob")
    assert hidden("alice") != hidden_by(b"t" * 32)("alice")
    assert "alice" not in hidden("alice")
    assert hidden(hidden("alice")) == hidden("alice")
    assert plain("alice") == "alice"


PIECES = st.sampled_from(
    [
        "slk-",
        "sk_",
        "r8-",
        "AIza",
        "AKIA",
        "bearer",
        "Basic",
        " ",
        ":",
        "=",
        "ey",
        ".",
        "-",
        "_",
        "\n",
        '"',
        "\\",
        "é",
        "abcd1234",
        "A1b2C3d4E5f6",
    ]
)


@given(st.lists(PIECES | st.text(max_size=3), max_size=12).map("".join))
def test_the_one_look_at_a_line_never_misses_what_would_be_taken_out(text):
    if scrubbed(text) != text:
        assert may_hold_key(orjson.dumps({"field": text}))


def test_a_plain_line_of_a_call_needs_no_closer_look():
    line = {"at": "2026-11-21T01:03:23.352Z", "request_id": "slu-0123456789abcdef-1f", "model": "gpt-4o-mini-2024-07-18", "cost": 825000}
    assert not may_hold_key(orjson.dumps(line | {"caller": "3f2b8c1e-9d4a-4c77-b1aa-0f12de9c4455"}))
