"""What a verified token may claim, and what makes it worthless."""

import json
from base64 import urlsafe_b64encode

import pytest

from proxy.identify import claims
from proxy.policy.plan_callers import JwtIssuer
from proxy.refusal import Refusal

NOW = 1_790_000_000.0
CORP = JwtIssuer("corp", "https://login.example.com/", None, "s" * 32, audience=("sluice", "gate"))


def code_of(do, *args):
    with pytest.raises(Refusal) as no:
        do(*args)
    return no.value.status, no.value.code


def good(**changes):
    doc = {"iss": CORP.issuer, "aud": "sluice", "exp": NOW + 60, "sub": "alice", **changes}
    return {name: value for name, value in doc.items() if value is not ...}


@pytest.mark.parametrize(
    "changes",
    [{}, {"aud": ["other", "gate"]}, {"exp": NOW - 29}, {"nbf": NOW + 29}, {"iat": NOW + 29, "exp": NOW + 99.5}, {"nbf": None}],
)
def test_a_good_token_is_good_within_30_s_of_clock_skew(changes):
    assert claims.check_claims(good(**changes), CORP, NOW) == good(**changes)["exp"]


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": ...}, {"exp": None}, {"exp": "1800000000"}, {"exp": [1]}, {"exp": True}, {"exp": 9e18}, {"exp": 9e18 + 0.5}, {"exp": 1e15},
        {"exp": 10**400}, {"exp": float("inf")}, {"exp": float("nan")}, {"nbf": NOW + 31}, {"iat": NOW + 31}, {"iat": "now"},
        {"aud": "other"}, {"aud": ...}, {"aud": [["sluice"]]}, {"aud": {"sluice": 1}}, {"iss": "https://login.example.com"}, {"iss": ...},
    ],
)  # fmt: skip
def test_a_token_without_proper_times_issuer_and_audience_is_invalid(changes):
    assert code_of(claims.check_claims, good(**changes), CORP, NOW) == (401, "invalid_credentials")


def test_an_expired_token_is_told_so():
    assert code_of(claims.check_claims, good(exp=NOW - 30), CORP, NOW) == (401, "expired_credentials")


def test_without_an_audience_in_the_policy_any_audience_is_taken():
    issuer = JwtIssuer("corp", CORP.issuer, None, "s" * 32)
    assert claims.check_claims(good(aud=...), issuer, NOW)


@pytest.mark.parametrize(("iat", "is_good"), [(NOW, True), (NOW - 41, False), (..., False)])
def test_a_longest_lifetime_counts_from_iat(iat, is_good):
    issuer = JwtIssuer("corp", CORP.issuer, None, "s" * 32, max_lifetime_s=100)
    if is_good:
        assert claims.check_claims(good(iat=iat), issuer, NOW)
    else:
        assert code_of(claims.check_claims, good(iat=iat), issuer, NOW) == (401, "invalid_credentials")


@pytest.mark.parametrize(
    "raw",
    [
        b'{"sub":"a","sub":"b"}',
        b'{"a":{"x":1,"x":2}}',
        b'{"exp":NaN}',
        b'{"exp":-Infinity}',
        b"[]",
        b"1",
        b"",
        b"\xff",
        b"[" * 8000,
        b"9" * 5000,
    ],
)
def test_a_document_that_two_readers_could_read_differently_is_malformed(raw):
    assert code_of(claims.read_object, raw) == (401, "invalid_credentials")


def text_of(doc, *, parts=3, prefix=""):
    body = doc if isinstance(doc, str) else json.dumps(doc)
    pieces = [urlsafe_b64encode(piece.encode()).decode().rstrip("=") for piece in (prefix + '{"alg":"RS256"}', body)]
    return ".".join([*pieces, "c2ln", "x", "y"][:parts])


@pytest.mark.parametrize(
    "token",
    [
        text_of({"iss": CORP.issuer}),
        text_of({"iss": CORP.issuer}, parts=2),
        text_of({"iss": CORP.issuer}, parts=5),
        text_of({"iss": CORP.issuer}, prefix=" \n"),
        text_of({"iss": CORP.issuer}) + "==",
        text_of({"iss": CORP.issuer}).replace(".", ".\n"),
        text_of('{"iss":"https://other/","iss":"https://login.example.com/"}'),
    ],
)
def test_a_bent_token_of_ours_is_still_ours(token):
    assert claims.issuer_of(token, [CORP]) is CORP


@pytest.mark.parametrize(
    "token",
    [
        "sk-proj-1",
        "a.b.c",
        "gsk_1.2",
        text_of({"iss": "https://other/"}),
        text_of({"sub": "x"}),
        text_of([["iss", CORP.issuer]]),
        text_of("1"),
    ],
)
def test_a_key_of_a_provider_is_no_token_of_ours(token):
    assert claims.issuer_of(token, [CORP]) is None


@pytest.mark.parametrize("body", ["{", '{"iss"', "[" * 5000])
def test_a_token_that_nobody_can_read_is_refused_rather_than_passed_on(body):
    assert code_of(claims.issuer_of, text_of(body), [CORP]) == (401, "invalid_credentials")


def test_claims_make_a_caller_of_the_issuer():
    issuer = JwtIssuer("corp", "i", None, None, team_claim="org", tier_claim="plan", tier_map={"pro-2024": "premium"})
    caller = claims.caller_of({"sub": "alice", "org": "finance", "plan": "pro-2024"}, issuer)
    assert (caller.name, caller.kind, caller.team, caller.tier, caller.key) == ("corp:alice", "jwt", "finance", "premium", "corp")
    assert caller.claims["org"] == "finance"


def test_two_issuers_never_share_an_account():
    names = {claims.caller_of({"sub": "alice"}, JwtIssuer(name, "i", None, None)).name for name in ("corp", "lab")}
    assert names == {"corp:alice", "lab:alice"}


@pytest.mark.parametrize("name", [..., "", "  ", 7, None, ["alice"], "a\nb", "a\x7f", "\u202ea", "a" * 257, "\ud800"])
def test_a_token_must_name_its_caller_in_printable_text(name):
    doc = {} if name is ... else {"sub": name}
    assert code_of(claims.caller_of, doc, CORP) == (401, "invalid_credentials")


@pytest.mark.parametrize(("claim", "code"), [("plan", "unknown_tier"), ("org", "unknown_team")])
def test_a_value_outside_the_map_is_refused_without_echo(claim, code):
    issuer = JwtIssuer("corp", "i", None, None, team_claim="org", team_map={"a": "b"}, tier_claim="plan", tier_map={"a": "b"})
    with pytest.raises(Refusal) as no:
        claims.caller_of({"sub": "alice", claim: "secret-plan"}, issuer)
    assert (no.value.status, no.value.code) == (403, code)
    assert "secret-plan" not in no.value.message
