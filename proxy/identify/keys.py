"""Where a credential stands in a request, and what a Sluice key looks like. Never tells providers apart by the header a key came in."""

from __future__ import annotations

import hashlib
import hmac
import importlib
import json
import re
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, cast
from urllib.parse import unquote

from proxy.exchange import Call
from proxy.policy.plan_callers import CallerRules, KeyRecord, TokenRecord
from proxy.refusal import Refusal

PREFIX = "slk-"
KEY_PROTOCOL = "openai-insecure-api-key."  # a WebSocket subprotocol
PLACE = "place of the credential"  # in Call.kept
CREDENTIAL_FIELDS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")  # ecosystem.md 12.6: each SDK has its habit
MAX_LENGTH = 8192  # faults.md T15, T20: nothing longer is hashed or decoded
KEY_BYTES = 32
MODULES = "_sha2", "_sha256"  # by the version of CPython
_FORM = re.compile(r"slk-[A-Za-z0-9_-]{43}")
_YAML_WORDS = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
_WIRE_FIELDS = frozenset(name.encode() for name in CREDENTIAL_FIELDS)


def _sha256() -> Callable[[bytes], Any]:
    """CPython's own: of a text as short as a key it asks for a third of the time that OpenSSL's takes where neither is in a cache."""
    for name in MODULES:
        with suppress(ImportError):
            return cast("Callable[[bytes], Any]", importlib.import_module(name).sha256)
    return hashlib.sha256


sha256 = _sha256()


def credential_of(call: Call) -> str | None:
    """The one credential of a call, None where it carries none.

    Raises Refusal 400 `ambiguous_credentials` where a field is repeated or places disagree (faults.md H56), and
    401 `invalid_credentials` for an empty, over-long or unprintable one (T20).
    """
    place: Any = call.kept.get(PLACE)
    if place is None:
        place = call.kept[PLACE] = _place_of(call)
    credential = _value_of(call.fields, place) if place else _found(call)
    if credential is None or (credential and len(credential) <= MAX_LENGTH and credential.isascii() and credential.isprintable()):
        return credential
    raise invalid("the credential is empty, longer than 8 KB or holds characters that no key has")


def _place_of(call: Call) -> str:
    """The one header field that holds a credential; "" where there is none, or another place to look at as well.

    Rests on no value that varies between calls of one head.
    """
    names = [name for name in CREDENTIAL_FIELDS if name in call.fields]
    elsewhere = "sec-websocket-protocol" in call.fields or [*_in_query(call.route.query)]
    is_one = len(names) == 1 and not _is_repeated(call) and not elsewhere
    return names[0] if is_one else ""


def _found(call: Call) -> str | None:
    """Wherever it stands."""
    in_fields = [_value_of(call.fields, name) for name in CREDENTIAL_FIELDS if name in call.fields]
    found = [*in_fields, *_in_protocols(call), *_in_query(call.route.query)]
    if len(set(found)) > 1 or (found and _is_repeated(call)):
        raise Refusal(
            400,
            "ambiguous_credentials",
            "ambiguous_credentials: the request carries more than one credential; send exactly one, in one place",
            should_retry=False,
        )
    return found[0] if found else None


def _is_repeated(call: Call) -> bool:
    names = [name.lower() for name, _ in call.headers if name.lower() in _WIRE_FIELDS]
    return len(names) != len(set(names))


def _value_of(fields: Mapping[str, str], name: str) -> str:
    value = fields[name]
    if name == "authorization" and (value[:7].lower() == "bearer " or value.lower() == "bearer"):
        value = value[6:]
    return value.strip(" \t")


def _in_protocols(call: Call) -> Iterable[str]:
    """Where browsers put it: they can set no header."""
    for protocol in call.fields.get("sec-websocket-protocol", "").split(","):
        if protocol.strip().startswith(KEY_PROTOCOL):
            yield protocol.strip().removeprefix(KEY_PROTOCOL)


def _in_query(query: str) -> Iterable[str]:
    if "key" not in query and "%" not in query:
        return
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if unquote(name) == "key":
            yield unquote(value)


def invalid(why: str) -> Refusal:
    """401 for a credential that is not, or is no longer, good. `why` is ours: it never holds the caller's bytes."""
    return Refusal(401, "invalid_credentials", f"invalid_credentials: {why}", should_retry=False)


def expired(what: str) -> Refusal:
    return Refusal(401, "expired_credentials", f"expired_credentials: {what} has expired; ask for a new one", should_retry=False)


def is_well_formed(key: str) -> bool:
    """`slk-` and 43 characters of base64url (design.md section 9)."""
    return _FORM.fullmatch(key) is not None


def digest_of(credential: str) -> bytes:
    """SHA-256 of the whole credential, 32 bytes."""
    digest: bytes = sha256(credential.encode()).digest()
    return digest


def mint(random_bytes: bytes) -> tuple[str, bytes]:
    """A new key of 32 random bytes, and its digest. The key is shown once and kept nowhere."""
    if len(random_bytes) != KEY_BYTES:
        raise ValueError(f"a key wants {KEY_BYTES} random bytes, got {len(random_bytes)}")
    key = PREFIX + urlsafe_b64encode(random_bytes).rstrip(b"=").decode()
    return key, digest_of(key)


def hash_line(name: str, digest: bytes, tier: str | None = None, team: str | None = None) -> str:
    """The entry of `callers.keys` in the policy file that admits a minted key (`sluice keys new --print`)."""
    parts = [f"name: {_scalar(name)}", f"hash: sha256:{digest.hex()}"]
    parts += [f"{field}: {_scalar(value)}" for field, value in (("tier", tier), ("team", team)) if value]
    return "- {" + ", ".join(parts) + "}"


def _scalar(text: str) -> str:
    is_plain = re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", text) and text.lower() not in _YAML_WORDS
    return text if is_plain else json.dumps(text)  # a JSON string is a YAML string


class KeyTable:
    """The keys and tokens of one policy by digest: one look-up, then a comparison in constant time."""

    __slots__ = ("_keys", "_tokens", "rules")

    def __init__(self, rules: CallerRules) -> None:
        self.rules = rules
        self._keys: Mapping[bytes, KeyRecord] = MappingProxyType({key.digest: key for key in rules.keys})
        self._tokens: Mapping[bytes, TokenRecord] = MappingProxyType({token.record.digest: token for token in rules.tokens})

    def key(self, digest: bytes) -> KeyRecord | None:
        found = self._keys.get(digest)
        return found if found is not None and hmac.compare_digest(found.digest, digest) else None

    def token(self, digest: bytes) -> TokenRecord | None:
        found = self._tokens.get(digest)
        return found if found is not None and hmac.compare_digest(found.record.digest, digest) else None
