"""A request that repeats the head before it on its connection, known again by its bytes. Parses nothing itself: a head that aiohttp's
parser has not taken by itself, from its first byte to its last, is never known again."""

from __future__ import annotations

import re
from collections import deque

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage

from proxy.listen.headers import lower

LARGEST = 4096  # bytes of a head that is kept, for as long as its connection lives
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")
_MOST_DIGITS = 15
_NONE = (None, 0)


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

    __slots__ = ("_after", "_at", "_before", "_digits", "_from", "_message", "_rest", "_until")

    def __init__(self, before: bytes, digits: bytes, after: bytes, message: RawRequestMessage, at: int) -> None:
        """`at`: which of the lines is the Content-Length."""
        self._before, self._digits, self._after, self._message, self._at = before, digits, after, message, at
        self._from, self._rest = len(before), len(after)
        self._until = self._from + _MOST_DIGITS + self._rest

    def read(self, data: bytes) -> tuple[RawRequestMessage, bytes, int] | None:
        """The request that `data` begins and no other follows: what has come of its body, and how many bytes are due. None: it wants
        the parser."""
        if not data.startswith(self._before):
            return None
        begin = self._from
        end = data.find(self._after, begin, self._until)
        digits = data[begin:end]
        if end < 0 or not digits.isdigit() or (digits[0] == 48 and end > begin + 1):  # 48: b"0"
            return None
        end += self._rest
        due = end + int(digits) - len(data)
        if due < 0:
            return None
        return self._message if digits == self._digits else self._with(digits), data[end:], due

    def _with(self, digits: bytes) -> RawRequestMessage:
        """The message with another length. Of its `headers` nobody asks that (`raw_headers` do tell)."""
        it, at = self._message, self._at
        raw = (*it.raw_headers[:at], (it.raw_headers[at][0], digits), *it.raw_headers[at + 1 :])
        return RawRequestMessage(
            it.method, it.path, it.version, it.headers, raw, it.should_close, it.compression, it.upgrade, it.chunked, it.url
        )


def head_of(data: bytes, message: RawRequestMessage) -> tuple[Head | None, int]:
    """`data`: one read, of which the parser made this message and no other. Its head, and how many bytes of its body are still due; None:
    it is not to be known again.

    Every line must be told in the strictest way, the first of them too, so that the head begins and ends where the parser saw it: the
    read may be but the rest of a request (RFC 9112 2.2, 6.3).
    """
    end = data.find(_END, 0, LARGEST) + len(_END)
    if end < len(_END) or message.version != HttpVersion11 or message.should_close or message.upgrade or message.chunked:
        return _NONE
    head, names = data[:end], [lower(name) for name, _ in message.raw_headers]
    first, *lines = head.split(b"\r\n")[:-2]
    found = _LENGTH.search(head)
    if first != f"{message.method} {message.path} HTTP/1.1".encode("utf-8", "surrogateescape"):
        return _NONE
    if found is None or names.count("content-length") != 1 or not {"transfer-encoding", "expect", "upgrade"}.isdisjoint(names):
        return _NONE
    due = end + int(found[1]) - len(data)
    if head.count(b"\n") != len(lines) + 2 or due < 0 or (found[1][:1] == b"0" and len(found[1]) > 1):
        return _NONE
    if len(lines) != len(names) or any(_read(line) != said for line, said in zip(lines, message.raw_headers, strict=True)):
        return _NONE
    return Head(head[: found.start(1)], found[1], head[found.end(1) :], message, names.index("content-length")), due


def _read(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value.strip(b" \t")
