"""The mistralai SDK, straight and through Sluice: what works."""

from __future__ import annotations

import pytest
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.policies import PLAIN
from support.sdk.scripts import stream, whole
from support.sdk.ways import Call, Ways

MODEL = "mistral-large-latest"
ASK = {"model": MODEL, "messages": [{"role": "user", "content": "Wie spät ist es in Zürich? ⏰"}]}
TOOLS = [
    {"type": "function", "function": {"name": "time_in", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
]
USAGE = {"prompt_tokens": 17, "completion_tokens": 9, "total_tokens": 26}
CALLED = {"id": "D681PevKs", "function": {"name": "time_in", "arguments": '{"city": "Zürich"}'}, "index": 0}
HEAD = {"id": "6dc321029f5d", "created": 1763600000, "model": MODEL}


def completion(message: dict, finish: str = "stop") -> dict:
    said = {"role": "assistant", "content": "", "tool_calls": None} | message
    return {**HEAD, "object": "chat.completion", "choices": [{"index": 0, "finish_reason": finish, "message": said}], "usage": USAGE}


def streamed(*deltas: dict, finish: str = "stop") -> Script:
    """Mistral sends usage unasked, beside the finish reason, and pads its chunks with `p`."""
    head = {**HEAD, "object": "chat.completion.chunk"}
    chunks = [{**head, "choices": [{"index": 0, "delta": d, "finish_reason": None}], "p": "abcdef"} for d in deltas[:-1]]
    last = {**head, "choices": [{"index": 0, "delta": deltas[-1], "finish_reason": finish}], "usage": USAGE}
    return stream(*chunks, last, "[DONE]")


TEXT = streamed({"role": "assistant", "content": ""}, {"content": "Zehn"}, {"content": " Uhr ⏰"}, {"content": "."})
CALLING = streamed({"role": "assistant", "content": ""}, {"content": "", "tool_calls": [CALLED]}, finish="tool_calls")
EMBEDDED = {"id": "e1", "object": "list", "model": "mistral-embed", "usage": USAGE,
            "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}]}  # fmt: skip
CAPABLE = {"completion_chat": True, "completion_fim": False, "function_calling": True, "fine_tuning": False, "vision": False}
MODELS = {"object": "list", "data": [{"id": MODEL, "object": "model", "created": 1, "owned_by": "mistralai", "type": "base",
                                      "capabilities": CAPABLE, "max_context_length": 131072}]}  # fmt: skip
FILE = {"id": "497f6eca-6276-4993-bfeb-53cbbbba6f09", "object": "file", "bytes": 9, "created_at": 1763600000, "filename": "a.jsonl",
        "purpose": "batch", "sample_type": "batch_request", "source": "upload"}  # fmt: skip

CASES: dict[str, tuple[Call, Script]] = {
    "a chat": (lambda c: c.chat.complete(**ASK), whole(completion({"content": "Zehn Uhr ⏰."}))),
    "a chat that calls a tool": (lambda c: c.chat.complete(**ASK, tools=TOOLS), whole(completion({"tool_calls": [CALLED]}, "tool_calls"))),
    "JSON mode": (
        lambda c: c.chat.complete(**ASK, response_format={"type": "json_object"}),
        whole(completion({"content": '{"hour": 10}'})),
    ),
    "a stream": (lambda c: c.chat.stream(**ASK), TEXT),
    "streamed tool calls": (lambda c: c.chat.stream(**ASK, tools=TOOLS), CALLING),
    "embeddings": (lambda c: c.embeddings.create(model="mistral-embed", inputs=["zehn"]), whole(EMBEDDED)),
    "code that fills a gap": (
        lambda c: c.fim.complete(model="codestral-latest", prompt="def f(", suffix="return 1"),
        whole(completion({"content": "):"})),
    ),
    "the list of models": (lambda c: c.models.list(), whole(MODELS)),
    "an uploaded file": (lambda c: c.files.upload(file={"file_name": "a.jsonl", "content": b'{"a": 1}\n'}, purpose="batch"), whole(FILE)),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES)
def test_an_application_and_the_provider_see_the_same(ways: Ways, case: str, flavour: str) -> None:
    call, script = CASES[case]
    straight = ways.straight("mistral", flavour, call, script)
    through = ways.through(PLAIN, "mistral", flavour, call, script)
    assert straight.error is None and straight.attempts == 1
    assert straight.value is not None or straight.events
    assert through == straight
