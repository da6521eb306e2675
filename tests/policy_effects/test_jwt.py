"""Callers with a JWT: of a key set, of a shared secret, in the wrong way, and of an issuer that is gone."""

import json
import time

import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from support.provider import Provider
from support.world import world

pytestmark = pytest.mark.asyncio(loop_scope="module")

HS_SECRET = "an-hs256-secret-of-at-least-32-bytes!"
RSA, EC, STRANGER = rsa.generate_private_key(65537, 2048), ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
POLICY = """
providers:
  openai: {url: A_URL, key: env:PROVIDER_KEY, region: us}
  anthropic: {url: A_URL, key: env:PROVIDER_KEY, region: eu}
  other: {dialect: openai, url: A_URL, key: env:PROVIDER_KEY}
tiers: {free: {}, premium: {}, gold: {}}
teams: {finance: {}}
callers:
  pass_through: premium
  default_tier: gold
  jwt:
    - name: corp
      issuer: https://login.example.com/
      jwks: B_URL/jwks.json
      audience: [sluice, other-audience]
      algorithms: [RS256, ES256]
      claims: {name: sub, team: {from: org, map: {Finanz: finance}}, tier: {from: plan, map: {pro-2024: premium}}}
      allow: {tiers: [free, premium, gold], models: [gpt-4o, gpt-4o-mini], providers: openai, regions: [us]}
      max_lifetime: 1h
    - {name: only-es, issuer: es-issuer, jwks: B_URL/jwks.json, algorithms: ES256}
    - {name: house, issuer: house, secret: env:HS_SECRET, claims: {name: email, team: dept, tier: tier},
       allow: {tiers: [free, premium], regions: us}}
"""
ENV = {"PROVIDER_KEY": "sk-of-the-provider", "HS_SECRET": HS_SECRET}


async def keys(seen, reply):
    """The issuer's key set."""
    found = []
    for kid, algorithm, key in (("r1", "RS256", RSA), ("e1", "ES256", EC)):
        turned = jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True)
        found.append({**turned, "kid": kid, "alg": algorithm, "use": "sig"})
    await reply.json({"keys": found})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("jwt"), POLICY, ENV, providers=2) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        here = request.getfixturevalue("here")
        here.forget()
        here.providers[1].script = keys


def token(kind: str = "RS256", key=None, **claims: object) -> str:
    """A good token of issuer corp, but for what is said."""
    now = int(time.time())
    said = {"iss": "https://login.example.com/", "sub": "ann", "aud": "sluice", "iat": now, "exp": now + 600, **claims}
    said = {name: value for name, value in said.items() if value is not None}
    own, kid = {"RS256": (RSA, "r1"), "ES256": (EC, "e1"), "HS256": (HS_SECRET, None)}[kind]
    return jwt.encode(said, key or own, kind, {"kid": kid} if kid else None)


def house(**claims: object) -> str:
    return token("HS256", **{"iss": "house", "aud": None, "sub": None, "email": "eve@house", **claims})


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


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
async def test_a_token_of_the_issuers_key_set_is_a_caller(here, kind):
    assert await placed(here, token(kind)) == ("corp:ann", None, "gold")
    assert here.last.header("authorization") == "Bearer sk-of-the-provider"


async def test_a_token_of_the_shared_secret_is_a_caller(here):
    assert await placed(here, house(tier="free", dept="finance")) == ("house:eve@house", "finance", "free")


async def test_claims_are_mapped_to_team_and_tier_and_a_value_outside_the_map_is_refused(here):
    assert await placed(here, token(org="Finanz", plan="pro-2024")) == ("corp:ann", "finance", "premium")
    here.forget()
    assert await refused(here, token(org="finance")) == (403, "unknown_team")
    assert await refused(here, token(plan="free")) == (403, "unknown_tier")


async def test_without_a_map_a_claim_is_the_name_itself_and_must_be_declared(here):
    assert await placed(here, house(tier="premium", dept="finance")) == ("house:eve@house", "finance", "premium")
    here.forget()
    assert await refused(here, house(tier="free", dept="unheard-of")) == (403, "unknown_team")
    assert await refused(here, house(tier="platinum")) == (403, "unknown_tier")


async def test_allow_bounds_the_callers_of_an_issuer(here):
    assert await refused(here, house(tier="gold")) == (403, "not_allowed")
    assert (await here.chat(token(), model="gpt-4o-mini")).status == 200
    here.forget()
    assert await refused(here, token(), model="o3") == (403, "not_allowed")
    assert await refused(here, token(), provider="other") == (403, "not_allowed")


async def test_the_regions_of_an_issuer_bound_its_callers(here):
    body = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[]}'
    got = await here.ask("POST", "/anthropic/v1/messages", body, house(tier="free"))  # that provider is in the EU
    assert (got.status, got.code) == (403, "not_allowed") and b"region" in got.body and not here.provider.seen
    assert (await here.chat(house(tier="free"))).status == 200


WRONG = {
    "expired": ({"exp": 1_700_000_000}, 401, "expired_credentials"),
    "of no expiry": ({"exp": None}, 401, "invalid_credentials"),
    "of another audience": ({"aud": "elsewhere"}, 401, "invalid_credentials"),
    "of no audience": ({"aud": None}, 401, "invalid_credentials"),
    "not valid yet": ({"nbf": 9_999_999_999}, 401, "invalid_credentials"),
    "living longer than max_lifetime": ({"exp": int(time.time()) + 7200}, 401, "invalid_credentials"),
    "of nobody": ({"sub": None}, 401, "invalid_credentials"),
    "signed by a stranger": ({"kind": "ES256", "key": STRANGER}, 403, "bad_signature"),
}


@pytest.mark.parametrize("how", WRONG)
async def test_a_bad_token_of_ours_is_refused_and_never_leaves(here, how):
    claims, status, code = WRONG[how]
    got = await here.chat(token(**claims))
    assert (got.status, got.code) == (status, code), got.body
    assert not here.provider.seen and (status != 401 or got.header("www-authenticate"))


async def test_an_algorithm_that_the_policy_does_not_name_is_refused(here):
    assert await placed(here, token("ES256", iss="es-issuer", aud=None)) == ("only-es:ann", None, "gold")
    here.forget()
    assert (await refused(here, token("RS256", iss="es-issuer", aud=None)))[0] in (401, 403)
    assert (await refused(here, token("HS256", key=HS_SECRET)))[0] in (401, 403)
    unsigned = jwt.encode({"iss": "house", "email": "e", "exp": time.time() + 60}, None, "none")
    assert await refused(here, unsigned) == (401, "invalid_credentials")


async def test_an_issuer_without_max_lifetime_or_audience_checks_neither(here):
    assert (await placed(here, house(exp=int(time.time()) + 86_400 * 30, aud="whatever", tier="free")))[0] == "house:eve@house"


async def test_a_token_of_an_issuer_nobody_knows_is_a_provider_key(here):
    name, _, _ = await placed(here, token("HS256", iss="unknown"))
    assert name.startswith("pass-through:")


async def test_the_key_set_is_fetched_once_and_kept(here):
    fetched = len(here.providers[1].seen)
    for _ in range(3):
        await here.chat(token())
    assert len(here.providers[1].seen) - fetched <= 1


async def test_a_dead_issuer_refuses_and_says_when_to_come_back(tmp_path):
    async with Provider(keys) as issuer:
        url = issuer.url
    policy = f"providers: {{openai: {{url: A_URL}}}}\ncallers: {{jwt: [{{name: c, issuer: c, jwks: {url}/jwks.json}}]}}"
    async with world(tmp_path, policy) as one:
        got = await one.chat(token(iss="c"))
        assert (got.status, got.code) == (503, "state_unavailable") and 1 <= int(got.header("retry-after")) <= 60
        assert json.loads(got.body)["error"]["code"] == "state_unavailable"
        assert await one.metric("jwks_failed_total") >= 1
