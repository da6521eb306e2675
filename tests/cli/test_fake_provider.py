"""The fake provider speaks as the real ones do, so that what the demo shows is true of them."""

from __future__ import annotations

import json

import aiohttp
import pytest

from proxy.cli.fake_provider import FAIL, WORDS, FakeProvider

SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hello to ada@example.org"}]}]


async def post(url: str, doc: dict, **headers: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.post(url, json=doc, headers=headers) as reply:
        return reply.status, await reply.text()


def data_of(stream: str) -> list:
    found = [line.removeprefix("data: ") for line in stream.splitlines() if line.startswith("data: ")]
    return [one if one == "[DONE]" else json.loads(one) for one in found]


@pytest.mark.parametrize("options", [None, {"include_usage": False}, {"include_usage": True}])
async def test_a_chat_stream_has_usage_only_when_asked_and_adds_up_to_the_whole_answer(options):
    doc = {"model": "gpt-4o", "messages": SAID, "stream": True, **({"stream_options": options} if options else {})}
    async with FakeProvider() as provider:
        _, streamed = await post(provider.url + "/v1/chat/completions", doc)
        _, whole = await post(provider.url + "/v1/chat/completions", {"model": "gpt-4o", "messages": SAID})
    *events, done = data_of(streamed)
    assert done == "[DONE]"
    text = "".join(choice["delta"].get("content", "") for event in events for choice in event["choices"])
    assert text == json.loads(whole)["choices"][0]["message"]["content"] == "You said: Hello to ada@example.org"
    usages = [event.get("usage") for event in events]
    assert usages == (
        [None] * (len(events) - 1) + [json.loads(whole)["usage"]] if options and options["include_usage"] else [None] * len(events)
    )
    assert len(events) > 5


async def test_a_message_stream_begins_with_a_placeholder_and_ends_with_the_final_figure():
    async with FakeProvider() as provider:
        _, streamed = await post(provider.url + "/v1/messages", {"model": "claude-sonnet-4-5", "messages": SAID, "stream": True})
        _, whole = await post(provider.url + "/v1/messages", {"model": "claude-sonnet-4-5", "messages": SAID})
    events, final = data_of(streamed), json.loads(whole)
    assert "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta") == final["content"][0]["text"]
    assert events[0]["message"]["usage"]["output_tokens"] == 1
    assert events[-2]["usage"]["output_tokens"] == final["usage"]["output_tokens"] > 1
    assert events[-1] == {"type": "message_stop"}
    assert all(f"event: {event['type']}\ndata: " in streamed for event in events)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
async def test_it_fails_as_often_as_told_for_each_call_and_then_recovers(path):
    doc = {"model": "m", "messages": SAID}
    async with FakeProvider() as provider:
        statuses = [
            (await post(provider.url + path, doc, **{FAIL: "2", "x-request-id": id}))[0]
            for id in ("one", "one", "two", "one", "two", "two")
        ]
        assert statuses == [503, 503, 503, 200, 503, 200]
        assert {(one.path, one.text) for one in provider.seen} == {(path, "Hello to ada@example.org")}


async def test_a_long_answer_is_as_long_as_told():
    async with FakeProvider() as provider:
        _, whole = await post(provider.url + "/v1/messages", {"model": "m", "messages": SAID}, **{WORDS: "40"})
    assert json.loads(whole)["content"][0]["text"].split() == ["word"] * 40
