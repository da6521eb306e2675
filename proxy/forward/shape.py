"""One request for one target: its headers, credential, target and body. Changes only what must differ, and never builds an origin."""

from __future__ import annotations

from dataclasses import field

import orjson

from proxy.dialect import dialect_of
from proxy.dialect.wire import Asked, Dialect, Operation
from proxy.exchange import Call, value
from proxy.forward.head import Head
from proxy.forward.limit import field_for, with_limit
from proxy.forward.target import target_for, without_parameter
from proxy.policy.plan import Credential, Plan, Provider, Target
from proxy.ports import Address
from proxy.refusal import Refusal
from proxy.stream.coding import OF_BODY
from proxy.stream.spans import edit, insert_key, top_level

CARRIERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})  # and the query parameter `key`
_NONE: frozenset[bytes] = frozenset()
ASKS_USAGE = frozenset({"chat", "completions"})
MOST_FORMS, MAX_NAME = 64, 256  # of one head; characters of a model's name that is remembered: names come from outside

Lines = tuple[tuple[bytes, bytes | int], ...]  # of a request: name and value, or the number of the line that has it, where that varies


@value(frozen=True, slots=True)
class Form:
    """Requests with one head, for one target: all that is the same of them."""

    to: Address
    head: Head
    dialect: Dialect  # of the target
    key: bytes = field(repr=False)  # of ours, as it is sent; b"" for none


class Shaping:
    """What requests with one head become, under one policy. Each form is worked out once."""

    def __init__(self, call: Call, op: Operation, source: Provider, lines: Lines, accept_encoding: bytes | None) -> None:
        """`source`: the provider the caller addressed. `lines`: those that may travel on (no hop-by-hop ones).
        `accept_encoding` replaces the caller's value; None leaves it.
        """
        self._method, self._route, self._op, self._source = call.method, call.route, op, source
        self._lines, self._accepted = lines, accept_encoding
        self.names_model = op.model is not None  # the head: then a body may have to be reworded that names the same
        self._forms: dict[tuple[object, ...], Form] = {}

    def shape(
        self, plan: Plan, target: Target, credential: Credential | None, asked: Asked,
        body: bytes | None, plain: bytes | None, is_reworded: bool = False,
    ) -> tuple[Form, bytes | None, bool]:  # fmt: skip
        """The form, the body, and whether a wish for usage was put in. Call again for each attempt: every one starts from the same call.

        plain: the body decoded, the same object where it travels without a Content-Encoding. is_reworded: it is not the caller's any more.
        Raises Refusal 403 `not_allowed` where the caller's own key would go to another provider, 400 or 415 where the request cannot be
        shaped.
        """
        provider, own_key = target.provider, plan.brings_own_key
        asks = asked.stream and will_ask_usage(provider, self._op, asked)
        asked_usage = False
        if body and (asks or target.theirs != asked.model or plan.pricing.inject_max_tokens or self._op.model is not None):
            changed, asked_usage = self._reworded(plan, target, asked, plain, asks)
            if changed is not None:
                body, is_reworded = changed, True
        if own_key and provider.name != (plan.caller.own_provider or self._source.name):
            raise Refusal(403, "not_allowed", f"your own provider key is not sent to {provider.name}", should_retry=False)
        key = (provider.name, target.theirs, None if credential is None else credential.secret, own_key, asks, is_reworded)
        form = self._forms.get(key) or self._formed(key, target, credential, own_key, asks, is_reworded)
        return form, body, asked_usage

    def _reworded(self, plan: Plan, target: Target, asked: Asked, plain: bytes | None, asks: bool) -> tuple[bytes | None, bool]:
        """The body as the target is to have it, None where it travels as it came; and whether a wish for usage was put in."""
        op, provider, pricing = self._op, target.provider, plan.pricing
        limit = field_for(pricing, provider, op, asked, self._route.path)
        is_renamed = target.theirs is not None and target.theirs != (asked.model if op.model is None else op.model)
        moves = provider.name != self._source.name
        if not (is_renamed or asks or limit is not None or (moves and op.model is not None)):
            return None, False
        if plain is None:
            raise Refusal(415, "unsupported_encoding", "this body must be changed on its way; send it without Content-Encoding")
        text, asked_usage = _body(plain, target, op, is_renamed=is_renamed, moves=moves, wants_usage=asks)
        text = text if limit is None else with_limit(text, limit, pricing.default_max_tokens)
        return None if text == plain else text, asked_usage

    def _formed(
        self, key: tuple[object, ...], target: Target, credential: Credential | None, own_key: bool, asks: bool, is_reworded: bool
    ) -> Form:
        op, provider = self._op, target.provider
        dialect = dialect_of("openai" if op.speaks == "openai" else provider.dialect)  # an OpenAI-compatible path of another's provider
        auth = None if own_key or credential is None else dialect.auth(credential.secret)
        raw_target = self._route.target
        if provider.name != self._source.name or op.model is not None or provider.api_version:
            raw_target = target_for(self._route, self._source, target, op.model)
        if not own_key and "?" in raw_target:
            raw_target = _without_key(raw_target)
        lines = _travelling(self._lines, provider, own_key, is_reworded)
        accepted = None if self._accepted is None else b"identity" if asks else self._accepted
        if accepted is not None:  # what we ask a usage of is taken out again by a byte test
            lines = [(name, accepted if name.lower() == b"accept-encoding" else value) for name, value in lines]
        ours = {name.lower() for name, _ in provider.set_headers}
        if auth is not None and auth[0].lower() not in ours:
            lines.append(auth)
        to = Address(provider.origin, self._method, raw_target, provider.name, provider.max_connections)
        secret = b"" if credential is None else credential.secret.encode()
        form = Form(to, Head(to, (*lines, *provider.set_headers)), dialect, secret)
        if len(self._forms) >= MOST_FORMS:
            self._forms.clear()
        if target.theirs is None or len(target.theirs) <= MAX_NAME:
            self._forms[key] = form
        return form


def _travelling(lines: Lines, provider: Provider, keeps: bool, is_reworded: bool) -> list[tuple[bytes, bytes | int]]:
    """Those that reach this provider. `keeps`: the caller's credentials."""
    ours = {name.lower() for name, _ in provider.set_headers}
    dropped = {name.encode() for name in provider.remove_headers} | ours | (_NONE if keeps else CARRIERS)
    dropped |= OF_BODY if is_reworded else _NONE
    return [line for line in lines if line[0].lower() not in dropped]


def will_ask_usage(provider: Provider, op: Operation, asked: Asked) -> bool:
    """Does this stream carry its usage only where we ask for it? Then the answer should come uncompressed."""
    return provider.asks_stream_usage and op.name in ASKS_USAGE and asked.stream and not asked.wants_usage


def _without_key(raw_target: str) -> str:
    path, _, query = raw_target.partition("?")
    kept = without_parameter(query, "key")
    if kept == query:
        return raw_target
    return f"{path}?{kept}" if kept else path


def _body(text: bytes, target: Target, op: Operation, *, is_renamed: bool, moves: bool, wants_usage: bool) -> tuple[bytes, bool]:
    """The body with the target's model name and a wish for usage; and whether that wish was put in."""
    members = top_level(text)
    edits: list[tuple[int, int, bytes]] = []
    model = members.get("model")
    if target.theirs is not None and model is not None and (is_renamed or moves):
        before = text[slice(*model)]
        name = _spelt(before, target.theirs, op)
        if orjson.loads(before) != name:
            edits.append((*model, orjson.dumps(name)))
    asked_usage = False
    options = members.get("stream_options")
    if wants_usage and options is not None:
        wished = _with_usage(text[slice(*options)])
        asked_usage = wished is not None
        if wished is not None:
            edits.append((*options, wished))
    text = edit(text, edits) if edits else text
    if wants_usage and options is None:
        text, asked_usage = insert_key(text, "stream_options", b'{"include_usage":true}'), True
    if target.theirs is not None and model is None and moves and op.model is not None and target.provider.family == "openai":
        text = insert_key(text, "model", orjson.dumps(target.theirs))  # Azure named it in the path, here the body must
    return text, asked_usage


def _spelt(before: bytes, theirs: str, op: Operation) -> str:
    """Gemini's bodies spell it models/NAME, those of Vertex's OpenAI-compatible path google/NAME."""
    if "/" in theirs:
        return theirs
    if before.startswith(b'"models/'):
        return "models/" + theirs
    return "google/" + theirs if op.speaks and before.startswith(b'"google/') else theirs


def _with_usage(options: bytes) -> bytes | None:
    """`stream_options` that ask for usage; None where the value is nothing we could ask in (the provider will say so)."""
    if options == b"null":
        return b'{"include_usage":true}'
    if not options.startswith(b"{"):
        return None
    said = top_level(options).get("include_usage")
    return edit(options, [(*said, b"true")]) if said is not None else insert_key(options, "include_usage", b"true")
