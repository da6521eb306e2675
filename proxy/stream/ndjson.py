"""A JSON document a line (Cohere v1 streams): one event a line. Never parses a line."""

from __future__ import annotations

from proxy.refusal import UpstreamCut
from proxy.stream.event import MAX_EVENT, Event


class NdjsonDecoder:
    def __init__(self, limit: int = MAX_EVENT) -> None:
        self._limit = limit
        self._kept = bytearray()
        self._scanned = 0

    def feed(self, data: bytes) -> list[Event]:
        """Raises UpstreamCut above `limit` bytes without the end of a line."""
        self._kept += data
        events: list[Event] = []
        at = 0
        while (end := self._kept.find(b"\n", max(at, self._scanned))) >= 0:
            events.append(_event(bytes(self._kept[at : end + 1])))
            at = end + 1
        del self._kept[:at]
        self._scanned = len(self._kept)
        if len(self._kept) > self._limit:
            self._kept.clear()
            raise UpstreamCut("upstream_cut", "line too long")
        return events

    def is_whole(self, data: bytes) -> bool:
        return data[-1:] == b"\n" and not self._kept

    def end(self) -> list[Event]:
        """The last line, which may lack its line feed."""
        rest, self._kept, self._scanned = bytes(self._kept), bytearray(), 0
        return [_event(rest)] if rest else []


def _event(raw: bytes) -> Event:
    data = raw.rstrip(b"\r\n")
    return Event(raw, data, b"", raw[len(data) :], joint=None if raw[-1:] == b"\n" else b"\n", newline=b"\n")
