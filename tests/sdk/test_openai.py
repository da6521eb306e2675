"""The openai SDK, straight and through Sluice: what works."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from pydantic import BaseModel
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.policies import PLAIN
from support.sdk.scripts import CHUNK, content, openai_chat, stream, whole
from support.sdk.ways import Call, Ways

ASK = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Wie spät ist es in Zürich? ⏰"}]}
TOOLS = [
    {"type": "function", "function": {"name": "time_in", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
]
USAGE = {"prompt_tokens": 17, "completion_tokens": 9, "total_tokens": 26,
         "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
         "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0}}  # fmt: skip
CALLED = {"id": "call_1", "type": "function", "function": {"name": "time_in", "arguments": '{"city":"Zürich"}'}}
RESULT = [{"role": "assistant", "tool_calls": [CALLED]}, {"role": "tool", "tool_call_id": "call_1", "content": "10"}]


class Answer(BaseModel):
    city: str
    hour: int


def completion(message: dict, finish: str = "stop") -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": None, "refusal": None, "annotations": []} | message,
              "logprobs": None, "finish_reason": finish}  # fmt: skip
    return {**CHUNK, "object": "chat.completion", "choices": [choice], "usage": USAGE}


def chunks(*deltas: dict, finish: str = "stop") -> list[dict]:
    choices = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    return [{**CHUNK, "choices": [c]} for c in [*choices, {"index": 0, "delta": {}, "logprobs": None, "finish_reason": finish}]]


def tool_delta(**function: str) -> dict:
    opening = {"id": "call_1", "type": "function"} if "name" in function else {}
    return {"tool_calls": [{"index": 0, **opening, "function": function}]}


TEXT = chunks({"role": "assistant", "content": ""}, {"content": "Es ist "}, {"content": "zehn Uhr ⏰"}, {"content": "."})
CALLING = chunks(
    {"role": "assistant", "content": None, **tool_delta(name="time_in", arguments="")},
    tool_delta(arguments='{"ci'), tool_delta(arguments='ty":"Z'), tool_delta(arguments='ürich"}'), finish="tool_calls",
)  # fmt: skip
JSON = chunks({"role": "assistant", "content": ""}, {"content": '{"city":"Zürich",'}, {"content": '"hour":10}'})

OUT_ITEM = {"id": "msg_1", "type": "message", "status": "completed", "role": "assistant",
            "content": [{"type": "output_text", "text": "Zehn Uhr.", "annotations": []}]}  # fmt: skip
RESPONSE = {
    "id": "resp_1", "object": "response", "created_at": 1763600000, "status": "completed", "model": "gpt-4o-2024-08-06",
    "output": [OUT_ITEM],
    "error": None, "incomplete_details": None, "instructions": None, "metadata": {}, "parallel_tool_calls": True, "temperature": 1.0,
    "tool_choice": "auto", "tools": [], "top_p": 1.0, "text": {"format": {"type": "text"}},
    "usage": {"input_tokens": 17, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 5,
              "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 22},
}  # fmt: skip
BEGUN = {**RESPONSE, "status": "in_progress", "output": [], "usage": None}
PLACE = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
PART = {"type": "output_text", "text": "", "annotations": []}
RESPONSE_EVENTS = [
    {"type": "response.created", "response": BEGUN},
    {"type": "response.in_progress", "response": BEGUN},
    {"type": "response.output_item.added", "output_index": 0, "item": {**OUT_ITEM, "status": "in_progress", "content": []}},
    {"type": "response.content_part.added", **PLACE, "part": PART},
    {"type": "response.output_text.delta", **PLACE, "delta": "Zehn", "logprobs": []},
    {"type": "response.output_text.delta", **PLACE, "delta": " Uhr.", "logprobs": []},
    {"type": "response.output_text.done", **PLACE, "text": "Zehn Uhr.", "logprobs": []},
    {"type": "response.content_part.done", **PLACE, "part": {**PART, "text": "Zehn Uhr."}},
    {"type": "response.output_item.done", "output_index": 0, "item": OUT_ITEM},
    {"type": "response.completed", "response": RESPONSE},
]
RESPONSES = stream(*((event["type"], {**event, "sequence_number": n}) for n, event in enumerate(RESPONSE_EVENTS)))

MODELS = {"object": "list", "data": [{"id": m, "object": "model", "created": 1, "owned_by": "openai"} for m in ("gpt-4o", "gpt-4o-mini")]}
EMBEDDED = {"object": "list", "model": "text-embedding-3-small", "data": [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAEA="}],
            "usage": {"prompt_tokens": 5, "total_tokens": 5}}  # fmt: skip
IMAGE = {"created": 1763600000, "data": [{"b64_json": "aGVsbG8="}], "size": "1024x1024", "quality": "high", "output_format": "png",
         "usage": {"total_tokens": 60, "input_tokens": 10, "output_tokens": 50,
                   "input_tokens_details": {"text_tokens": 10, "image_tokens": 0}}}  # fmt: skip
MODERATED = {"id": "modr-1", "model": "omni-moderation-latest", "results": [
    {"flagged": False, "categories": {"hate": False, "violence": False}, "category_scores": {"hate": 0.01, "violence": 0.02},
     "category_applied_input_types": {"hate": ["text"], "violence": ["text"]}}]}  # fmt: skip
FILE = {
    "id": "file-1",
    "object": "file",
    "bytes": 12,
    "created_at": 1763600000,
    "filename": "lines.jsonl",
    "purpose": "batch",
    "status": "processed",
}
SPOKEN = {"text": "Es ist zehn Uhr.", "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 7, "total_tokens": 21,
                                                "input_token_details": {"text_tokens": 0, "audio_tokens": 14}}}  # fmt: skip
LEGACY = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "gpt-3.5-turbo-instruct",
          "choices": [{"text": "zehn", "index": 0, "logprobs": None, "finish_reason": "stop"}],
          "usage": {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}}  # fmt: skip
WAV = b"RIFF" + bytes(range(256)) * 40


def sound() -> io.BytesIO:
    file = io.BytesIO(WAV)
    file.name = "clock.wav"
    return file


CASES: dict[str, tuple[Call, Script]] = {
    "a chat": (lambda c: c.chat.completions.create(**ASK), whole(completion({"content": "Zehn Uhr ⏰."}))),
    "a chat that calls a tool": (
        lambda c: c.chat.completions.create(**ASK, tools=TOOLS, tool_choice="auto"),
        whole(completion({"tool_calls": [CALLED]}, "tool_calls")),
    ),
    "a tool's result": (
        lambda c: c.chat.completions.create(
            model="gpt-4o",
            messages=[*ASK["messages"], *RESULT],
        ),
        whole(completion({"content": "Zehn."})),
    ),
    "JSON mode": (
        lambda c: c.chat.completions.create(**ASK, response_format={"type": "json_object"}),
        whole(completion({"content": '{"hour": 10}'})),
    ),
    "structured output, parsed": (
        lambda c: c.chat.completions.parse(**ASK, response_format=Answer),
        whole(completion({"content": '{"city":"Zürich","hour":10}'})),
    ),
    "a stream with usage": (
        lambda c: c.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True}),
        openai_chat(TEXT, USAGE),
    ),
    "streamed tool calls with usage": (
        lambda c: c.chat.completions.create(**ASK, tools=TOOLS, stream=True, stream_options={"include_usage": True}),
        openai_chat(CALLING, USAGE),
    ),
    "the stream helper with usage": (
        lambda c: c.chat.completions.stream(**ASK, stream_options={"include_usage": True}),
        openai_chat(TEXT, USAGE),
    ),
    "the stream helper with a schema": (
        lambda c: c.chat.completions.stream(**ASK, response_format=Answer, stream_options={"include_usage": True}),
        openai_chat(JSON, USAGE),
    ),
    "a response": (lambda c: c.responses.create(model="gpt-4o", input="Wie spät?"), whole(RESPONSE)),
    "a streamed response": (lambda c: c.responses.create(model="gpt-4o", input="Wie spät?", stream=True), RESPONSES),
    "the helper for streamed responses": (lambda c: c.responses.stream(model="gpt-4o", input="Wie spät?"), RESPONSES),
    "a stored response": (lambda c: c.responses.retrieve("resp_1"), whole(RESPONSE)),
    "a legacy completion": (lambda c: c.completions.create(model="gpt-3.5-turbo-instruct", prompt="Wie spät?"), whole(LEGACY)),
    "embeddings": (lambda c: c.embeddings.create(model="text-embedding-3-small", input=["zehn"]), whole(EMBEDDED)),
    "the list of models": (lambda c: c.models.list(), whole(MODELS)),
    "one model": (lambda c: c.models.retrieve("gpt-4o"), whole(MODELS["data"][0])),
    "an image": (lambda c: c.images.generate(model="gpt-image-1", prompt="a clock"), whole(IMAGE)),
    "an edited image": (lambda c: c.images.edit(model="gpt-image-1", prompt="a clock", image=("c.png", WAV, "image/png")), whole(IMAGE)),
    "a transcription": (lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound()), whole(SPOKEN)),
    "a streamed transcription": (
        lambda c: c.audio.transcriptions.create(model="gpt-4o-transcribe", file=sound(), stream=True),
        stream(
            {"type": "transcript.text.delta", "delta": "Es ist "},
            {"type": "transcript.text.delta", "delta": "zehn Uhr."},
            {"type": "transcript.text.done", "text": "Es ist zehn Uhr.", "usage": SPOKEN["usage"]},
        ),
    ),
    "speech": (lambda c: c.audio.speech.create(model="gpt-4o-mini-tts", voice="alloy", input="zehn"), content(WAV, "audio/mpeg")),
    "a moderation": (lambda c: c.moderations.create(input="zehn"), whole(MODERATED)),
    "an uploaded file": (lambda c: c.files.create(file=("lines.jsonl", b'{"a": 1}\n\xc3\xa4'), purpose="batch"), whole(FILE)),
    "the list of files": (lambda c: c.files.list(), whole({"object": "list", "data": [FILE], "has_more": False})),
    "the content of a file": (lambda c: c.files.content("file-1"), content(b'{"a": 1}\n', "application/octet-stream")),
    "a deleted file": (lambda c: c.files.delete("file-1"), whole({"id": "file-1", "object": "file", "deleted": True})),
    "a path that Sluice does not know": (
        lambda c: c.vector_stores.search("vs_1", query="zehn"),
        whole({"object": "list", "data": [], "has_more": False}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES)
def test_an_application_and_the_provider_see_the_same(ways: Ways, case: str, flavour: str) -> None:
    call, script = CASES[case]
    straight = ways.straight("openai", flavour, call, script)
    through = ways.through(PLAIN, "openai", flavour, call, script)
    assert straight.error is None and straight.attempts == 1
    assert straight.value is not None or straight.events
    assert through == straight


UNASKED: dict[str, tuple[Callable[..., object], list[dict]]] = {
    "a stream": (lambda c: c.chat.completions.create(**ASK, stream=True), TEXT),
    "a stream that says no usage": (lambda c: c.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": False}), TEXT),
    "streamed tool calls": (lambda c: c.chat.completions.create(**ASK, tools=TOOLS, stream=True), CALLING),
    "the stream helper": (lambda c: c.chat.completions.stream(**ASK), TEXT),
    "the stream helper with tools": (lambda c: c.chat.completions.stream(**ASK, tools=[{**TOOLS[0]}]), CALLING),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", UNASKED)
def test_usage_that_sluice_asks_for_does_not_reach_an_application_that_did_not(ways: Ways, case: str, flavour: str) -> None:
    """The stated exception to transparency: the request gains `stream_options.include_usage`, the chunks a null `usage`."""
    call, deltas = UNASKED[case]
    straight = ways.straight("openai", flavour, call, openai_chat(deltas, USAGE))
    through = ways.through(PLAIN, "openai", flavour, call, openai_chat(deltas, USAGE))
    assert straight.error is None and straight.events
    assert (through.value, through.events, through.error) == (straight.value, straight.events, None)
    sent, asked = straight.seen[0], through.seen
    wanted = {**json.loads(sent["body"]), "stream_options": {"include_usage": True}}
    assert [json.loads(one["body"]) for one in asked] == [wanted]
    assert asked[0]["target"] == sent["target"]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_azure_openai_is_served_by_deployment_name(ways: Ways, flavour: str) -> None:
    call, script = (lambda c: c.chat.completions.create(**{**ASK, "model": "prod-gpt4o"})), whole(completion({"content": "Zehn."}))
    straight = ways.straight("azure", flavour, call, script)
    through = ways.through(PLAIN, "azure", flavour, call, script)
    assert straight.error is None
    assert straight.seen[0]["target"] == "/openai/deployments/prod-gpt4o/chat/completions?api-version=2025-04-01-preview"
    assert through == straight
