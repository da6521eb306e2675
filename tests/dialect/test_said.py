"""The texts of streamed events: which piece belongs to which running text, when it is over, and what repeats all."""

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import NOTHING_SAID, stream_format_of

GEMINI = "/v1beta/models/m:streamGenerateContent"


def op_of(dialect, path):
    return dialect_of(dialect).operation("POST", path, "")


def said(dialect, path, event):
    return dialect_of(dialect).said(op_of(dialect, path), event)


def pieces(found, event):
    """(channel, text, is_json) of each delta."""
    return [(channel, value_at(event, path), is_json) for channel, path, is_json in found.deltas]


def wholes(found, event):
    return [(value_at(event, path), is_json) for path, is_json in found.wholes]


def value_at(event, path):
    for key in path:
        event = event[key]
    return event


def chat(*choices):
    return {"object": "chat.completion.chunk", "choices": list(choices)}


def delta(index=0, finish=None, **fields):
    return {"index": index, "delta": fields, "finish_reason": finish}


def call(index, arguments):
    return {"index": index, "function": {"arguments": arguments}}


CHAT_DELTAS = [
    (chat(delta(content="He")), [("0.content", "He", False)]),
    (chat(delta(0, content="a"), delta(1, content="b")), [("0.content", "a", False), ("1.content", "b", False)]),
    (chat({"delta": {"content": "no index"}}), [("0.content", "no index", False)]),
    (chat(delta(refusal="no")), [("0.refusal", "no", False)]),
    (chat(delta(reasoning_content="hm")), [("0.thought", "hm", False)]),
    (chat(delta(reasoning="hm")), [("0.thought", "hm", False)]),
    (chat(delta(reasoning_details=[{"text": "hm"}])), [("0.details", "hm", False)]),
    (chat(delta(audio={"transcript": "hey", "data": "aGk="})), [("0.transcript", "hey", False)]),
    (chat(delta(tool_calls=[call(0, '{"a'), call(3, '":1')])), [("0.tool.0", '{"a', True), ("0.tool.3", '":1', True)]),
    (chat(delta(tool_calls=[{"index": 1, "custom": {"input": "x"}}])), [("0.tool.1", "x", False)]),
    (chat(delta(function_call={"arguments": "{"})), [("0.call", "{", True)]),
    (chat(delta(content=[{"type": "text", "text": "m"}, {"type": "thinking", "thinking": [{"text": "t"}]}])), [("0.content", "m", False),
        ("0.thought", "t", False)]),
    ({"object": "text_completion", "choices": [{"index": 2, "text": "t", "finish_reason": None}]}, [("2.text", "t", False)]),
    (chat(delta(role="assistant", content="")), []),
    (chat(delta(content=None)), []),
    (chat(), []),
]  # fmt: skip


@pytest.mark.parametrize(("event", "expected"), CHAT_DELTAS)
def test_each_piece_of_a_chat_chunk_joins_its_own_running_text(event, expected):
    assert pieces(said("openai", "/v1/chat/completions", event), event) == expected


def test_a_finish_reason_ends_all_texts_of_its_choice_and_of_no_other():
    found = said("openai", "/v1/chat/completions", chat(delta(1, content="last"), delta(0, finish="stop")))
    assert {"0.content", "0.text", "0.refusal", "0.tool.0", "0.tool.127"} <= set(found.ends)
    assert not {"1.content", "1.tool.0", "*"} & set(found.ends)


def test_thinking_is_over_once_the_answer_begins():
    assert "0.thought" in said("openai", "/v1/chat/completions", chat(delta(content="So"))).ends
    assert said("openai", "/v1/chat/completions", chat(delta(reasoning="hm"))).ends == ()


@pytest.mark.parametrize(
    ("dialect", "path", "event"),
    [
        ("openai", "/v1/chat/completions", {"choices": [], "usage": {"prompt_tokens": 1}}),
        ("openai", "/v1/responses", {"type": "keepalive"}),
        ("openai", "/v1/responses", {"type": "response.output_audio.delta", "delta": "aGk="}),
        ("openai", "/v1/images/generations", {"type": "image_generation.partial_image", "b64_json": "aGk="}),
        ("anthropic", "/v1/messages", {"type": "ping"}),
        ("anthropic", "/v1/messages", {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}),
        ("gemini", GEMINI, {"usageMetadata": {"promptTokenCount": 1}}),
        ("cohere", "/v2/chat", {"type": "citation-end", "index": 0}),
        ("cohere", "/v1/chat", {"event_type": "stream-start", "is_finished": False}),
    ],
)
def test_an_event_without_text_leaves_held_back_text_alone(dialect, path, event):
    found = said(dialect, path, event)
    assert (found.deltas, found.wholes, found.ends) == ((), (), ())


def test_a_responses_stream_has_one_running_text_per_part_and_its_done_event_ends_it():
    part = {"item_id": "m1", "output_index": 0, "content_index": 0}
    piece = {"type": "response.output_text.delta", "delta": "He", **part}
    done = {"type": "response.output_text.done", "text": "Hello", **part}
    other = {**piece, "content_index": 1}
    ((channel, text, is_json),) = pieces(said("openai", "/v1/responses", piece), piece)
    assert (text, is_json) == ("He", False)
    found = said("openai", "/v1/responses", done)
    assert (found.ends, wholes(found, done)) == ((channel,), [("Hello", False)])
    assert said("openai", "/v1/responses", other).deltas[0][0] != channel


def test_arguments_of_a_responses_stream_are_json():
    part = {"item_id": "fc1", "output_index": 0}
    piece = {"type": "response.function_call_arguments.delta", "delta": '{"a', **part}
    done = {"type": "response.function_call_arguments.done", "arguments": '{"a":1}', **part}
    ((channel, text, is_json),) = pieces(said("openai", "/v1/responses", piece), piece)
    assert (text, is_json) == ('{"a', True)
    found = said("openai", "/v1/responses", done)
    assert (found.ends, wholes(found, done)) == ((channel,), [('{"a":1}', True)])


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ({"type": "response.content_part.done", "part": {"type": "output_text", "text": "all"}}, [("all", False)]),
        ({"type": "response.output_item.done", "item": {"content": [{"text": "all"}]}}, [("all", False)]),
        ({"type": "response.output_item.done", "item": {"type": "function_call", "arguments": "{}"}}, [("{}", True)]),
        ({"type": "response.reasoning_summary_part.done", "part": {"text": "why"}}, [("why", False)]),
        ({"type": "response.created", "response": {"instructions": "be kind", "output": []}}, [("be kind", False)]),
    ],
)
def test_repeated_wholes_of_a_responses_stream_are_found(event, expected):
    assert wholes(said("openai", "/v1/responses", event), event) == expected


def test_the_last_event_of_a_responses_stream_ends_everything():
    event = {"type": "response.completed", "response": {"output": [{"content": [{"text": "all"}]}]}}
    found = said("openai", "/v1/responses", event)
    assert (found.ends, wholes(found, event)) == (("*",), [("all", False)])


ANTHROPIC = [
    ({"type": "text_delta", "text": "He"}, [("1", "He", False)]),
    ({"type": "thinking_delta", "thinking": "hm"}, [("1", "hm", False)]),
    ({"type": "input_json_delta", "partial_json": '{"a'}, [("1", '{"a', True)]),
    ({"type": "input_json_delta", "partial_json": ""}, []),
    ({"type": "signature_delta", "signature": "s"}, []),
]


@pytest.mark.parametrize(("piece", "expected"), ANTHROPIC)
def test_an_anthropic_block_is_one_running_text(piece, expected):
    event = {"type": "content_block_delta", "index": 1, "delta": piece}
    assert pieces(said("anthropic", "/v1/messages", event), event) == expected
    assert said("anthropic", "/v1/messages", {"type": "content_block_stop", "index": 1}).ends == ("1",)


def test_an_anthropic_block_may_begin_with_text_and_cite():
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "tool_use", "input": {"to": "x"}}}
    cited = {"type": "content_block_delta", "index": 0, "delta": {"type": "citations_delta", "citation": {"cited_text": "quote"}}}
    assert wholes(said("anthropic", "/v1/messages", start), start) == [("x", False)]
    assert wholes(said("anthropic", "/v1/messages", cited), cited) == [("quote", False)]
    assert said("anthropic", "/v1/messages", {"type": "message_stop"}).ends == ("*",)


def test_the_legacy_complete_stream_is_one_running_text():
    event = {"type": "completion", "completion": " Hi", "stop_reason": None}
    assert pieces(said("anthropic", "/v1/complete", event), event) == [("completion", " Hi", False)]
    assert said("anthropic", "/v1/complete", {**event, "stop_reason": "stop_sequence"}).ends == ("*",)


def test_gemini_thoughts_and_words_are_apart_and_arguments_come_whole():
    parts = [{"text": "hm", "thought": True}, {"text": "Hi"}, {"functionCall": {"name": "f", "args": {"to": "x", "deep": ["y"]}}}]
    event = {"candidates": [{"index": 1, "content": {"parts": parts}}]}
    found = said("gemini", GEMINI, event)
    assert pieces(found, event) == [("1.thought", "hm", False), ("1.text", "Hi", False)]
    assert wholes(found, event) == [("x", False), ("y", False)]
    assert set(found.ends) == {"1.text", "1.thought"}, "held-back text goes before the function call's successor"


def test_a_gemini_candidate_ends_with_its_finish_reason():
    event = {"candidates": [{"content": {"parts": [{"text": "a"}]}}, {"index": 1, "finishReason": "STOP"}]}
    assert set(said("gemini", GEMINI, event).ends) == {"1.text", "1.thought"}


def v2(kind, message, index=0):
    return {"type": kind, "index": index, "delta": {"message": message}}


COHERE = [
    (v2("content-delta", {"content": {"text": "He"}}), [("content.0", "He", False)], [], ()),
    (v2("content-delta", {"content": {"thinking": "hm"}}, 1), [("content.1", "hm", False)], [], ()),
    (v2("tool-plan-delta", {"tool_plan": "I"}), [("plan", "I", False)], [], ()),
    (v2("tool-call-delta", {"tool_calls": {"function": {"arguments": "{"}}}, 2), [("tool.2", "{", True)], [], ()),
    (v2("tool-call-start", {"tool_calls": {"function": {"name": "f", "arguments": "{}"}}}), [], [("{}", True)], ("plan",)),
    (v2("citation-start", {"citations": {"text": "quote"}}), [], [("quote", False)], ("plan",)),
    ({"type": "content-end", "index": 1}, [], [], ("content.1",)),
    ({"type": "tool-call-end", "index": 2}, [], [], ("tool.2",)),
    ({"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}, [], [], ("*",)),
    ({"event_type": "text-generation", "text": "He", "is_finished": False}, [("text.", "He", False)], [], ()),
    ({"event_type": "tool-calls-chunk", "tool_call_delta": {"index": 1, "parameters": "{"}}, [("tool.1", "{", True)], [], ()),
    ({"event_type": "citation-generation", "citations": [{"text": "quote"}]}, [], [("quote", False)], ("*",)),
    ({"event_type": "stream-end", "is_finished": True, "response": {"text": "all", "chat_history": [{"message": "asked"}]}}, [],
     [("all", False), ("asked", False)], ("*",)),
    ({"is_finished": False, "text": "Once", "index": 1}, [("text.1", "Once", False)], [], ()),
]  # fmt: skip


@pytest.mark.parametrize(("event", "deltas", "whole", "ends"), COHERE)
def test_cohere_events_of_both_versions(event, deltas, whole, ends):
    found = said("cohere", "/v1/chat" if "event_type" in event else "/v2/chat", event)
    assert (pieces(found, event), wholes(found, event), found.ends) == (deltas, whole, ends)


PREAMBLE = [
    ("openai", "/v1/chat/completions", chat(delta(role="assistant", content="")), True),
    ("openai", "/v1/chat/completions", {"choices": [], "prompt_filter_results": []}, True),
    ("openai", "/v1/chat/completions", chat(delta(content="H")), False),
    ("openai", "/v1/chat/completions", chat(delta(finish="stop")), False),
    ("openai", "/v1/chat/completions", chat(delta(tool_calls=[{"index": 0, "function": {"name": "f", "arguments": ""}}])), False),
    ("openai", "/v1/chat/completions", {"choices": [], "usage": {"prompt_tokens": 1}}, False),
    ("openai", "/v1/chat/completions", {"choices": [], "error": {"message": "no"}}, False),
    ("openai", "/v1/responses", {"type": "response.created"}, True),
    ("openai", "/v1/responses", {"type": "response.in_progress"}, True),
    ("openai", "/v1/responses", {"type": "response.output_item.added"}, False),
    ("anthropic", "/v1/messages", {"type": "message_start"}, True),
    ("anthropic", "/v1/messages", {"type": "ping"}, True),
    ("anthropic", "/v1/messages", {"type": "content_block_start"}, False),
    ("anthropic", "/v1/messages", {"type": "error"}, False),
    ("gemini", GEMINI, {"candidates": [{"content": {"role": "model"}}], "usageMetadata": {}}, True),
    ("gemini", GEMINI, {"candidates": [{"content": {"parts": [{"text": "a"}]}}]}, False),
    ("gemini", GEMINI, {"candidates": [{"content": {"parts": [{"inlineData": {}}]}}]}, False),
    ("gemini", GEMINI, {"promptFeedback": {"blockReason": "SAFETY"}}, False),
    ("gemini", GEMINI, {"error": {"code": 503}}, False),
    ("cohere", "/v2/chat", {"type": "message-start"}, True),
    ("cohere", "/v1/chat", {"event_type": "stream-start"}, True),
    ("cohere", "/v2/chat", {"type": "content-start"}, False),
]


@pytest.mark.parametrize(("dialect", "path", "event", "expected"), PREAMBLE)
def test_the_preamble_is_what_comes_before_any_content(dialect, path, event, expected):
    assert dialect_of(dialect).is_preamble(op_of(dialect, path), event) is expected


TERMINAL = [
    ("openai", "/v1/chat/completions", b"[DONE]", True),
    ("openai", "/v1/chat/completions", b" [DONE]\n", True),
    ("openai", "/v1/chat/completions", b'{"choices":[{"delta":{"content":"[DONE]"}}]}', False),
    ("openai", "/v1/chat/completions", b'{"choices":[{"delta":{"content":"an \\"error\\" response.completed"}}]}', False),
    ("openai", "/v1/chat/completions", b'{"error":{"message":"no"}}', True),
    ("openai", "/v1/chat/completions", b'{"choices":[],"error":null}', False),
    ("openai", "/v1/responses", b'{"type": "response.completed"}', True),
    ("openai", "/v1/responses", b'{"type":"response.incomplete"}', True),
    ("openai", "/v1/responses", b'{"type":"response.failed"}', True),
    ("openai", "/v1/responses", b'{"type":"error"}', True),
    ("openai", "/v1/responses", b'{"type":"response.completed"', False),
    ("anthropic", "/v1/messages", b'{"type":"message_stop"}', True),
    ("anthropic", "/v1/messages", b'{"type":"error","error":{}}', True),
    ("anthropic", "/v1/messages", b'{"type":"content_block_delta","delta":{"text":"message_stop"}}', False),
    ("anthropic", "/v1/messages", b"message_stop", False),
    ("anthropic", "/v1/complete", b'{"type":"completion","stop_reason":"stop_sequence"}', True),
    ("anthropic", "/v1/complete", b'{"type":"completion","stop_reason":null}', False),
    ("gemini", GEMINI, b'{"candidates":[{"finishReason":"STOP"}]}', True),
    ("gemini", GEMINI, b'{"promptFeedback":{"blockReason":"SAFETY"}}', True),
    ("gemini", GEMINI, b'{"candidates":[{"content":{"parts":[{"text":"finishReason"}]}}]}', False),
    ("gemini", GEMINI, b'{"finishReason', False),
    ("gemini", "/v1beta/openai/chat/completions", b"[DONE]", True),
    ("cohere", "/v2/chat", b"[DONE]", True),
    ("cohere", "/v2/chat", b'{"type":"message-end"}', True),
    ("cohere", "/v2/chat", b'{"type":"content-delta","delta":"message-end"}', False),
    ("cohere", "/v1/chat", b'{"is_finished":true}', True),
    ("cohere", "/v1/chat", b'{"is_finished":false}', False),
    ("cohere", "/v1/chat", b'{"is_finished":tr', False),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "path", "data", "expected"), TERMINAL)
def test_a_stream_is_over_for_good_at_its_terminal_event_only(dialect, path, data, expected):
    assert dialect_of(dialect).is_terminal(op_of(dialect, path), data) is expected


def test_the_form_of_a_stream_is_its_content_type():
    array, plain = op_of("gemini", GEMINI), op_of("openai", "/v1/chat/completions")
    assert stream_format_of(plain.variant, "text/event-stream; charset=utf-8") == "sse"
    assert stream_format_of(plain.variant, "application/stream+json") == "ndjson"
    assert stream_format_of(array.variant, "application/json; charset=UTF-8") == "json-array"
    assert stream_format_of(plain.variant, "application/json") is None
    assert stream_format_of(plain.variant, "") is None


def test_nothing_said_is_one_value():
    assert said("anthropic", "/v1/messages", {"type": "ping"}) is NOTHING_SAID
