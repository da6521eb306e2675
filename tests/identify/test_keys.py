"""Where a credential may stand, what makes it ambiguous, and what a Sluice key looks like."""

import hashlib

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy.identify import keys
from proxy.policy.plan_callers import CallerRules, KeyRecord, TokenRecord
from proxy.refusal import Refusal

KEY = "slk-" + "a" * 43


@pytest.mark.parametrize(
    ("lines", "query"),
    [
        ([("Authorization", f"Bearer {KEY}")], ""),
        ([("authorization", f"bearer   {KEY} ")], ""),
        ([("X-Api-Key", KEY)], ""),
        ([("api-key", f" {KEY}\t")], ""),
        ([("x-goog-api-key", KEY)], ""),
        ([], f"alt=sse&key={KEY}"),
        ([], f"%6bey={KEY}"),
        ([("x-api-key", KEY), ("Authorization", f"Bearer {KEY}")], f"key={KEY}"),
    ],
)
def test_a_key_is_found_wherever_an_sdk_puts_it(call, lines, query):
    assert keys.credential_of(call(*lines, query=query)) == KEY


@pytest.mark.parametrize(
    ("lines", "query"), [([], ""), ([("x-other", "1")], ""), ([], "monkey=1&keys=2&alt=sse"), ([("x_api_key", KEY)], "a=%20")]
)
def test_a_call_without_a_credential_has_none(call, lines, query):
    assert keys.credential_of(call(*lines, query=query)) is None


def test_another_scheme_is_a_credential_as_a_whole(call):
    assert keys.credential_of(call(("Authorization", "Basic dTpw"))) == "Basic dTpw"


@pytest.mark.parametrize(
    ("lines", "query"),
    [
        ([("Authorization", "Bearer a"), ("x-api-key", "b")], ""),
        ([("Authorization", "Bearer a"), ("Authorization", "Bearer a")], ""),
        ([("X-API-Key", "a"), ("x-api-key", "b")], ""),
        ([("x-goog-api-key", "a")], "key=b"),
        ([], "key=a&key=b"),
        ([("Authorization", "Bearer "), ("x-api-key", "b")], ""),
    ],
)
def test_credentials_that_disagree_are_refused_and_not_guessed(call, lines, query):
    with pytest.raises(Refusal) as no:
        keys.credential_of(call(*lines, query=query))
    assert (no.value.status, no.value.code) == (400, "ambiguous_credentials")


@pytest.mark.parametrize(
    "value", ["", "   ", "Bearer", "Bearer    ", "Bearer a\x00b", "Bearer a\tb", "Bearer clé", "Bearer " + "k" * 1_000_000]
)
def test_an_empty_monstrous_or_unprintable_key_is_401_and_not_anonymous(call, value):
    with pytest.raises(Refusal) as no:
        keys.credential_of(call(("Authorization", value)))
    assert (no.value.status, no.value.code) == (401, "invalid_credentials")


@given(st.text(min_size=1, max_size=40))
def test_no_query_however_odd_makes_a_crash(query):
    from proxy.exchange import Call, Route

    call = Call("u", "u", False, "GET", Route("gemini", "/", query, "/"), (), {}, "unix", 0, 0.0)
    try:
        keys.credential_of(call)
    except Refusal as no:
        assert no.status in (400, 401)


@given(st.binary(min_size=32, max_size=32))
def test_a_minted_key_has_the_form_and_is_known_by_its_sha256(random):
    key, digest = keys.mint(random)
    assert keys.is_well_formed(key)
    assert digest == hashlib.sha256(key.encode()).digest() == keys.digest_of(key)


def test_a_key_of_too_little_chance_is_not_minted():
    with pytest.raises(ValueError, match="32 random bytes"):
        keys.mint(b"x" * 16)


@pytest.mark.parametrize("key", ["slk-", "slk-" + "a" * 42, "slk-" + "a" * 44, "slk-" + "a" * 42 + "=", "sk-" + "a" * 43, KEY + "\n"])
def test_a_key_that_was_cut_or_changed_is_not_well_formed(key):
    assert not keys.is_well_formed(key)


@pytest.mark.parametrize("name", ["billing-bot", "no", "a: b", "it's, {odd}", "42", "ünï #1"])
def test_the_printed_line_reads_back_as_yaml(name):
    line = keys.hash_line(name, b"\x01" * 32, tier="free")
    assert yaml.safe_load(line) == [{"name": name, "hash": "sha256:" + "01" * 32, "tier": "free"}]


def test_a_table_finds_by_digest_and_by_nothing_else():
    digest = keys.digest_of(KEY)
    token = TokenRecord(KeyRecord("themis", keys.digest_of("shared")))
    table = keys.KeyTable(CallerRules(keys=(KeyRecord("bot", digest),), tokens=(token,)))
    assert table.key(digest).name == "bot"
    assert table.key(digest[:31] + b"\0") is None
    assert table.token(keys.digest_of("shared")) is token
    assert table.token(digest) is None
