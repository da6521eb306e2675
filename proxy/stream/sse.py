"""Server-sent events (WHATWG HTML, section 9.2) out of bytes split anywhere. Never changes a byte, never reads the payload."""

from __future__ import annotations

import re
from dataclasses import replace

from proxy.refusal import UpstreamCut
from proxy.stream.event import MAX_EVENT, Event

BOM = b"\xef\xbb\xbf"
_END = re.compile(rb"(?:\n|\r\n|\r(?!\n))(?:\n|\r\n|\r)")
_DATA = re.compile(rb"(?:\A(?:\xef\xbb\xbf)?|(?<=[\r\n]))data(?::[ ]?([^\r\n]*+))?(?=[\r\n]|\Z)")
_BEFORE = b"data: "
_LINES = re.compile(rb"[^\r\n]+")
_A_LINE_END = re.compile(rb"\r\n|\n|\r")


class SseDecoder:
    """Bytes to events. An event goes out with the byte that ends it, a CR included: a LF behind it is passed on alone."""

    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._scanned = 0  # no event ends before this offset
        self._after_cr = False

    def feed(self, data: bytes) -> list[Event]:
        """Raises UpstreamCut above `limit` bytes without the end of an event."""
        if not self._kept and not self._after_cr and is_usual(data):
            return [Event(data, data[6:-2], _BEFORE, b"\n\n")]
        events: list[Event] = []
        if self._after_cr and data:
            self._after_cr = False
            if data[:1] == b"\n":
                events.append(Event(b"\n"))
                data = data[1:]
        kept = self._kept
        kept += data
        at, end_of = 0, _end_at_any if 0x0D in kept else _end_at_line_feeds
        while at < len(kept):
            is_alone = kept[at] in b":\r\n"  # a comment or blank line where an event would begin goes out at once
            end = end_of(kept, max(at, self._scanned), is_alone)
            if end < 0:
                break
            events.append(event_of(bytes(kept[at:end])))
            at = self._scanned = end
        if at and at == len(kept):
            self._after_cr = kept[-1:] == b"\r"
        del kept[:at]
        self._scanned = max(len(kept) - 3, 0)
        if len(kept) > self._limit:
            kept.clear()
            raise UpstreamCut("upstream_cut", "sse line too long")
        return events

    def is_whole(self, data: bytes) -> bool:
        return data[-2:] == b"\n\n" and not self._kept and not self._after_cr

    def end(self) -> list[Event]:
        """The last event, which may lack its blank line: clients differ in whether they read it, so it is read here too."""
        rest, self._kept, self._scanned = bytes(self._kept), bytearray(), 0
        if not rest:
            return []
        event = event_of(rest)
        eol = _eol(rest)
        return [replace(event, joint=eol + eol + event.before)]  # a copy behind it must end it first


def _end_at_line_feeds(kept: bytearray, start: int, is_alone: bool) -> int:
    """Where the block is over, -1: not yet; in text without a CR."""
    end = kept.find(b"\n" if is_alone else b"\n\n", start)
    return end if end < 0 else end + (1 if is_alone else 2)


def _end_at_any(kept: bytearray, start: int, is_alone: bool) -> int:
    block = (_A_LINE_END if is_alone else _END).search(kept, start)
    return -1 if block is None else block.end()


def event_of(raw: bytes) -> Event:
    """One block of lines as an event; several `data` lines join up with a line feed."""
    if is_usual(raw):
        return Event(raw, raw[6:-2], _BEFORE, b"\n\n")
    lines = list(_DATA.finditer(raw))
    if not lines:
        return Event(raw)
    first = lines[0]
    if len(lines) == 1 and first.group(1) is not None:
        return Event(raw, first.group(1), raw[: first.start(1)], raw[first.end() :], newline=_eol(raw) + b"data: ")
    eol = _eol(raw)
    others = [line for line in _LINES.findall(raw.removeprefix(BOM)) if not _DATA.match(line)]
    data = b"\n".join(line.group(1) or b"" for line in lines)
    after = eol + eol if _END.search(raw) else eol
    return Event(raw, data, b"".join(line + eol for line in others) + b"data: ", after, newline=eol + b"data: ")


def is_usual(raw: bytes) -> bool:
    """Is it one event, whole and by itself, as nearly every one is written?"""
    return raw[:6] == _BEFORE and raw.find(b"\n") == len(raw) - 2 and raw[-1] == 0x0A and 0x0D not in raw


def _eol(raw: bytes) -> bytes:
    found = _A_LINE_END.search(raw)
    return found.group() if found else b"\n"
