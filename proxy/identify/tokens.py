"""Verifies JWTs: signature by PyJWT, claims by our own clock. Takes no key from the token itself."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxy.exchange import Caller
from proxy.identify.claims import caller_of, check_claims, read_object
from proxy.identify.keys import digest_of, invalid
from proxy.policy.plan_callers import JwtIssuer
from proxy.ports import Clock
from proxy.refusal import Refusal

if TYPE_CHECKING:
    from jwt import PyJWK

KEEP_S = 60.0  # a verified token is not verified again for so long (faults.md section 7)
MAX_KEPT = 10_000
_FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")  # no padding, no other alphabet: T14, T17
_METHODS = frozenset({"EdDSA", *(family + bits for family in ("HS", "RS", "PS", "ES") for bits in ("256", "384", "512"))})
_SIGNED_BY = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}  # the first letters of `alg` → `kty`


class KeySource(Protocol):
    async def keys(self, url: str, kid: str | None) -> Sequence[Mapping[str, object]]:
        """The JWKs of a set: those of that kid, or all where the token names none. Raises Refusal 503 `state_unavailable`."""
        ...


@dataclass(frozen=True, slots=True)
class _Known:
    caller: Caller
    issuer: JwtIssuer  # by identity: after a reload every token is verified again
    until_ns: int


class Tokens:
    """Verified tokens, kept by the SHA-256 of the whole text and their issuer."""

    def __init__(self, clock: Clock, source: KeySource) -> None:
        self._clock, self._source = clock, source
        self._known: OrderedDict[bytes, _Known] = OrderedDict()

    async def caller(self, token: str, issuer: JwtIssuer) -> Caller:
        """Who the token stands for.

        Raises Refusal: 403 `bad_signature`; 401 `invalid_credentials`, `expired_credentials`; 403 `unknown_team`, `unknown_tier`;
        503 `state_unavailable`.
        """
        digest = digest_of(token)
        known = self._known.get(digest)
        if known is not None and known.issuer is issuer and self._clock.now_ns() < known.until_ns:
            return known.caller
        claims = read_object(await self._verified(token, issuer))
        now_ns = self._clock.now_ns()
        exp = check_claims(claims, issuer, now_ns / 1e9)
        caller = caller_of(claims, issuer)
        self._known[digest] = _Known(caller, issuer, min(int(exp * 1e9), now_ns + int(KEEP_S * 1e9)))
        self._known.move_to_end(digest)
        if len(self._known) > MAX_KEPT:
            self._known.popitem(last=False)
        return caller

    async def _verified(self, token: str, issuer: JwtIssuer) -> bytes:
        """The payload, once the signature is proved."""
        import jwt  # costs 10 MB and is wanted only where a policy names an issuer

        alg, kid = _read_header(token)
        keys: Sequence[PyJWK | str]
        if issuer.secret is not None:
            keys = [issuer.secret] if alg in _allowed(issuer) else []
        else:
            keys = await self._keys(issuer, alg, kid) if alg in _allowed(issuer) else []
        for key in keys:
            try:
                verified = jwt.PyJWS(options={"enforce_minimum_key_length": True}).decode_complete(token, key, algorithms=[alg])
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError:
                raise invalid("the token is malformed") from None
            payload: bytes = verified["payload"]
            return payload
        raise _bad_signature()

    async def _keys(self, issuer: JwtIssuer, alg: str, kid: str | None) -> list[PyJWK]:
        import jwt

        if issuer.jwks_url is None:
            return []
        found = await self._source.keys(issuer.jwks_url, kid)
        if not found:
            raise invalid("the token names a key (kid) that its issuer does not publish")
        made = []
        for jwk in found:
            if not _may_verify(jwk, alg):
                continue
            try:
                made.append(jwt.PyJWK(dict(jwk), algorithm=alg))
            except jwt.PyJWTError:
                continue  # one broken key of a set does no harm to the others
        return made


def _allowed(issuer: JwtIssuer) -> frozenset[str]:
    """HMAC with a secret, signatures with a published key: never one for the other (faults.md T2)."""
    is_hmac = issuer.secret is not None
    named = frozenset(alg for alg in issuer.algorithms if alg.startswith("HS") == is_hmac)
    return named or (frozenset({"HS256"}) if is_hmac else named)


def _read_header(token: str) -> tuple[str, str | None]:
    """`alg` and `kid`. An embedded `jwk`, `jku` or `x5u` is not looked at (T10)."""
    import jwt

    if not _FORM.fullmatch(token):
        raise invalid("the token is malformed or not signed")
    header = read_object(jwt.utils.base64url_decode(token.partition(".")[0]))
    alg, kid = header.get("alg"), header.get("kid")
    if not isinstance(alg, str) or alg not in _METHODS:
        raise invalid("the token is not signed, or by no method (alg) that we know")
    if "crit" in header or header.get("b64", True) is not True or not isinstance(kid, str | None):
        raise invalid("the token's header asks for what is not supported")
    return alg, kid


def _may_verify(jwk: Mapping[str, object], alg: str) -> bool:
    operations = jwk.get("key_ops", ["verify"])
    return (
        jwk.get("kty") == _SIGNED_BY.get(alg[:2])
        and jwk.get("alg", alg) == alg
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and "d" not in jwk
    )


def _bad_signature() -> Refusal:
    return Refusal(403, "bad_signature", "bad_signature: the token's signature was not made with a key of its issuer", should_retry=False)
