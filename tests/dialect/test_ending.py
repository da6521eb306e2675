"""The good end of a stream in every wire format: what is open is closed, what came is not repeated, and nothing is ended twice."""

import json

import pytest

from proxy.dialect import DIALECTS, dialect_of
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Usage
from proxy.stream.jsonarray import JsonArrayDecoder

USED = Usage(input=11, cached_input=3, output=7, source="counted")
SSE, ARRAY = Operation("generate", variant="sse"), Operation("generate", variant="array")


def heard(dialect, op, *events, **asked):
    ending = dialect_of(dialect).ending(op, Asked(stream=True, **asked))
    for one in events:
        ending.saw(one if isinstance(one, bytes) else json.dumps(one).encode())
    return ending


def told(ending) -> list:
    """The events it ends with; named ones as the name stands in them too."""
    blocks = [block for block in ending.words(USED).decode().replace("\r\n", "\n").split("\n\n") if block]
    found = []
    for block in blocks:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        doc = fields["data"] if fields["data"] == "[DONE]" else json.loads(fields["data"])
        if "event" in fields:
            assert fields["event"] == doc["type"]
        found.append(doc)
    return found


CHAT = {
    "id": "c1",
    "object": "chat.completion.chunk",
    "created": 5,
    "model": "gpt-4o-2024-08-06",
    "system_fingerprint": "fp",
    "usage": None,
}


def chunk(text="hi", finish=None, index=0):
    return {**CHAT, "choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def test_a_chat_ends_by_length_with_the_head_of_its_chunks():
    finish, done = told(heard("openai", Operation("chat"), chunk(), chunk()))
    head = {name: value for name, value in CHAT.items() if name != "usage"}
    assert finish == {**head, "choices": [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]} and done == "[DONE]"


def test_the_first_chunk_of_azure_is_no_model_for_the_others():
    filtered = {"id": "", "model": "", "object": "", "choices": [], "prompt_filter_results": []}
    finish, _ = told(heard("azure-openai", Operation("chat"), filtered, chunk()))
    assert finish["model"] == "gpt-4o-2024-08-06"


def test_usage_is_told_where_it_was_asked_for():
    _, usage, _ = told(heard("openai", Operation("chat"), chunk(), wants_usage=True))
    assert (usage["choices"], usage["usage"]) == ([], {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18})


def test_only_choices_that_are_not_over_are_ended():
    first, second, _ = told(heard("openai", Operation("chat"), chunk(index=1), chunk(finish="stop", index=1), chunk(), choices=3))
    assert [first["choices"][0]["index"], second["choices"][0]["index"]] == [0, 2]


def test_legacy_completions_end_with_an_empty_text():
    event = {"id": "x", "object": "text_completion", "choices": [{"index": 0, "text": "a", "finish_reason": None}]}
    finish, _ = told(heard("openai", Operation("completions"), event))
    assert finish["choices"] == [{"index": 0, "text": "", "logprobs": None, "finish_reason": "length"}]


def test_a_message_of_anthropic_closes_its_open_blocks():
    events = [
        {"type": "message_start", "message": {}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "thinking", "thinking": ""}},
        {"type": "content_block_stop", "index": 0},
        {"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}}},
        {"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": '{"content_block_stop": 1'}},
        {"type": "ping"},
    ]
    stop, delta, last = told(heard("anthropic", Operation("messages"), *events))
    assert stop == {"type": "content_block_stop", "index": 1}
    assert delta["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None} and delta["usage"] == {"output_tokens": 7}
    assert last == {"type": "message_stop"}


def test_a_legacy_completion_of_anthropic_says_why_it_ends():
    (last,) = told(heard("anthropic", Operation("completions"), {"type": "completion", "id": "i", "completion": "a", "stop_reason": None}))
    assert (last["id"], last["completion"], last["stop_reason"]) == ("i", "", "max_tokens")


def test_gemini_ends_each_candidate_in_one_chunk():
    event = {"candidates": [{"content": {"parts": [{"text": "a"}]}, "index": 0}], "modelVersion": "g", "responseId": "r"}
    (last,) = told(heard("gemini", SSE, event, choices=2))
    assert [(one["index"], one["finishReason"]) for one in last["candidates"]] == [(0, "MAX_TOKENS"), (1, "MAX_TOKENS")]
    assert last["usageMetadata"] == {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    assert (last["modelVersion"], last["responseId"]) == ("g", "r")


def test_an_array_of_gemini_stays_one_json_document():
    stream = (
        b'[{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\n,\r\n{"candidates":[{"content":{"parts":[{"text":"b"}]}}]}\n,\r\n{"cand'
    )
    decoder = JsonArrayDecoder()
    events = decoder.feed(stream)
    ending = heard("vertex", ARRAY, *[event.data for event in events])
    whole = json.loads(b"".join(event.raw for event in events) + ending.words(USED))
    assert len(whole) == 3 and whole[2]["candidates"][0]["finishReason"] == "MAX_TOKENS"


def test_cohere_closes_what_is_open():
    events = [
        {"type": "message-start", "id": "m", "delta": {}},
        {"type": "content-start", "index": 0, "delta": {}},
        {"type": "content-end", "index": 0},
        {"type": "tool-call-start", "index": 0, "delta": {}},
        {"type": "tool-call-delta", "index": 0, "delta": {"message": {"tool_calls": {"function": {"arguments": "{"}}}}},
    ]
    stop, last, done = told(heard("cohere", Operation("chat", variant="v2"), *events))
    assert stop == {"type": "tool-call-end", "index": 0} and done == "[DONE]"
    assert last["delta"]["finish_reason"] == "MAX_TOKENS" and last["delta"]["usage"]["tokens"] == {"input_tokens": 11, "output_tokens": 7}


def test_cohere_of_old_repeats_the_text_that_came():
    events = [{"is_finished": False, "event_type": "stream-start", "generation_id": "g"}]
    events += [{"is_finished": False, "event_type": "text-generation", "text": text} for text in ("Zehn", " Uhr")]
    ending = heard("cohere", Operation("chat", variant="v1"), *events)
    last = json.loads(ending.words(USED))
    assert ending.words(USED).endswith(b"}\n")
    assert (last["is_finished"], last["event_type"], last["finish_reason"]) == (True, "stream-end", "MAX_TOKENS")
    assert (last["response"]["text"], last["response"]["generation_id"]) == ("Zehn Uhr", "g")


ITEM = {"id": "fc", "type": "function_call", "status": "in_progress", "name": "f", "arguments": "", "call_id": "k"}
RESPONSE = {"id": "r", "object": "response", "status": "in_progress", "output": []}


def test_a_response_closes_a_call_and_keeps_finished_items():
    done = {"id": "rs", "type": "reasoning", "summary": [{"type": "summary_text", "text": "thought"}]}
    events = [
        {"type": "response.created", "response": RESPONSE, "sequence_number": 0},
        {"type": "response.output_item.added", "output_index": 0, "item": {"id": "rs", "type": "reasoning", "summary": []}},
        {"type": "response.reasoning_summary_text.delta", "item_id": "rs", "output_index": 0, "summary_index": 0, "delta": "thought"},
        {"type": "response.output_item.done", "output_index": 0, "item": done},
        {"type": "response.output_item.added", "output_index": 1, "item": ITEM},
        {"type": "response.function_call_arguments.delta", "item_id": "fc", "output_index": 1, "delta": '{"ci', "sequence_number": 9},
    ]
    arguments, item, last = told(heard("openai", Operation("responses"), *events))
    assert (arguments["type"], arguments["arguments"], arguments["sequence_number"]) == (
        "response.function_call_arguments.done",
        '{"ci',
        10,
    )
    assert (item["item"]["arguments"], item["item"]["status"], item["output_index"]) == ('{"ci', "incomplete", 1)
    assert last["type"] == "response.incomplete" and last["sequence_number"] == 12
    assert last["response"]["output"] == [done, {**ITEM, "arguments": '{"ci', "status": "incomplete"}]
    assert last["response"]["usage"]["total_tokens"] == 18 and last["response"]["usage"]["input_tokens_details"] == {"cached_tokens": 3}


def test_a_part_that_is_over_is_not_closed_again():
    here = {"item_id": "m", "output_index": 0}
    events = [
        {"type": "response.created", "response": RESPONSE},
        {"type": "response.output_item.added", "output_index": 0, "item": {"id": "m", "type": "message", "content": []}},
        {"type": "response.content_part.added", **here, "content_index": 0, "part": {"type": "output_text", "text": "", "annotations": []}},
        {"type": "response.output_text.delta", **here, "content_index": 0, "delta": "a"},
        {"type": "response.output_text.done", **here, "content_index": 0, "text": "ab"},
        {"type": "response.content_part.added", **here, "content_index": 1, "part": {"type": "refusal", "refusal": ""}},
        {"type": "response.refusal.delta", **here, "content_index": 1, "delta": "no"},
    ]
    kinds = told(heard("openai", Operation("responses"), *events))
    assert [one["type"] for one in kinds] == [
        "response.refusal.done", "response.content_part.done", "response.output_item.done", "response.incomplete",
    ]  # fmt: skip
    assert kinds[2]["item"]["content"] == [{"type": "output_text", "text": "ab", "annotations": []}, {"type": "refusal", "refusal": "no"}]


OVER = {
    "chat": ("openai", Operation("chat"), chunk(), chunk(finish="stop")),
    "completions": ("openai", Operation("completions"), {"choices": [{"text": "a"}]}, {"choices": [{"text": "", "finish_reason": "stop"}]}),
    "responses": ("openai", Operation("responses"), {"type": "response.created", "response": RESPONSE},
                  {"type": "response.completed", "response": RESPONSE}),
    "messages": ("anthropic", Operation("messages"), {"type": "message_start"},
                 {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
    "complete": ("anthropic", Operation("completions"), {"type": "completion", "completion": "a"},
                 {"type": "completion", "completion": "", "stop_reason": "stop"}),
    "gemini": ("gemini", SSE, {"candidates": [{"content": {}}]}, {"candidates": [{"finishReason": "STOP"}]}),
    "blocked": ("gemini", SSE, {"candidates": [{"content": {}}]}, {"promptFeedback": {"blockReason": "SAFETY"}}),
    "cohere": ("cohere", Operation("chat", variant="v2"), {"type": "message-start"}, {"type": "message-end", "delta": {}}),
    "cohere v1": ("cohere", Operation("chat", variant="v1"), {"is_finished": False, "text": "a"}, {"is_finished": True}),
}  # fmt: skip


@pytest.mark.parametrize("kind", OVER)
def test_it_is_possible_from_the_first_event_until_the_stream_says_its_own_end(kind):
    dialect, op, first, last = OVER[kind]
    assert not heard(dialect, op).is_possible
    assert not heard(dialect, op, b"no json", b"[1]", b"[DONE]").is_possible
    assert heard(dialect, op, first).is_possible
    assert not heard(dialect, op, first, last).is_possible


@pytest.mark.parametrize("dialect", DIALECTS)
def test_what_has_no_such_end_gives_none(dialect):
    for name in ("images", "audio", "embeddings", "other", "batches"):
        assert dialect_of(dialect).ending(Operation(name), Asked(stream=True)) is None


def test_a_compatible_path_ends_in_the_format_it_speaks():
    finish, _ = told(heard("gemini", Operation("chat", speaks="openai"), chunk()))
    assert finish["choices"][0]["finish_reason"] == "length"


HOSTILE = [None, 1, "x", [], {}, {"index": None}, {"choices": 3}, {"choices": [None, 1, {"index": "a"}]}, {"candidates": [[]]},
           {"type": 5, "response": [], "item": 1, "output_index": "x"}, {"type": "response.output_item.added"},
           {"type": "response.output_text.delta"},
           {"type": "content-start", "index": {}}, {"type": "content_block_stop"}]  # fmt: skip


@pytest.mark.parametrize("kind", OVER)
def test_events_of_any_shape_break_nothing(kind):
    dialect, op, first, _ = OVER[kind]
    ending = heard(dialect, op, first, *HOSTILE, {"type": "response.created", "response": RESPONSE}, *HOSTILE)
    assert ending.words(USED)
