"""The good end of a Gemini stream: one more chunk, `MAX_TOKENS` for each candidate that is not over. Repeats no text."""

from __future__ import annotations

import orjson

from proxy.dialect.ending import read
from proxy.dialect.fields import at, index_of, items
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Usage

_HEAD = ("modelVersion", "responseId", "createTime")


class GenerateEnding:
    def __init__(self, op: Operation, asked: Asked) -> None:
        self._is_array = op.variant == "array"
        self._candidates = asked.choices
        self._head: dict[str, object] | None = None
        self._over: set[int] = set()

    def saw(self, data: bytes) -> None:
        if self._head is not None and b"finishReason" not in data and b"blockReason" not in data:
            return
        event = read(data)
        candidates = items(event.get("candidates"))
        if self._head is None and candidates:
            self._head = {name: event[name] for name in _HEAD if name in event}
        self._over |= {index_of(one, place) for place, one in enumerate(candidates) if at(one, "finishReason")}
        if at(event, "promptFeedback", "blockReason"):
            self._over = set(range(self._candidates))

    @property
    def is_possible(self) -> bool:
        return self._head is not None and len(self._over) < self._candidates

    def words(self, usage: Usage) -> bytes:
        content = {"role": "model", "parts": [{"text": ""}]}
        left = [index for index in range(self._candidates) if index not in self._over]
        figures = {"promptTokenCount": usage.input, "candidatesTokenCount": usage.output, "totalTokenCount": usage.input + usage.output}
        chunk = {
            "candidates": [{"content": content, "finishReason": "MAX_TOKENS", "index": index} for index in left],
            "usageMetadata": figures,
            **(self._head or {}),
        }
        body = orjson.dumps(chunk)
        return b",\r\n" + body + b"]" if self._is_array else b"data: " + body + b"\r\n\r\n"
