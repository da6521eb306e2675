"""How what passed of a stream ended: an error event can stand between two events, and nowhere else. Changes no byte."""

from __future__ import annotations

import re
from typing import Protocol

_LONGEST = 4  # bytes of a blank line and the line end before it
_LINE_END = re.compile(rb"(?:\r\n|\n|\r)\Z")
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)\Z")


class _Line(Protocol):
    def feed(self, data: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Tail:
    """A `ports.Line` around another one."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._last = b""

    def feed(self, data: bytes) -> bytes:
        return self._passed(self._line.feed(data))

    def end(self) -> bytes:
        return self._passed(self._line.end())

    def gap(self, form: str) -> bytes | None:
        """What must stand before an event of our own in this form of stream; None: an event is under way, none can be said.

        A reader throws an event away whose end never comes. One that we ended for the provider it would take for the provider's.
        """
        last = self._last
        if form == "json-array":
            return b"" if last.rstrip().endswith(b"}") else None
        if form == "ndjson":
            return b"" if not last or last.endswith(b"\n") else None
        if not last or _BLANK_LINE.search(last):
            return b""
        ended = _LINE_END.search(last)
        return ended.group() if ended else None

    def _passed(self, out: bytes) -> bytes:
        if out:
            self._last = (self._last + out if len(out) < _LONGEST else out)[-_LONGEST:]
        return out
