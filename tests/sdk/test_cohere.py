"""The cohere SDK, straight and through Sluice: what works."""

from __future__ import annotations

import pytest
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.policies import PLAIN
from support.sdk.scripts import stream, whole
from support.sdk.ways import Call, Ways

ASK = {"model": "command-a-03-2025", "messages": [{"role": "user", "content": "Wie spät ist es in Zürich? ⏰"}]}
TOOLS = [
    {"type": "function", "function": {"name": "time_in", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}
]
USAGE = {"billed_units": {"input_tokens": 8, "output_tokens": 9}, "tokens": {"input_tokens": 503, "output_tokens": 11}, "cached_tokens": 0}
CALLED = {"id": "time_in_1", "type": "function", "function": {"name": "time_in", "arguments": '{"city":"Zürich"}'}}


def answered(finish: str = "COMPLETE", **message: object) -> dict:
    return {"id": "c14c80c3", "finish_reason": finish, "message": {"role": "assistant", **message}, "usage": USAGE}


def delta(kind: str, index: int | None = None, **message: object) -> dict:
    placed = {"index": index} if index is not None else {}
    return {"type": kind, **placed, "delta": {"message": message}} if message else {"type": kind, **placed}


def streamed(*events: dict, finish: str = "COMPLETE") -> Script:
    opening = {"role": "assistant", "content": [], "tool_plan": "", "tool_calls": [], "citations": []}
    started = {"id": "c14c80c3", "type": "message-start", "delta": {"message": opening}}
    ended = {"id": "c14c80c3", "type": "message-end", "delta": {"finish_reason": finish, "usage": USAGE}}
    return stream(*((event["type"], event) for event in (started, *events, ended)))


TEXT = streamed(
    delta("content-start", 0, content={"type": "text", "text": ""}),
    *(delta("content-delta", 0, content={"text": text}) for text in ("Zehn", " Uhr ", "⏰.")),
    delta("content-end", 0),
)
CITATION = {
    "start": 0,
    "end": 4,
    "text": "Zehn",
    "sources": [{"type": "document", "id": "doc:0", "document": {"id": "doc:0", "text": "10"}}],
}
CITED = streamed(
    delta("content-start", 0, content={"type": "text", "text": ""}),
    delta("content-delta", 0, content={"text": "Zehn"}),
    delta("citation-start", 0, citations=CITATION),
    delta("citation-end", 0),
    delta("content-end", 0),
)
CALLING = streamed(
    delta("tool-plan-delta", tool_plan="Ich sehe"),
    delta("tool-plan-delta", tool_plan=" nach."),
    delta("tool-call-start", 0, tool_calls={**CALLED, "function": {"name": "time_in", "arguments": ""}}),
    *(delta("tool-call-delta", 0, tool_calls={"function": {"arguments": part}}) for part in ('{"city":', '"Z', 'ürich"}')),
    delta("tool-call-end", 0),
    finish="TOOL_CALL",
)
EMBEDDED = {"id": "e1", "embeddings": {"float": [[0.25, -0.5]]}, "texts": ["zehn"], "response_type": "embeddings_by_type",
            "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": 2}}}  # fmt: skip
RANKED = {"id": "r1", "results": [{"index": 1, "relevance_score": 0.99}, {"index": 0, "relevance_score": 0.1}],
          "meta": {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}}  # fmt: skip
MODELS = {
    "models": [{"name": "command-a-03-2025", "endpoints": ["chat"], "finetuned": False, "context_length": 256000}],
    "next_page_token": "",
}
PNG = "data:image/png;base64,aGVsbG8="

CASES: dict[str, tuple[Call, Script]] = {
    "a chat": (lambda c: c.chat(**ASK), whole(answered(content=[{"type": "text", "text": "Zehn Uhr ⏰."}]))),
    "a chat that calls a tool": (
        lambda c: c.chat(**ASK, tools=TOOLS),
        whole(answered("TOOL_CALL", tool_plan="Ich sehe nach.", tool_calls=[CALLED])),
    ),
    "a tool's result": (
        lambda c: c.chat(
            model=ASK["model"],
            messages=[
                *ASK["messages"],
                {"role": "assistant", "tool_calls": [CALLED], "tool_plan": "Ich sehe nach."},
                {"role": "tool", "tool_call_id": "time_in_1", "content": [{"type": "document", "document": {"data": {"hour": "10"}}}]},
            ],
        ),
        whole(answered(content=[{"type": "text", "text": "Zehn."}], citations=[CITATION])),
    ),
    "JSON mode": (
        lambda c: c.chat(**ASK, response_format={"type": "json_object"}),
        whole(answered(content=[{"type": "text", "text": '{"hour": 10}'}])),
    ),
    "a stream": (lambda c: c.chat_stream(**ASK), TEXT),
    "a stream with citations": (lambda c: c.chat_stream(**ASK, documents=["Es ist 10."]), CITED),
    "streamed tool calls": (lambda c: c.chat_stream(**ASK, tools=TOOLS), CALLING),
    "embeddings": (
        lambda c: c.embed(model="embed-v4.0", input_type="search_query", texts=["zehn"], embedding_types=["float"]),
        whole(EMBEDDED),
    ),
    "the embedding of an image": (
        lambda c: c.embed(model="embed-v4.0", input_type="image", images=[PNG], embedding_types=["float"]),
        whole({**EMBEDDED, "texts": [], "meta": {"billed_units": {"images": 1}}}),
    ),
    "a ranking": (lambda c: c.rerank(model="rerank-v3.5", query="Wie spät?", documents=["elf", "zehn"]), whole(RANKED)),
    "the list of models": (lambda c: c.models.list(), whole(MODELS)),
    "tokens, by the first version of the API": (
        lambda c: c.tokenize(model="command-a-03-2025", text="zehn", offline=False),
        whole({"tokens": [1, 2], "token_strings": ["ze", "hn"], "meta": {}}),
    ),
}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("case", CASES)
def test_an_application_and_the_provider_see_the_same(ways: Ways, case: str, flavour: str) -> None:
    call, script = CASES[case]
    straight = ways.straight("cohere", flavour, call, script)
    through = ways.through(PLAIN, "cohere", flavour, call, script)
    assert straight.error is None and straight.attempts == 1
    assert straight.value is not None or straight.events
    assert through == straight
