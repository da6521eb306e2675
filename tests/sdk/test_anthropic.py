"""The anthropic SDK, straight and through Sluice: what works."""

from __future__ import annotations

import pytest
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.policies import PLAIN
from support.sdk.scripts import stream, whole
from support.sdk.ways import Call, Ways

ASK = {"model": "claude-sonnet-5", "max_tokens": 64, "messages": [{"role": "user", "content": "Wie spät ist es in Zürich? ⏰"}]}
TOOLS = [{"name": "time_in", "description": "the time", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}]
USAGE = {"input_tokens": 17, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 4, "output_tokens": 9, "service_tier": "standard",
         "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0}}  # fmt: skip
MESSAGE = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5", "stop_sequence": None, "usage": USAGE}
TEXT = {**MESSAGE, "stop_reason": "end_turn", "content": [{"type": "text", "text": "Zehn Uhr ⏰."}]}
CALLED = {"type": "tool_use", "id": "toolu_1", "name": "time_in", "input": {"city": "Zürich"}}
CALLING = {**MESSAGE, "stop_reason": "tool_use", "content": [{"type": "text", "text": "Ich sehe nach."}, CALLED]}


def started() -> dict:
    message = {**MESSAGE, "content": [], "stop_reason": None, "usage": {**USAGE, "output_tokens": 1}}
    return {"type": "message_start", "message": message}


def block(index: int, opening: dict, *deltas: dict) -> list[dict]:
    return [
        {"type": "content_block_start", "index": index, "content_block": opening},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def streamed(stop: str, *blocks: list[dict]) -> Script:
    closing = {"type": "message_delta", "delta": {"stop_reason": stop, "stop_sequence": None}, "usage": USAGE}
    events = [started(), {"type": "ping"}, *(event for one in blocks for event in one), closing, {"type": "message_stop"}]
    return stream(*((event["type"], event) for event in events))


WORDS = block(0, {"type": "text", "text": ""}, *({"type": "text_delta", "text": t} for t in ("Zehn", " Uhr ", "⏰.")))
THOUGHT = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Zürich…"},
    {"type": "signature_delta", "signature": "c2ln"},
)
INPUT = block(
    1,
    {**CALLED, "input": {}},
    *({"type": "input_json_delta", "partial_json": part} for part in ("", '{"ci', 'ty": "Z', 'ürich"}')),
)
BATCH = {"id": "msgbatch_1", "type": "message_batch", "processing_status": "in_progress", "created_at": "2026-11-20T10:00:00Z",
         "expires_at": "2026-11-21T10:00:00Z", "ended_at": None, "archived_at": None, "cancel_initiated_at": None, "results_url": None,
         "request_counts": {"processing": 1, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}}  # fmt: skip
NOW = "2026-11-20T10:00:00Z"
MODEL = {"id": "claude-sonnet-5", "type": "model", "display_name": "Claude Sonnet 5", "created_at": NOW, "lifecycle": "active"}
FILE = {"id": "file_1", "type": "file", "filename": "a.txt", "mime_type": "text/plain", "size_bytes": 8, "created_at": NOW}
PAGE = {"has_more": False, "first_id": "msgbatch_1", "last_id": "msgbatch_1"}

CASES: dict[str, tuple[Call, Script]] = {
    "a message": (lambda c: c.messages.create(**ASK), whole(TEXT)),
    "a system prompt with a cache mark": (
        lambda c: c.messages.create(**ASK, system=[{"type": "text", "text": "Kurz.", "cache_control": {"type": "ephemeral"}}]),
        whole(TEXT),
    ),
    "a message that calls a tool": (lambda c: c.messages.create(**ASK, tools=TOOLS), whole(CALLING)),
    "a tool's result": (
        lambda c: c.messages.create(
            model="claude-sonnet-5",
            max_tokens=64,
            messages=[
                *ASK["messages"],
                {"role": "assistant", "content": [CALLED]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "10", "is_error": False}]},
            ],
        ),
        whole(TEXT),
    ),
    "a stream": (lambda c: c.messages.create(**ASK, stream=True), streamed("end_turn", WORDS)),
    "a stream that thinks": (lambda c: c.messages.create(**ASK, stream=True), streamed("end_turn", THOUGHT)),
    "streamed tool calls": (lambda c: c.messages.create(**ASK, tools=TOOLS, stream=True), streamed("tool_use", WORDS, INPUT)),
    "the stream helper": (lambda c: c.messages.stream(**ASK), streamed("end_turn", WORDS)),
    "the stream helper with tools": (lambda c: c.messages.stream(**ASK, tools=TOOLS), streamed("tool_use", WORDS, INPUT)),
    "a count of tokens": (
        lambda c: c.messages.count_tokens(model="claude-sonnet-5", messages=ASK["messages"]),
        whole({"input_tokens": 17}),
    ),
    "a batch": (
        lambda c: c.messages.batches.create(requests=[{"custom_id": "one", "params": ASK}]),
        whole(BATCH),
    ),
    "the list of batches": (lambda c: c.messages.batches.list(limit=1), whole({"data": [BATCH], **PAGE})),
    "the list of models": (lambda c: c.models.list(), whole({"data": [MODEL], **PAGE})),
    "an uploaded file": (
        lambda c: c.files.upload(file=("a.txt", b"zehn \xe2\x8f\xb0", "text/plain")),
        whole(FILE),
    ),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES)
def test_an_application_and_the_provider_see_the_same(ways: Ways, case: str, flavour: str) -> None:
    call, script = CASES[case]
    straight = ways.straight("anthropic", flavour, call, script)
    through = ways.through(PLAIN, "anthropic", flavour, call, script)
    assert straight.error is None and straight.attempts == 1
    assert straight.value is not None or straight.events
    assert through == straight
