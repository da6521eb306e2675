"""The google-genai SDK, straight and through Sluice: what works."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from google.genai import types
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.policies import PLAIN
from support.sdk.scripts import stream, whole
from support.sdk.ways import Call, Ways

MODEL = "gemini-2.5-flash"
ASK = {"model": MODEL, "contents": "Wie spät ist es in Zürich? ⏰"}
TIME_IN = {"name": "time_in", "description": "the time", "parameters": {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}}
HOUR = {"type": "OBJECT", "properties": {"hour": {"type": "INTEGER"}}}
WITH_TOOLS = types.GenerateContentConfig(
    tools=[{"function_declarations": [TIME_IN]}],
    automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
)
SAFETY = [{"category": "HARM_CATEGORY_HARASSMENT", "probability": "NEGLIGIBLE"}]


def generated(*parts: dict, finish: str | None = "STOP", said: int = 9) -> dict:
    usage = {"promptTokenCount": 17, "candidatesTokenCount": said, "thoughtsTokenCount": 3, "totalTokenCount": 20 + said,
             "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 17}]}  # fmt: skip
    candidate = {"content": {"role": "model", "parts": list(parts)}, "index": 0, "safetyRatings": SAFETY}
    ended = {"finishReason": finish} if finish else {}
    return {"candidates": [candidate | ended], "usageMetadata": usage, "modelVersion": MODEL, "responseId": "resp_1"}


def streamed(chunks: Iterable[dict]) -> Script:
    return stream(*chunks, newline="\r\n")  # as Google writes them


TEXT = [generated({"text": "Es ist "}, finish=None, said=3), generated({"text": "zehn Uhr ⏰."})]
CALLING = [generated({"functionCall": {"name": "time_in", "args": {"city": "Zürich"}}})]
THOUGHT = [generated({"text": "Zürich…", "thought": True}, finish=None, said=0), *TEXT]
COUNTED = {"totalTokens": 17, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 17}]}
EMBEDDED = {"embeddings": [{"values": [0.25, -0.5]}, {"values": [0.125, 1.0]}]}
LISTED = {"models": [{"name": f"models/{MODEL}", "version": "001", "displayName": "Flash", "inputTokenLimit": 1048576,
                      "supportedGenerationMethods": ["generateContent"]}]}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))

CASES: dict[str, tuple[Call, Script]] = {
    "generated content": (lambda c: c.models.generate_content(**ASK), whole(generated({"text": "Zehn Uhr ⏰."}))),
    "a system instruction and limits": (
        lambda c: c.models.generate_content(**ASK, config={"system_instruction": "Kurz.", "max_output_tokens": 20, "temperature": 0}),
        whole(generated({"text": "Zehn."})),
    ),
    "JSON mode": (
        lambda c: c.models.generate_content(**ASK, config={"response_mime_type": "application/json", "response_schema": HOUR}),
        whole(generated({"text": '{"hour": 10}'})),
    ),
    "a function call": (lambda c: c.models.generate_content(**ASK, config=WITH_TOOLS), whole(CALLING[0])),
    "a function's result": (
        lambda c: c.models.generate_content(
            model=MODEL,
            contents=[
                types.UserContent("Wie spät?"),
                types.ModelContent(types.Part.from_function_call(name="time_in", args={"city": "Zürich"})),
                types.UserContent(types.Part.from_function_response(name="time_in", response={"hour": 10})),
            ],
        ),
        whole(generated({"text": "Zehn."})),
    ),
    "an image in the prompt": (
        lambda c: c.models.generate_content(model=MODEL, contents=["Was?", types.Part.from_bytes(data=PNG, mime_type="image/png")]),
        whole(generated({"text": "Eine Uhr."})),
    ),
    "a stream": (lambda c: c.models.generate_content_stream(**ASK), streamed(TEXT)),
    "a stream that thinks": (lambda c: c.models.generate_content_stream(**ASK), streamed(THOUGHT)),
    "a streamed function call": (lambda c: c.models.generate_content_stream(**ASK, config=WITH_TOOLS), streamed(CALLING)),
    "a count of tokens": (lambda c: c.models.count_tokens(**ASK), whole(COUNTED)),
    "embeddings": (lambda c: c.models.embed_content(model="gemini-embedding-001", contents=["zehn", "elf"]), whole(EMBEDDED)),
    "the list of models": (lambda c: c.models.list(config={"query_base": True}), whole(LISTED)),
    "one model": (lambda c: c.models.get(model=MODEL), whole(LISTED["models"][0])),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES)
def test_an_application_and_the_provider_see_the_same(ways: Ways, case: str, flavour: str) -> None:
    call, script = CASES[case]
    straight = ways.straight("gemini", flavour, call, script)
    through = ways.through(PLAIN, "gemini", flavour, call, script)
    assert straight.error is None and straight.attempts == 1
    assert straight.value is not None or straight.events
    assert through == straight


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_chat_session_of_two_turns_is_the_same(ways: Ways, flavour: str) -> None:
    """The SDK's own chat object sends the first answer back as history."""

    def call(client: object) -> object:
        chat = client.chats.create(model=MODEL)
        if flavour == "async":
            return _second(chat)
        chat.send_message("Wie spät?")
        return chat.send_message("Und in Wien?")

    async def _second(chat: object) -> object:
        await chat.send_message("Wie spät?")
        return await chat.send_message("Und in Wien?")

    script = whole(generated({"text": "Zehn Uhr ⏰."}))
    straight = ways.straight("gemini", flavour, call, script)
    assert straight.error is None and straight.attempts == 2
    assert ways.through(PLAIN, "gemini", flavour, call, script) == straight
