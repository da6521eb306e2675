"""The good end of OpenAI's chat and legacy completions streams: `length`, usage if asked for, [DONE]. Repeats no text."""

from __future__ import annotations

import re
from collections.abc import Mapping

from proxy.dialect.ending import read, sse
from proxy.dialect.fields import at, index_of, items
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Usage

_HEAD = ("id", "object", "created", "model", "provider", "system_fingerprint")  # of every chunk alike
_FINISHED = re.compile(rb'"finish_reason"\s*:\s*"')


class ChunksEnding:
    def __init__(self, op: Operation, asked: Asked) -> None:
        self._nothing: Mapping[str, object] = {"text": ""} if op.name == "completions" else {"delta": {}}
        self._choices, self._wants_usage = asked.choices, asked.wants_usage
        self._head: dict[str, object] | None = None
        self._over: set[int] = set()

    def saw(self, data: bytes) -> None:
        if self._head is not None and _FINISHED.search(data) is None:
            return
        event = read(data)
        choices = items(event.get("choices"))
        if choices and self._head is None:
            self._head = {name: event[name] for name in _HEAD if name in event}
        self._over |= {index_of(choice, place) for place, choice in enumerate(choices) if at(choice, "finish_reason")}

    @property
    def is_possible(self) -> bool:
        return self._head is not None and len(self._over) < self._choices

    def words(self, usage: Usage) -> bytes:
        head = self._head or {}
        left = [index for index in range(self._choices) if index not in self._over]
        chunks = [{**head, "choices": [{"index": n, **self._nothing, "logprobs": None, "finish_reason": "length"}]} for n in left]
        if self._wants_usage:
            figures = {"prompt_tokens": usage.input, "completion_tokens": usage.output, "total_tokens": usage.input + usage.output}
            chunks.append({**head, "choices": [], "usage": figures})
        return sse(*chunks) + b"data: [DONE]\n\n"
