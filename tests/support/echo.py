"""A provider of every dialect that says back what it was sent, whole or streamed in pieces of any size. Knows nothing of Sluice.

What it answers is steered by the request's own headers: `x-say` (its words; else every placeholder of the body), `x-args` (also a tool
call with these arguments), `x-usage: IN,OUT[,CACHED[,WRITTEN]]`, `x-split` (letters of one delta), `x-status` (an error instead).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator

from support.provider import Reply, Script, Seen

PLACEHOLDER = re.compile(rb"\[[A-Z_]+_\d+\]")


class Said:
    """What one request wants to hear."""

    def __init__(self, seen: Seen) -> None:
        found = dict.fromkeys(token.decode() for token in PLACEHOLDER.findall(seen.body))
        self.text = seen.header("x-say") or " ".join(["heard", *found])
        self.args = seen.header("x-args") and json.dumps({"q": seen.header("x-args")})
        if self.args and found:
            self.args = json.dumps({"q": " ".join(found)})
        self.input, self.output, self.cached, self.written = ([int(n) for n in (seen.header("x-usage") or "11,7").split(",")] + [0, 0])[:4]
        self.split = int(seen.header("x-split") or 3)
        self.model = found_model(seen.body)

    def pieces(self, text: str | None = None) -> Iterator[str]:
        text = self.text if text is None else text
        for at in range(0, len(text), self.split):
            yield text[at : at + self.split]


def found_model(body: bytes) -> str:
    named = json.loads(body).get("model") if body.lstrip().startswith(b"{") else None
    return named if isinstance(named, str) else "gpt-4o"


async def echo(seen: Seen, reply: Reply) -> None:
    if status := seen.header("x-status"):
        await reply.json({"error": {"message": "as asked", "type": "server_error", "param": None, "code": None}}, int(status))
        return
    said, path = Said(seen), seen.target.partition("?")[0]
    is_streamed = seen.body.lstrip().startswith(b"{") and seen.json.get("stream") is True
    for ending, answer in ANSWERS.items():
        if path.endswith(ending):
            await answer(said, seen, reply, is_streamed)
            return
    await reply.json({"object": "list", "data": [{"id": name, "object": "model"} for name in ("gpt-4o", "gpt-4o-mini", "o3")]})


def failing(status: int, times: int = 99, headers: Iterable[tuple[str, str]] = (), then: Script = echo) -> Script:
    """Fails so often, then does as `then` says."""
    left = times

    async def script(seen: Seen, reply: Reply) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            error = {"message": f"failure {times - left}", "type": "server_error", "code": None}
            await reply.json({"error": error}, status, list(headers))
        else:
            await then(seen, reply)

    return script


# --- openai ---


async def chat(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"prompt_tokens": said.input, "completion_tokens": said.output, "total_tokens": said.input + said.output,
             "prompt_tokens_details": {"cached_tokens": said.cached}}  # fmt: skip
    head = {"id": "c", "created": 1, "model": said.model}
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": said.args}}
    if not is_streamed:
        message = {"role": "assistant", "content": said.text, **({"tool_calls": [call]} if said.args else {})}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        await reply.json({**head, "object": "chat.completion", "choices": [choice], "usage": usage})
        return

    async def delta(change: dict, finish: str | None = None) -> None:
        choice = {"index": 0, "delta": change, "finish_reason": finish}
        await reply.event({**head, "object": "chat.completion.chunk", "choices": [choice]})

    await reply.start()
    await delta({"role": "assistant", "content": ""})
    for piece in said.pieces():
        await delta({"content": piece})
    if said.args:
        await delta({"tool_calls": [{"index": 0, **call, "function": {"name": "f", "arguments": ""}}]})
        for piece in said.pieces(said.args):
            await delta({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
    await delta({}, "stop")
    if (seen.json.get("stream_options") or {}).get("include_usage"):
        await reply.event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage})
    await reply.event("[DONE]")
    await reply.end()


async def completions(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"prompt_tokens": said.input, "completion_tokens": said.output, "total_tokens": said.input + said.output}
    head = {"id": "c", "object": "text_completion", "created": 1, "model": said.model}
    if not is_streamed:
        await reply.json({**head, "choices": [{"index": 0, "text": said.text, "finish_reason": "stop"}], "usage": usage})
        return
    await reply.start()
    for piece in said.pieces():
        await reply.event({**head, "choices": [{"index": 0, "text": piece, "finish_reason": None}]})
    await reply.event({**head, "choices": [{"index": 0, "text": "", "finish_reason": "stop"}]})
    await reply.event("[DONE]")
    await reply.end()


async def responses(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    message = {"id": "m", "type": "message", "role": "assistant", "status": "completed",
               "content": [{"type": "output_text", "text": said.text, "annotations": []}]}  # fmt: skip
    call = {"id": "f", "type": "function_call", "call_id": "f", "name": "f", "arguments": said.args}
    output = [message, *([call] if said.args else [])]
    usage = {"input_tokens": said.input, "output_tokens": said.output, "total_tokens": said.input + said.output}
    whole = {"id": "r", "object": "response", "status": "completed", "model": said.model, "output": output, "usage": usage}
    if not is_streamed:
        await reply.json(whole)
        return

    async def event(kind: str, **fields: object) -> None:
        await reply.event({"type": kind, **fields}, kind)

    at = {"item_id": "m", "output_index": 0, "content_index": 0}
    await reply.start()
    await event("response.created", response={**whole, "status": "in_progress", "output": [], "usage": None})
    await event("response.output_item.added", output_index=0, item={**message, "content": []})
    for piece in said.pieces():
        await event("response.output_text.delta", **at, delta=piece)
    await event("response.output_text.done", **at, text=said.text)
    await event("response.output_item.done", output_index=0, item=message)
    if said.args:
        at = {"item_id": "f", "output_index": 1}
        await event("response.output_item.added", output_index=1, item={**call, "arguments": ""})
        for piece in said.pieces(said.args):
            await event("response.function_call_arguments.delta", **at, delta=piece)
        await event("response.function_call_arguments.done", **at, arguments=said.args)
        await event("response.output_item.done", output_index=1, item=call)
    await event("response.completed", response=whole)
    await reply.end()


async def embeddings(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"prompt_tokens": said.input, "total_tokens": said.input}
    await reply.json({"object": "list", "data": [{"object": "embedding", "index": 0, "embedding": [0.1]}], "model": "m", "usage": usage})


async def batches(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    await reply.json({"id": "b", "object": "batch", "status": "validating"})


# --- anthropic ---


async def messages(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"input_tokens": said.input - said.cached - said.written, "cache_read_input_tokens": said.cached,
             "cache_creation_input_tokens": said.written, "output_tokens": said.output}  # fmt: skip
    head = {"id": "m", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5", "stop_reason": None, "stop_sequence": None}
    if not is_streamed:
        content = [{"type": "text", "text": said.text}]
        content += [{"type": "tool_use", "id": "t", "name": "f", "input": json.loads(said.args)}] if said.args else []
        await reply.json({**head, "content": content, "stop_reason": "end_turn", "usage": usage})
        return

    async def event(kind: str, **fields: object) -> None:
        await reply.event({"type": kind, **fields}, kind)

    await reply.start()
    await event("message_start", message={**head, "content": [], "usage": {**usage, "output_tokens": 1}})
    await event("content_block_start", index=0, content_block={"type": "text", "text": ""})
    for piece in said.pieces():
        await event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece})
    await event("content_block_stop", index=0)
    if said.args:
        await event("content_block_start", index=1, content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}})
        for piece in said.pieces(said.args):
            await event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": piece})
        await event("content_block_stop", index=1)
    await event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=usage)
    await event("message_stop")
    await reply.end()


async def count_tokens(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    await reply.json({"input_tokens": said.input})


# --- gemini ---


async def generate(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"promptTokenCount": said.input, "candidatesTokenCount": said.output, "totalTokenCount": said.input + said.output}

    def candidate(parts: list[dict], finish: str | None = None) -> dict:
        one = {"content": {"role": "model", "parts": parts}, "index": 0, **({"finishReason": finish} if finish else {})}
        return {"candidates": [one], "usageMetadata": usage, "modelVersion": "gemini-2.5-flash"}

    call = [{"functionCall": {"name": "f", "args": json.loads(said.args)}}] if said.args else []
    if "streamGenerateContent" not in seen.target:
        await reply.json(candidate([{"text": said.text}, *call], "STOP"))
        return
    events = [candidate([{"text": piece}]) for piece in said.pieces()]
    events += [candidate(call)] if call else []
    events.append(candidate([{"text": ""}], "STOP"))
    if "alt=sse" in seen.target:
        await reply.start()
        for one in events:
            await reply.event(one)
    else:
        await reply.start(content_type="application/json; charset=UTF-8")
        for n, one in enumerate(events):
            await reply.chunk(("[" if n == 0 else ",\r\n") + json.dumps(one))
        await reply.chunk("]")
    await reply.end()


# --- cohere ---


async def cohere_v2(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    usage = {"billed_units": {"input_tokens": said.input, "output_tokens": said.output},
             "tokens": {"input_tokens": said.input, "output_tokens": said.output}}  # fmt: skip
    call = {"id": "t", "type": "function", "function": {"name": "f", "arguments": said.args}}
    if not is_streamed:
        message = {"role": "assistant", "content": [{"type": "text", "text": said.text}], **({"tool_calls": [call]} if said.args else {})}
        await reply.json({"id": "c", "finish_reason": "COMPLETE", "message": message, "usage": usage})
        return

    async def event(kind: str, index: int | None = None, **message: object) -> None:
        place = {} if index is None else {"index": index}
        await reply.event({"type": kind, **place, "delta": {"message": message}}, kind)

    await reply.start()
    await reply.event({"type": "message-start", "id": "c", "delta": {"message": {"role": "assistant"}}}, "message-start")
    await event("content-start", 0, content={"type": "text", "text": ""})
    for piece in said.pieces():
        await event("content-delta", 0, content={"text": piece})
    await reply.event({"type": "content-end", "index": 0}, "content-end")
    if said.args:
        await event("tool-call-start", 0, tool_calls={**call, "function": {"name": "f", "arguments": ""}})
        for piece in said.pieces(said.args):
            await event("tool-call-delta", 0, tool_calls={"function": {"arguments": piece}})
        await reply.event({"type": "tool-call-end", "index": 0}, "tool-call-end")
    await reply.event({"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": usage}}, "message-end")
    await reply.end()


async def cohere_v1(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    meta = {"billed_units": {"input_tokens": said.input, "output_tokens": said.output},
            "tokens": {"input_tokens": said.input, "output_tokens": said.output}}  # fmt: skip
    calls = [{"name": "f", "parameters": json.loads(said.args)}] if said.args else []
    whole = {"response_id": "r", "generation_id": "g", "text": said.text, "finish_reason": "COMPLETE", "tool_calls": calls, "meta": meta}
    if not is_streamed:
        await reply.json(whole)
        return
    events: list[dict] = [{"event_type": "stream-start", "generation_id": "g"}]
    events += [{"event_type": "text-generation", "text": piece} for piece in said.pieces()]
    events += [{"event_type": "tool-calls-generation", "tool_calls": calls}] if calls else []
    events.append({"event_type": "stream-end", "finish_reason": "COMPLETE", "response": whole})
    await reply.start(content_type="application/stream+json")
    for n, one in enumerate(events):
        await reply.chunk(json.dumps({"is_finished": n == len(events) - 1, **one}) + "\n")
    await reply.end()


async def cohere_generate(said: Said, seen: Seen, reply: Reply, is_streamed: bool) -> None:
    meta = {"billed_units": {"input_tokens": said.input, "output_tokens": said.output}}
    await reply.json({"id": "g", "generations": [{"id": "g", "text": said.text, "finish_reason": "COMPLETE"}], "meta": meta})


ANSWERS = {
    "/chat/completions": chat,
    "/completions": completions,
    "/responses": responses,
    "/responses/compact": responses,
    "/embeddings": embeddings,
    "/batches": batches,
    "/messages": messages,
    "/messages/count_tokens": count_tokens,
    ":generateContent": generate,
    ":streamGenerateContent": generate,
    "/v2/chat": cohere_v2,
    "/v1/chat": cohere_v1,
    "/v1/generate": cohere_generate,
}
