"""Anthropic's wire format: messages, count_tokens, batches, legacy complete. Takes no placeholder for a final figure."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache

import orjson

from proxy.dialect.anthropic_ending import CompletionEnding, MessagesEnding
from proxy.dialect.ending import Ending
from proxy.dialect.fields import (
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
from proxy.dialect.figures import Figures, finished
from proxy.dialect.media import distinct, kind_of_media, media, with_media
from proxy.dialect.wire import NAME, NO_UNITS, NOTHING_SAID, Asked, Json, Media, Operation, Said, StreamFormat, usual
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
LIMITS = ("max_tokens", "max_tokens_to_sample")
RARE = frozenset({"speed", "service_tier", "metadata", "tools", "output_config", "mcp_servers", "container", "requests"})
FIGURES = Figures(
    {
        "input": ("input_tokens",),
        "output": ("output_tokens",),
        "cached": ("cache_read_input_tokens",),
        "written": ("cache_creation_input_tokens",),
        "short": ("cache_creation.ephemeral_5m_input_tokens",),
        "long": ("cache_creation.ephemeral_1h_input_tokens",),
        "reasoning": ("output_tokens_details.thinking_tokens",),
        "searches": ("server_tool_use.web_search_requests",),
    }
)
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
        model, limit, found = text(doc.get("model")), output_limit(doc, LIMITS), _media(doc)
        if op.is_talk and model and len(model) <= NAME and not found and RARE.isdisjoint(doc):
            return usual(model, doc.get("stream") is True, True, limit)
        return self._asked(doc, model, limit, found)

    def _asked(self, doc: Json, model: str | None, limit: int | None, found: list[Media]) -> Asked:
        """The same of any call."""
        asked = Asked(
            model=model or _model_of_all(doc),
            stream=doc.get("stream") is True,
            wants_usage=True,  # every stream carries it
            max_tokens=limit,
            tier=text(doc.get("speed")) or text(doc.get("service_tier")),
            user=text(at(doc, "metadata", "user_id")),
            tools=_tools(doc),
            added=ADDED if doc.get("tools") or doc.get("output_config") else 0,
            reads_more=_reads_more(doc),
        )
        return with_media(asked, found)

    def surface(self, op: Operation) -> tuple[str, ...]:
        return SURFACES.get(op.name, ())

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        return ("file",) if op.body == "stream" else distinct(asked.media)

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return ANSWERS.get(op.name, ())

    def said(self, op: Operation, event: Json) -> Said:
        channel = label(event.get("index"))
        match event.get("type"):
            case "content_block_delta":
                delta = mapping(event.get("delta"))
                pieces = _pieces(channel, tuple([name for name in DELTAS if name in delta and text(delta[name])]))
                return Said(pieces.deltas, texts_at(("delta.citation.cited_text",), event)) if "citation" in delta else pieces
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

    def usage(self, op: Operation, doc: Json) -> Usage | None:
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
        if is_start or "output" not in FIGURES.read(mapping(event.get("usage")))[0]:
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


@lru_cache(maxsize=256)  # the channels are theirs
def _pieces(channel: str, names: tuple[str, ...]) -> Said:
    return Said(tuple([(channel, ("delta", name), DELTAS[name]) for name in names]))


def read_usage(raw: Json, doc: Json) -> Usage | None:
    """`input_tokens` counts what was neither read from nor written to the cache; source: Anthropic, Prompt caching."""
    found, is_odd = FIGURES.read(raw)
    figure = found.get
    asked, said = figure("input"), figure("output")
    if asked is None and said is None:
        return None
    cached, long, searches = figure("cached", 0), figure("long", 0), figure("searches")
    written = found["written"] if "written" in found else figure("short", 0) + long
    units = {"searches": searches} if searches else NO_UNITS
    tier = "fast" if raw.get("speed") == "fast" else text(raw.get("service_tier"))
    input, output, reasoning, model = (asked or 0) + cached + written, said or 0, figure("reasoning", 0), text(doc.get("model"))
    return finished(Usage(input, cached, written, long, output, reasoning, "provider", "", raw, units, tier, None, model, True), is_odd)


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
    blocks = _blocks(doc)
    for entry in items(doc.get("requests")):
        blocks += _blocks(mapping(at(entry, "params")))
    if not blocks:
        return []
    blocks += [inner for block in blocks if isinstance(block, dict) and "content" in block for inner in items(block["content"])]
    return [media(kind, at(block, "source", "data")) for block in blocks if (kind := _kind(block)) is not None]


def _blocks(doc: Json) -> list[object]:
    blocks: list[object] = []
    for entry in items(doc.get("messages")):
        if isinstance(entry, dict) and isinstance(content := entry.get("content"), list):
            blocks += content
    return blocks


def _kind(block: object) -> str | None:
    name = block.get("type") if isinstance(block, dict) else None
    if name == "image":
        return "image"
    if name == "document" and at(block, "source", "type") not in ("content", "text"):
        return kind_of_media(at(block, "source", "media_type"))
    return "file" if name == "container_upload" else None


ANTHROPIC = Anthropic()
