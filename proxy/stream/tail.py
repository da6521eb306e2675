"""How what passed of a stream ended: an error event can stand between two events, and nowhere else. Changes no byte."""

from __future__ import annotations

import re
from typing import Protocol

_LONGEST = 4  # bytes of a blank line and the line end before it
_SMALL = 4096
_LINE_END = re.compile(rb"(?:\r\n|\n|\r)\Z")
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)\Z")


class _Line(Protocol):
    def feed(self, data: bytes) -> bytes: ...
    def end(self) -> bytes: ...


class Tail:
    """A `ports.Line` around another one."""

    def __init__(self, line: _Line) -> None:
        self._line = line
        self._last = b""  # what passed last: the whole piece where it is small, which costs nothing

    def feed(self, data: bytes) -> bytes:
        out = self._line.feed(data)
        if _LONGEST <= len(out) <= _SMALL:
            self._last = out
        elif out:
            self._last = self._last[-_LONGEST:] + out[-_LONGEST:]
        return out

    def end(self) -> bytes:
        out = self._line.end()
        self._last = self._last[-_LONGEST:] + out[-_LONGEST:]
        return out

    def gap(self, form: str) -> bytes | None:
        """What must stand before an event of our own in this form of stream; None: an event is under way, none can be said.

        A reader throws an event away whose end never comes. One that we ended for the provider it would take for the provider's.
        """
        last = self._last[-_LONGEST:]
        if form == "json-array":
            return b"" if last.rstrip().endswith(b"}") else None
        if form == "ndjson":
            return b"" if not last or last.endswith(b"\n") else None
        if not last or _BLANK_LINE.search(last):
            return b""
        ended = _LINE_END.search(last)
        return ended.group() if ended else None
