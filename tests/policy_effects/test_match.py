"""Every key of `match:` and every `per:`, in `limits:` and in `rules:`, by what a caller sees: a second call refused, or not."""

import json
import time

import jwt
import pytest
import pytest_asyncio
from support.caller import Got
from support.world import CHAT, World, spelt, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

JWT_SECRET = "0123456789abcdef0123456789abcdef"
# name → what `match:` says, a call that it means, a call that it does not mean
MATCHES = {
    "caller": ("caller: red-bot", {"key": "red-bot"}, {"key": "blue-bot"}),
    "caller_of_jwt": ("caller: 'corp:ann*'", {"token": {"sub": "anna"}}, {"token": {"sub": "bob"}}),
    "key": ("key: [red-bot, other]", {"key": "red-bot"}, {"key": "blue-bot"}),
    "team": ("team: red", {"key": "red-bot"}, {"key": "blue-bot"}),
    "tier": ("tier: [gold, silver]", {"key": "red-bot"}, {"key": "blue-bot"}),
    "provider": ("provider: second", {"provider": "second"}, {"provider": "first"}),
    "model_and_its_snapshots": ("model: gpt-4o", {"model": "gpt-4o-2024-08-06"}, {"model": "gpt-4o-mini"}),
    "model_by_glob": ("model: 'gpt-*'", {"model": "gpt-4.1"}, {"model": "o3"}),
    "model_at_a_provider": ("model: second/gpt-4o", {"provider": "second"}, {"provider": "first"}),
    "operation": ("operation: embeddings", {"path": "/v1/embeddings"}, {"path": CHAT}),
    "method": ("method: GET", {"method": "GET", "path": "/v1/models"}, {"method": "POST"}),
    "path": ("path: /v1/resp*", {"path": "/v1/responses"}, {"path": CHAT}),
    "ip": ("ip: 127.0.0.2", {"peer": "127.0.0.2"}, {"peer": "127.0.0.1"}),
    "ip_range": ("ip: 127.0.0.4/30", {"peer": "127.0.0.6"}, {"peer": "127.0.0.1"}),
    "ip_glob": ("ip: '127.0.3.*'", {"peer": "127.0.3.7"}, {"peer": "127.0.0.1"}),
    "header": ("'header:X-Kind': 'night*'", {"x-kind": "nightly"}, {"x-kind": "Nightly"}),
    "claim": ("'claim:dept': legal", {"token": {"sub": "c", "dept": "legal"}}, {"token": {"sub": "c", "dept": "sales"}}),
    "claim_that_is_a_list": ("'claim:dept': legal", {"token": {"sub": "c", "dept": ["x", "legal"]}}, {"token": {"sub": "c"}}),
    "not": ("not: {caller: blue-bot}", {"key": "red-bot"}, {"key": "blue-bot"}),
    "all_keys_at_once": ("caller: red-bot, model: o3", {"key": "red-bot", "model": "o3"}, {"key": "red-bot", "model": "gpt-4o"}),
}
# name → `per:`, a call, a call counted on another account (None: all are counted together)
PERS: dict[str, tuple[str, dict, dict | None]] = {
    "caller": ("caller", {"key": "red-bot"}, {"key": "blue-bot"}),
    "key": ("key", {"key": "red-bot"}, {"token": {"sub": "ann"}}),
    "team": ("team", {"key": "red-bot"}, {"key": "blue-bot"}),
    "tier": ("tier", {"key": "red-bot"}, {"key": "blue-bot"}),
    "provider": ("provider", {"provider": "first"}, {"provider": "second"}),
    "model": ("model", {"model": "gpt-4o"}, {"model": "gpt-4o-mini"}),
    "ip": ("ip", {"peer": "127.0.0.1"}, {"peer": "127.0.0.2"}),
    "end_user_of_a_header": ("end_user", {"x-user": "u1"}, {"x-user": "u2"}),
    "end_user_of_the_body": ("end_user", {"user": "u3"}, {"user": "u4"}),
    "header": ("'header:X-Tenant'", {"x-tenant": "t1"}, {"x-tenant": "t2"}),
    "claim": ("'claim:dept'", {"token": {"sub": "a", "dept": "x"}}, {"token": {"sub": "a", "dept": "y"}}),
    "total": ("total", {"key": "red-bot"}, None),
    "instance": ("instance", {"key": "red-bot"}, None),
    "a_list": ("[team, end_user]", {"key": "red-bot", "x-user": "u5"}, {"key": "red-bot", "x-user": "u6"}),
    "a_list_by_its_first": ("[team, end_user]", {"key": "red-bot", "x-user": "u7"}, {"key": "blue-bot", "x-user": "u7"}),
}
POLICY = """
providers:
  first: {dialect: openai, url: A_URL, region: us}
  second: {dialect: openai, url: B_URL, region: eu}
callers:
  anonymous: free
  keys:
    - {name: red-bot, hash: HASH(red-bot), team: red, tier: gold}
    - {name: blue-bot, hash: HASH(blue-bot), team: blue, tier: free}
  jwt: [{name: corp, issuer: https://id.example, secret: env:JWT_SECRET}]
  default_tier: free
  end_user: ['header:x-user', 'body:user']
tiers: {free: {}, gold: {}, silver: {}}
teams: {red: {}, blue: {}}
"""
POLICY += "limits:\n" + "".join(
    f"  - {{name: m-{name}, match: {{'header:x-case': limit-{name}, {match}}}, per: total, requests: 1/day}}\n"
    for name, (match, _, _) in MATCHES.items()
)
POLICY += "".join(
    f"  - {{name: p-{name}, match: {{'header:x-case': per-{name}}}, per: {per}, requests: 1/day}}\n" for name, (per, _, _) in PERS.items()
)
POLICY += """
  - {name: needs-user, match: {'header:x-case': missing-deny}, per: end_user, requests: 1/day}
  - {name: takes-none, match: {'header:x-case': missing-shared}, per: end_user, requests: 1/day, missing: shared}
  - {name: needs-claim, match: {'header:x-case': missing-claim}, per: ['caller', 'claim:org'], requests: 1/day, missing: deny}
"""
POLICY += "rules:\n" + "".join(
    f"  - {{match: {{'header:x-case': rule-{name}, {match}}}, allow: {{providers: [nobody-at-all]}}}}\n"
    for name, (match, _, _) in MATCHES.items()
)
POLICY += """
  - {match: {'header:x-case': rule-models}, allow: {models: 'gpt-4o*'}}
  - {match: {'header:x-case': rule-regions}, allow: {regions: [eu, ch]}}
  - {match: {'header:x-case': rule-tiers}, allow: {tiers: gold}}
"""
BOUNDS = {  # x-case → a call that it lets through, one that it does not, and what of it
    "rule-models": ({"model": "gpt-4o-mini"}, {"model": "o3"}, b"model"),
    "rule-regions": ({"provider": "second"}, {"provider": "first"}, b"region"),
    "rule-tiers": ({"key": "red-bot"}, {"key": "blue-bot"}, b"tier"),
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    policy = spelt(POLICY).replace("nobody-at-all", "openai")  # a provider that exists and that no call here goes to
    async with world(tmp_path_factory.mktemp("match"), policy, {"JWT_SECRET": JWT_SECRET}, providers=2) as one:
        yield one


async def call(here: World, case: str, how: dict) -> Got:
    """One call as a row of the tables says."""
    how = dict(how)
    headers = [("x-case", case), *((name, how.pop(name)) for name in ("x-kind", "x-user", "x-tenant") if name in how)]
    key = how.pop("key", None)
    if claims := how.pop("token", None):
        key = jwt.encode({"iss": "https://id.example", "exp": time.time() + 60, **claims}, JWT_SECRET, "HS256")
    method, path = how.pop("method", "POST"), how.pop("path", CHAT)
    doc = {"model": how.pop("model", "gpt-4o"), "messages": [{"role": "user", "content": "x"}], "input": "x"}
    doc |= {"user": how.pop("user")} if "user" in how else {}
    target = f"/{how.pop('provider', 'first')}{path}"
    body = json.dumps(doc).encode() if method == "POST" else None
    peer = how.pop("peer", "127.0.0.1")
    assert not how, f"the row says more than a call can say: {how}"
    return await here.ask(method, target, body, key, headers, peer=peer)


@pytest.mark.parametrize("name", MATCHES)
async def test_a_limit_counts_the_calls_its_match_means_and_no_others(here, name):
    _, meant, other = MATCHES[name]
    answers = [await call(here, f"limit-{name}", how) for how in (meant, meant, other, other)]
    assert [got.status for got in answers] == [200, 429, 200, 200], [got.body for got in answers]
    assert answers[1].code == "rate_limited" and answers[1].header("x-sluice-limit") == f"limit m-{name}"


@pytest.mark.parametrize("name", MATCHES)
async def test_a_rule_holds_for_the_calls_its_match_means_and_no_others(here, name):
    _, meant, other = MATCHES[name]
    refused, passed = await call(here, f"rule-{name}", meant), await call(here, f"rule-{name}", other)
    assert (refused.status, refused.code) == (403, "not_allowed") and passed.status == 200, (refused.body, passed.body)


@pytest.mark.parametrize("name", BOUNDS)
async def test_a_rule_bounds_models_regions_and_tiers_too(here, name):
    may, may_not, what = BOUNDS[name]
    passed, refused = await call(here, name, may), await call(here, name, may_not)
    assert passed.status == 200 and (refused.status, refused.code) == (403, "not_allowed") and what in refused.body


@pytest.mark.parametrize("name", PERS)
async def test_a_limit_is_counted_per_what_it_names(here, name):
    _, mine, other = PERS[name]
    first, second = await call(here, f"per-{name}", mine), await call(here, f"per-{name}", mine)
    third = await call(here, f"per-{name}", other or {"key": "blue-bot"})
    assert (first.status, second.status) == (200, 429), (first.body, second.body)
    assert second.header("x-sluice-limit") == f"limit p-{name}"
    assert third.status == (200 if other else 429)


async def test_a_call_without_an_end_user_is_refused_where_the_limit_says_deny(here):
    got = await call(here, "missing-deny", {})
    assert (got.status, got.code) == (400, "missing_end_user") and b"needs-user" in got.body
    assert (await call(here, "missing-claim", {"token": {"sub": "a"}})).code == "missing_end_user"
    assert (await call(here, "missing-deny", {"x-user": "u"})).status == 200


async def test_calls_without_an_end_user_share_one_account_where_the_limit_says_shared(here):
    assert [(await call(here, "missing-shared", {"key": key})).status for key in ("red-bot", "blue-bot")] == [200, 429]
    assert (await call(here, "missing-shared", {"x-user": "somebody"})).status == 200
