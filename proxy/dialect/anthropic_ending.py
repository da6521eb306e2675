"""The good end of an Anthropic stream: open blocks closed, `max_tokens`, message_stop. Repeats no text."""

from __future__ import annotations

from proxy.dialect.ending import read, sse
from proxy.dialect.fields import at
from proxy.dialect.wire import Json
from proxy.exchange import Usage

_MARKS = (b"message_start", b"message_delta", b"content_block_st")


class MessagesEnding:
    def __init__(self) -> None:
        self._has_begun = self._is_over = False
        self._open: list[object] = []  # indexes of content blocks

    def saw(self, data: bytes) -> None:
        if not any(mark in data for mark in _MARKS):
            return
        event = read(data)
        match event.get("type"):
            case "message_start":
                self._has_begun = True
            case "content_block_start":
                self._open.append(event.get("index"))
            case "content_block_stop" if event.get("index") in self._open:
                self._open.remove(event.get("index"))
            case "message_delta" if at(event, "delta", "stop_reason"):
                self._is_over = True

    @property
    def is_possible(self) -> bool:
        return self._has_begun and not self._is_over

    def words(self, usage: Usage) -> bytes:
        stops: list[Json] = [{"type": "content_block_stop", "index": index} for index in self._open]
        delta = {"stop_reason": "max_tokens", "stop_sequence": None}
        last = {"type": "message_delta", "delta": delta, "usage": {"output_tokens": usage.output}}
        return sse(*stops, last, {"type": "message_stop"}, named=True)


class CompletionEnding:
    """Of the legacy completions."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._is_over = False

    def saw(self, data: bytes) -> None:
        if self._head and b"stop_reason" not in data:
            return
        event = read(data)
        if event.get("type") == "completion":
            self._head, self._is_over = event, bool(event.get("stop_reason"))

    @property
    def is_possible(self) -> bool:
        return bool(self._head) and not self._is_over

    def words(self, usage: Usage) -> bytes:
        return sse({**self._head, "completion": "", "stop_reason": "max_tokens", "stop": None}, named=True)
