"""How the fake provider answers: whole bodies, event streams, failures. Knows no dialect: the documents are the tests' own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable

from support.provider import Reply, Script, Seen

Event = object  # a document, or (event name, document)
HEADERS = [("x-request-id", "req_of_the_provider"), ("request-id", "req_of_the_provider"), ("x-ratelimit-remaining-requests", "4999")]
SOON = [("retry-after-ms", "5"), ("retry-after", "1")]  # what keeps the SDKs' own retries short


def whole(doc: object, status: int = 200, headers: Iterable[tuple[str, str]] = ()) -> Script:
    async def answer(seen: Seen, reply: Reply) -> None:
        await reply.json(doc, status, [*HEADERS, *headers])

    return answer


def content(data: bytes, content_type: str) -> Script:
    async def answer(seen: Seen, reply: Reply) -> None:
        await reply.whole(200, data, content_type, HEADERS)

    return answer


def stream(*events: Event, newline: str = "\n", is_cut: bool = False) -> Script:
    """Server-sent events, each in a chunk of its own. `is_cut` resets the connection after them."""

    async def answer(seen: Seen, reply: Reply) -> None:
        await play(reply, events, newline, is_cut)

    return answer


async def play(reply: Reply, events: Iterable[Event], newline: str = "\n", is_cut: bool = False) -> None:
    await reply.start(headers=HEADERS)
    for event in events:
        name, doc = event if isinstance(event, tuple) else (None, event)
        lines = [f"event: {name}"] if name else []
        lines.append(f"data: {doc if isinstance(doc, str) else json.dumps(doc, ensure_ascii=False)}")
        await reply.chunk(newline.join([*lines, "", ""]))
    if is_cut:
        await asyncio.sleep(CUT_S)
        reply.abort()
    else:
        await reply.end()


CUT_S = 0.05  # a reset may overtake what was sent before it (RFC 9293, 3.10.7.4): the events are to arrive first


def first_then(*scripts: Script) -> Script:
    """The first request gets the first script, the next the next; the last one serves on."""
    left = list(scripts)

    async def answer(seen: Seen, reply: Reply) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(seen, reply)

    return answer


async def reset(seen: Seen, reply: Reply) -> None:
    """Reads the request and resets the connection."""
    reply.abort()


async def silence(seen: Seen, reply: Reply) -> None:
    """Reads the request and says nothing, until the other side gives up."""
    await seen.gone.wait()


def openai_chat(chunks: Iterable[dict], usage: dict) -> Script:
    """An OpenAI chat stream sends usage only where it is asked: null in every chunk, and the figures in one more without choices."""

    async def answer(seen: Seen, reply: Reply) -> None:
        asked = json.loads(seen.body).get("stream_options", {}).get("include_usage")
        events: list[Event] = [{**chunk, "usage": None} if asked else chunk for chunk in chunks]
        if asked:
            events.append({**CHUNK, "choices": [], "usage": usage})
        await play(reply, [*events, "[DONE]"])

    return answer


CHUNK = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1763600000, "model": "gpt-4o-2024-08-06",
         "service_tier": "default", "system_fingerprint": "fp_1"}  # fmt: skip
