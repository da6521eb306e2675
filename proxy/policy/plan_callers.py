"""The compiled policy's part on callers: keys, tokens, JWT issuers. Frozen values; resolves no secret and checks no credential."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from proxy.exchange import NOTHING, Allow


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A Sluice key: of the policy file, or minted into the state. `digest` is the SHA-256 of the whole key, 32 bytes."""

    name: str
    digest: bytes = field(repr=False)
    tier: str | None = None
    team: str | None = None
    allow: Allow = Allow()
    overrides: Mapping[str, object] = field(default_factory=lambda: NOTHING)
    expires_ns: int | None = None  # dead from this instant on
    is_revoked: bool = False  # dead for good, whatever a policy file says


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """An existing shared token (`key:`), or a named own key (`own_provider_key:`); its digest is of the whole token."""

    record: KeyRecord
    own_provider: str | None = None  # brings its own key of this provider


@dataclass(frozen=True, slots=True)
class JwtIssuer:
    name: str
    issuer: str
    jwks_url: str | None
    secret: str | None = field(repr=False)
    audience: tuple[str, ...] = ()
    algorithms: tuple[str, ...] = ("RS256", "ES256")
    name_claim: str = "sub"
    team_claim: str | None = None
    team_map: Mapping[str, str] | None = None
    tier_claim: str | None = None
    tier_map: Mapping[str, str] | None = None
    allow: Allow = Allow()
    max_lifetime_s: float | None = None


@dataclass(frozen=True, slots=True)
class CallerRules:
    """Who is who. `anonymous`/`pass_through`: a tier's name, "" for allowed without a tier, None for deny."""

    keys: tuple[KeyRecord, ...] = ()
    tokens: tuple[TokenRecord, ...] = ()
    issuers: tuple[JwtIssuer, ...] = ()
    anonymous: str | None = ""
    pass_through: str | None = ""
    default_tier: str | None = None
    end_user: tuple[str, ...] = ()  # "header:x-user-id", "body:user"
    tiers: frozenset[str] = frozenset()
    teams: frozenset[str] = frozenset()
    is_anonymous_stated: bool = False  # the policy names `anonymous:` itself
