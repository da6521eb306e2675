"""OpenAI's wire format and its compatible family (Mistral, Groq, DeepSeek, xAI, OpenRouter, Together …). Translates nothing."""

from __future__ import annotations

from typing import Any

import orjson

from proxy.dialect.ending import Ending
from proxy.dialect.fields import at, items, mapping, merged, output_limit, several, text
from proxy.dialect.figures import ABSURD
from proxy.dialect.media import distinct, media, with_media
from proxy.dialect.openai_asked import MORE, SEARCHING, TALKS, added, pixels, reads_more, reads_stored, tools_asked
from proxy.dialect.openai_ending import ChunksEnding
from proxy.dialect.openai_paths import operation_of, with_query
from proxy.dialect.openai_texts import ANSWERS, ENDS_ALL, SURFACES, key_of, said_of
from proxy.dialect.openai_usage import folded, says_no_more, whole_usage
from proxy.dialect.responses_ending import ResponsesEnding
from proxy.dialect.wire import NAME, NO_UNITS, Asked, Json, Media, Operation, Said, StreamFormat, usual
from proxy.dialect.wording import credit_failure, error_name, openai_type, prefixed, stream_status
from proxy.exchange import Usage, bare

MEDIA = {
    "image_url": "image", "input_image": "image", "image": "image", "computer_screenshot": "image", "image_generation_call": "image",
    "image_file": "image", "input_audio": "audio", "audio_url": "audio", "video_url": "video", "input_video": "video", "file": "file",
    "input_file": "file", "document_url": "file",
}  # fmt: skip
PREAMBLE = ("response.created", "response.in_progress", "response.queued", "keepalive")
TERMINAL = (*ENDS_ALL, "error", "image_generation.completed", "image_edit.completed", "transcript.text.done", "speech.audio.done")
MARKS = tuple(name.encode() for name in TERMINAL)
STREAMED_BODIES = {"images": "image", "audio": "audio"}
CHUNK = "chat.completion.chunk"
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")
NOTED = frozenset(  # what most chats do not say, but for a limit
    {*LIMITS, "n", "best_of", "tools", "prompt", "service_tier", "user", "safety_identifier", *MORE, *TALKS}
)
LIMITED = {frozenset(): LIMITS[0], **{frozenset((name,)): name for name in LIMITS}}  # one limit at most, of all these: under which name
# the same by all the names that a body says, in their order: most clients say the same ones each time. Names come from outside
SHAPES: dict[tuple[str, ...], str] = {}
USUAL: dict[tuple[object, ...], Asked] = {}  # the same by the values that count; no other dialect's, and bounded alike
MOST_SHAPES, LONGEST_SHAPE = 256, 256  # how many, and characters of all names of one


class OpenAI:
    name = "openai"
    family = "openai"
    stream_format: StreamFormat = "sse"

    def operation(self, method: str, path: str, query: str) -> Operation:
        return with_query(operation_of(method, path), query)

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        try:  # straight of most chats, of whose kind there was one before
            limit = doc.get(SHAPES[tuple(doc)])
            messages: Any = doc["messages"]
            for message in messages:  # as `_is_text`
                if type(message["content"]) is not str or "type" in message or "output" in message:
                    return self._asked(op, doc)
            if op.is_talk and "input" not in doc:
                wants_usage = "stream_options" in doc and at(doc, "stream_options", "include_usage") is True
                return USUAL[op.model, doc["model"], doc.get("stream") is True, wants_usage, limit, type(limit)]
        except (KeyError, TypeError):
            pass
        return _first(op, doc) or self._asked(op, doc)

    def _asked(self, op: Operation, doc: Json) -> Asked:
        """The same of any call."""
        found = _media(doc)
        choices = several(doc.get("n"), doc.get("best_of"))
        if op.name == "completions":
            choices *= _prompts(doc.get("prompt"))
        asked = Asked(
            model=op.model or text(doc.get("model")),
            stream=doc.get("stream") is True,
            wants_usage=at(doc, "stream_options", "include_usage") is True,
            max_tokens=output_limit(doc, LIMITS),
            choices=choices,
            images=choices if op.name == "images" else 0,
            pixels=pixels(doc) if op.name == "images" else 0,
            tier=text(doc.get("service_tier")),
            user=text(doc.get("user")) or text(doc.get("safety_identifier")),
            tools=tools_asked(op, doc),
            added=added(doc),
            reads_more=op.variant == "assistants" or reads_more(doc),
            reads_stored=op.variant == "assistants" or reads_stored(doc),
        )
        return with_media(asked, found)

    def surface(self, op: Operation) -> tuple[str, ...]:
        return SURFACES.get(key_of(op), ())

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        return (STREAMED_BODIES.get(op.name, "file"),) if op.body == "stream" else distinct(asked.media)

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return ANSWERS.get(key_of(op), ())

    def said(self, op: Operation, event: Json) -> Said:
        return said_of(op, event)

    def is_preamble(self, op: Operation, event: Json) -> bool:
        if self.error_of(op, event) is not None or mapping(event.get("usage")):
            return False
        if "choices" in event:
            said = said_of(op, event)
            return not said.deltas and not said.ends and not any(at(c, "delta", "tool_calls") for c in items(event["choices"]))
        return event.get("type") in PREAMBLE

    def error_of(self, op: Operation, event: Json) -> str | None:
        if "type" in event:
            if event["type"] == "error":  # the Responses API: flat, or the error object inside
                return error_name(mapping(event.get("error")) or {"code": event.get("code")})
            if event["type"] == "response.failed":
                return error_name(at(event, "response", "error"))
        if "error" in event:
            return error_name(event["error"]) if event["error"] else None
        return None

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        if data.strip() == b"[DONE]":
            return True
        if not any(mark in data for mark in MARKS):
            return False
        event = _read(data)
        return event.get("type") in TERMINAL or self.error_of(op, event) is not None

    def usage(self, op: Operation, doc: Json) -> Usage | None:
        """Straight of most chats: tokens in and out, their total, and details that are nought."""
        try:
            raw: Any = doc["usage"]
            model = doc["model"]
            if (
                op.name == "chat" and type(model) is str and model and SEARCHING not in model
                and "output" not in doc and "status" not in doc
            ):  # fmt: skip
                input, output, total = raw["prompt_tokens"], raw["completion_tokens"], raw["total_tokens"]
                if (
                    type(input) is int and type(output) is int and type(total) is int and input + output == total
                    and input >= 0 and output >= 0 and total <= ABSURD and (len(raw) == 3 or says_no_more(raw))
                ):  # fmt: skip
                    tier = text(doc["service_tier"]) if "service_tier" in doc else None
                    usage: Any = bare(Usage)  # and each field set: a call of `__init__` is dear
                    usage.input = input
                    usage.output = output
                    usage.cached_input = usage.cache_write = usage.cache_write_1h = usage.reasoning = 0
                    usage.source = "provider"
                    usage.note = ""
                    usage.detail = raw
                    usage.units = NO_UNITS
                    usage.tier = tier
                    usage.cost_nanousd = None
                    usage.model = model
                    usage.ended = usage.is_plain = True
                    found: Usage = usage
                    return found
        except (KeyError, TypeError):  # a usage that is no object
            pass
        return whole_usage(op, doc)

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        """Straight of the event of its own in which most chats state theirs."""
        if so_far is None and event.get("choices") == [] and event.get("object") == CHUNK and "response" not in event:
            found = self.usage(op, event)
            if found is not None and found.is_plain and (len(found.detail) == 3 or found.detail == merged({}, found.detail)):
                return found
        return folded(op, so_far, event)

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        error = {"message": prefixed(code, message), "type": openai_type(status, code), "param": None, "code": code}
        return orjson.dumps({"error": error})

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        """The SDKs raise APIError for any event whose data has `error`; the Responses API names its event as well."""
        body = self.error_body(stream_status(code), code, message, request_id)
        if op.name == "responses":
            flat = {"type": "error", "code": code, "message": prefixed(code, message), "param": None}
            return b"event: error\ndata: " + orjson.dumps(flat | orjson.loads(body)) + b"\n\n"
        return b"data: " + body + b"\n\n"

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        if op.name == "responses":
            return ResponsesEnding()
        return ChunksEnding(op, asked) if op.name in ("chat", "completions") else None

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"Authorization", f"Bearer {secret}".encode()

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        return credit_failure(status, doc)

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        entries = doc.get("data")
        return ("data", [text(at(entry, "id")) or "" for entry in entries]) if isinstance(entries, list) else None


def _prompts(prompt: object) -> int:
    """How many prompts a completions call carries: a list of strings or of token lists; one list of tokens is one prompt."""
    return sum(isinstance(entry, str | list) for entry in items(prompt)) or 1


def _limiting(names: tuple[str, ...]) -> str | None:
    """Under which name a limit stands, if one does, in a body that says no more than most chats do; None: it says more."""
    limiting = LIMITED.get(NOTED.intersection(names))
    if limiting is not None and sum(map(len, names)) <= LONGEST_SHAPE:
        if len(SHAPES) >= MOST_SHAPES:
            SHAPES.clear()
        SHAPES[names] = limiting
    return limiting


def _usual(theirs: str | None, said: object, stream: bool, wants_usage: bool, limit: object, _: type) -> Asked | None:
    """What a text for text with these values asks for, if it is usual. `theirs`: the model that the path names."""
    if type(said) is not str or not said or SEARCHING in said or not (limit is None or (type(limit) is int and limit > 0)):
        return None
    if len(theirs or said) > NAME:
        return None
    asked = usual(theirs or said, stream, wants_usage, limit)
    if len(said) <= NAME:
        if len(USUAL) >= MOST_SHAPES:
            USUAL.clear()
        USUAL[theirs, said, stream, wants_usage, limit, type(limit)] = asked
    return asked


def _first(op: Operation, doc: Json) -> Asked | None:
    """What any body asks for, if that is usual."""
    names = tuple(doc)
    limiting = SHAPES.get(names) or _limiting(names)
    if limiting is None or not op.is_talk or not _is_text(doc.get("messages")) or ("input" in doc and not _is_text(doc["input"])):
        return None
    wants_usage = at(doc, "stream_options", "include_usage") is True
    limit = doc.get(limiting)
    values = op.model, doc.get("model"), doc.get("stream") is True, wants_usage, limit, type(limit)
    try:
        return USUAL[values]
    except (KeyError, TypeError):
        return _usual(*values)


def _is_text(messages: object) -> bool:
    """Is each of these a message whose content is one string, and no item of another kind?"""
    if type(messages) is list:
        try:
            for message in messages:
                if type(message["content"]) is not str or "type" in message or "output" in message:
                    return False
        except (TypeError, KeyError):
            return False
    return True


def _media(doc: Json) -> list[Media]:
    """The parts no text rule can read, in messages, input items and their outputs."""
    parts = _parts(doc.get("messages"))
    if "input" in doc:
        parts += _parts(doc["input"])
    return [one for part in parts if isinstance(part, dict) and (one := _one(part)) is not None] if parts else []


def _parts(entries: object) -> list[object]:
    parts: list[object] = []
    for entry in items(entries):
        if isinstance(entry, dict) and ("type" in entry or "output" in entry or not isinstance(entry.get("content"), str)):
            output = entry.get("output")
            parts += (entry, output, *items(entry.get("content")), *items(output))
    return parts


def _one(part: Json) -> Media | None:
    name = part.get("type")
    kind = MEDIA.get(name) if isinstance(name, str) else None
    if kind is None or not isinstance(name, str):
        return None
    inner = part.get(name)  # chat: {"type": "image_url", "image_url": {"url": …}}; the Responses API: the same without the object
    data = next((it for key in ("url", "data", "file_data") if (it := text(at(inner, key)))), None)
    data = data or text(inner) or text(part.get("image_url")) or text(part.get("file_data"))
    return media(kind, data, at(inner, "detail") or part.get("detail"))


def _read(data: bytes) -> Json:
    try:
        return mapping(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}


OPENAI = OpenAI()
