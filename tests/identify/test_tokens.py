"""The table of bad tokens (faults.md 3.4): each gets its own answer, and none is let in."""

import hashlib
import hmac
import json
from base64 import urlsafe_b64encode

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from proxy.identify.tokens import MAX_KEPT, Tokens
from proxy.policy.plan_callers import JwtIssuer
from proxy.refusal import Refusal

SECRET = "a secret of no fewer than 32 bytes"
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SMALL = rsa.generate_private_key(public_exponent=65537, key_size=1024)
EC = ec.generate_private_key(ec.SECP256R1())
OTHER = rsa.generate_private_key(public_exponent=65537, key_size=2048)
ISS = "https://login.example.com/"


def jwk(key, kid, **more):
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**algorithm.to_jwk(key.public_key(), as_dict=True), "kid": kid, **more}


class Published:
    """A JWKS that is at hand, and counts how often it is asked."""

    def __init__(self, *keys):
        self.held, self.asked = keys, 0

    async def keys(self, url, kid):
        self.asked += 1
        return [key for key in self.held if kid is None or key.get("kid") == kid]


@pytest.fixture
def published():
    return Published(jwk(RSA, "r"), jwk(EC, "e"), jwk(SMALL, "small"), {"kty": "RSA", "kid": "broken", "n": "!", "e": "AQAB"})


CORP = JwtIssuer("corp", ISS, "https://login.example.com/jwks", None)
HOUSE = JwtIssuer("house", ISS, None, SECRET, algorithms=("HS256",))


@pytest.fixture
def good(clock):
    return {"iss": ISS, "sub": "alice", "exp": clock.now_ns() // 10**9 + 600}


def b64(raw):
    return urlsafe_b64encode(raw if isinstance(raw, bytes) else raw.encode()).decode().rstrip("=")


def by_hand(header, payload, signature=b"sig"):
    as_text = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    return f"{b64(as_text[0])}.{b64(as_text[1])}.{b64(signature)}"


def signed_hs(header, payload, key):
    """HS256 over any bytes: PyJWT will not sign what is wrong."""
    signing = by_hand(header, payload).rpartition(".")[0]
    return f"{signing}.{b64(hmac.new(key, signing.encode(), hashlib.sha256).digest())}"


async def refused(tokens, token, issuer=CORP):
    with pytest.raises(Refusal) as no:
        await tokens.caller(token, issuer)
    return no.value.status, no.value.code


@pytest.mark.parametrize(("key", "alg", "kid"), [(RSA, "RS256", "r"), (EC, "ES256", "e"), (RSA, "RS256", None), (EC, "ES256", None)])
async def test_a_good_token_names_its_caller(clock, published, good, key, alg, kid):
    token = jwt.encode(good, key, alg, headers={"kid": kid} if kid else {})
    caller = await Tokens(clock, published).caller(token, CORP)
    assert (caller.name, caller.kind) == ("corp:alice", "jwt")


async def test_a_shared_secret_signs_too(clock, published, good):
    caller = await Tokens(clock, published).caller(jwt.encode(good, SECRET, "HS256"), HOUSE)
    assert (caller.name, published.asked) == ("house:alice", 0)


@pytest.mark.parametrize("alg", ["none", "nOnE", "", "9" * 5000, "HS1", None, 7, ["RS256"]])
async def test_t1_t15_a_token_signed_by_no_method_is_401(clock, published, good, alg):
    assert await refused(Tokens(clock, published), by_hand({"alg": alg}, good)) == (401, "invalid_credentials")


async def test_t1_a_token_without_a_signature_is_401(clock, published, good):
    assert await refused(Tokens(clock, published), by_hand({"alg": "RS256"}, good, b"")) == (401, "invalid_credentials")


@pytest.mark.parametrize("algorithms", [("RS256",), ("RS256", "HS256")])
async def test_t2_a_public_key_used_as_a_secret_is_403(clock, published, good, algorithms):
    issuer = JwtIssuer("corp", ISS, CORP.jwks_url, None, algorithms=algorithms)
    pem = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    token = signed_hs({"alg": "HS256", "kid": "r"}, good, pem)
    assert await refused(Tokens(clock, published), token, issuer) == (403, "bad_signature")
    assert published.asked == 0


@pytest.mark.parametrize("alg", ["RS384", "PS256", "ES512", "EdDSA"])
async def test_a_method_that_the_policy_does_not_list_is_403(clock, published, good, alg):
    assert await refused(Tokens(clock, published), by_hand({"alg": alg, "kid": "r"}, good)) == (403, "bad_signature")


@pytest.mark.parametrize("exp", [..., [1], "soon", True, 9e18])
async def test_t3_t5_t6_a_token_without_a_proper_expiry_is_401(clock, published, good, exp):
    good.pop("exp")
    doc = good if exp is ... else {**good, "exp": exp}
    assert await refused(Tokens(clock, published), signed_hs({"alg": "HS256"}, doc, SECRET.encode()), HOUSE) == (401, "invalid_credentials")


async def test_t7_an_expired_token_is_told_so(clock, published, good):
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "r"})
    clock.forward(631)
    assert await refused(Tokens(clock, published), token) == (401, "expired_credentials")


@pytest.mark.parametrize("header", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"kid": 7}])
async def test_t9_a_header_that_asks_for_more_is_401(clock, published, good, header):
    token = signed_hs({"alg": "HS256", **header}, good, SECRET.encode())
    assert await refused(Tokens(clock, published), token, HOUSE) == (401, "invalid_credentials")


async def test_t10_a_key_that_the_token_brings_along_is_ignored(clock, published, good):
    token = jwt.encode(good, OTHER, "RS256", headers={"kid": "r", "jwk": jwk(OTHER, "r"), "jku": "http://127.0.0.1:1/"})
    assert await refused(Tokens(clock, published), token) == (403, "bad_signature")


async def test_t12_a_key_that_the_issuer_does_not_publish_is_401(clock, published, good):
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "unheard-of"})
    assert await refused(Tokens(clock, published), token) == (401, "invalid_credentials")


async def test_t13_two_subjects_are_401(clock, published, good):
    doc = json.dumps(good)[:-1] + ',"sub":"root"}'
    assert await refused(Tokens(clock, published), signed_hs({"alg": "HS256"}, doc, SECRET.encode()), HOUSE) == (401, "invalid_credentials")


@pytest.mark.parametrize(
    "bend", [lambda t: t + "==", lambda t: t + ".x", lambda t: t + ".x.y", lambda t: t + "\n", lambda t: t[:-1] + "+", lambda t: "." + t]
)
async def test_t14_t17_the_same_token_in_another_spelling_is_401(clock, published, good, bend):
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "r"})
    tokens = Tokens(clock, published)
    await tokens.caller(token, CORP)
    assert await refused(tokens, bend(token)) == (401, "invalid_credentials")


@pytest.mark.parametrize("header", ["[" * 5000, "{", '{"alg":"RS256","alg":"none"}', "7"])
async def test_t15_a_header_that_is_no_header_is_401(clock, published, good, header):
    assert await refused(Tokens(clock, published), by_hand(header, good)) == (401, "invalid_credentials")


@pytest.mark.parametrize("signature", [b"\0" * 64, b"\0" * 63, b"\0", b"\xff" * 64])
async def test_t16_a_signature_of_nothing_is_403(clock, published, good, signature):
    assert await refused(Tokens(clock, published), by_hand({"alg": "ES256", "kid": "e"}, good, signature)) == (403, "bad_signature")


async def test_a_changed_claim_is_403(clock, published, good):
    head, _, signature = jwt.encode(good, RSA, "RS256", headers={"kid": "r"}).split(".")
    token = f"{head}.{b64(json.dumps({**good, 'sub': 'root'}))}.{signature}"
    assert await refused(Tokens(clock, published), token) == (403, "bad_signature")


async def test_t19_tokens_that_begin_alike_are_two_callers(clock, published, good):
    tokens = Tokens(clock, published)
    names = set()
    for name in ("alice", "bob"):
        names.add((await tokens.caller(jwt.encode({"pad": "x" * 300, **good, "sub": name}, RSA, "RS256", headers={"kid": "r"}), CORP)).name)
    assert names == {"corp:alice", "corp:bob"}


@pytest.mark.parametrize(
    "unfit", [{"use": "enc"}, {"alg": "RS512"}, {"key_ops": ["sign"]}, {"key_ops": "verify"}, {"d": "AQAB"}, {"kty": "oct", "k": "AAAA"}]
)
async def test_a_published_key_made_for_something_else_verifies_nothing(clock, good, unfit):
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "r"})
    assert await refused(Tokens(clock, Published(jwk(RSA, "r", **unfit))), token) == (403, "bad_signature")


async def test_an_rsa_key_that_is_too_short_verifies_nothing(clock, published, good):
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = jwt.encode(good, SMALL, "RS256", headers={"kid": "small"})
    assert (await refused(Tokens(clock, published), token))[0] in (401, 403)


async def test_an_issuer_without_any_key_lets_nobody_in(clock, published, good):
    token = jwt.encode(good, RSA, "RS256")
    assert await refused(Tokens(clock, published), token, JwtIssuer("corp", ISS, None, None)) == (403, "bad_signature")


async def test_a_verified_token_is_not_verified_again_for_60_s_or_beyond_its_expiry(clock, published, good):
    tokens = Tokens(clock, published)
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "r"})
    first = await tokens.caller(token, CORP)
    clock.forward(59)
    assert await tokens.caller(token, CORP) is first
    assert published.asked == 1
    clock.forward(2)
    await tokens.caller(token, CORP)
    assert published.asked == 2
    clock.forward(600)
    assert await refused(tokens, token) == (401, "expired_credentials")


async def test_after_a_reload_every_token_is_verified_again(clock, published, good):
    tokens = Tokens(clock, published)
    token = jwt.encode(good, RSA, "RS256", headers={"kid": "r"})
    await tokens.caller(token, CORP)
    stricter = JwtIssuer("corp", ISS, CORP.jwks_url, None, audience=("sluice",))
    assert await refused(tokens, token, stricter) == (401, "invalid_credentials")


async def test_the_tokens_that_are_kept_are_bounded(clock, published, good, monkeypatch):
    monkeypatch.setattr("proxy.identify.tokens.MAX_KEPT", 3)
    assert MAX_KEPT == 10_000
    tokens = Tokens(clock, published)
    made = [jwt.encode({**good, "jti": str(n)}, SECRET, "HS256") for n in range(10)]
    for token in made:
        await tokens.caller(token, HOUSE)
    assert len(tokens._known) == 3
