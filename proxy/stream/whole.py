"""A whole body as one event, so that one line of taps serves streams and plain JSON alike. Never parses it."""

from __future__ import annotations

from proxy.refusal import UpstreamCut
from proxy.stream.event import Event

MAX_WHOLE = 64_000_000  # bytes; as much as is held of a request


class WholeDecoder:
    def __init__(self, limit: int = MAX_WHOLE) -> None:
        self._limit = limit
        self._kept = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """Raises UpstreamCut above `limit` bytes."""
        self._kept += data
        if len(self._kept) > self._limit:
            self._kept.clear()
            raise UpstreamCut("upstream_cut", "answer too large to be rewritten")
        return []

    def is_whole(self, data: bytes) -> bool:
        return False

    def end(self) -> list[Event]:
        rest, self._kept = bytes(self._kept), bytearray()
        return [Event(rest, rest, newline=b"\n")] if rest else []
