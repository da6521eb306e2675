"""Cohere's wire format, v1 and v2: chat, generate, embed, rerank, tokenize. Bills nothing; it gives tokens and billed units."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

import orjson

from proxy.dialect.cohere_ending import MessageEnding, StreamEnding
from proxy.dialect.ending import Ending
from proxy.dialect.fields import (
    at,
    items,
    label,
    mapping,
    merged,
    output_limit,
    plain_path,
    several,
    text,
    texts_at,
)
from proxy.dialect.figures import Figures, finished
from proxy.dialect.media import distinct, media, with_media
from proxy.dialect.wire import NO_UNITS, NOTHING_SAID, Asked, Json, Media, Operation, OperationName, Said, StreamFormat
from proxy.dialect.wording import credit_failure, prefixed
from proxy.exchange import Usage

PATH = re.compile(r"(?:/[^/]+){0,2}?(?:/(?P<version>v[12]))?/(?P<verb>[a-z_-]+)(?:/.+)?", re.IGNORECASE)
VERBS: dict[str, OperationName] = {
    "chat": "chat", "generate": "generate", "summarize": "generate", "embed": "embeddings", "rerank": "rerank", "classify": "other",
}  # fmt: skip
TOKENIZE = ("tokenize", "detokenize", "check-api-key")
UNMETERED = {"embed-jobs": "batches", "finetuning": "batches"}
FREE = ("GET", "HEAD", "OPTIONS", "DELETE")

V1_TOOLS = ("tool_results.*.outputs.**", "tool_results.*.call.parameters.**")
SURFACES = {
    "chat.v1": ("message", "preamble", "chat_history.*.message", "chat_history.*.tool_calls.*.parameters.**",
                *V1_TOOLS, *(f"chat_history.*.{place}" for place in V1_TOOLS),
                "documents.**", "tools.**.description", "response_format.**.description"),
    "chat.v2": ("messages.*.content", "messages.*.content.*.text", "messages.*.content.*.thinking", "messages.*.content.*.document.**",
                "messages.*.tool_plan", "messages.*.tool_calls.*.function.arguments!json", "messages.*.citations.*.text",
                "documents.*", "documents.*.data.**", "tools.**.description", "response_format.**.description"),
    "generate": ("prompt", "text", "additional_command"),
    "embeddings": ("texts.*", "inputs.*.content.*.text"),
    "rerank": ("query", "documents.**"),
    "count_tokens": ("text",),
    "other": ("inputs.*", "examples.*.text"),
}  # fmt: skip
ANSWERS = {
    "chat.v1": ("text", "chat_history.*.message", "chat_history.*.tool_calls.*.parameters.**", "tool_calls.*.parameters.**",
                "citations.*.text", "search_queries.*.text", "documents.**"),
    "chat.v2": ("message.content.*.text", "message.content.*.thinking", "message.tool_plan",
                "message.tool_calls.*.function.arguments!json", "message.citations.*.text"),
    "generate": ("generations.*.text", "prompt", "summary"),
    "embeddings": ("texts.*",),
    "rerank": ("results.*.document.**",),
}  # fmt: skip
FIGURES = Figures(
    {
        "seen": ("tokens.input_tokens",),
        "said": ("tokens.output_tokens",),
        "cached": ("cached_tokens",),
        "billed_input": ("billed_units.input_tokens",),
        "billed_output": ("billed_units.output_tokens",),
        "input_image": ("billed_units.image_tokens",),
        "searches": ("billed_units.search_units",),
    }
)
FAILED = ("ERROR", "ERROR_LIMIT", "ERROR_TOXIC", "TIMEOUT")
PREAMBLE = ("message-start", "stream-start", "debug")
ADDED = 1_024  # tokens of the preamble that Cohere puts in front, not billed; recorded: 495, and 900 more where there are tools


@lru_cache(maxsize=256)
def operation_of(method: str, path: str) -> Operation:
    found = PATH.fullmatch(plain_path(path))
    verb = found["verb"].lower() if found else ""
    variant = "v1" if found and found["version"] in ("v1", "V1") else "v2"
    if method in FREE:
        return Operation("models" if verb == "models" else "other", body="none", is_billed=False)
    if verb in VERBS:
        return Operation(VERBS[verb], variant=variant, is_metered=verb != "classify")
    if verb in TOKENIZE:
        return Operation("count_tokens", is_billed=False)
    if verb in UNMETERED:
        return Operation("batches", body="stream", is_metered=False)
    if verb == "datasets":
        return Operation("files", body="stream", is_billed=False)
    return Operation("other", body="stream", is_metered=False)


class Cohere:
    name = "cohere"
    family = "cohere"
    stream_format: StreamFormat = "sse"

    def operation(self, method: str, path: str, query: str) -> Operation:
        return operation_of(method, path)

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        asked = Asked(
            model=text(doc.get("model")),
            stream=doc.get("stream") is True,
            wants_usage=True,  # every stream carries it
            max_tokens=output_limit(doc, ("max_tokens",)),
            choices=several(doc.get("num_generations")),
            tools=(("searches", _searches(items(doc.get("documents")))),) if op.name == "rerank" else (),
            added=ADDED * (2 if doc.get("tools") or doc.get("documents") else 1) if op.name == "chat" else 0,
            reads_more=bool(doc.get("connectors") or doc.get("conversation_id")),
            reads_stored=bool(doc.get("conversation_id")),
        )
        return with_media(asked, _media(doc))

    def surface(self, op: Operation) -> tuple[str, ...]:
        return SURFACES.get(_key(op), ())

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        return ("file",) if op.body == "stream" else distinct(asked.media)

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return ANSWERS.get(_key(op), ())

    def said(self, op: Operation, event: Json) -> Said:
        return _said_v1(event) if "event_type" in event or "is_finished" in event else _said_v2(event)

    def is_preamble(self, op: Operation, event: Json) -> bool:
        return (event.get("type") or event.get("event_type")) in PREAMBLE

    def error_of(self, op: Operation, event: Json) -> str | None:
        delta = mapping(event.get("delta")) if event.get("type") == "message-end" else event
        if text(delta.get("error")):
            return "server_error"
        reason = delta.get("finish_reason")
        return reason if isinstance(reason, str) and reason in FAILED else None

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        if data.strip() == b"[DONE]":
            return True
        if b"message-end" not in data and b"is_finished" not in data:
            return False
        try:
            event = mapping(orjson.loads(data))
        except orjson.JSONDecodeError:
            return False
        return event.get("type") == "message-end" or event.get("is_finished") is True

    def usage(self, op: Operation, doc: Json) -> Usage | None:
        return None if op.name == "count_tokens" else read_usage(mapping(doc.get("usage")) or mapping(doc.get("meta")), doc)

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        raw = mapping(at(event, "delta", "usage")) or mapping(at(event, "response", "meta"))
        if not raw:
            return so_far
        return read_usage(merged(so_far.detail if so_far else {}, raw), event) or so_far

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        return orjson.dumps({"message": prefixed(code, message), "id": request_id})

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        """v2: a message-end that says ERROR; v1: the same as a line of JSON. The SDKs have no error event."""
        if op.variant == "v1":
            failed = {"is_finished": True, "event_type": "stream-end", "finish_reason": "ERROR", "error": prefixed(code, message)}
            return orjson.dumps(failed) + b"\n"
        delta = {"error": prefixed(code, message), "finish_reason": "ERROR"}
        return b"event: message-end\ndata: " + orjson.dumps({"type": "message-end", "id": request_id, "delta": delta}) + b"\n\n"

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        if op.name == "chat":
            return StreamEnding() if op.variant == "v1" else MessageEnding()
        return None

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"Authorization", f"Bearer {secret}".encode()

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        return credit_failure(status, doc)

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        entries = doc.get("models")
        return ("models", [text(at(entry, "name")) or "" for entry in entries]) if isinstance(entries, list) else None


def read_usage(raw: Json, doc: Json) -> Usage | None:
    """`tokens` is what the model saw and said; `billed_units`, beside it, is what is paid for (see `units`)."""
    found, is_odd = FIGURES.read(raw)
    cached, asked, said = found.pop("cached", 0), found.pop("seen", None), found.pop("said", None)
    asked, said = found.get("billed_input") if asked is None else asked, found.get("billed_output") if said is None else said
    searches, images = found.get("searches", 0), found.get("input_image", 0)
    if asked is None and said is None and not searches and not images:
        return None
    input, model = max(asked or 0, images), text(doc.get("model"))
    units = {unit: number for unit, number in found.items() if number} or NO_UNITS
    return finished(Usage(input, cached, 0, 0, said or 0, 0, "provider", "", raw, units, None, None, model, True), is_odd)


def _searches(documents: Sequence[object]) -> int:
    """Search units of a rerank, at most: one a hundred documents; what is longer than 500 tokens counts as several (Cohere, Pricing)."""
    pieces = sum(1 + len(str(document).encode("utf-8", "replace")) // 500 for document in documents)
    return max(1, -(-pieces // 100))


def _said_v2(event: Json) -> Said:
    index = label(event.get("index"))
    message = ("delta", "message")
    match event.get("type"):
        case "content-delta":
            found = [
                (f"content.{index}", (*message, "content", n), False)
                for n in ("text", "thinking")
                if text(at(event, *message, "content", n))
            ]
            return Said(deltas=tuple(found))
        case "tool-plan-delta" if text(at(event, *message, "tool_plan")):
            return Said(deltas=(("plan", (*message, "tool_plan"), False),))
        case "tool-call-delta" if text(at(event, *message, "tool_calls", "function", "arguments")):
            return Said(deltas=((f"tool.{index}", (*message, "tool_calls", "function", "arguments"), True),))
        case "content-start" | "tool-call-start" | "citation-start":
            places = ("content.text", "content.thinking", "tool_calls.function.arguments!json", "citations.text")
            return Said(wholes=texts_at(places, at(event, *message), message), ends=("plan",))
        case "content-end":
            return Said(ends=(f"content.{index}",))
        case "tool-call-end":
            return Said(ends=(f"tool.{index}",))
        case "message-end":
            return Said(ends=("*",))
    return NOTHING_SAID


def _said_v1(event: Json) -> Said:
    if event.get("is_finished") is True or event.get("event_type") == "stream-end":
        return Said(wholes=texts_at((*ANSWERS["chat.v1"], *ANSWERS["generate"]), event.get("response"), ("response",)), ends=("*",))
    if isinstance(event.get("text"), str) and event.get("event_type") in (None, "text-generation", "tool-calls-chunk"):
        return Said(deltas=((f"text.{label(event.get('index'))}", ("text",), False),))
    if text(at(event, "tool_call_delta", "parameters")):
        return Said(deltas=((f"tool.{label(at(event, 'tool_call_delta', 'index'))}", ("tool_call_delta", "parameters"), True),))
    wholes = texts_at(ANSWERS["chat.v1"], event)
    return Said(wholes=wholes, ends=("*",)) if wholes else NOTHING_SAID


def _key(op: Operation) -> str:
    return f"{op.name}.{op.variant}" if op.name == "chat" else op.name


def _media(doc: Json) -> list[Media]:
    parts = [p for name in ("messages", "inputs") for entry in items(doc.get(name)) for p in items(at(entry, "content"))]
    shown = [media("image", at(p, "image_url", "url"), at(p, "image_url", "detail")) for p in parts if at(p, "type") == "image_url"]
    return shown + [media("image", image) for image in items(doc.get("images"))]


COHERE = Cohere()
