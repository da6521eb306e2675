import hashlib
from datetime import UTC, datetime

import pytest

from proxy.policy.callers import expiry_ns, is_local
from proxy.policy.problems import SecretError
from proxy.policy.values import Ref

KEYS = f"""
callers:
  default_tier: free
  keys:
    - {{name: bot, hash: 'sha256:{"ab" * 32}', tier: free, team: t, expires: 2027-03-01, allow: {{models: [gpt-4o*], regions: [eu]}}}}
    - {{name: shared, key: env:A}}
    - {{name: ci, key: env:B, own_provider_key: openai}}
  jwt:
    - {{name: corp, issuer: 'https://i.example/', jwks: 'https://i.example/jwks', audience: sluice,
        claims: {{name: email, team: org, tier: {{from: plan, map: {{pro: free}}}}}}, allow: {{tiers: [free]}}, max_lifetime: 24h}}
    - {{name: dev, issuer: dev, secret: env:LONG}}
tiers: {{free: {{}}}}
teams: {{t: {{}}}}
time_zone: Europe/Berlin
"""


def test_keys_tokens_and_issuers_are_compiled(rulebook):
    callers = rulebook(KEYS).callers
    (bot,) = callers.keys
    assert (bot.name, bot.digest, bot.tier, bot.team) == ("bot", bytes.fromhex("ab" * 32), "free", "t")
    assert (bot.allow.models, bot.allow.regions, bot.allow.providers) == (("gpt-4o*",), ("eu",), None)
    shared, ci = callers.tokens
    assert shared.record.digest == hashlib.sha256(b"token-a").digest() and shared.own_provider is None
    assert ci.own_provider == "openai"
    corp, dev = callers.issuers
    assert (corp.name_claim, corp.team_claim, corp.tier_claim, dict(corp.tier_map), corp.team_map) == (
        "email",
        "org",
        "plan",
        {"pro": "free"},
        None,
    )
    assert (corp.audience, corp.algorithms, corp.max_lifetime_s, corp.secret) == (("sluice",), ("RS256", "ES256"), 86400.0, None)
    assert (dev.algorithms, dev.secret, dev.name_claim, dev.jwks_url) == (("HS256",), "x" * 40, "sub", None)
    assert (callers.default_tier, callers.tiers, callers.teams) == ("free", {"free"}, {"t"})


def test_nothing_compiled_shows_a_secret(rulebook):
    shown = repr(rulebook(KEYS + "providers: {openai: {key: env:K}}\nserver: {admin_token: env:ADMIN}"))
    assert not any(secret in shown for secret in ("token-a", "x" * 40, "provider-key", "admin-token", "abababab"))


@pytest.mark.parametrize(
    ("day", "zone", "instant"),
    [
        ("2027-03-01", "UTC", datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01", "Europe/Berlin", datetime(2027, 2, 28, 23, tzinfo=UTC)),
        ("2018-11-04", "America/Sao_Paulo", datetime(2018, 11, 4, 3, tzinfo=UTC)),  # clocks skipped midnight
    ],
)
def test_a_key_dies_with_the_first_instant_of_its_day(day, zone, instant):
    assert expiry_ns(day, zone) == int(instant.timestamp()) * 10**9


def test_a_key_past_its_day_is_a_warning(rulebook):
    after = expiry_ns("2027-03-01", "Europe/Berlin")
    assert rulebook(KEYS, now_ns=after).warnings == ("the key of caller bot is past its day",)
    assert rulebook(KEYS, now_ns=after - 1).warnings == ()


@pytest.mark.parametrize(
    ("listen", "local"),
    [
        ("127.0.0.1:8080", True),
        ("localhost:1", True),
        ("[::1]:1", True),
        ("unix:/run/s.sock", True),
        ("0.0.0.0:8080", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
        ("sluice:1", False),
    ],
)
def test_loopback_and_unix_are_local(listen, local):
    assert is_local(listen) is local


@pytest.mark.parametrize(
    ("text", "listen", "doors"),
    [
        ("", "127.0.0.1:1", ("", "")),
        ("", "unix:/s", ("", "")),
        ("", "0.0.0.0:1", (None, None)),
        ("callers: {keys: [{name: a, key: env:A}]}", "127.0.0.1:1", (None, None)),
        ("callers: {jwt: [{name: a, issuer: i, secret: env:LONG}]}", "127.0.0.1:1", (None, None)),
        ("callers: {anonymous: free}\ntiers: {free: {}}", "0.0.0.0:1", ("free", None)),
        ("callers: {anonymous: deny}", "127.0.0.1:1", (None, "")),
        ("callers: {pass_through: off}", "127.0.0.1:1", ("", None)),
        ("callers: {pass_through: free, keys: [{name: a, key: env:A}]}\ntiers: {free: {}}", "127.0.0.1:1", (None, "free")),
    ],
)
def test_who_comes_without_a_key_of_ours(rulebook, text, listen, doors):
    callers = rulebook(text, listen=listen).callers
    assert (callers.anonymous, callers.pass_through) == doors


def test_two_callers_never_have_one_token(rulebook):
    text = "callers: {keys: [{name: a, key: env:A}, {name: b, key: env:B}]}"
    with pytest.raises(SecretError, match="same token as another caller's"):
        rulebook(text, environ={"A": "same", "B": "same"})


def test_a_short_hs256_secret_is_refused(rulebook):
    with pytest.raises(SecretError, match="shorter than 32 bytes"):
        rulebook("callers: {jwt: [{name: a, issuer: i, secret: env:A}]}")


def test_a_reference_reads_as_it_is_written():
    assert str(Ref("env", "X")) == "env:X"
