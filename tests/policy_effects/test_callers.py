"""Who is who, and what each may use: keys, shared tokens, own keys, pass-through and anonymous callers."""

from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio
from support.world import slk, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

HS_SECRET = "an-hs256-secret-of-at-least-32-bytes!"
NOW = datetime.now(UTC)
# A zone where today's date is another than in UTC; a key that expires on the earlier of both dates is dead in one of them alone.
ZONE, IS_AHEAD = ("Pacific/Kiritimati", True) if NOW.hour >= 10 else ("Etc/GMT+12", False)
DAY = NOW.date() + timedelta(days=1) if IS_AHEAD else NOW.date()
TIERS = "tiers: {free: {requests: 1000/min}, premium: {requests: 2000/min}, gold: {requests: 3000/min}}"
POLICY = f"""
time_zone: {ZONE}
providers:
  openai: {{url: A_URL, key: env:PROVIDER_KEY, region: us}}
  anthropic: {{url: A_URL, key: env:PROVIDER_KEY, region: eu}}
  other: {{dialect: openai, url: A_URL, key: env:PROVIDER_KEY}}
{TIERS}
teams:
  finance: {{}}
  eu-legal: {{allow: {{regions: [eu]}}}}
  small: {{allow: {{models: [gpt-4o-mini], providers: openai, tiers: [free, premium]}}}}
callers:
  anonymous: free
  pass_through: premium
  default_tier: gold
  keys:
    - {{name: billing-bot, hash: HASH(billing-bot), tier: premium, team: finance}}
    - {{name: tierless, hash: HASH(tierless)}}
    - {{name: dead, hash: HASH(dead), expires: 2024-02-29}}
    - {{name: today, hash: HASH(today), expires: {DAY}}}
    - {{name: tomorrow, hash: HASH(tomorrow), expires: {DAY + timedelta(days=2)}}}
    - {{name: models, hash: HASH(models), allow: {{models: ['gpt-4o*', claude-sonnet-4-5]}}}}
    - {{name: providers, hash: HASH(providers), allow: {{providers: [openai, 'anth*']}}}}
    - {{name: regions, hash: HASH(regions), allow: {{regions: us}}}}
    - {{name: tiers, hash: HASH(tiers), tier: free, allow: {{tiers: [premium]}}}}
    - {{name: legal, hash: HASH(legal), team: eu-legal}}
    - {{name: little, hash: HASH(little), team: small, tier: free}}
    - {{name: little-gold, hash: HASH(little-gold), team: small, tier: gold}}
    - {{name: themis, key: env:THEMIS_KEY, tier: premium}}
    - {{name: ci, key: env:CI_KEY, own_provider_key: openai, tier: free}}
"""
ENV = {"PROVIDER_KEY": "sk-of-the-provider", "THEMIS_KEY": "themis-token-of-old", "CI_KEY": "sk-ci-own-key", "HS_SECRET": HS_SECRET}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("callers"), POLICY, ENV) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


async def placed(here, key, **how) -> tuple[str, str | None, str | None]:
    """(caller, team, tier) of the ledger."""
    got = await here.chat(key, **how)
    assert got.status == 200, got.body
    row = await here.row(got)
    return row["caller"], row["team"], row["tier"]


async def refused(here, key, **how) -> tuple[int, str | None]:
    got = await here.chat(key, **how)
    assert not here.provider.seen, "it reached the provider"
    return got.status, got.code


async def test_a_sluice_key_is_its_caller_with_team_and_tier(here):
    assert await placed(here, "billing-bot") == ("billing-bot", "finance", "premium")
    assert here.last.header("authorization") == "Bearer sk-of-the-provider"


async def test_default_tier_is_that_of_a_key_that_names_none(here):
    got = await here.chat("tierless")
    assert got.header("x-ratelimit-limit") == "3000" and (await here.row(got))["tier"] == "gold"


async def test_a_key_is_dead_from_the_first_instant_of_its_day_in_the_time_zone(here):
    assert await refused(here, "dead") == (401, "expired_credentials")
    assert await refused(here, "today") == (401, "expired_credentials") if IS_AHEAD else (await placed(here, "today"))[0] == "today"
    assert (await placed(here, "tomorrow"))[0] == "tomorrow"


async def test_an_unknown_sluice_key_never_leaves(here):
    assert await refused(here, "nobody-ever-minted") == (401, "invalid_credentials")
    got = await here.chat("sk-" + slk("x"))  # not a Sluice key: a provider's, as far as we know
    assert got.status == 200


async def test_a_key_comes_in_any_header_that_an_sdk_uses(here):
    body = b'{"model":"gpt-4o","messages":[]}'
    for header in ("x-api-key", "api-key", "x-goog-api-key"):
        got = await here.ask("POST", "/openai/v1/chat/completions", body, headers=[(header, slk("billing-bot"))])
        assert (await here.row(got))["caller"] == "billing-bot" and here.last.header(header) is None
    got = await here.ask("POST", f"/openai/v1/chat/completions?key={slk('billing-bot')}&a=b", body)
    assert (await here.row(got))["caller"] == "billing-bot" and here.last.target == "/v1/chat/completions?a=b"


ALLOWED = {  # key → (a call that may pass, a call that may not, the word the refusal says)
    "models": ({"model": "gpt-4o-mini"}, {"model": "o3"}, b"model"),
    "providers": ({}, {"provider": "other"}, b"provider"),
    "regions": ({}, {"provider": "other"}, b"region"),
    "little": ({"model": "gpt-4o-mini"}, {"model": "gpt-4o"}, b"model"),
    "little ": ({"model": "gpt-4o-mini"}, {"model": "gpt-4o-mini", "provider": "other"}, b"provider"),
}


@pytest.mark.parametrize("key", ALLOWED)
async def test_allow_bounds_what_a_key_or_its_team_may_use(here, key):
    may, may_not, word = ALLOWED[key]
    key = key.strip()
    assert (await placed(here, key, **may))[0] == key
    here.forget()
    got = await here.chat(key, **may_not)
    assert (got.status, got.code) == (403, "not_allowed") and word in got.body and not here.provider.seen
    assert got.header("x-should-retry") == "false"


async def test_allow_tiers_bounds_the_tiers_of_a_key_and_of_a_team(here):
    assert await refused(here, "tiers") == (403, "not_allowed")
    assert await refused(here, "little-gold", model="gpt-4o-mini") == (403, "not_allowed")


async def test_the_region_of_a_team_is_checked(here):
    assert await refused(here, "legal") == (403, "not_allowed")
    body = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
    assert (await here.ask("POST", "/anthropic/v1/messages", body, "legal")).status == 200


async def test_the_list_of_models_holds_what_the_key_may_use(here):
    got = await here.ask("GET", "/openai/v1/models", key="models")
    assert [one["id"] for one in got.json["data"]] == ["gpt-4o", "gpt-4o-mini"]
    got = await here.ask("GET", "/openai/v1/models", key="billing-bot")
    assert [one["id"] for one in got.json["data"]] == ["gpt-4o", "gpt-4o-mini", "o3"]


async def test_a_shared_token_of_old_goes_on_working_under_its_name(here):
    got = await here.ask(
        "POST", "/openai/v1/chat/completions", b'{"model":"gpt-4o","messages":[]}', headers=[("x-api-key", ENV["THEMIS_KEY"])]
    )
    row = await here.row(got)
    assert (row["caller"], row["tier"]) == ("themis", "premium")
    assert here.last.header("authorization") == "Bearer sk-of-the-provider" and ENV["THEMIS_KEY"] not in str(here.last.headers)


async def test_a_named_own_key_goes_upstream_unchanged_to_its_own_provider_alone(here):
    assert await placed(here, "sk-ci-own-key") == ("ci", None, "free")
    assert here.last.header("authorization") == "Bearer sk-ci-own-key"
    here.forget()
    assert await refused(here, "sk-ci-own-key", provider="other") == (403, "not_allowed")


async def test_callers_with_a_provider_key_pass_through_in_the_tier_of_the_policy(here):
    name, team, tier = await placed(here, "sk-somebodys-own-key")
    assert (team, tier) == (None, "premium") and name.startswith("pass-through:") and "sk-" not in name
    assert (await placed(here, "sk-somebodys-own-key"))[0] == name != (await placed(here, "sk-another-key"))[0]


async def test_callers_without_a_credential_are_anonymous_in_the_tier_of_the_policy(here):
    assert await placed(here, None) == ("anonymous", None, "free")
    got = await here.ask(
        "POST", "/openai/v1/chat/completions", b'{"model":"gpt-4o","messages":[]}', headers=[("authorization", "Bearer sluice")]
    )
    assert (await here.row(got))["caller"] == "anonymous" and here.last.header("authorization") == "Bearer sk-of-the-provider"


async def test_two_credentials_that_disagree_are_refused(here):
    got = await here.chat("billing-bot", headers=[("x-api-key", "sk-other")])
    assert (got.status, got.code) == (400, "ambiguous_credentials") and not here.provider.seen


# --- who may come without a name ---

CLOSED = {
    "by default as soon as keys exist": "callers: {keys: [{name: bot, hash: HASH(bot)}]}",
    "by default as soon as jwt exists": "callers: {jwt: [{name: c, issuer: c, secret: env:HS_SECRET}]}",
    "where the policy says deny": "callers: {anonymous: deny, pass_through: deny}",
    "open by default on loopback": "",
    "each by itself": "tiers: {free: {}}\ncallers: {anonymous: free, pass_through: deny}",
}


async def test_strangers_are_let_in_or_not_as_the_policy_says(tmp_path):
    said = "providers: {openai: {url: A_URL}}\n"
    async with world(tmp_path, said + CLOSED["where the policy says deny"], ENV) as one:
        for how, policy in CLOSED.items():
            if how != "where the policy says deny":
                await one.reload(said + policy)
            anonymous, own = await one.chat(), await one.chat("sk-own-key-of-mine")
            expected = {"open by default on loopback": (None, None), "each by itself": (None, "invalid_credentials")}
            assert (anonymous.code, own.code) == expected.get(how, ("missing_credentials", "invalid_credentials")), how
