"""One request for one target: its headers, credential, target and body. Changes only what must differ, and never builds an origin."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from itertools import compress
from typing import cast

import orjson

from proxy.dialect.wire import Asked, Dialect, Operation
from proxy.exchange import Call, RawHeaders, value
from proxy.forward.limit import field_for, with_limit
from proxy.forward.target import target_for, without_parameter
from proxy.policy.plan import Credential, Plan, Provider, Target
from proxy.ports import Outgoing
from proxy.refusal import Refusal
from proxy.stream.coding import without_body_fields
from proxy.stream.spans import edit, insert_key, top_level

CARRIERS = frozenset({b"authorization", b"x-api-key", b"api-key", b"x-goog-api-key"})  # and the query parameter `key`
_NONE: frozenset[bytes] = frozenset()
ASKS_USAGE = frozenset({"chat", "completions"})


@value(frozen=True, slots=True)
class Shaped:
    """`asked_usage`: we asked for a usage chunk that the caller did not ask for; it must be taken out again."""

    request: Outgoing
    asked_usage: bool = False


def shape(
    call: Call,
    plan: Plan,
    target: Target,
    credential: Credential | None,
    body: bytes | None,
    op: Operation,
    asked: Asked,
    *,
    dialect: Dialect,
    source: Provider,
    headers: RawHeaders,
    accept_encoding: bytes | None = None,
    plain: bytes | None = None,
    upload: Callable[[], AsyncIterator[bytes]] | None = None,
    upload_length: int | None = None,
    on_sent: Callable[[], None] | None = None,
) -> Shaped:
    """Call again for each attempt: every one starts from the same call.

    dialect: of the target. source: the provider the caller addressed. headers: those that may travel on (no hop-by-hop ones).
    accept_encoding replaces the caller's value; None leaves it. plain: the body decoded, where `body` travels with a Content-Encoding.
    Raises Refusal 403 `not_allowed` where the caller's own key would go to another provider, 400 or 415 where the request cannot be shaped.
    """
    provider = target.provider
    moves = provider is not source and provider.name != source.name
    asked_usage = False
    if body:
        is_renamed = target.theirs is not None and target.theirs != (asked.model if op.model is None else op.model)
        wants_usage = asked.stream and will_ask_usage(provider, op, asked)
        limit = field_for(plan.pricing, provider, op, asked, call.route.path) if plan.pricing.inject_max_tokens else None
        if is_renamed or wants_usage or limit is not None or (moves and op.model is not None):
            is_coded = any(name.lower() == b"content-encoding" for name, _ in headers)
            text = plain if is_coded else body
            if text is None:
                raise Refusal(415, "unsupported_encoding", "this body must be changed on its way; send it without Content-Encoding")
            changed, asked_usage = _body(text, target, op, is_renamed=is_renamed, moves=moves, wants_usage=wants_usage)
            changed = changed if limit is None else with_limit(changed, limit, plan.pricing.default_max_tokens)
            if changed != text:
                body = changed
                headers = without_body_fields(headers)
    own_key = plan.caller.brings_own_key
    if own_key and provider.name != (plan.caller.own_provider or source.name):
        raise Refusal(403, "not_allowed", f"your own provider key is not sent to {provider.name}", should_retry=False)
    raw_target = call.route.target
    if moves or op.model is not None or provider.api_version:
        raw_target = target_for(call.route, source, target, op.model)
    if not own_key and "?" in raw_target:
        raw_target = _without_key(raw_target)
    auth = None if own_key or credential is None else _auth(dialect, op, credential)
    lines = _headers(call, headers, provider, auth, accept_encoding, own_key)
    request = Outgoing(
        provider.origin, call.method, raw_target, lines, body, upload, upload_length,
        provider.name, provider.max_connections, provider.ssl, on_sent,
    )  # fmt: skip
    return Shaped(request, asked_usage)


def will_ask_usage(provider: Provider, op: Operation, asked: Asked) -> bool:
    """Does this stream carry its usage only where we ask for it? Then the answer should come uncompressed."""
    return provider.asks_stream_usage and op.name in ASKS_USAGE and asked.stream and not asked.wants_usage


def _auth(dialect: Dialect, op: Operation, credential: Credential) -> tuple[bytes, bytes]:
    if op.speaks == "openai":  # an OpenAI-compatible path of another dialect's provider
        return b"Authorization", b"Bearer " + credential.secret.encode()
    return dialect.auth(credential.secret)


def _headers(
    call: Call, headers: RawHeaders, provider: Provider, auth: tuple[bytes, bytes] | None, accept_encoding: bytes | None, keeps: bool
) -> RawHeaders:
    """`keeps`: the caller's credentials."""
    key = (_which, provider.name, keeps, auth and auth[0])
    which = call.kept.get(key)
    if which is None or len(cast("_Which", which)[0]) != len(headers):  # a body that was changed lost lines of its own
        which = call.kept[key] = _which([name.lower() for name, _ in headers], provider, keeps, auth and auth[0])
    travel, accepts, authorizes = cast("_Which", which)
    lines = list(compress(headers, travel))
    if accept_encoding is not None:
        for at in accepts:
            lines[at] = (lines[at][0], accept_encoding)
    if authorizes and auth is not None:
        lines.append(auth)
    return (*lines, *provider.set_headers)


_Which = tuple[tuple[bool, ...], tuple[int, ...], bool]


def _which(names: list[bytes], provider: Provider, keeps: bool, auth: bytes | None) -> _Which:
    """Of lines of these names: which travel, which of those are Accept-Encoding, and whether a line `auth` joins them."""
    ours = {name.lower() for name, _ in provider.set_headers}
    dropped = {name.encode() for name in provider.remove_headers} | ours | (_NONE if keeps else CARRIERS)
    travel = tuple([name not in dropped for name in names])
    accepts = tuple([at for at, name in enumerate(compress(names, travel)) if name == b"accept-encoding"])
    return travel, accepts, auth is not None and auth.lower() not in ours


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
