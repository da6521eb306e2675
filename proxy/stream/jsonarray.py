"""A JSON array of objects as it streams (Gemini without alt=sse): one event an element. Never re-serialises, never checks JSON."""

from __future__ import annotations

import re

from proxy.refusal import UpstreamCut
from proxy.stream.event import MAX_EVENT, Event

_MARK = re.compile(rb'["{}\[\]]')
_IN_STRING = re.compile(rb'\\.|"', re.DOTALL)


class JsonArrayDecoder:
    """Elements keep the separator before them; the closing bracket is an event of its own, with the data `]`."""

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._at = 0  # scanned so far
        self._begins = 0  # where the element under way begins
        self._depth = 0  # brackets open inside the element
        self._in_string = False
        self._is_open = False  # inside the array

    def feed(self, data: bytes) -> list[Event]:
        """Raises UpstreamCut above `limit` bytes without the end of an element."""
        self._kept += data
        events: list[Event] = []
        while mark := (_IN_STRING if self._in_string else _MARK).search(self._kept, self._at):
            self._at = mark.end()
            if event := self._saw(mark.group(), mark.start()):
                events.append(event)
        tail_is_escape = self._in_string and self._kept[-1:] == b"\\"
        self._at = max(self._at, len(self._kept) - tail_is_escape)
        if len(self._kept) > self._limit:
            self._kept.clear()
            raise UpstreamCut("upstream_cut", "array element too long")
        return events

    def is_whole(self, data: bytes) -> bool:
        return False

    def end(self) -> list[Event]:
        rest, self._kept = bytes(self._kept), bytearray()
        return [Event(rest)] if rest else []

    def _saw(self, mark: bytes, at: int) -> Event | None:
        if self._in_string:
            self._in_string = mark != b'"'
        elif mark == b'"':
            self._in_string = True
        elif mark in b"{[":
            self._opened(mark, at)
        elif self._depth:
            self._depth -= 1
            return None if self._depth else self._element(at + 1)
        elif mark == b"]":
            return self._take(at, at + 1)
        return None

    def _opened(self, mark: bytes, at: int) -> None:
        if self._depth:
            self._depth += 1
        elif mark == b"[" and not self._is_open:
            self._is_open = True
        else:
            self._depth, self._begins = 1, at

    def _element(self, end: int) -> Event:
        return self._take(self._begins, end)

    def _take(self, begins: int, end: int) -> Event:
        before, data = bytes(self._kept[:begins]), bytes(self._kept[begins:end])
        del self._kept[:end]
        self._at = 0
        return Event(before + data, data, before, joint=b",\n" if self._is_open else None, newline=b"\n")
