"""A provider for demonstrations: OpenAI chat and Anthropic messages, whole and streamed. It echoes, fails when told, and thinks nothing."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

from aiohttp import web

FAIL = "x-fake-fail"  # so many tries of one x-request-id are answered with 503
WORDS = "x-fake-words"  # the answer is so many words long
PACE = "x-fake-pace"  # seconds between the pieces of a stream
PIECE = 7  # characters: placeholders are cut, as real streams cut them
Doc = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as the provider got it."""

    id: str  # x-request-id
    path: str
    text: str  # what the user says last
    key: str = field(repr=False)


class FakeProvider:
    """`async with FakeProvider() as provider:` — `provider.url`, `provider.seen`."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.url = ""
        self._tries: Counter[str] = Counter()
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", self._chat), web.post("/v1/messages", self._messages)])
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        doc, text = await self._read(request)
        if self._is_sick(request):
            return web.json_response({"error": {"message": "The server is overloaded", "type": "server_error", "code": None}}, status=503)
        if not doc.get("stream"):
            return web.json_response(chat_answer(doc, text))
        return await self._stream(request, (f"data: {one}\n\n" for one in chat_events(doc, text)))

    async def _messages(self, request: web.Request) -> web.StreamResponse:
        doc, text = await self._read(request)
        if self._is_sick(request):
            return web.json_response({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, status=503)
        if not doc.get("stream"):
            return web.json_response(message_answer(doc, text))
        return await self._stream(request, (f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in message_events(doc, text)))

    async def _read(self, request: web.Request) -> tuple[Doc, str]:
        """The request's body, and what is answered."""
        doc: Doc = await request.json()
        said = said_last(doc)
        key = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
        self.seen.append(Seen(request.headers.get("x-request-id", ""), request.path, said, key))
        words = int(request.headers.get(WORDS, 0))
        return doc, "word " * words if words else f"You said: {said}"

    def _is_sick(self, request: web.Request) -> bool:
        name = request.headers.get("x-request-id", "")
        self._tries[name] += 1
        return self._tries[name] <= int(request.headers.get(FAIL, 0))

    async def _stream(self, request: web.Request, events: Iterator[str]) -> web.StreamResponse:
        reply = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await reply.prepare(request)
        async for event in paced(events, float(request.headers.get(PACE, 0))):
            await reply.write(event.encode())
        await reply.write_eof()
        return reply


async def paced(events: Iterator[str], seconds: float) -> AsyncIterator[str]:
    for event in events:
        yield event
        await asyncio.sleep(seconds)


def said_last(doc: Doc) -> str:
    """The text of the last message; content may be a text or a list of parts."""
    content = (doc.get("messages") or [{"content": ""}])[-1]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def tokens(text: str) -> int:
    """About what a tokenizer would say."""
    return max(1, len(text) // 4)


def chat_usage(doc: Doc, text: str) -> Doc:
    sent, said = tokens(json.dumps(doc["messages"])), tokens(text)
    return {
        "prompt_tokens": sent,
        "completion_tokens": said,
        "total_tokens": sent + said,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def chat_answer(doc: Doc, text: str) -> Doc:
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return {**_chat_head(doc, "chat.completion"), "choices": [choice], "usage": chat_usage(doc, text)}


def chat_events(doc: Doc, text: str) -> Iterator[str]:
    """The data of each server-sent event, [DONE] included; usage only where the request asks for it, as OpenAI does."""
    head = _chat_head(doc, "chat.completion.chunk")
    is_asked = bool((doc.get("stream_options") or {}).get("include_usage"))
    usage: Doc = {"usage": None} if is_asked else {}
    yield json.dumps({**head, "choices": [_delta({"role": "assistant", "content": ""})], **usage})
    for piece in pieces(text):
        yield json.dumps({**head, "choices": [_delta({"content": piece})], **usage})
    yield json.dumps({**head, "choices": [_delta({}, "stop")], **usage})
    if is_asked:
        yield json.dumps({**head, "choices": [], "usage": chat_usage(doc, text)})
    yield "[DONE]"


def _chat_head(doc: Doc, kind: str) -> Doc:
    return {"id": "chatcmpl-fake", "object": kind, "created": 1_790_000_000, "model": doc.get("model"), "service_tier": "default"}


def _delta(delta: Doc, finish: str | None = None) -> Doc:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def message_answer(doc: Doc, text: str) -> Doc:
    content = [{"type": "text", "text": text}]
    usage = message_usage(doc, tokens(text))
    return {**_message_head(doc), "content": content, "stop_reason": "end_turn", "stop_sequence": None, "usage": usage}


def message_events(doc: Doc, text: str) -> Iterator[Doc]:
    """`output_tokens` of message_start is a placeholder; message_delta has the final figure, as Anthropic does."""
    first = {**_message_head(doc), "content": [], "stop_reason": None, "stop_sequence": None, "usage": message_usage(doc, 1)}
    yield {"type": "message_start", "message": first}
    yield {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    yield {"type": "ping"}
    for piece in pieces(text):
        yield {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}}
    yield {"type": "content_block_stop", "index": 0}
    delta = {"stop_reason": "end_turn", "stop_sequence": None}
    yield {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens(text)}}
    yield {"type": "message_stop"}


def message_usage(doc: Doc, output: int) -> Doc:
    sent = tokens(json.dumps(doc["messages"]))
    return {"input_tokens": sent, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": output}


def _message_head(doc: Doc) -> Doc:
    return {"id": "msg_fake", "type": "message", "role": "assistant", "model": doc.get("model")}


def pieces(text: str) -> Iterator[str]:
    return (text[at : at + PIECE] for at in range(0, len(text), PIECE))
