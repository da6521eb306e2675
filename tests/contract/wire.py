"""HTTP/1.1 messages on asyncio streams, byte for byte: what was sent and what arrived can be compared as they are. Knows no dialect."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Message:
    """Start line and header lines as they stood on the wire, without their line ends; the body without its transfer coding."""

    start: bytes
    lines: tuple[bytes, ...]
    body: bytes = b""
    is_whole: bool = True  # False: the body ended without its clean end

    def get(self, name: bytes) -> bytes | None:
        return next((line.partition(b":")[2].strip() for line in self.lines if name_of(line) == name), None)

    def without(self, *names: bytes) -> Message:
        return replace(self, lines=tuple(line for line in self.lines if name_of(line) not in names))

    def head(self) -> bytes:
        return b"\r\n".join((self.start, *self.lines, b"", b""))

    @property
    def status(self) -> int:
        return int(self.start.split(b" ", 2)[1])


def name_of(line: bytes) -> bytes:
    return line.partition(b":")[0].lower()


async def read_request(reader: asyncio.StreamReader) -> Message | None:
    """None where the other side has closed before a request began."""
    head = await _head(reader)
    if head is None:
        return None
    if (head.get(b"transfer-encoding") or b"").lower() == b"chunked":
        return replace(head, body=(await _chunked(reader))[0])
    return replace(head, body=await reader.readexactly(int(head.get(b"content-length") or 0)))


async def read_answer(reader: asyncio.StreamReader) -> Message:
    """Raises ConnectionError where none came."""
    head = await _head(reader)
    if head is None:
        raise ConnectionResetError("closed before an answer")
    if head.status in (204, 304):
        return head
    if (head.get(b"transfer-encoding") or b"").lower() == b"chunked":
        body, is_whole = await _chunked(reader)
        return replace(head, body=body, is_whole=is_whole)
    length = head.get(b"content-length")
    try:
        return replace(head, body=await reader.readexactly(int(length)) if length is not None else await reader.read())
    except asyncio.IncompleteReadError as cut:
        return replace(head, body=cut.partial, is_whole=False)


async def _head(reader: asyncio.StreamReader) -> Message | None:
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as end:
        if end.partial:
            raise
        return None
    start, *lines = raw[:-4].split(b"\r\n")
    return Message(start, tuple(lines))


async def _chunked(reader: asyncio.StreamReader) -> tuple[bytes, bool]:
    """The body, and whether it ended cleanly."""
    pieces = []
    try:
        while size := int((await reader.readuntil(b"\r\n"))[:-2], 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b"".join(pieces), False
    return b"".join(pieces), True
