"""The policies that the SDKs meet: each text is one sidecar of the session. The keys in them are drawn from their names."""

from __future__ import annotations

import base64
import hashlib

import jwt
from support.sdk.house import JWT_SECRET

NAMES = ("openai", "anthropic", "gemini", "cohere", "mistral")


def providers(more: str = "", url: str = "{provider}") -> str:
    return "\n".join(["version: 1", "providers:", *(f'  {name}: {{url: "{url}"{more}}}' for name in (*NAMES, "azure")), ""])


ONE_ATTEMPT = "retry: {attempts: 1}\n"  # every attempt that the provider sees is the SDK's own
AT_ONCE = "retry: {attempts: 3, backoff: 0.01s..0.02s, budget: 100%}\n"
PLAIN = providers() + "breaker: off\n" + ONE_ATTEMPT
RETRYING = providers() + "breaker: off\n" + AT_ONCE
DEAD = providers(url="{dead}") + "breaker: off\n" + AT_ONCE
SLOW = providers() + "breaker: off\ntimeouts: {first_byte: 0.3s}\n" + ONE_ATTEMPT
BREAKING = providers() + "breaker: {consecutive: 2, open: 100s..120s}\n" + ONE_ATTEMPT
LIMITED = PLAIN + "limits: [{name: many, per: caller, requests: 100000/min}]\n"
AS_OPENAI_DOES = PLAIN + "at_limit: {status: 429}\nlimits: [{name: purse, per: provider, spend: $1/day}]\n"  # its insufficient_quota
MASKING = providers() + "guard: {pii: {default: mask}, restore: true}\n" + ONE_ATTEMPT


def key(name: str) -> str:
    """A Sluice key: `slk-` and 43 characters of base64url."""
    return "slk-" + base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


def _declared(name: str, tier: str, more: str = "") -> str:
    return f"    - {{name: {name}, hash: 'sha256:{hashlib.sha256(key(name).encode()).hexdigest()}', tier: {tier}{more}}}"


def _of_each(kind: str) -> list[str]:
    """One caller per SDK, so that no test uses up another's limit."""
    return [_declared(f"{kind}-{sdk}", kind) for sdk in NAMES]


REFUSING = "\n".join(
    [
        providers(", key: env:UPSTREAM_KEY"),
        "breaker: off",
        ONE_ATTEMPT,
        "server: {max_body: 64KB, hosts: [127.0.0.1]}",
        "callers:",
        "  anonymous: deny",
        "  end_user: [header:x-user-id]",
        "  keys:",
        _declared("open", "open"),
        _declared("blind", "open"),
        _declared("crowd", "open"),
        _declared("dead", "open", ", expires: 2020-01-01"),
        _declared("few-models", "open", ", allow: {models: [gpt-4o-mini, claude-haiku-5-5]}"),
        _declared("small", "small"),
        _declared("priced", "priced"),
        *(line for kind in ("spent", "slow", "narrow") for line in _of_each(kind)),
        "  jwt:",
        "    - {name: corp, issuer: 'https://login.example/', secret: env:JWT_SECRET, audience: [sluice], algorithms: [HS256],",
        "       claims: {name: sub, team: org, tier: plan}}",
        "tiers:",
        "  open: {requests: 100000/min}",
        "  spent: {spend: $1/day}",
        "  small: {spend: $0.000001/day}",
        "  priced: {spend: $100/day}",
        "  slow: {requests: 1/min}",
        "  narrow: {concurrency: 1}",
        "teams: {finance: {}}",
        "limits:",
        "  - {name: end-user, match: {caller: crowd}, per: end_user, requests: 1000/min, missing: deny}",
        "guard: {pii: {credit_card: block}}",
        "rules:",
        "  - {match: {caller: blind}, guard: {uninspected: block}}",
        "",
    ]
)


def token(secret: str = JWT_SECRET, **claims: object) -> str:
    """A JWT of the issuer that REFUSING trusts; far from expiry unless the claims say so."""
    usual = {"iss": "https://login.example/", "aud": "sluice", "sub": "alice", "org": "finance", "plan": "open", "exp": 4_000_000_000}
    return jwt.encode({**usual, **claims}, secret, algorithm="HS256")
