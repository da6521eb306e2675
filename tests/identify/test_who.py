"""Who is calling: the order of the list, and that nobody falls down it."""

from types import SimpleNamespace

import jwt
import pytest

from proxy.exchange import Allow
from proxy.identify import keys
from proxy.identify.who import Identify, end_user
from proxy.policy.plan_callers import CallerRules, JwtIssuer, KeyRecord, TokenRecord
from proxy.refusal import Refusal

SECRET = b"s" * 32
JWT_SECRET = "a secret of no fewer than 32 bytes"
ISS = "https://login.example.com/"
KEY, DIGEST = keys.mint(b"k" * 32)
STATE_KEY, STATE_DIGEST = keys.mint(b"s" * 32)
TOKEN, OWN = "shared-token-of-old", "sk-proj-of-ci"
MINTED = {STATE_DIGEST: KeyRecord("minted", STATE_DIGEST, team="finance")}
RULES = CallerRules(
    keys=(KeyRecord("bot", DIGEST, tier="premium", team="finance", overrides={"requests": 1}),),
    tokens=(
        TokenRecord(KeyRecord("themis", keys.digest_of(TOKEN))),
        TokenRecord(KeyRecord("ci", keys.digest_of(OWN)), own_provider="openai"),
    ),
    issuers=(
        JwtIssuer("corp", ISS, None, JWT_SECRET, algorithms=("HS256",), team_claim="org", tier_claim="plan", allow=Allow(tiers=("free",))),
    ),
    default_tier="free",
    tiers=frozenset({"free", "premium"}),
    teams=frozenset({"finance"}),
)
OPEN = CallerRules()
SHUT = CallerRules(anonymous=None, pass_through=None)


class NoKeys:
    async def keys(self, url, kid):
        raise AssertionError("nobody asked for this")


def found_by(find):
    """Keys of the state that never change."""
    return SimpleNamespace(find=find, mark="the only one")


@pytest.fixture
def identify(clock):
    return Identify(found_by(lambda digest: MINTED.get(digest)), SECRET, clock, NoKeys())


def token_of(clock, **claims):
    return jwt.encode({"iss": ISS, "sub": "alice", "exp": clock.now_ns() // 10**9 + 60, **claims}, JWT_SECRET, "HS256")


async def refused(identify, call, rules=RULES):
    with pytest.raises(Refusal) as no:
        await identify.who(call, rules)
    return no.value.status, no.value.code


@pytest.mark.parametrize("field", ["x-api-key", "api-key", "x-goog-api-key"])
async def test_a_key_of_the_policy_is_known_in_every_field(identify, call, field):
    caller = await identify.who(call((field, KEY)), RULES)
    assert (caller.name, caller.kind, caller.tier, caller.team, caller.key) == ("bot", "key", "premium", "finance", "bot")
    assert caller.overrides == {"requests": 1}
    assert not caller.brings_own_key


async def test_a_key_of_the_state_is_known_and_gets_the_default_tier(identify, call):
    caller = await identify.who(call(("Authorization", f"Bearer {STATE_KEY}")), RULES)
    assert (caller.name, caller.kind, caller.tier) == ("minted", "key", "free")


@pytest.mark.parametrize("dead", ["slk-", "slk-" + "x" * 43, KEY[:-1], KEY + "x", KEY[:20]])
async def test_a_dead_or_unknown_key_of_ours_never_leaves_even_where_all_may_pass(identify, call, dead):
    assert await refused(identify, call(("Authorization", f"Bearer {dead}")), OPEN) == (401, "invalid_credentials")


async def test_an_expired_key_is_told_so_from_its_first_instant_on(identify, call, clock):
    rules = CallerRules(keys=(KeyRecord("bot", DIGEST, expires_ns=clock.now_ns() + 10**9),))
    assert (await identify.who(call(("x-api-key", KEY)), rules)).name == "bot"
    clock.forward(1)
    assert await refused(identify, call(("x-api-key", KEY)), rules) == (401, "expired_credentials")


async def test_a_policy_cannot_revive_a_key_that_the_state_let_expire(call, clock):
    identify = Identify(found_by(lambda _: KeyRecord("old", DIGEST, expires_ns=1)), SECRET, clock, NoKeys())
    assert await refused(identify, call(("x-api-key", KEY))) == (401, "expired_credentials")


async def test_a_store_that_gives_another_key_is_not_believed(call, clock):
    identify = Identify(found_by(lambda _: KeyRecord("other", DIGEST)), SECRET, clock, NoKeys())
    assert await refused(identify, call(("x-api-key", STATE_KEY)), OPEN) == (401, "invalid_credentials")


async def test_a_shared_token_is_known_under_its_name(identify, call):
    caller = await identify.who(call(("Authorization", f"Bearer {TOKEN}")), RULES)
    assert (caller.name, caller.kind, caller.key) == ("themis", "token", "themis")


async def test_a_jwt_of_a_known_issuer_is_a_caller(identify, call, clock):
    caller = await identify.who(call(("Authorization", f"Bearer {token_of(clock, org='finance')}")), RULES)
    assert (caller.name, caller.kind, caller.team, caller.tier) == ("corp:alice", "jwt", "finance", "free")


async def test_an_expired_jwt_never_falls_through_to_pass_through(identify, call, clock):
    token = token_of(clock)
    clock.forward(100)
    assert await refused(identify, call(("Authorization", f"Bearer {token}"))) == (401, "expired_credentials")


async def test_a_jwt_of_an_issuer_we_do_not_know_is_the_callers_own_business(identify, call):
    foreign = jwt.encode({"iss": "https://accounts.example.org"}, JWT_SECRET, "HS256")
    assert (await identify.who(call(("Authorization", f"Bearer {foreign}")), RULES)).kind == "pass_through"


@pytest.mark.parametrize(
    ("claims", "code"), [({"org": "sales"}, "unknown_team"), ({"plan": "gold"}, "unknown_tier"), ({"plan": "premium"}, "not_allowed")]
)
async def test_a_team_or_tier_that_is_not_declared_or_not_allowed_is_403(identify, call, clock, claims, code):
    assert await refused(identify, call(("Authorization", f"Bearer {token_of(clock, **claims)}"))) == (403, code)


@pytest.mark.parametrize("lines", [[], [("Authorization", "Bearer sluice")], [("x-api-key", "sluice")]])
async def test_no_key_and_the_key_sluice_are_anonymous(identify, call, lines):
    caller = await identify.who(call(*lines), OPEN)
    assert (caller.name, caller.kind, caller.tier, caller.key) == ("anonymous", "anonymous", None, "")


async def test_anonymous_callers_have_the_tier_that_the_policy_gives_them(identify, call):
    rules = CallerRules(anonymous="premium", pass_through="free", default_tier="free", tiers=frozenset({"free", "premium"}))
    assert (await identify.who(call(), rules)).tier == "premium"
    assert (await identify.who(call(("x-api-key", "sk-other")), rules)).tier == "free"


async def test_where_all_is_denied_the_message_says_what_to_send(identify, call):
    with pytest.raises(Refusal) as none:
        await identify.who(call(), SHUT)
    with pytest.raises(Refusal) as unknown:
        await identify.who(call(("x-api-key", "sk-secret-of-mine")), SHUT)
    assert (none.value.status, none.value.code) == (401, "missing_credentials")
    assert (unknown.value.status, unknown.value.code) == (401, "invalid_credentials")
    for no in (none.value, unknown.value):
        assert "slk-" in no.message and "secret-of-mine" not in no.message


async def test_a_named_own_key_goes_to_its_provider_alone(identify, call):
    caller = await identify.who(call(("Authorization", f"Bearer {OWN}")), RULES)
    assert (caller.name, caller.kind, caller.own_provider, caller.tier) == ("ci", "own_key", "openai", "free")
    assert caller.brings_own_key
    assert await refused(identify, call(("Authorization", f"Bearer {OWN}"), provider="groq")) == (403, "not_allowed")


async def test_an_own_key_may_go_where_the_caller_of_this_room_says_it_belongs(identify, call):
    to_eu = call(("Authorization", f"Bearer {OWN}"), provider="openai-eu")
    assert (await identify.who(to_eu, RULES, lambda own, asked: asked.startswith(own))).name == "ci"


async def test_an_own_key_can_expire(identify, call):
    rules = CallerRules(tokens=(TokenRecord(KeyRecord("ci", keys.digest_of(OWN), expires_ns=1), own_provider="openai"),))
    assert await refused(identify, call(("x-api-key", OWN)), rules) == (401, "expired_credentials")


async def test_a_providers_own_key_passes_under_a_keyed_hash(identify, call, clock):
    first = await identify.who(call(("x-api-key", "sk-mine")), OPEN)
    again = await identify.who(call(("Authorization", "Bearer sk-mine")), OPEN)
    other = await identify.who(call(("x-api-key", "sk-yours")), OPEN)
    elsewhere = await Identify(found_by(lambda _: None), b"t" * 32, clock, NoKeys()).who(call(("x-api-key", "sk-mine")), OPEN)
    assert first == again and first.kind == "pass_through" and first.brings_own_key
    assert len({first.name, other.name, elsewhere.name}) == 3
    assert first.name.startswith("pass-through:") and len(first.name) == 25
    assert "mine" not in repr(first)


async def test_a_reload_is_seen_at_once(identify, call):
    await identify.who(call(("x-api-key", KEY)), RULES)
    assert await refused(identify, call(("x-api-key", KEY)), OPEN) == (401, "invalid_credentials")


def test_an_end_user_is_a_keyed_hash_of_the_first_filled_source():
    rules = CallerRules(end_user=("header:X-User-Id", "body:user"))
    by_header = end_user({"x-user-id": " eve "}, "mallory", rules, SECRET)
    by_body = end_user({"x-user-id": "  "}, "eve", rules, SECRET)
    assert by_header == by_body and len(by_header) == 24
    assert "eve" not in by_header
    assert end_user({}, "eve", rules, b"t" * 32) != by_body
    assert end_user({"x-user-id": "\ud800"}, None, rules, SECRET)
    assert end_user({}, None, rules, SECRET) is None
    assert end_user({"x-user-id": "eve"}, "eve", CallerRules(), SECRET) is None
