"""Takes out the usage chunk that Sluice itself asked for (OpenAI chat streams), by a byte test. Touches no other byte."""

from __future__ import annotations

import re

from proxy.ports import Line

_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')
_SOME_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*[^\s\]]')
_USAGE = re.compile(rb'"usage"\s*:\s*\{')
_LONGEST = 16 * 1024  # a usage chunk is some hundred bytes: an event longer than this is none


class StripUsage:
    """A `ports.Line` around another one (the watch), which sees all bytes before."""

    lag = 0

    def __init__(self, line: Line) -> None:
        self._line = line
        self._held = b""  # an event under way that may yet be the usage chunk
        self._is_passing = False  # inside an event that is none
        self._line_end = b""  # with which what was passed of it ended: half of a blank line, perhaps
        self._after_cr: bytes | None = None  # an event ended with a CR: what becomes of a LF behind it

    def feed(self, data: bytes) -> bytes:
        data = self._line.feed(data)
        is_between = not (self._held or self._is_passing) and self._after_cr is None
        if is_between and data.find(b'"usage"') < 0 and data.endswith(b"\n\n"):
            return data  # whole events, none of them the chunk: nearly always
        return self._strip(data)

    def end(self) -> bytes:
        """An event left without its blank line is judged as it is."""
        held, self._held = self._held + self._strip(self._line.end()), b""
        held, self._held = held + self._held, b""
        return b"" if _is_usage(held) else held

    def _strip(self, data: bytes) -> bytes:
        is_between = not (self._held or self._is_passing) and self._after_cr is None
        if is_between and data.endswith(b"\n\n") and _NO_CHOICES.search(data) is None:
            return data  # the same where each event says that there is no usage yet
        out: list[bytes] = []
        if self._after_cr is not None and data:
            if data[:1] == b"\n":
                out, data = [self._after_cr], data[1:]
            self._after_cr = None
        return b"".join(out) + self._pass(data)

    def _pass(self, data: bytes) -> bytes:
        sent = len(self._line_end)  # only ever of an event that is passing
        data = self._line_end + self._held + data
        self._line_end = self._held = b""
        out: list[bytes] = []
        at = 0
        while end := _END.search(data, at):
            event = data[at : end.end()]
            at = end.end()
            is_kept = self._is_passing or not _is_usage(event)
            if is_kept:
                out.append(event)
            if at == len(data) and event.endswith(b"\r"):
                self._after_cr = b"\n" if is_kept else b""
            self._is_passing = False
        rest = data[at:]
        self._is_passing = self._is_passing or _is_other(rest)
        if self._is_passing:
            out.append(rest)
            self._line_end = rest[len(rest.rstrip(b"\r\n")) :]
        else:
            self._held = rest
        return b"".join(out)[sent:]


def _is_usage(event: bytes) -> bool:
    return _NO_CHOICES.search(event) is not None and _USAGE.search(event) is not None


def _is_other(start: bytes) -> bool:
    """Can this beginning of an event no longer become the usage chunk?"""
    return len(start) > _LONGEST or _SOME_CHOICES.search(start) is not None
