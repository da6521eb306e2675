"""Masked on the way out, restored on the way back: an application does not notice, whatever its SDK makes of the stream."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support.provider import Reply, Script, Seen
from support.sdk.clients import FLAVOURS
from support.sdk.dialects import SDKS, Sdk
from support.sdk.policies import MASKING
from support.sdk.scripts import CHUNK, HEADERS, play
from support.sdk.ways import Told, Ways

MAIL, PHONE = "jürg.müller@example.org", "+41 44 668 18 00"
SECRET = f"Schreib an {MAIL} oder ruf {PHONE} an."


def in_thirds(text: str) -> list[str]:
    """Cut so that every placeholder is torn."""
    return [text[k : k + 3] for k in range(0, len(text), 3)]


def echoing(sdk: Sdk) -> Script:
    """A provider that says back what it was told, whole or in a stream of three characters an event."""

    async def answer(seen: Seen, reply: Reply) -> None:
        text = _told(seen.json)
        if not _wants_stream(seen):
            said = json.dumps(sdk.good).replace('"Zehn Uhr."', json.dumps(text))
            await reply.json(json.loads(said), headers=HEADERS)
            return
        at = next(n for n, event in enumerate(sdk.events) if "Zehn" in json.dumps(event))
        marks = json.dumps(sdk.events[at])
        pieces = [json.loads(marks.replace('"Zehn"', json.dumps(piece))) for piece in in_thirds(text)]
        events = [*sdk.events[:at], *(tuple(p) if isinstance(p, list) else p for p in pieces), *sdk.events[at + 2 :]]
        await play(reply, events, sdk.newline)

    return answer


def _told(doc: dict[str, Any]) -> str:
    if "contents" in doc:
        return str(doc["contents"][0]["parts"][0]["text"])
    return str(doc["messages"][0]["content"])


def _wants_stream(seen: Seen) -> bool:
    return "streamGenerateContent" in seen.target or seen.json.get("stream") is True


def _texts(told: Told) -> str:
    """All the text of an answer or its events, joined."""
    found: list[str] = []

    def collect(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            for key, one in value.items():
                collect(one, key)
        elif isinstance(value, list):
            for one in value:
                collect(one, name)
        elif isinstance(value, str) and name in ("content", "text"):
            found.append(value)

    collect(told.events or told.value)
    return "".join(found)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("how", ["ask", "stream"])
@pytest.mark.parametrize("sdk", SDKS)
def test_what_was_masked_comes_back_whole(ways: Ways, sdk: str, how: str, flavour: str) -> None:
    one = SDKS[sdk]
    call: Callable[..., Any] = one.ask if how == "ask" else one.stream
    straight = ways.straight(sdk, flavour, lambda c: call(c, text=SECRET), echoing(one))
    through = ways.through(MASKING, sdk, flavour, lambda c: call(c, text=SECRET), echoing(one))
    assert (straight.error, through.error) == (None, None)
    assert _texts(straight) == _texts(through) == SECRET
    (sent,) = through.seen
    left = _told(json.loads(sent["body"]))
    assert left.startswith("Schreib an ") and not any(part in left for part in ("jürg", "müller", "example.org", "668", "18 00"))
    assert through.value == straight.value
    unmasked = ways.straight(sdk, flavour, lambda c: call(c, text=left), echoing(one))  # the very events that were restored
    assert _wordless(through.events) == _wordless(unmasked.events)


def _wordless(value: Any, name: str = "") -> Any:
    """With every text blank: a torn placeholder is held back until it is whole, and its pieces' events go out empty meanwhile."""
    if isinstance(value, dict):
        return {key: _wordless(one, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_wordless(one, name) for one in value]
    return "" if isinstance(value, str) and name in ("content", "text") else value


WRITE = {"name": "write", "description": "a letter"}
SHAPE = {"type": "object", "properties": {"to": {"type": "string"}}}
HELPED: dict[str, tuple[Callable[[Any], Any], Callable[[Told], Any]]] = {
    "openai": (
        lambda c: c.chat.completions.stream(
            model="gpt-4o",
            messages=[{"role": "user", "content": SECRET}],
            tools=[{"type": "function", "function": {**WRITE, "parameters": SHAPE}}],
        ),
        lambda told: json.loads(told.value[0]["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"]),
    ),
    "anthropic": (
        lambda c: c.messages.stream(
            model="claude-sonnet-5",
            max_tokens=64,
            messages=[{"role": "user", "content": SECRET}],
            tools=[{**WRITE, "input_schema": SHAPE}],
        ),
        lambda told: told.value[0]["content"][0]["input"],
    ),
}


def calling(sdk: Sdk) -> Script:
    """A provider that calls the tool with the text it was told, its arguments torn into three characters an event."""

    async def answer(seen: Seen, reply: Reply) -> None:
        torn = in_thirds(json.dumps({"to": _told(seen.json)}))
        if sdk.name == "openai":
            opening = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "write", "arguments": ""}}
            deltas = [{"role": "assistant", "content": None, "tool_calls": [opening]}]
            deltas += [{"tool_calls": [{"index": 0, "function": {"arguments": part}}]} for part in torn]
            events: list[Any] = [{**CHUNK, "choices": [{"index": 0, "delta": d, "finish_reason": None}]} for d in deltas]
            events += [{**CHUNK, "choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}, "[DONE]"]
        else:
            block = {"type": "tool_use", "id": "toolu_1", "name": "write", "input": {}}
            deltas = [{"type": "input_json_delta", "partial_json": part} for part in torn]
            inner = [{"type": "content_block_start", "index": 0, "content_block": block}]
            inner += [{"type": "content_block_delta", "index": 0, "delta": delta} for delta in deltas]
            inner += [{"type": "content_block_stop", "index": 0}]
            events = [sdk.events[0], *((one["type"], one) for one in inner), *sdk.events[-2:]]
        await play(reply, events)

    return answer


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", HELPED)
def test_the_arguments_of_a_streamed_tool_call_come_back_whole(ways: Ways, sdk: str, flavour: str) -> None:
    """By the SDK's own accumulation of the pieces."""
    call, arguments = HELPED[sdk]
    told = ways.through(MASKING, sdk, flavour, call, calling(SDKS[sdk]))
    assert told.error is None
    assert arguments(told) == {"to": SECRET}
    assert MAIL not in told.seen[0]["body"].decode()
