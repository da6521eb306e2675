"""Gemini's wire format, at the Gemini API and at Vertex AI. Counts a figure of a running stream as final only at its end."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import orjson

from proxy.dialect.ending import Ending
from proxy.dialect.fields import (
    at,
    index_of,
    items,
    mapping,
    merged,
    noted,
    output_limit,
    several,
    text,
    texts_at,
)
from proxy.dialect.gemini_ending import GenerateEnding
from proxy.dialect.gemini_paths import operation_of
from proxy.dialect.gemini_usage import read_usage, stated
from proxy.dialect.media import distinct, kind_of_media, media, with_media
from proxy.dialect.wire import NAME, NOTHING_SAID, Asked, Json, Media, Operation, Path, Said, StreamFormat, usual
from proxy.dialect.wording import credit_failure, google_status, openai_type, prefixed, stream_status
from proxy.exchange import Usage

# `contents` and `parts` may be lists or, as Google's JSON parser has it, the single entry itself; keys in either spelling.
PART = ("text", "args.**", "response.**", "code", "output")
CONTENTS = (*(f"contents.**.{place}" for place in PART), "systemInstruction.**.text", "system_instruction.**.text",
            "tools.**.description", "generationConfig.**.description", "generation_config.**.description")  # fmt: skip
EMBED = ("content.**.text", "title")
SURFACES = {
    "generate": CONTENTS,
    "count_tokens": (*CONTENTS, *(f"generateContentRequest.{place}" for place in CONTENTS)),
    "embeddings": (*EMBED, *(f"requests.*.{place}" for place in EMBED), "instances.*.content", "instances.*.title"),
    "images": ("instances.*.prompt", "parameters.negativePrompt"),
    "cached": (*CONTENTS, "displayName"),
}
CANDIDATE = ("text", "functionCall.args.**", "executableCode.code", "codeExecutionResult.output")
WHOLES = CANDIDATE[1:]
MORE = frozenset(place.partition(".")[0] for place in WHOLES)  # fields of a part that hold whole texts
OWN = {"functionDeclarations", "function_declarations"}  # tools that the caller runs
GROUNDED = ("googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval", "googleMaps", "google_maps",
            "enterpriseWebSearch", "enterprise_web_search")  # fmt: skip
ADDED = 1_024  # tokens of the prompt that explains tools to the model
LIMITS, CANDIDATES = ("maxOutputTokens", "max_output_tokens"), ("candidateCount", "candidate_count")
RARE = frozenset({"tools", "cachedContent", "cached_content", "serviceTier", "service_tier", "generation_config"})  # most say none of it
SPOKEN = ("contents", "content", "systemInstruction", "system_instruction")  # where parts stand
INLINE = ("inlineData", "inline_data", "fileData", "file_data")
IS_INLINE = frozenset(INLINE)
NESTED = frozenset({"generateContentRequest", "requests", "instances"})
ANSWERS = {"generate": tuple(f"candidates.*.content.parts.*.{place}" for place in CANDIDATE), "cached": CONTENTS}


class Gemini:
    name = "gemini"
    family = "gemini"
    stream_format: StreamFormat = "sse"

    def operation(self, method: str, path: str, query: str) -> Operation:
        return operation_of(method, path, query)

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        found, config = _media(doc), mapping(doc.get("generationConfig"))
        if op.is_talk and not found and len(op.model or "") <= NAME and RARE.isdisjoint(doc) and config.keys().isdisjoint(CANDIDATES):
            return usual(op.model, op.variant in ("sse", "array"), True, output_limit(config, LIMITS))
        return self._asked(op, doc, config, found)

    def _asked(self, op: Operation, doc: Json, config: Json, found: list[Media]) -> Asked:
        """The same of any call."""
        configs = (config, mapping(doc.get("generation_config")))  # where both are named, the larger counts
        limits = [output_limit(config, LIMITS) for config in configs]
        used = {name for tool in _listed(doc.get("tools")) for name in mapping(tool)}
        is_cached = bool(doc.get("cachedContent") or doc.get("cached_content"))
        asked = Asked(
            model=op.model,
            stream=op.variant in ("sse", "array"),
            wants_usage=True,  # every stream carries it
            max_tokens=max((limit for limit in limits if limit is not None), default=None),
            choices=several(*(config.get(name) for config in configs for name in CANDIDATES)),
            images=several(at(doc, "parameters", "sampleCount")) if op.name == "images" else 0,
            tier=text(doc.get("serviceTier")) or text(doc.get("service_tier")),
            tools=(("searches", 0),) if any(name in GROUNDED for name in used) else (),
            added=ADDED if used else 0,
            reads_more=bool(used - OWN) or is_cached,
            reads_stored=is_cached,
        )
        return with_media(asked, found)

    def surface(self, op: Operation) -> tuple[str, ...]:
        return SURFACES.get("cached" if op.variant == "cached" else op.name, ())

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        return ("file",) if op.body == "stream" else distinct(asked.media)

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return ANSWERS.get("cached" if op.variant == "cached" else op.name, ())

    def said(self, op: Operation, event: Json) -> Said:
        candidates = items(event.get("candidates"))
        if len(candidates) == 1 and (channel := _channel_of_text(candidates[0])) is not None:
            return _text_said(channel)
        deltas: list[tuple[str, Path, bool]] = []
        wholes: list[tuple[Path, bool]] = []
        ends: list[str] = []
        for place, candidate in enumerate(candidates):
            index = index_of(candidate, place)
            for n, part in enumerate(items(at(candidate, "content", "parts"))):
                root: Path = ("candidates", place, "content", "parts", n)
                if text(at(part, "text")):
                    deltas.append((f"{index}.{'thought' if at(part, 'thought') is True else 'text'}", (*root, "text"), False))
                wholes += texts_at(WHOLES, part, root)
            is_over = bool(at(candidate, "finishReason")) or any(path[1] == place for path, _ in wholes)
            ends += (f"{index}.text", f"{index}.thought") if is_over else ()
        return Said(tuple(deltas), tuple(wholes), tuple(ends)) if deltas or wholes or ends else NOTHING_SAID

    def is_preamble(self, op: Operation, event: Json) -> bool:
        said = self.said(op, event)
        is_silent = (
            not said.deltas and not said.wholes and not any(items(at(c, "content", "parts")) for c in items(event.get("candidates")))
        )
        return is_silent and not _is_over(event) and self.error_of(op, event) is None

    def error_of(self, op: Operation, event: Json) -> str | None:
        error = event.get("error")
        if not error:
            return None
        code = at(error, "code")
        return openai_type(code) if isinstance(code, int) and not isinstance(code, bool) else text(at(error, "status")) or "server_error"

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        if not any(mark in data for mark in (b"finishReason", b"blockReason", b'"error"')):
            return False
        try:
            event = mapping(orjson.loads(data))
        except orjson.JSONDecodeError:
            return False
        return _is_over(event) or self.error_of(op, event) is not None

    def usage(self, op: Operation, doc: Json) -> Usage | None:
        return None if op.name == "count_tokens" else read_usage(op, doc)

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        raw = merged(so_far.detail if so_far else {}, mapping(event.get("usageMetadata")))
        is_over = _is_over(event) or (so_far is not None and so_far.ended)
        now = stated(raw, event, is_over)
        if now is None:
            return so_far
        if (
            so_far is not None and so_far.units and so_far.units.get("searches", 0) > now.units.get("searches", 0)
        ):  # said once, on one of the chunks
            now = replace(now, units={**now.units, "searches": so_far.units["searches"]})
        return noted(so_far, now)

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        reason = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": code.upper(),
            "domain": "sluice",
            "metadata": {"requestId": request_id},
        }
        error = {"code": status, "message": prefixed(code, message), "status": google_status(status), "details": [reason]}
        return orjson.dumps({"error": error})

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        """As an SSE event, or as the last element of the JSON array; the SDKs look for a chunk that begins with `error`."""
        body = self.error_body(stream_status(code), code, message, request_id)
        return b",\r\n" + body + b"]" if op.variant == "array" else b"data: " + body + b"\r\n\r\n"

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        return GenerateEnding(op, asked) if op.name == "generate" else None

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"x-goog-api-key", secret.encode()

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        return credit_failure(status, doc)

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        for key in ("models", "tunedModels", "publisherModels"):
            if isinstance(entries := doc.get(key), list):
                return key, [(text(at(entry, "name")) or "").rpartition("/")[2] for entry in entries]
        return None


class Vertex(Gemini):
    name = "vertex"

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return b"Authorization", f"Bearer {secret}".encode()


def _channel_of_text(candidate: object) -> str | None:
    """Of a candidate that brings one piece of text and nothing else, as most do; None for any other."""
    parts, index = items(at(candidate, "content", "parts")), at(candidate, "index") or 0
    if len(parts) != 1 or at(candidate, "finishReason") or type(index) is not int:
        return None
    part = parts[0]
    if not isinstance(part, dict) or not text(part.get("text")) or not MORE.isdisjoint(part):
        return None
    return f"{index}.{'thought' if part.get('thought') is True else 'text'}"


@lru_cache(maxsize=64)
def _text_said(channel: str) -> Said:
    return Said(((channel, ("candidates", 0, "content", "parts", 0, "text"), False),))


def _is_over(event: Json) -> bool:
    for candidate in items(event.get("candidates")):
        if isinstance(candidate, dict) and candidate.get("finishReason"):
            return True
    return "promptFeedback" in event and bool(at(event, "promptFeedback", "blockReason"))


def _media(doc: Json) -> list[Media]:
    """Inline and referenced data, wherever a part may stand."""
    found = _inline(doc)
    if not NESTED.isdisjoint(doc):
        for one in (doc.get("generateContentRequest"), *items(doc.get("requests"))):
            found += _inline(mapping(one))
        found += [media("image") for instance in items(doc.get("instances")) if isinstance(at(instance, "image"), dict)]
    return found


def _inline(doc: Json) -> list[Media]:
    found: list[Media] = []
    for name in SPOKEN:
        for entry in _listed(doc[name]) if name in doc else ():
            for part in _listed(entry.get("parts")) if isinstance(entry, dict) else ():
                if isinstance(part, dict) and not IS_INLINE.isdisjoint(part):
                    data = [it for it in map(part.get, INLINE) if isinstance(it, dict)]
                    found += [media(kind_of_media(at(it, "mimeType") or at(it, "mime_type")), at(it, "data")) for it in data]
    return found


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [] if value is None else [value]


GEMINI, VERTEX = Gemini(), Vertex()
