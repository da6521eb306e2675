"""Anthropic's wire format: messages, count_tokens, batches, legacy complete. Takes no placeholder for a final figure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

import orjson

from proxy.dialect.anthropic_ending import CompletionEnding, MessagesEnding
from proxy.dialect.ending import Ending
from proxy.dialect.fields import (
    Figures,
    at,
    items,
    label,
    mapping,
    merged,
    noted,
    output_limit,
    plain_path,
    text,
    texts_at,
)
from proxy.dialect.media import distinct, kind_of_media, media, with_media
from proxy.dialect.wire import NOTHING_SAID, Asked, Json, Media, Operation, Said, StreamFormat
from proxy.dialect.wording import anthropic_type, credit_failure, prefixed, stream_status
from proxy.exchange import Usage

MESSAGES = Operation("messages")
FREE = ("GET", "HEAD", "OPTIONS", "DELETE")
TABLE: tuple[tuple[tuple[str, ...], str, Operation], ...] = (
    (("POST",), r"messages", MESSAGES),
    (("POST",), r"messages/count_tokens", Operation("count_tokens", is_billed=False)),
    (("POST",), r"messages/batches", Operation("batches", is_metered=False)),
    (("POST",), r"messages/batches/.+", Operation("batches", body="none", is_billed=False)),
    (("GET",), r"messages/batches/[^/]+/results", Operation("batches", body="none", is_billed=False, variant="results")),
    (FREE, r"messages/batches(?:/.+)?", Operation("batches", body="none", is_billed=False)),
    (("POST",), r"complete", Operation("completions")),
    (("GET", "HEAD"), r"models(?:/.+)?", Operation("models", body="none", is_billed=False)),
    (FREE, r"files(?:/.+)?", Operation("files", body="none", is_billed=False)),
    (("POST",), r"files", Operation("files", body="stream", is_billed=False)),
)
PATTERNS = tuple((methods, re.compile(rf"(?:/[^/]+){{0,4}}?/(?:{tail})", re.IGNORECASE), op) for methods, tail, op in TABLE)

BLOCK = ("text", "thinking", "input.**", "content", "content.*.text", "content.*.title", "content.*.context", "content.*.content.*.text",
         "content.*.source.content", "content.*.source.content.*.text", "content.stdout", "content.stderr", "source.content",
         "source.content.*.text", "title", "context", "citations.*.cited_text")  # fmt: skip
DATA = ("source.data!text", "content.*.source.data!text")  # plain text of a document, base64 of all else
ASKING = ("system", "system.*.text", "messages.*.content", *(f"messages.*.content.*.{place}" for place in (*BLOCK, *DATA)),
          "tools.**.description", "output_config.**.description", "output_format.**.description")  # fmt: skip
SURFACES = {
    "messages": ASKING,
    "count_tokens": ASKING,
    "batches": tuple(f"requests.*.params.{place}" for place in ASKING),
    "completions": ("prompt",),
}
ANSWERS = {"messages": tuple(f"content.*.{place}" for place in BLOCK), "completions": ("completion",)}
DELTAS = {"text": False, "thinking": False, "partial_json": True}
PREAMBLE = ("message_start", "ping")
TERMINAL = ("message_stop", "error")
ADDED = 1_024  # tokens of the prompt that explains tools to the model; Anthropic lists 159 to 804 by model (Tool use, Pricing)
OWN = ("custom", "bash_", "text_editor_", "computer_", "memory_")  # tools that the caller runs; all other types Anthropic runs


@lru_cache(maxsize=256)
def operation_of(method: str, path: str) -> Operation:
    plain = plain_path(path)
    for methods, pattern, op in PATTERNS:
        if method in methods and pattern.fullmatch(plain):
            return op
    return Operation("other", body="none", is_billed=False) if method in FREE else Operation("other", body="stream", is_metered=False)


class Anthropic:
    name = "anthropic"
    family = "anthropic"
    stream_format: StreamFormat = "sse"

    def operation(self, method: str, path: str, query: str) -> Operation:
        return operation_of(method, path)

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        asked = Asked(
            model=text(doc.get("model")) or _model_of_all(doc),
            stream=doc.get("stream") is True,
            wants_usage=True,  # every stream carries it
            max_tokens=output_limit(doc, "max_tokens", "max_tokens_to_sample"),
            tier=text(doc.get("speed")) or text(doc.get("service_tier")),
            user=text(at(doc, "metadata", "user_id")),
            tools=_tools(doc),
            added=ADDED if doc.get("tools") or doc.get("output_config") else 0,
            reads_more=_reads_more(doc),
        )
        return with_media(asked, _media(doc))

    def surface(self, op: Operation) -> tuple[str, ...]:
        return SURFACES.get(op.name, ())

    def uninspected(self, op: Operation, doc: Json) -> tuple[str, ...]:
        return ("file",) if op.body == "stream" else distinct(_media(doc))

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return ANSWERS.get(op.name, ())

    def said(self, op: Operation, event: Json) -> Said:
        channel = label(event.get("index"))
        match event.get("type"):
            case "content_block_delta":
                found = [(channel, ("delta", name), is_json) for name, is_json in DELTAS.items() if text(at(event, "delta", name))]
                return Said(deltas=tuple(found), wholes=texts_at(("delta.citation.cited_text",), event))
            case "content_block_start":
                return Said(wholes=texts_at(BLOCK, event.get("content_block"), ("content_block",)))
            case "content_block_stop":
                return Said(ends=(channel,))
            case "message_stop" | "error":
                return Said(ends=("*",))
            case "completion" if text(event.get("completion")):
                return Said(deltas=(("completion", ("completion",), False),), ends=("*",) if event.get("stop_reason") else ())
        return NOTHING_SAID

    def is_preamble(self, op: Operation, event: Json) -> bool:
        return event.get("type") in PREAMBLE

    def error_of(self, op: Operation, event: Json) -> str | None:
        return text(at(event, "error", "type")) or "api_error" if event.get("type") == "error" else None

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        if not any(mark in data for mark in (b"message_stop", b'"error"', b"stop_reason")):
            return False
        try:
            event = mapping(orjson.loads(data))
        except orjson.JSONDecodeError:
            return False
        return event.get("type") in TERMINAL or (event.get("type") == "completion" and bool(event.get("stop_reason")))

    def usage(self, op: Operation, doc: Json, headers: Mapping[str, str]) -> Usage | None:
        return None if op.name == "count_tokens" else read_usage(mapping(doc.get("usage")), doc)

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        """message_start brings the input side and a placeholder for the output; message_delta the cumulative, final figures."""
        is_start = event.get("type") == "message_start"
        if not is_start and event.get("type") != "message_delta":
            return so_far
        message = mapping(event.get("message"))
        now = read_usage(merged(so_far.detail if so_far else {}, mapping((message or event).get("usage"))), message)
        if now is None:
            return so_far
        now = replace(now, model=now.model or (so_far.model if so_far else None))
        if is_start or Figures(mapping(event.get("usage"))).first("output_tokens") is None:
            return replace(now, source="counted", output=0, reasoning=0, ended=False)
        return noted(so_far, now)

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        error = {"type": anthropic_type(status), "message": prefixed(code, message)}
        return orjson.dumps({"type": "error", "error": error, "request_id": request_id})

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        return b"event: error\ndata: " + self.error_body(stream_status(code), code, message, request_id) + b"\n\n"

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        if op.name == "completions":
            return CompletionEnding()
        return MessagesEnding() if op.name == "messages" else None

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"x-api-key", secret.encode()

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        return credit_failure(status, doc)

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        entries = doc.get("data")
        return ("data", [text(at(entry, "id")) or "" for entry in entries]) if isinstance(entries, list) else None


def read_usage(raw: Json, doc: Json) -> Usage | None:
    """`input_tokens` counts what was neither read from nor written to the cache; source: Anthropic, Prompt caching."""
    figures = Figures(raw)
    asked, said = figures.first("input_tokens"), figures.first("output_tokens")
    if asked is None and said is None:
        return None
    cached = figures.count("cache_read_input_tokens")
    short, long = (figures.count(f"cache_creation.ephemeral_{age}_input_tokens") for age in ("5m", "1h"))
    written = figures.first("cache_creation_input_tokens")
    written = short + long if written is None else written
    return figures.finish(
        Usage(
            input=(asked or 0) + cached + written,
            cached_input=cached,
            cache_write=written,
            cache_write_1h=long,
            output=said or 0,
            reasoning=figures.count("output_tokens_details.thinking_tokens"),
            source="provider",
            detail=dict(raw),
            units={"searches": figures.count("server_tool_use.web_search_requests")},
            tier="fast" if raw.get("speed") == "fast" else text(raw.get("service_tier")),
            model=text(doc.get("model")),
            ended=True,
        )
    )


def _tools(doc: Json) -> tuple[tuple[str, int], ...]:
    """Of the tools that Anthropic runs, web search alone has a fee per use; fetching is free, code is billed by hours of the month."""
    for tool in items(doc.get("tools")):
        if (text(at(tool, "type")) or "").startswith("web_search_"):
            uses = at(tool, "max_uses")
            return (("searches", uses if isinstance(uses, int) and uses > 0 else 0),)
    return ()


def _reads_more(doc: Json) -> bool:
    run = [text(at(tool, "type")) or "custom" for tool in items(doc.get("tools"))]
    return bool(doc.get("mcp_servers") or doc.get("container")) or any(not kind.startswith(OWN) for kind in run)


def _model_of_all(doc: Json) -> str | None:
    """Of a batch: the model that each of its requests names; None where they name several."""
    named = {text(at(entry, "params", "model")) for entry in items(doc.get("requests"))}
    return named.pop() if len(named) == 1 else None


def _media(doc: Json) -> list[Media]:
    """The blocks no text rule can read, tool results and batch entries included."""
    asked = [doc, *(mapping(at(entry, "params")) for entry in items(doc.get("requests")))]
    blocks: list[object] = [block for one in asked for entry in items(one.get("messages")) for block in items(at(entry, "content"))]
    blocks += [inner for block in blocks for inner in items(at(block, "content"))]
    return [media(kind, at(block, "source", "data")) for block in blocks if (kind := _kind(block)) is not None]


def _kind(block: object) -> str | None:
    match at(block, "type"):
        case "image":
            return "image"
        case "document" if at(block, "source", "type") not in ("content", "text"):
            return kind_of_media(at(block, "source", "media_type"))
        case "container_upload":
            return "file"
    return None


ANTHROPIC = Anthropic()
