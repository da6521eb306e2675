"""A stream that ends because the money did: every SDK reads it to its end without an exception and sees that it is cut short."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from support.provider import Reply, Script, Seen
from support.sdk.clients import FLAVOURS
from support.sdk.dialects import MODELS, PROMPT, SDKS, Sdk
from support.sdk.policies import ONE_ATTEMPT, providers
from support.sdk.scripts import Event, play
from support.sdk.ways import Ways

PRICES = ", ".join(f"{model}: {{input: 0, output: 10000}}" for model in MODELS.values())
STOPPING = f"""{providers()}{ONE_ATTEMPT}
default_max_tokens: 10
prices: {{{PRICES}}}
limits: [{{name: purse, per: provider, spend: $2/total, at_limit: {{stop_streams: true}}}}]
# for FLAVOUR
"""
DEGRADING = f"""{providers()}{ONE_ATTEMPT}
prices: {{{PRICES}, cheap: {{input: 0, output: 1000}}}}
limits: [{{name: purse, spend: $1/total, at_limit: {{degrade: {{from: 0.1%, models: {{gpt-4o: cheap}}}}}}}}]
"""
CUT_SHORT = {"openai": '"finish_reason": "length"', "anthropic": '"stop_reason": "max_tokens"', "gemini": '"finish_reason": "MAX_TOKENS"',
             "cohere": '"finish_reason": "MAX_TOKENS"', "mistral": '"finish_reason": "length"'}  # fmt: skip


def endless(events: tuple[Event, ...], text: int, newline: str = "\n") -> Script:
    """The events, the one at `text` three thousand times."""

    async def answer(seen: Seen, reply: Reply) -> None:
        await play(reply, [*events[:text], *[events[text]] * 3000, *events[text + 1 :]], newline)

    return answer


def at_text(sdk: Sdk) -> int:
    return next(n for n, event in enumerate(sdk.events) if "Zehn" in json.dumps(event))


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("name", SDKS)
def test_every_sdk_reads_a_stopped_stream_to_its_end(ways: Ways, name: str, flavour: str) -> None:
    sdk = SDKS[name]
    told = ways.through(STOPPING.replace("FLAVOUR", flavour), name, flavour, sdk.stream, endless(sdk.events, at_text(sdk), sdk.newline))
    assert told.error is None, told.raised
    assert 10 < sum("Zehn" in json.dumps(event, default=str) for event in told.events) < 3000
    assert CUT_SHORT[name] in json.dumps(told.events[-3:], default=str)


def _response(text: str) -> tuple[Event, ...]:
    response = {"id": "resp_1", "object": "response", "created_at": 1, "status": "in_progress", "model": MODELS["openai"], "output": [],
                "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "error": None, "incomplete_details": None}  # fmt: skip
    item = {"id": "msg_1", "type": "message", "status": "in_progress", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    here = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: tuple[dict[str, Any], ...] = (
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": item},
        {"type": "response.content_part.added", **here, "part": part},
        {"type": "response.output_text.delta", **here, "delta": text, "logprobs": []},
        {"type": "response.completed", "response": {**response, "status": "completed"}},
    )
    return tuple((event["type"], {**event, "sequence_number": n}) for n, event in enumerate(events))


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_stopped_response_is_incomplete_and_holds_the_text_that_came(ways: Ways, flavour: str) -> None:
    policy = STOPPING.replace("FLAVOUR", f"responses {flavour}")
    told = ways.through(
        policy,
        "openai",
        flavour,
        lambda c: c.responses.create(model=MODELS["openai"], input=PROMPT, stream=True),
        endless(_response("Zehn"), 4),
    )
    assert told.error is None, told.raised
    pieces = [event["delta"] for event in told.events if event["type"] == "response.output_text.delta"]
    kinds = [event["type"] for event in told.events]
    assert kinds[-4:] == ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"]
    last = told.events[-1]["response"]
    assert (last["status"], last["incomplete_details"]["reason"]) == ("incomplete", "max_output_tokens")
    assert last["output"][0]["content"][0]["text"] == "".join(pieces) and last["usage"]["output_tokens"] >= len(pieces)
    assert last["output"][0]["status"] == "incomplete"
    numbers = [event["sequence_number"] for event in told.events]
    assert numbers[-4:] == [numbers[-5] + n for n in range(1, 5)]


def test_the_stream_helper_of_anthropic_gives_its_final_message(ways: Ways) -> None:
    sdk = SDKS["anthropic"]

    def call(client: Any) -> Any:
        return client.messages.stream(model=MODELS["anthropic"], max_tokens=64, messages=[{"role": "user", "content": PROMPT}])

    told = ways.through(STOPPING.replace("FLAVOUR", "helper"), "anthropic", "sync", call, endless(sdk.events, at_text(sdk)))
    assert told.error is None, told.raised
    (final,) = told.value
    assert (
        final["stop_reason"] == "max_tokens" and final["content"][0]["text"].startswith("ZehnZehn") and final["usage"]["output_tokens"] > 64
    )


def test_the_stream_helper_of_openai_says_what_it_says_of_any_answer_of_the_largest_length(ways: Ways) -> None:
    sdk = SDKS["openai"]

    def call(client: Any) -> Any:
        return client.chat.completions.stream(model=MODELS["openai"], messages=[{"role": "user", "content": PROMPT}])

    told = ways.through(STOPPING.replace("FLAVOUR", "helper"), "openai", "sync", call, endless(sdk.events, at_text(sdk)))
    assert isinstance(told.raised, openai.LengthFinishReasonError)
    final = told.raised.completion
    assert final.choices[0].finish_reason == "length" and (final.choices[0].message.content or "").startswith("ZehnZehn")


def test_a_cheaper_model_is_named_where_an_application_can_see_it(ways: Ways) -> None:
    sdk = SDKS["openai"]

    async def answer(seen: Seen, reply: Reply) -> None:
        await reply.json({**sdk.good, "model": seen.json["model"]})

    def call(client: Any) -> Any:
        raw = client.chat.completions.with_raw_response.create(
            model=MODELS["openai"], max_tokens=5, messages=[{"role": "user", "content": PROMPT}]
        )
        return {"header": raw.headers.get("x-sluice-model"), "model": raw.parse().model}

    first, second = (ways.through(DEGRADING, "openai", "sync", call, answer) for _ in range(2))
    assert first.value == {"header": None, "model": MODELS["openai"]}
    assert second.value == {"header": "cheap", "model": "cheap"}
