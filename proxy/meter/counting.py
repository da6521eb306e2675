"""Tokens of a streamed answer by its text, where no figure says them. Keeps lengths and sums, and no text."""

from __future__ import annotations

import zlib

from proxy.dialect.fields import at
from proxy.dialect.wire import Dialect, Json, Operation, Path

BYTES_PER_TOKEN = 3  # of counted text: below what byte-level BPE makes of any common language
_REMEMBERED = 4096  # channels and complete texts of one stream


class Count:
    """Tokens of the text that passed: a third of its bytes, and one for each event that carries any, whichever is more."""

    def __init__(self) -> None:
        self._events = self._bytes = 0
        self._channels: dict[str, tuple[int, int]] = {}  # channel → (crc, length) of its text so far
        self._complete: set[tuple[int, int]] = set()  # of complete texts: what only repeats one is not counted again

    @property
    def tokens(self) -> int:
        return max(self._events, -(-self._bytes // BYTES_PER_TOKEN))

    def saw(self, dialect: Dialect, op: Operation, event: Json) -> None:
        said, before = dialect.said(op, event), self._bytes
        for channel, path, _ in said.deltas:
            text = text_at(event, path)
            crc, length = self._channels.get(channel, (0, 0))
            self._channels[channel] = (zlib.crc32(text, crc), length + len(text))
            self._bytes += len(text)
        for channel in tuple(self._channels) if "*" in said.ends else said.ends:
            if channel in self._channels:
                self._complete.add(self._channels.pop(channel))
        for path, _ in said.wholes:
            text = text_at(event, path)
            mark = (zlib.crc32(text), len(text))
            if mark not in self._complete:
                self._complete.add(mark)
                self._bytes += len(text)
        for remembered in (self._channels, self._complete):
            if len(remembered) > _REMEMBERED:
                remembered.clear()
        self._events += self._bytes > before


def text_at(doc: object, path: Path) -> bytes:
    """The string at this path; b"" for what is none."""
    text = at(doc, *path)
    return text.encode("utf-8", "replace") if isinstance(text, str) else b""
