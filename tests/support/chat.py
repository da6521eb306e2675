"""OpenAI chat bodies for both sides of a test: what a caller asks, what a provider answers. Knows no socket."""

from __future__ import annotations

import json
from collections.abc import Sequence

from support.provider import Reply, Script, Seen

TARGET = "/openai/v1/chat/completions"
JSON = ("Content-Type", "application/json")
KEY = ("Authorization", "Bearer sk-test-key-of-the-caller")
INPUT, OUTPUT = 11, 7  # tokens that `whole` and `stream` say they used
COST = INPUT * 2500 + OUTPUT * 10_000  # nano-dollars of them on gpt-4o


def asked(text: str = "hello", model: str = "gpt-4o", **more: object) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()


def whole(text: str = "hi", model: str = "gpt-4o") -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {"id": "c1", "object": "chat.completion", "created": 1, "model": model, "choices": [choice], "usage": usage()}


def usage() -> dict:
    return {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}


def delta(text: str | None, finish: str | None = None) -> dict:
    """One chunk of a stream; None: the first, which has a role and no text."""
    change = {"role": "assistant", "content": ""} if text is None else {} if finish else {"content": text}
    choice = {"index": 0, "delta": change, "finish_reason": finish}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o", "choices": [choice]}


async def stream_end(reply: Reply, *, with_usage: bool = True) -> None:
    await reply.event(delta("", "stop"))
    if with_usage:
        await reply.event({**delta(""), "choices": [], "usage": usage()})
    await reply.event("[DONE]")
    await reply.end()


def error(text: str = "no", kind: str = "server_error", code: str | None = None) -> dict:
    return {"error": {"message": text, "type": kind, "param": None, "code": code}}


def fails(status: int = 503, headers: Sequence[tuple[str, str]] = (), doc: dict | None = None) -> Script:
    """A provider that answers with this error."""

    async def script(seen: Seen, reply: Reply) -> None:
        await reply.json(doc or error("overloaded"), status, list(headers))

    return script


async def good(seen: Seen, reply: Reply) -> None:
    """A provider that is well."""
    await reply.json(whole("good"))
