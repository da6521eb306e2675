"""Pieces of a stream that all look alike are read once: what looks different is read as ever."""

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import Operation


def test_pieces_that_were_read_once_are_told_apart_by_their_channel():
    chat, gemini, anthropic = (dialect_of(name) for name in ("openai", "gemini", "anthropic"))
    chat_op, gemini_op = Operation("chat"), Operation("generate")
    for _ in range(2):
        for n in range(300):
            said = chat.said(chat_op, {"choices": [{"index": n, "delta": {"role": "assistant", "content": "x", "refusal": None}}]})
            assert said.deltas == ((f"{n}.content", ("choices", 0, "delta", "content"), False),)
            assert said.ends == (f"{n}.thought", f"{n}.details")
            said = gemini.said(gemini_op, {"candidates": [{"index": n, "content": {"parts": [{"text": "x", "thought": n % 2 == 0}]}}]})
            assert said.deltas[0][0] == (f"{n}.thought" if n % 2 == 0 else f"{n}.text")
            said = anthropic.said(Operation("messages"), {"type": "content_block_delta", "index": n, "delta": {"partial_json": "x"}})
            assert said.deltas == ((str(n), ("delta", "partial_json"), True),)


@pytest.mark.parametrize(
    "choice",
    [
        {"delta": {"content": "x", "tool_calls": [{"function": {"arguments": "{"}}]}},
        {"delta": {"content": "x", "reasoning": "y"}},
        {"delta": {"content": "x"}, "finish_reason": "stop"},
        {"delta": {"content": "x"}, "text": "y"},
        {"delta": {"content": [{"text": "x"}]}},
        {"delta": {"content": ""}},
        {"delta": {"content": "x"}, "index": "1"},
    ],
)
def test_a_choice_that_brings_more_than_text_is_read_like_one_of_two(choice):
    spoken, op = dialect_of("openai"), Operation("chat")
    assert spoken.said(op, {"choices": [choice]}) == spoken.said(op, {"choices": [choice, {"index": 7}]})
