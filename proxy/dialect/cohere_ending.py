"""The good end of a Cohere stream, v1 and v2: `MAX_TOKENS`. v1 repeats the text that came, as its last event does."""

from __future__ import annotations

import orjson

from proxy.dialect.ending import MAX_TEXT, read, sse
from proxy.dialect.wire import Json
from proxy.exchange import Usage

_ENDS = {"content-start": "content-end", "tool-call-start": "tool-call-end", "citation-start": "citation-end"}
_MARKS = (b"-start", b"-end")


class MessageEnding:
    """v2."""

    def __init__(self) -> None:
        self._has_begun = self._is_over = False
        self._open: list[Json] = []  # the events that would close what is open

    def saw(self, data: bytes) -> None:
        if not any(mark in data for mark in _MARKS):
            return
        event = read(data)
        kind = str(event.get("type", ""))
        self._has_begun = self._has_begun or kind == "message-start"
        self._is_over = self._is_over or kind == "message-end"
        if kind in _ENDS:
            self._open.append({"type": _ENDS[kind], "index": event.get("index")})
        elif kind in _ENDS.values():
            self._open = [one for one in self._open if one != {"type": kind, "index": event.get("index")}]

    @property
    def is_possible(self) -> bool:
        return self._has_begun and not self._is_over

    def words(self, usage: Usage) -> bytes:
        last = {"type": "message-end", "delta": {"finish_reason": "MAX_TOKENS", "usage": _figures(usage)}}
        return sse(*self._open, last, named=True) + b"data: [DONE]\n\n"


class StreamEnding:
    """v1."""

    def __init__(self) -> None:
        self._head: dict[str, object] = {}
        self._texts: list[str] = []
        self._left = MAX_TEXT
        self._has_begun = self._is_over = False

    def saw(self, data: bytes) -> None:
        event = read(data)
        self._has_begun = self._has_begun or bool(event)
        self._head |= {name: event[name] for name in ("generation_id", "response_id") if name in event}
        self._is_over = self._is_over or event.get("is_finished") is True
        text = event.get("text")
        if isinstance(text, str) and len(text) <= self._left:
            self._texts.append(text)
            self._left -= len(text)

    @property
    def is_possible(self) -> bool:
        return self._has_begun and not self._is_over

    def words(self, usage: Usage) -> bytes:
        said = {**self._head, "text": "".join(self._texts), "finish_reason": "MAX_TOKENS", "meta": _figures(usage)}
        return orjson.dumps({"is_finished": True, "event_type": "stream-end", "finish_reason": "MAX_TOKENS", "response": said}) + b"\n"


def _figures(usage: Usage) -> Json:
    tokens = {"input_tokens": usage.input, "output_tokens": usage.output}
    return {"billed_units": tokens, "tokens": tokens}
