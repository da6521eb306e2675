import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Allow
from proxy.policy.builtin import BUILT_IN
from proxy.policy.match import allowed, claim_values, compile_match, covering, covers, glob, names
from proxy.policy.model_match import Match
from proxy.policy.plan import Origin, Provider, Target


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (
            "gpt-4o",
            ["gpt-4o", "gpt-4o-2024-08-06", "gpt-4o-latest"],
            ["gpt-4o-mini", "gpt-4o-mini-2024-07-18", "gpt-4", "GPT-4o", "my-gpt-4o"],
        ),
        ("gpt-4", ["gpt-4", "gpt-4-0613"], ["gpt-4-32k", "gpt-4-1106-preview", "gpt-4o"]),
        (
            "claude-sonnet-4-5",
            ["claude-sonnet-4-5-20250929", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5@latest"],
            ["claude-sonnet-4-50"],
        ),
        ("gemini-2.5-flash-preview", ["gemini-2.5-flash-preview-05-20"], ["gemini-2.5-flash"]),
        ("command-r", ["command-r-08-2024"], ["command-r-plus", "command-r-plus-08-2024"]),
        ("gpt-4o*", ["gpt-4o", "gpt-4o-mini", "gpt-4o-2024-08-06"], ["gpt-4"]),
        ("*-mini", ["gpt-4o-mini"], ["gpt-4o-mini-2024-07-18"]),
    ],
)
def test_a_model_name_covers_its_snapshots_and_a_glob_what_it_spells(pattern, yes, no):
    cover = covers(pattern)
    assert [model for model in yes if not cover(model)] == []
    assert [model for model in no if cover(model)] == []


@given(st.from_regex(r"[a-z]{1,3}(-mini|-2024|-08|-06|@20250514|-latest|-0613){0,4}", fullmatch=True), st.data())
def test_the_names_that_cover_a_model_are_found_without_trying_all(model, data):
    cut = data.draw(st.integers(1, len(model)))
    assert (model[:cut] in covering(model)) == covers(model[:cut])(model)


@given(st.text("ab*", max_size=8), st.text("ab", max_size=8))
def test_a_glob_is_what_a_shell_says_it_is(pattern, name):
    assert glob(pattern)(name) == fnmatch.fnmatchcase(name, pattern)


def test_a_hostile_name_costs_a_glob_no_time():
    assert not glob("*a" * 50 + "b")("a" * 50_000)


def test_several_globs_are_or():
    assert names(["a", "b*"])("bc") and names(["a", "b*"])("a") and not names(["a", "b*"])("c")


@pytest.mark.parametrize(
    ("match", "call", "matches"),
    [
        ({}, {}, True),
        ({"caller": "a"}, {"caller": "a"}, True),
        ({"caller": ("b", "a")}, {"caller": "a"}, True),
        ({"caller": "a", "model": "gpt-4o"}, {"caller": "a", "model": "x"}, False),
        ({"key": "k"}, {"key": "k"}, True),
        ({"team": "t"}, {}, False),
        ({"team": "*"}, {"team": "t"}, True),
        ({"tier": "free"}, {"tier": "free"}, True),
        ({"provider": "azure-*"}, {"provider": "azure-eu"}, True),
        ({"model": "gpt-4o"}, {"model": None}, False),
        ({"model": "*"}, {"model": None}, False),
        ({"model": "azure-eu/gpt-4o"}, {"provider": "azure-eu", "model": "gpt-4o-2024-08-06"}, True),
        ({"model": "azure-eu/gpt-4o"}, {"provider": "openai", "model": "gpt-4o"}, False),
        ({"model": "openai/gpt-4o"}, {"provider": "openrouter", "model": "openai/gpt-4o"}, True),
        ({"operation": "embeddings"}, {"call": {"operation": "embeddings"}}, True),
        ({"method": "GET"}, {"call": {"method": "POST"}}, False),
        ({"path": "/v1/responses*"}, {"call": {"path": "/v1/responses/x"}}, True),
        ({"ip": "10.0.0.0/8"}, {"call": {"ip": "10.1.2.3"}}, True),
        ({"ip": "10.0.0.0/8"}, {"call": {"ip": "::ffff:10.1.2.3"}}, True),
        ({"ip": "10.0.0.0/8"}, {"call": {"ip": "unix"}}, False),
        ({"ip": ("unix", "192.0.2.7")}, {"call": {"ip": "unix"}}, True),
        ({"ip": "10.1.*"}, {"call": {"ip": "10.1.9.9"}}, True),
        ({"header:X-Tenant": "a*"}, {"headers": {"x-tenant": "acme"}}, True),
        ({"header:x-tenant": "*"}, {}, False),
        ({"claim:org": "acme"}, {"claims": {"org": "acme"}}, True),
        ({"claim:groups": "ops"}, {"claims": {"groups": ["dev", "ops"]}}, True),
        ({"claim:admin": "true"}, {"claims": {"admin": True}}, True),
        ({"claim:level": "3"}, {"claims": {"level": 3}}, True),
        ({"claim:deep": "*"}, {"claims": {"deep": {"a": 1}}}, False),
        ({"not": {"team": "t"}}, {"team": "t"}, False),
        ({"not": {"team": "t"}}, {}, True),
        ({"not": {"not": {"caller": "a"}}}, {"caller": "a"}, True),
        ({"caller": "a", "not": {"model": "gpt-4o"}}, {"caller": "a", "model": "gpt-4o"}, False),
    ],
)
def test_keys_are_and_lists_are_or(facts, match, call, matches):
    assert compile_match(Match.model_validate(match)).test(facts(**call)) is matches


def test_a_matcher_says_what_it_reads_even_under_not():
    matcher = compile_match(Match.model_validate({"caller": ("a", "b"), "not": {"model": "x", "header:y": "z"}}))
    assert matcher.reads == {"caller", "model", "header:y"}
    assert matcher.only == ("caller", frozenset({"a", "b"}))
    assert compile_match(Match.model_validate({"caller": "a*", "model": "openai/x"})).only is None
    assert compile_match(Match.model_validate({"caller": "a*", "model": "x"})).only == ("model", frozenset({"x"}))


def test_a_claim_that_is_no_plain_value_says_nothing():
    assert claim_values({"a": None, "b": {"c": 1}}, "a") == claim_values({"b": {"c": 1}}, "b") == claim_values({}, "x") == []


def target(model="gpt-4o", region=None, name="openai"):
    return Target(Provider(name, "openai", "openai", Origin("https", "h", 443, b"h"), region=region), model, model)


@pytest.mark.parametrize(
    ("allow", "at", "operation", "tier", "denied"),
    [
        (Allow(), target(), "chat", None, None),
        (Allow(models=("gpt-4o*",)), target(), "chat", None, None),
        (Allow(models=("gpt-4o",)), target("gpt-4o-mini"), "chat", None, "model"),
        (Allow(models=()), target(), "chat", None, "model"),
        (Allow(models=("gpt-4o",)), target(None), "models", None, None),
        (Allow(models=("gpt-4o",)), target(None), "chat", None, "model"),
        (Allow(models=("gpt-4o",)), target(None), "responses", None, "model"),
        (Allow(models=("gpt-4o",)), target(None), "batches", None, "model"),
        (Allow(models=("gpt-4o",)), target(None), "other", None, None),
        (Allow(models=("openai/gpt-4o",)), target(name="azure"), "chat", None, "model"),
        (Allow(providers=("open*",)), target(), "chat", None, None),
        (Allow(providers=("anthropic",)), target(), "chat", None, "provider"),
        (Allow(regions=("eu",)), target(region="eu"), "chat", None, None),
        (Allow(regions=("eu",)), target(region="us"), "chat", None, "region"),
        (Allow(regions=("*",)), target(), "chat", None, "region"),
        (Allow(tiers=("free",)), target(), "chat", "free", None),
        (Allow(tiers=("free",)), target(), "chat", None, "tier"),
    ],
)
def test_allow_names_what_it_denies(allow, at, operation, tier, denied):
    assert allowed(allow).denies(at, operation, tier, is_billed=operation != "models") == denied


def test_every_built_in_provider_with_a_url_is_an_origin():
    assert all(one.url is None or one.url.startswith("https://") for one in BUILT_IN.values())
