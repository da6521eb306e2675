import dataclasses

import pytest

from proxy.exchange import Allow
from proxy.policy.build import start_problem
from proxy.policy.plan import Rate


def test_no_file_serves_every_built_in_provider_without_limits(rulebook, facts):
    book = rulebook()
    assert set(book.providers) >= {"openai", "anthropic", "gemini", "vertex", "cohere", "mistral", "groq", "deepseek", "xai", "openrouter"}
    assert "azure" not in book.providers and book.default_provider == "openai" and book.state == "sqlite:"
    plan = book.plan(facts())
    assert (plan.claims, plan.retry.attempts, plan.breaker.consecutive, plan.on_client_gone) == ((), 3, 5, "cancel")
    assert book.early(facts()) == () and not book.needs_body(facts(headers={"content-type": "application/json"}))


@pytest.mark.parametrize(
    ("name", "dialect", "family", "root", "host", "asks"),
    [
        ("openai", "openai", "openai", "/v1", "api.openai.com", True),
        ("groq", "openai", "openai", "/openai/v1", "api.groq.com", False),
        ("perplexity", "openai", "openai", "", "api.perplexity.ai", False),
        ("anthropic", "anthropic", "anthropic", "/v1", "api.anthropic.com", False),
        ("gemini", "gemini", "gemini", "/v1beta", "generativelanguage.googleapis.com", False),
        ("vertex", "vertex", "gemini", "/v1", "europe-west4-aiplatform.googleapis.com", False),
        ("azure", "azure-openai", "openai", "/openai", "x.openai.azure.com", True),
        ("mine", "openai", "openai", "/v1", "10.0.0.7", True),
    ],
)
def test_a_provider_is_what_its_name_or_its_dialect_says(rulebook, name, dialect, family, root, host, asks):
    book = rulebook(
        """
providers:
  vertex: {region: europe-west4}
  azure: {url: 'https://x.openai.azure.com', api_version: 2025-04-01-preview}
  mine: {dialect: openai, url: 'http://10.0.0.7:8000', allow_private: true, max_connections: 7, timeouts: {first_byte: 90s}}
"""
    )
    one = book.providers[name]
    assert (one.dialect, one.family, one.root, one.origin.host, one.asks_stream_usage) == (dialect, family, root, host, asks)


def test_an_entry_keeps_what_it_names_and_takes_the_rest_from_the_policy(rulebook):
    book = rulebook("timeouts: {idle: 9s}\nproviders: {openai: {timeouts: {first_byte: 90s}, keys: [env:A, file:k/b]}}", resolve=False)
    openai = book.providers["openai"]
    assert (openai.timeouts.connect, openai.timeouts.first_byte, openai.timeouts.idle) == (5.0, 90.0, 9.0)
    assert [one.name for one in openai.credentials] == ["A", "b"]


def test_the_server_has_its_numbers_and_a_command_line_may_move_it(rulebook):
    text = "server: {listen: 'unix:/s', admin: '127.0.0.1:1', admin_token: env:ADMIN, max_body: 1MB, max_upload: 2MB, drain: 5s, "
    text += "cors: 'https://c.example'}"
    server = rulebook(text).server
    assert (server.listen, server.admin, server.admin_token, server.max_body, server.max_upload, server.drain_s, server.cors) == (
        "unix:/s", "127.0.0.1:1", "admin-token", 1_000_000, 2_000_000, 5.0, ("https://c.example",),
    )  # fmt: skip
    assert rulebook(text, listen="0.0.0.0:80").server.listen == "0.0.0.0:80"


@pytest.mark.parametrize(
    ("text", "listen", "hosts"),
    [
        ("", None, ("localhost", "127.0.0.1", "::1")),
        ("", "0.0.0.0:80", None),
        ("", "unix:/s", None),
        ("server: {hosts: [a]}", "0.0.0.0:80", ("a",)),
        ("server: {hosts: off}", None, None),
    ],
)
def test_a_loopback_listener_knows_its_own_names(rulebook, text, listen, hosts):
    assert rulebook(text, listen=listen).server.hosts == hosts


def test_prices_and_money_are_integers(rulebook, facts):
    book = rulebook(
        """
unknown_price: allow
unmetered: flag
fallback_price: {output: 20}
default_max_tokens: 1k
prices: {my-model: {input: 3.00, output: 12.5, cached_input: 1.50, cache_write: 0.000001}, openai/gpt-4o: {discount: 12%}}
max_keys: 50
"""
    )
    assert dataclasses.astuple(book.pricing) == ("allow", "flag", 5_000_000_000, 20_000_000_000, 1000, False)
    mine, cut = book.prices
    assert dataclasses.astuple(mine) == ("my-model", 3 * 10**9, 12_500_000_000, 1_500_000_000, 1000, 0)
    assert (cut.name, cut.input, cut.discount_ppm) == ("openai/gpt-4o", None, 120_000)
    assert book.max_keys == 50 and book.plan(facts()).pricing == book.pricing


def test_the_other_settings_reach_the_rulebook(rulebook, facts):
    text = "time_zone: Europe/Berlin\nobserve: {identities: hashed, logs: {level: debug}}\non_client_gone: finish\n"
    book = rulebook(text + "fallback_on: error\nstate: 'memory:'")
    plan = book.plan(facts())
    assert (book.time_zone, book.identities, book.log_level, book.state) == ("Europe/Berlin", "hashed", "debug", "memory:")
    assert (plan.on_client_gone, plan.fallback_on) == ("finish", {"error"})


def test_a_state_of_the_environment_is_resolved(rulebook):
    assert rulebook("state: env:S", environ={"S": "sqlite:/x"}).state == "sqlite:/x"
    assert rulebook("state: env:S", environ={"S": "redis://u:hunter2@h"}).state == "redis://u:hunter2@h"


def test_a_label_may_hold_every_model_that_the_policy_spells(rulebook):
    book = rulebook(
        """
providers: {azure: {url: 'https://x.openai.azure.com', models: {ours: theirs}}}
prices: {priced: {input: 1}, openai/cut: {discount: 1%}}
fallback: {from: [azure/to, bare]}
callers: {keys: [{name: a, key: env:A, allow: {models: [allowed, 'glob*']}}]}
limits: [{name: l, match: {model: matched, not: {model: unmatched}}, requests: 1/min}]
rules: [{match: {model: ruled}, send_to: azure/sent}]
"""
    )
    assert book.known_models == {"ours", "priced", "cut", "from", "to", "bare", "allowed", "matched", "unmatched", "ruled", "sent"}


JSON = {"content-type": "application/json"}
FORM = {"content-type": "multipart/form-data; boundary=x"}


@pytest.mark.parametrize(
    ("text", "json", "form"),
    [
        ("", False, False),
        ("guard: {pii: flag}", True, False),
        ("limits: [{name: l, spend: $1/day}]", True, False),
        ("limits: [{name: l, tokens: 1/min}]", True, False),
        ("limits: [{name: l, requests: 1/min}]", False, False),
        ("limits: [{name: l, match: {model: x}, requests: 1/min}]", True, True),
        ("rules: [{match: {model: x}, retry: off}]", True, True),
        ("rules: [{allow: {models: [x]}}]", True, True),
        ("callers: {end_user: 'body:user'}", True, True),
        ("guard: {pii: mask}\nrules: [{match: {operation: chat}, guard: off}]", False, False),
    ],
)
def test_a_body_is_held_only_where_a_rule_could_read_it(rulebook, facts, text, json, form):
    book = rulebook(text)
    assert (book.needs_body(facts(headers=JSON)), book.needs_body(facts(headers=FORM))) == (json, form)


@pytest.mark.parametrize(
    ("text", "must"),
    [
        ("", False),
        ("guard: {pii: flag}", False),
        ("guard: {pii: mask}", True),
        ("guard: {pii: {default: flag, iban: block}}", True),
        ("guard: {pii: flag, uninspected: block}", True),
        ("limits: [{name: l, match: {model: x}, requests: 1/min}]", True),
    ],
)
def test_what_cannot_be_read_is_refused_only_where_a_rule_might_hold_it_back(rulebook, facts, text, must):
    assert rulebook(text).must_read(facts(headers=JSON)) is must


def test_an_upload_of_a_file_streams_whatever_the_models_allowed(rulebook, facts):
    book = rulebook("guard: {pii: mask}\nlimits: [{name: l, match: {model: x}, spend: $1/day}]")
    assert not book.needs_body(facts(headers=FORM, call={"operation": "files"}))
    assert book.needs_body(facts(headers=FORM, call={"operation": "audio"}))


def test_a_caller_who_may_use_some_models_has_its_body_read(rulebook, facts):
    book = rulebook("teams: {t: {allow: {models: [x]}}}")
    assert book.needs_body(facts(allow=Allow(models=("x",)), headers=FORM)) and book.needs_body(facts(team="t", headers=FORM))
    assert book.needs_body(facts(overrides={"tokens": (Rate(1, 60),)}, headers=JSON)) and not book.needs_body(facts(headers=FORM))


@pytest.mark.parametrize(
    ("text", "listen", "starts"),
    [
        ("", "0.0.0.0:1", True),
        ("providers: {openai: {key: env:K}}", "127.0.0.1:1", True),
        ("providers: {openai: {key: env:K}}", "unix:/s", True),
        ("providers: {openai: {key: env:K}}", "0.0.0.0:1", False),
        ("providers: {openai: {key: env:K}}\ncallers: {anonymous: deny}", "0.0.0.0:1", True),
    ],
)
def test_strangers_never_find_a_provider_key_open_by_default(rulebook, text, listen, starts):
    problem = start_problem(rulebook(text, listen=listen), listen)
    assert (problem is None) == starts
    assert starts or "callers: {anonymous: deny}" in problem


def test_a_plan_names_its_generation(rulebook, facts):
    assert rulebook(generation=7).plan(facts()).generation == 7
