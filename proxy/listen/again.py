"""A request that repeats the head before it on its connection, known again by its bytes. Parses nothing itself: what aiohttp's parser has
not taken for one whole request is never known again."""

from __future__ import annotations

import re
from collections import deque

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage

from proxy.listen.headers import lower

LARGEST = 4096  # bytes of a head that is kept, for as long as its connection lives
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")


class Whole:
    """A body that has all come; the part of aiohttp's StreamReader that one request needs."""

    __slots__ = ("_buffer", "_exception", "length")

    def __init__(self, body: bytes) -> None:
        self._buffer, self.length = deque((body,)), len(body)
        self._exception: BaseException | None = None

    def is_eof(self) -> bool:
        """Is there no more to come? As aiohttp's: what has come may be unread."""
        return True

    def set_exception(self, exc: BaseException) -> None:
        self._exception = exc

    def read_nowait(self) -> bytes:
        """The rest. Raises what the connection ended with."""
        if self._exception is not None:
            raise self._exception
        return self._buffer.popleft() if self._buffer else b""

    async def readany(self) -> bytes:
        return self.read_nowait()


class Head:
    """The bytes of a head but for the digits of its Content-Length, and what the parser made of it."""

    __slots__ = ("_after", "_at", "_before", "_digits", "_message")

    def __init__(self, before: bytes, digits: bytes, after: bytes, message: RawRequestMessage, at: int) -> None:
        """`at`: which of the lines is the Content-Length."""
        self._before, self._digits, self._after, self._message, self._at = before, digits, after, message, at

    def read(self, data: bytes) -> tuple[RawRequestMessage, Whole] | None:
        """The request that `data` is, from its first byte to its last; None: it wants the parser."""
        before, after = self._before, self._after
        if not data.startswith(before):
            return None
        begin = len(before)
        end = data.find(b"\r", begin, begin + 16)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or (digits[0] == 48 and len(digits) > 1) or not data.startswith(after, end):
            return None
        end += len(after)
        if len(data) - end != int(digits):
            return None
        return self._message if digits == self._digits else self._with(digits), Whole(data[end:])

    def _with(self, digits: bytes) -> RawRequestMessage:
        """The message with another length. Of its `headers` nobody asks that (`raw_headers` do tell)."""
        it, at = self._message, self._at
        raw = (*it.raw_headers[:at], (it.raw_headers[at][0], digits), *it.raw_headers[at + 1 :])
        return RawRequestMessage(
            it.method, it.path, it.version, it.headers, raw, it.should_close, it.compression, it.upgrade, it.chunked, it.url
        )


def head_of(data: bytes, message: RawRequestMessage) -> Head | None:
    """`data`: one read, of which the parser made this message, its whole body and nothing else; None: its head is not to be known again.

    Every line must be told in the strictest way, the first of them too, so that the head begins and ends where the parser saw it: the
    read may be but the rest of a request (RFC 9112 2.2, 6.3).
    """
    end = data.find(_END, 0, LARGEST) + len(_END)
    if end < len(_END) or message.version != HttpVersion11 or message.should_close or message.upgrade or message.chunked:
        return None
    head, names = data[:end], [lower(name) for name, _ in message.raw_headers]
    first, *lines = head.split(b"\r\n")[:-2]
    found = _LENGTH.search(head)
    if first != f"{message.method} {message.path} HTTP/1.1".encode("utf-8", "surrogateescape"):
        return None
    if found is None or names.count("content-length") != 1 or not {"transfer-encoding", "expect", "upgrade"}.isdisjoint(names):
        return None
    if head.count(b"\n") != len(lines) + 2 or len(data) != end + int(found[1]) or (found[1][:1] == b"0" and len(found[1]) > 1):
        return None
    if len(lines) != len(names) or any(_read(line) != said for line, said in zip(lines, message.raw_headers, strict=True)):
        return None
    return Head(head[: found.start(1)], found[1], head[found.end(1) :], message, names.index("content-length"))


def _read(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")
