"""`callers:` of the policy: who is who. Checks the form of each entry, never a credential."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainValidator, WithJsonSchema, model_validator

from proxy.policy import values
from proxy.policy.fields import Date, Duration, Feature, Flag, ManyOrOff, OneOrMany, Part, Secret, Text, Texts, worded
from proxy.policy.model_limits import Numbers
from proxy.policy.model_match import AllowPart, header_or_claim
from proxy.policy.values import text

ALGORITHMS = Literal["RS256", "ES256", "HS256"]
LOOPBACK_URL = re.compile(r"http://(localhost|127(\.\d+){3}|\[::1\])(:\d+)?(/|$)")


def digest(value: object) -> str:
    """`sha256:` and 64 lower-case hex digits."""
    if not isinstance(value, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", value):
        raise ValueError(
            "needs sha256: and 64 lower-case hex digits, as `sluice keys new --print` writes it; a key itself never stands here"
        )
    return value


def caller_name(value: object) -> str:
    """A key's name: no colon, which JWT and pass-through names are told by."""
    if ":" in (name := text(value)) or name == "anonymous":
        raise ValueError("a key's name has no colon and is not `anonymous`: those names are callers of another kind")
    return name


def end_user(value: object) -> str:
    """`header:NAME` or `body:user`."""
    name = text(value)
    if name != "body:user" and not (name.startswith("header:") and header_or_claim(name)):
        raise ValueError("needs header:NAME or body:user")
    return name


def web_address(value: object) -> str:
    """https, or http on loopback; no user info."""
    url = text(value)
    if "@" in url or not (url.startswith("https://") or LOOPBACK_URL.match(url)):
        raise ValueError("needs an https:// URL without user info (http:// on loopback only)")
    return url


def _claim(value: object) -> object:
    return {"from": value} if isinstance(value, str) else value


def _tier_or_deny(value: object) -> str:
    return "deny" if value is False or value == "off" else text(value)


Digest = Annotated[str, PlainValidator(digest), WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
CallerName = Annotated[str, PlainValidator(caller_name), WithJsonSchema({"type": "string", "minLength": 1})]
EndUser = Annotated[str, PlainValidator(end_user), WithJsonSchema({"type": "string", "examples": ["header:x-user-id", "body:user"]})]
WebAddress = Annotated[str, PlainValidator(web_address), WithJsonSchema({"type": "string", "format": "uri"})]
TierOrDeny = Annotated[
    str, PlainValidator(_tier_or_deny), WithJsonSchema({"anyOf": [{"type": "string", "minLength": 1}, {"const": False}]})
]


class KeyEntry(Part):
    """One caller with a key: a Sluice key by its hash, or a token that exists already."""

    name: CallerName = Field(description="The caller's name: its account and its label.")
    hash: Digest | None = Field(default=None, description="SHA-256 of a minted Sluice key, as `sluice keys new --print` prints it.")
    key: Secret | None = Field(default=None, description="A shared token that exists already, or the caller's own provider key.")
    own_provider_key: Text | None = Field(
        default=None, description="`key` is the caller's own key of this provider and goes upstream unchanged."
    )
    tier: Text | None = Field(default=None, description="Its tier; else `default_tier`.")
    team: Text | None = Field(default=None, description="Its team.")
    overrides: Numbers = Field(default=Numbers(), description="Numbers that replace those of its tier.")
    allow: AllowPart = Field(default=AllowPart(), description="What it may use.")
    expires: Date | None = Field(default=None, description="Dead from the first instant of this day in `time_zone`.")

    @model_validator(mode="after")
    def _one_credential(self) -> KeyEntry:
        if (self.hash is None) == (self.key is None):
            raise ValueError("needs either `hash` (a Sluice key) or `key` (a token that exists already)")
        if self.own_provider_key and self.key is None:
            raise ValueError("own_provider_key needs `key: env:NAME`, the key that the caller brings")
        return self


class ClaimFrom(Part):
    """Which claim, and what its values mean."""

    from_: Text = Field(alias="from", description="The claim's name.")
    map: Mapping[Text, Text] | None = Field(default=None, description="The claim's values → names of this policy; others are refused.")


ClaimField = Annotated[ClaimFrom, BeforeValidator(_claim)]


class Claims(Part):
    """Claims → name, team and tier of the caller."""

    name: Text = Field(default="sub", description="The claim that names the caller.")
    team: ClaimField | None = Field(default=None, description="The claim that names its team.")
    tier: ClaimField | None = Field(default=None, description="The claim that names its tier.")


class JwtEntry(Part):
    """One JWT issuer; its callers are called `name:claim`."""

    name: CallerName = Field(description="The issuer's short name, first part of its callers' names.")
    issuer: Text = Field(description="The `iss` of its tokens, exactly.")
    jwks: WebAddress | None = Field(default=None, description="Where its public keys stand (RS256, ES256).")
    secret: Secret | None = Field(default=None, description="The shared secret of HS256, at least 32 bytes.")
    audience: Texts = Field(default=(), description="Accepted `aud` values; none: `aud` is not checked.")
    algorithms: Annotated[tuple[ALGORITHMS, ...], OneOrMany] | None = Field(
        default=None, description="Default: RS256 and ES256 with jwks, HS256 with secret."
    )
    claims: Claims = Field(default=Claims(), description="Which claims name the caller, its team, its tier.")
    allow: AllowPart = Field(default=AllowPart(), description="What its callers may use, and which tiers they may have.")
    max_lifetime: Duration | None = Field(default=None, description="Refuse tokens that live longer than this.")

    @model_validator(mode="after")
    def _one_key(self) -> JwtEntry:
        if (self.jwks is None) == (self.secret is None):
            raise ValueError("needs either `jwks` (RS256, ES256) or `secret` (HS256)")
        if self.algorithms is not None and (not self.algorithms or ("HS256" in self.algorithms) != (self.secret is not None)):
            raise ValueError("HS256 goes with `secret`, RS256 and ES256 with `jwks`, never mixed")
        return self

    @property
    def accepted(self) -> tuple[str, ...]:
        """The algorithms its tokens may be signed with."""
        return self.algorithms or (("HS256",) if self.secret else ("RS256", "ES256"))


class Kubernetes(Part):
    """Projected service-account tokens: the caller is k8s:namespace/account."""

    audience: Text = Field(default="sluice", description="The `aud` of the tokens.")
    team: Literal["namespace"] | None = Field(default=None, description="Where the team comes from.")


class Signatures(Part):
    """HMAC-SHA256 request signing."""

    secret: Secret = Field(description="The shared secret.")
    required: Flag = Field(default=False, description="Refuse calls without a signature.")
    max_age: Duration = worded("5m", values.duration, "How old a signature may be.")


class Networks(Part):
    """Which addresses may call; loopback and unix always pass unless denied."""

    allow: Texts = Field(default=(), description="Ranges that may call.")
    deny: Texts = Field(default=(), description="Ranges that may not.")
    trusted_proxies: Texts = Field(default=(), description="Ranges whose X-Forwarded-For is believed.")


class Callers(Part):
    """Who is who, tried in the order of this map, never falling down the list."""

    anonymous: TierOrDeny | None = Field(
        default=None,
        description="Calls without a credential: a tier, or deny. Default: allowed on loopback and unix sockets, until keys or jwt exist.",
    )
    pass_through: TierOrDeny | None = Field(
        default=None, description="Calls with a provider key of their own: a tier, or deny. Default: as anonymous."
    )
    default_tier: Text | None = Field(default=None, description="The tier of a key or token that names none.")
    keys: tuple[KeyEntry, ...] = Field(default=(), description="Sluice keys, shared tokens and named own keys.")
    jwt: tuple[JwtEntry, ...] = Field(default=(), description="JWT issuers.")
    kubernetes: Annotated[Kubernetes | None, Feature] = Field(default=None, description="Kubernetes service-account tokens.")
    end_user: Annotated[tuple[EndUser, ...], ManyOrOff] = Field(
        default=(), description="Where `per: end_user` looks, in order: header:NAME, body:user."
    )
    signatures: Annotated[Signatures | None, Feature] = Field(default=None, description="HMAC request signing.")
    networks: Annotated[Networks | None, Feature] = Field(default=None, description="Which networks may call.")
