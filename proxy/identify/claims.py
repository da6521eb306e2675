"""What the verified bytes of a JWT say about its caller. Verifies no signature and trusts no claim of the wrong type."""

from __future__ import annotations

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from proxy.exchange import Caller
from proxy.identify.keys import expired, invalid
from proxy.policy.plan_callers import JwtIssuer
from proxy.refusal import Refusal

LEEWAY_S = 30  # faults.md P10
MAX_NAME = 256  # an e-mail address has at most 254 characters
_BASE64 = re.compile(r"[A-Za-z0-9_-]+")
YEAR_10000 = 253_402_300_800  # T6: no token is meant to live that long, whatever the policy says


def issuer_of(token: str, issuers: Sequence[JwtIssuer]) -> JwtIssuer | None:
    """Whose token this claims to be, unverified; None where it is no JWT, or that of nobody we know.

    Deliberately more lenient than any verifier: a bent token of ours must be refused by us, not passed on to a provider.
    Raises Refusal 401 `invalid_credentials` for what has the form of a JWT but can be read by nobody (faults.md T17).
    """
    parts = token.split(".")
    if len(parts) < 2 or not _decoded(parts[0]).lstrip().startswith(b"{"):
        return None
    try:
        pairs = json.loads(_decoded(parts[1]), object_pairs_hook=list)
    except (ValueError, RecursionError):
        raise invalid("the token is malformed") from None
    named = [pair[1] for pair in pairs if isinstance(pair, tuple) and pair[0] == "iss"] if isinstance(pairs, list) else []
    return next((issuer for issuer in issuers if issuer.issuer in named), None)


def _decoded(part: str) -> bytes:
    text = "".join(_BASE64.findall(part.replace("+", "-").replace("/", "_")))
    if len(text) % 4 == 1:
        text = text[:-1]
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def read_object(raw: bytes) -> Mapping[str, object]:
    """A JSON object without duplicate names, NaN or Infinity. Raises Refusal 401 `invalid_credentials` (faults.md T5, T13, T15)."""
    try:
        doc = json.loads(raw, object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise invalid("the token is malformed") from None
    if not isinstance(doc, Mapping):
        raise invalid("the token is malformed")
    return doc


def _unique(pairs: list[tuple[str, object]]) -> Mapping[str, object]:
    doc = dict(pairs)
    if len(doc) != len(pairs):
        raise ValueError("duplicate name")
    return MappingProxyType(doc)


def _no_constant(name: str) -> object:
    raise ValueError(name)


def check_claims(claims: Mapping[str, object], issuer: JwtIssuer, now_s: float) -> float:
    """Issuer, audience and times; gives `exp` in Unix seconds. Raises Refusal 401 (faults.md T3, T5-T8).

    An `aud` list is good if it names one of ours (RFC 7519, 4.1.3).
    """
    if claims.get("iss") != issuer.issuer:
        raise invalid("the token is of another issuer")
    if issuer.audience and not _audiences(claims).intersection(issuer.audience):
        raise invalid("the token is meant for another audience")
    exp, nbf, iat = (_instant(claims, name) for name in ("exp", "nbf", "iat"))
    if exp is None or exp >= YEAR_10000:
        raise invalid("the token names no expiry (exp) that can be honoured")
    if exp <= now_s - LEEWAY_S:
        raise expired("the token")
    if any(since is not None and since > now_s + LEEWAY_S for since in (nbf, iat)):
        raise invalid("the token is not valid yet (nbf, iat)")
    if issuer.max_lifetime_s is not None and (iat is None or exp - iat > issuer.max_lifetime_s):
        raise invalid("the token lives longer than the policy allows, or does not say when it was issued (iat)")
    return exp


def _audiences(claims: Mapping[str, object]) -> frozenset[str]:
    aud = claims.get("aud")
    named = aud if isinstance(aud, list) else [aud]
    return frozenset(name for name in named if isinstance(name, str))


def _instant(claims: Mapping[str, object], name: str) -> float | None:
    value = claims.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**63:  # infinity too
        raise invalid(f"the token's {name} is not a number")
    return value


def caller_of(claims: Mapping[str, object], issuer: JwtIssuer) -> Caller:
    """Who the token stands for. Raises Refusal 401 `invalid_credentials`, 403 `unknown_team` / `unknown_tier`."""
    name = _text(claims, issuer.name_claim)
    if name is None:
        raise invalid(f"the token has no claim {issuer.name_claim!r}, which names the caller")
    return Caller(
        name=f"{issuer.name}:{name}",
        kind="jwt",
        tier=_mapped(claims, issuer.tier_claim, issuer.tier_map, "tier"),
        team=_mapped(claims, issuer.team_claim, issuer.team_map, "team"),
        key=issuer.name,
        allow=issuer.allow,
        claims=claims,
    )


def _text(claims: Mapping[str, object], name: str) -> str | None:
    """A claim that becomes a name. Labels, logs and accounts are made of it, so it must be short and printable."""
    value = claims.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_NAME or not value.isprintable():
        raise invalid(f"the token's claim {name!r} is not a printable text of 1 to {MAX_NAME} characters")
    return value


def _mapped(claims: Mapping[str, object], claim: str | None, mapping: Mapping[str, str] | None, what: str) -> str | None:
    value = _text(claims, claim) if claim else None
    if value is None or mapping is None:
        return value
    if value not in mapping:
        raise unknown(what, f"the map of claim {claim!r} does not hold the token's value")
    return mapping[value]


def unknown(what: str, why: str) -> Refusal:
    """403 `unknown_tier` or `unknown_team`."""
    return Refusal(403, f"unknown_{what}", f"unknown_{what}: {why}; the policy file declares {what}s", should_retry=False)
