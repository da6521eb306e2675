"""The one grammar of `match:` and of `per:`, and what a caller may use. Evaluates nothing: see `match`."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from proxy.dialect.wire import OperationName
from proxy.policy.fields import OneOrMany, Part, Texts
from proxy.policy.values import text

OPERATIONS = frozenset(get_args(OperationName))
PER = ("caller", "key", "team", "tier", "provider", "model", "ip", "end_user", "total", "instance")
CARRIERS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key", "cookie", "proxy-authorization"})


def header_or_claim(value: str) -> bool:
    """Is this `header:NAME` or `claim:NAME`? Credentials are no accounts: their headers are refused."""
    kind, colon, name = value.partition(":")
    if kind == "header" and name.lower() in CARRIERS:
        raise ValueError("a header that carries a credential is no name: use `per: key` or `match: {key: …}`")
    return bool(colon) and (
        (kind == "claim" and bool(name)) or (kind == "header" and re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name) is not None)
    )


def operation(value: object) -> str:
    """An operation's name, or a glob of one."""
    if "*" not in (name := text(value)) and name not in OPERATIONS:
        raise ValueError(f"needs one of {', '.join(sorted(OPERATIONS))}")
    return name


def address(value: object) -> str:
    """An IP address, a CIDR range, `unix`, or a glob like 10.1.*"""
    name = text(value)
    try:
        if "*" not in name and name != "unix":
            ipaddress.ip_network(name, strict=False)
    except ValueError:
        raise ValueError("needs an IP address, a range like 10.0.0.0/8, or a glob like 10.1.*") from None
    return name


def per(value: object) -> str:
    """One thing a limit is counted per."""
    name = text(value)
    if name not in PER and not header_or_claim(name):
        raise ValueError(f"needs {', '.join(PER)}, header:NAME or claim:NAME")
    return name


def method(value: object) -> str:
    """An HTTP method, upper-case as on the wire, or a glob."""
    if (name := text(value)) != name.upper():
        raise ValueError("methods are upper-case, like POST")
    return name


Operation = Annotated[str, PlainValidator(operation), WithJsonSchema({"type": "string", "examples": sorted(OPERATIONS)})]
Address = Annotated[str, PlainValidator(address), WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "192.0.2.7"]})]
Method = Annotated[str, PlainValidator(method), WithJsonSchema({"type": "string", "examples": ["POST"]})]
PerName = Annotated[str, PlainValidator(per), WithJsonSchema({"type": "string", "examples": [*PER, "header:x-tenant", "claim:org"]})]
Pers = Annotated[tuple[PerName, ...], OneOrMany]


class Match(Part):
    """Which calls: keys AND, lists OR, globs with *, case-sensitive. No match = everything."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "additionalProperties": False,
            "patternProperties": {"^(header|claim):.+$": {"description": "A header (name without case) or a JWT claim, by globs."}},
        },
    )
    __pydantic_extra__: dict[str, Texts] = Field(init=False)

    caller: Texts | None = Field(default=None, description="Names of callers: keys, `issuer:name` for JWTs, anonymous, pass-through:….")
    key: Texts | None = Field(default=None, description="Names of credentials.")
    team: Texts | None = Field(default=None, description="Names of teams.")
    tier: Texts | None = Field(default=None, description="Names of tiers.")
    provider: Texts | None = Field(default=None, description="Names of providers.")
    model: Texts | None = Field(
        default=None,
        description="Models: a name covers its dated snapshots and -latest, a glob what it spells; provider/model names a target.",
    )
    operation: Annotated[tuple[Operation, ...], OneOrMany] | None = Field(
        default=None, description="Kinds of call: chat, messages, embeddings, …."
    )
    method: Annotated[tuple[Method, ...], OneOrMany] | None = Field(default=None, description="HTTP methods.")
    path: Texts | None = Field(default=None, description="What follows the provider prefix, like /v1/responses.")
    ip: Annotated[tuple[Address, ...], OneOrMany] | None = Field(
        default=None, description="The client's address: an address, a range, a glob, or unix."
    )
    not_: Match | None = Field(default=None, alias="not", description="A match that must not hold.")

    @model_validator(mode="after")
    def _extras(self) -> Match:
        extras = self.model_extra or {}
        if unknown := [key for key in extras if not header_or_claim(key)]:
            raise PydanticCustomError("unknown_keys", "unknown key", {"keys": unknown})
        return self

    @property
    def fields_asked(self) -> Mapping[str, tuple[str, ...]]:
        """Every key that is set, `header:` and `claim:` among them, but for `not`."""
        named: dict[str, Any] = {name: getattr(self, name) for name in type(self).model_fields if name != "not_"}
        return {key: patterns for key, patterns in (named | (self.model_extra or {})).items() if patterns is not None}


class AllowPart(Part):
    """What may be used. A key that is absent allows everything."""

    models: Texts | None = Field(default=None, description="Models, in the grammar of `match: {model: …}`.")
    providers: Texts | None = Field(default=None, description="Providers, by name or glob.")
    regions: Texts | None = Field(default=None, description="Regions, checked on every attempt; a provider without `region` is in none.")
    tiers: Texts | None = Field(default=None, description="Tiers a caller may have.")
