"""One small stream of each wire format, as its provider writes it, and the recorded ones where they are."""

import base64
import json
from pathlib import Path
from typing import NamedTuple

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import stream_format_of

TRAFFIC = Path(__file__).parents[2].parent / "shared" / "traffic"
DIALECTS = {
    "openai": "openai", "azure-openai": "azure-openai", "anthropic": "anthropic", "google-gemini": "gemini", "google-vertex": "vertex",
    "cohere": "cohere", "mistral": "openai", "groq": "openai", "openrouter": "openai",
}  # fmt: skip


class Stream(NamedTuple):
    dialect: str
    path: str
    content_type: str
    body: bytes
    input: int
    output: int
    method: str = "POST"
    ends: bool = True

    @property
    def op(self):
        path, _, query = self.path.partition("?")
        return dialect_of(self.dialect).operation(self.method, path, query)


def sse(*events, eol="\n"):
    return "".join(f"data: {event if isinstance(event, str) else json.dumps(event)}{eol}{eol}" for event in events).encode()


def chat(delta, finish=None):
    return {"id": "c1", "model": "gpt-4o", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}], "usage": None}


GEMINI = [
    {"candidates": [{"content": {"parts": [{"text": "Grüße, "}]}, "index": 0}],
     "usageMetadata": {"promptTokenCount": 5, "totalTokenCount": 5}, "modelVersion": "gemini-2.5-flash"},
    {"candidates": [{"content": {"parts": [{"text": "世界"}]}, "finishReason": "STOP", "index": 0}],
     "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 4, "thoughtsTokenCount": 30}, "modelVersion": "gemini-2.5-flash"},
]  # fmt: skip
STREAMS = [
    Stream(
        "openai",
        "/v1/chat/completions",
        "text/event-stream; charset=utf-8",
        sse(
            chat({"role": "assistant", "content": ""}),
            chat({"content": "Grüße, "}),
            chat({"content": "世界"}),
            chat({}, "stop"),
            {"id": "c1", "model": "gpt-4o", "choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 6}},
            "[DONE]",
        ),
        9,
        6,
    ),
    Stream(
        "anthropic",
        "/v1/messages",
        "text/event-stream",
        sse(
            {"type": "message_start", "message": {"model": "claude-sonnet-4-5", "usage": {"input_tokens": 12, "output_tokens": 1}}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hallo "}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "世界, und noch mehr Text"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 21}},
            {"type": "message_stop"},
        ),
        12,
        21,
    ),
    Stream(
        "gemini", "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", "text/event-stream", sse(*GEMINI, eol="\r\n"), 5, 34
    ),
    Stream(
        "gemini",
        "/v1beta/models/gemini-2.5-flash:streamGenerateContent",
        "application/json; charset=UTF-8",
        ("[" + "\n,\r\n".join(json.dumps(event, ensure_ascii=False) for event in GEMINI) + "\n]").encode(),
        5,
        34,
    ),
    Stream(
        "cohere",
        "/v2/chat",
        "text/event-stream",
        sse(
            {"type": "message-start", "id": "1"},
            {"type": "content-delta", "index": 0, "delta": {"message": {"content": {"text": "Hi there"}}}},
            {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": {
                "billed_units": {"input_tokens": 3, "output_tokens": 2}, "tokens": {"input_tokens": 70, "output_tokens": 4}}}},
        ),
        70,
        4,
    ),
    Stream(
        "cohere",
        "/v1/chat",
        "application/stream+json",
        b"".join(json.dumps(event).encode() + b"\n" for event in (
            {"event_type": "stream-start", "is_finished": False},
            {"event_type": "text-generation", "text": "Hi", "is_finished": False},
            {"event_type": "stream-end", "is_finished": True, "response": {"text": "Hi", "meta": {
                "billed_units": {"input_tokens": 3, "output_tokens": 2}, "tokens": {"input_tokens": 70, "output_tokens": 4}}}},
        )),
        70,
        4,
    ),
]  # fmt: skip


def recorded():
    """The recorded streams whose usage is known, shortest first."""
    found = []
    for file in sorted(TRAFFIC.glob("*.jsonl")):
        for line in file.read_text().splitlines():
            row = json.loads(line)
            expected = row.get("expected_usage")
            if row.get("is_stream") and row["provider"] in DIALECTS and expected and expected.get("billable") is not False:
                text = row["response_body"]
                body = base64.b64decode(text) if row["response_body_encoding"] == "base64" else text.encode()
                found.append(
                    Stream(
                        DIALECTS[row["provider"]], row["path"], row["response_headers"]["content-type"], body,
                        expected["input_tokens"], expected["output_tokens"], row["method"], row["stream_end"] != "none-seen",
                    )
                )  # fmt: skip
    return sorted(found, key=lambda stream: len(stream.body))


@pytest.fixture(scope="session")
def recorded_streams():
    if not TRAFFIC.is_dir():
        pytest.skip("recorded traffic skipped LOUDLY: shared/ is not here")
    streams = recorded()
    assert all(stream_format_of(stream.op.variant, stream.content_type) for stream in streams)
    return streams


@pytest.fixture(scope="session")
def small_streams():
    return STREAMS


@pytest.fixture(params=STREAMS, ids=lambda stream: f"{stream.dialect}{stream.path}")
def stream(request):
    return request.param
