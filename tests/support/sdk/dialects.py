"""Per SDK: one call, one stream, a good answer to each, and how its provider words errors. Data only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from support.sdk.scripts import CHUNK, Event

PROMPT = "Wie spät ist es in Zürich? ⏰"
MODELS = {"openai": "gpt-4o", "anthropic": "claude-sonnet-5", "gemini": "gemini-2.5-flash", "cohere": "command-a-03-2025",
          "mistral": "mistral-large-latest"}  # fmt: skip


@dataclass(frozen=True)
class Sdk:
    """`ask` and `stream` take the client, the text and the model; `events` is a whole stream; after `begun` of them some text has come."""

    name: str
    ask: Callable[..., Any]
    stream: Callable[..., Any]
    good: dict[str, Any]
    events: tuple[Event, ...]
    begun: int
    error: Callable[[int, str], object]  # status and message: the body
    error_event: Event  # of a stream that has begun
    newline: str = "\n"


def _says(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _chunk(**choice: object) -> dict[str, Any]:
    return {**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": None, **choice}]}


_FIGURES = {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15}
_SAID = [{"index": 0, "message": {"role": "assistant", "content": "Zehn Uhr."}, "finish_reason": "stop"}]
_TYPES = {400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
          413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 529: "overloaded_error"}  # fmt: skip

OPENAI = Sdk(
    "openai",
    lambda c, text=PROMPT, model=MODELS["openai"], **more: c.chat.completions.create(model=model, messages=_says(text), **more),
    lambda c, text=PROMPT, model=MODELS["openai"]: c.chat.completions.create(
        model=model, messages=_says(text), stream=True, stream_options={"include_usage": True}
    ),
    {**CHUNK, "object": "chat.completion", "choices": _SAID, "usage": _FIGURES},
    (
        _chunk(delta={"role": "assistant", "content": ""}),
        _chunk(delta={"content": "Zehn"}),
        _chunk(delta={"content": " Uhr."}),
        _chunk(finish_reason="stop"),
        {**CHUNK, "choices": [], "usage": _FIGURES},
        "[DONE]",
    ),
    2,
    lambda status, text: {"error": {"message": text, "type": _TYPES.get(status, "server_error"), "param": "model", "code": "its_code"}},
    {"error": {"message": "The server had an error", "type": "server_error", "param": None, "code": None}},
)

_MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": MODELS["anthropic"], "stop_sequence": None}
_COUNTED = {"input_tokens": 12, "output_tokens": 3}
_ANTHROPIC = (
    {"type": "message_start", "message": {**_MESSAGE, "content": [], "stop_reason": None, "usage": _COUNTED | {"output_tokens": 1}}},
    {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Zehn"}},
    {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " Uhr."}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 3}},
    {"type": "message_stop"},
)  # fmt: skip
ANTHROPIC = Sdk(
    "anthropic",
    lambda c, text=PROMPT, model=MODELS["anthropic"], **more: c.messages.create(
        **{"model": model, "messages": _says(text), "max_tokens": 64} | more
    ),
    lambda c, text=PROMPT, model=MODELS["anthropic"]: c.messages.create(model=model, messages=_says(text), max_tokens=64, stream=True),
    {**_MESSAGE, "stop_reason": "end_turn", "content": [{"type": "text", "text": "Zehn Uhr."}],
     "usage": _COUNTED},
    tuple((event["type"], event) for event in _ANTHROPIC),
    3,
    lambda status, text: {"type": "error", "error": {"type": _TYPES.get(status, "api_error"), "message": text}, "request_id": "req_1"},
    ("error", {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}),
)  # fmt: skip


def _generated(text: str, **more: object) -> dict[str, Any]:
    usage = {"promptTokenCount": 12, "candidatesTokenCount": 3, "totalTokenCount": 15}
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "index": 0, **more}
    return {"candidates": [candidate], "usageMetadata": usage, "modelVersion": MODELS["gemini"], "responseId": "resp_1"}


_STATUSES = {400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED",
             500: "INTERNAL", 503: "UNAVAILABLE"}  # fmt: skip
GEMINI = Sdk(
    "gemini",
    lambda c, text=PROMPT, model=MODELS["gemini"], **more: c.models.generate_content(model=model, contents=text, **more),
    lambda c, text=PROMPT, model=MODELS["gemini"]: c.models.generate_content_stream(model=model, contents=text),
    _generated("Zehn Uhr.", finishReason="STOP"),
    (_generated("Zehn"), _generated(" Uhr."), _generated("", finishReason="STOP")),
    1,
    lambda status, text: {"error": {"code": status, "message": text, "status": _STATUSES.get(status, "UNKNOWN"), "details": []}},
    {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}},
    newline="\r\n",
)

_BILLED = {"billed_units": {"input_tokens": 12, "output_tokens": 3}, "tokens": {"input_tokens": 12, "output_tokens": 3}}
_COHERE_SAID = {"role": "assistant", "content": [{"type": "text", "text": "Zehn Uhr."}]}
_COHERE = (
    {"type": "message-start", "id": "m1", "delta": {"message": {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": []}}},
    {"type": "content-start", "index": 0, "delta": {"message": {"content": {"type": "text", "text": ""}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Zehn"}}}},
    {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": " Uhr."}}}},
    {"type": "content-end", "index": 0},
    {"type": "message-end", "id": "m1", "delta": {"finish_reason": "COMPLETE", "usage": _BILLED}},
)
COHERE = Sdk(
    "cohere",
    lambda c, text=PROMPT, model=MODELS["cohere"], **more: c.chat(model=model, messages=_says(text), **more),
    lambda c, text=PROMPT, model=MODELS["cohere"]: c.chat_stream(model=model, messages=_says(text)),
    {"id": "m1", "finish_reason": "COMPLETE", "usage": _BILLED, "message": _COHERE_SAID},
    tuple((event["type"], event) for event in _COHERE),
    3,
    lambda status, text: {"id": "e1", "message": text},
    ("message-end", {"type": "message-end", "id": "m1", "delta": {"finish_reason": "ERROR", "error": "internal error"}}),
)  # fmt: skip


def _detail(status: int, text: str) -> object:
    if status == 422:
        return {"detail": [{"loc": ["body", "model"], "msg": text, "type": "value_error"}]}
    return {"object": "error", "message": text, "type": _TYPES.get(status, "server_error"), "param": None, "code": "1500"}


MISTRAL = Sdk(
    "mistral",
    lambda c, text=PROMPT, model=MODELS["mistral"], **more: c.chat.complete(model=model, messages=_says(text), **more),
    lambda c, text=PROMPT, model=MODELS["mistral"]: c.chat.stream(model=model, messages=_says(text)),
    {**CHUNK, "object": "chat.completion", "choices": _SAID, "usage": _FIGURES},
    (
        _chunk(delta={"role": "assistant", "content": ""}),
        _chunk(delta={"content": "Zehn"}),
        _chunk(delta={"content": " Uhr."}),
        {**_chunk(delta={"content": ""}, finish_reason="stop"), "usage": _FIGURES},
        "[DONE]",
    ),
    2,
    _detail,
    {"error": {"message": "Internal error", "type": "server_error", "code": "3000"}},
)
SDKS = {sdk.name: sdk for sdk in (OPENAI, ANTHROPIC, GEMINI, COHERE, MISTRAL)}


def costly(sdk: Sdk) -> dict[str, Any]:
    """A good answer that reports fifty million tokens."""

    def dear(doc: Any) -> Any:
        if isinstance(doc, dict):
            return {k: 50_000_000 if isinstance(v, int) and "oken" in k else dear(v) for k, v in doc.items()}
        return doc

    return dear(sdk.good)
