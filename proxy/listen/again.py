"""A request that repeats the head before it on its connection, known again by its bytes. Parses nothing itself: a head that aiohttp's
parser has not taken by itself, from its first byte to its last, is never known again."""

from __future__ import annotations

import re
from itertools import accumulate

from aiohttp import HttpVersion11
from aiohttp.http import RawRequestMessage

from proxy.exchange import Call, RawHeaders
from proxy.listen.headers import CREDENTIALS, lower

LARGEST = 4096  # bytes of a head that is kept, for as long as its connection lives
_END = b"\r\n\r\n"
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,14}")
_PRINTED = bytes(range(0x21, 0x7F))
_AS_PRINTED = bytes([byte if byte in _PRINTED else 0x21 for byte in range(256)])  # by which all others, and they alone, are changed
_NONE = (None, 0)
# From where to where a credential stands, but for its scheme; the head before and behind it; the scheme; which line is its own; the name
# of that, also as a field
Around = tuple[int, int, bytes, bytes, bytes, int, bytes, str]
_NOWHERE: Around = (0, 1, b"\n", b"", b"", 0, b"", "")  # a line feed before a line feed, which is in no credential


class Known:
    """A request whose head is known, as the parser would tell it: what it made of the head before, but for the length of the body and for
    the credential, where one line holds it. It tells the newest request, until the next one is read."""

    __slots__ = (
        "_around", "_digits", "_form", "_said", "cors", "end", "fields", "head", "id", "is_head", "kept", "length", "method", "path",
        "raw_headers", "route", "seen", "size", "under",
    )  # fmt: skip
    version, should_close, upgrade, chunked = HttpVersion11, False, False, False

    def __init__(self, data: bytes, message: RawRequestMessage, holes: list[tuple[int, int, int]], length: int) -> None:
        """`data`: the head. `holes`: which of the lines, and from where to where its value stands: of the length, and of a credential."""
        self.head, self.end, self.size, self.length = data, len(data), len(data) + length, length
        self.method, self.path, self.raw_headers = message.method, message.path, message.raw_headers
        self.is_head = message.method == "HEAD"
        (one, begin, to), (two, further, until) = holes if len(holes) > 1 else (holes[0], (holes[0][0], holes[0][2], holes[0][2]))
        values, lines = (data[begin:to], data[further:until]), [(at, name := self.raw_headers[at][0], lower(name)) for at in (one, two)]
        is_length_first = lines[0][2] == "content-length"
        if not is_length_first:
            values, lines = values[::-1], lines[::-1]
        self._digits, self._said = values  # the latter b"" where no line may hold another credential
        self._form = data[:begin], data[to:further], data[until:], is_length_first, *lines[0][:2], *lines[1]
        self._around: Around | None = None  # told once another credential comes
        self.seen: dict[object, object] = {}  # see `Call.seen`
        self.under: object = None  # the settings under which the edge has told what follows from it, see `means`
        self.fields: dict[str, str] = {}

    def means(self, under: object, call: Call, cors: RawHeaders) -> None:
        """What every request of this head is, but for its number and its time."""
        self.route, self.kept, self.cors, self.fields = call.route, call.kept, cors, {**call.fields}
        self.id = call.id if call.id_is_callers else ""
        self.under = under

    def is_anothers(self, data: bytes) -> bool:
        """Of a request as long as the one before: is it the same head, but for a credential as long and of the same scheme? From now on it
        is that one's."""
        begin, to, before, after, scheme, at, name, key = self._around or self._tell_around()
        said = data[begin:to]
        head = before + said + after
        if not data.startswith(head) or said.translate(_AS_PRINTED) != said:
            return False
        said = scheme + said
        lines, fields = [*self.raw_headers], self.fields.copy()
        lines[at], fields[key] = (name, said), said.decode()
        self.head, self.raw_headers, self.fields, self.seen, self._said = head, tuple(lines), fields, {}, said
        return True

    def _tell_around(self) -> Around:
        before, between, _, is_length_first, _, _, at, name, key = self._form
        head, said, begin = self.head, self._said, len(before)
        if not _is_credential(said):
            return _NOWHERE
        if is_length_first:
            begin += len(self._digits) + len(between)
        scheme, to = said[: said.find(b" ") + 1], begin + len(said)
        begin += len(scheme)
        self._around = around = begin, to, head[:begin], head[to:], scheme, at, name, key
        return around

    def is_with_others(self, data: bytes) -> bool:
        """Is it the same head, with another length or another credential? From now on it is the one with these."""
        before, between, after, is_length_first, length_at, length_name, at, name, key = self._form
        begin = len(before)
        end = data.find(b"\r", begin, LARGEST)
        further = end + len(between)
        until = data.find(b"\r", further, LARGEST)
        if end < 0 or until < 0:
            return False
        one, two = data[begin:end], data[further:until]
        head = before + one + between + two + after
        if not data.startswith(head):
            return False
        digits, said = (one, two) if is_length_first else (two, one)
        lines, fields, length, seen = [*self.raw_headers], self.fields.copy(), self.length, self.seen
        if digits != self._digits:
            if not _is_length(digits):
                return False
            lines[length_at], fields["content-length"], length = (length_name, digits), digits.decode(), int(digits)
        if said != self._said:
            if not _is_credential(said):
                return False
            lines[at], fields[key], seen = (name, said), said.decode(), {}
        self.head, self.end, self.length, self.size = head, len(head), length, len(head) + length
        self.raw_headers, self.fields, self.seen, self._digits, self._said, self._around = tuple(lines), fields, seen, digits, said, None
        return True


Message = RawRequestMessage | Known


def head_of(data: bytes, message: RawRequestMessage) -> tuple[Known | None, int]:
    """`data`: one read, of which the parser made this message and no other. Its head, and how many bytes of its body are still due; None:
    it is not to be known again.

    Every line must be told in the strictest way, the first of them too, so that the head begins and ends where the parser saw it: the
    read may be but the rest of a request (RFC 9112 2.2, 6.3).
    """
    end = data.find(_END, 0, LARGEST) + len(_END)
    if end < len(_END) or message.version != HttpVersion11 or message.should_close or message.upgrade or message.chunked:
        return _NONE
    head, raw = data[:end], message.raw_headers
    first, *lines = head.split(b"\r\n")[:-2]
    names = [lower(name) for name, _ in raw]
    if first != f"{message.method} {message.path} HTTP/1.1".encode("utf-8", "surrogateescape"):
        return _NONE
    if names.count("content-length") != 1 or not {"transfer-encoding", "expect", "upgrade"}.isdisjoint(names):
        return _NONE
    if head.count(b"\n") != len(lines) + 2 or len(lines) != len(names) or any(map(_is_otherwise, lines, raw)):
        return _NONE
    length, credentials = names.index("content-length"), [at for at, name in enumerate(names) if name in CREDENTIALS]
    holes = sorted([length, *credentials] if len(credentials) == 1 else [length])
    starts = list(accumulate([len(line) + 2 for line in (first, *lines)]))
    due = end + int(raw[length][1]) - len(data)
    if due < 0 or not _is_length(raw[length][1]) or any([lines[at] != b": ".join(raw[at]) for at in holes]):
        return _NONE
    return Known(
        head, message, [(at, starts[at] + len(raw[at][0]) + 2, starts[at] + len(lines[at])) for at in holes], due - end + len(data)
    ), due


def _is_length(said: bytes) -> bool:
    return _LENGTH.fullmatch(said) is not None


def _is_credential(said: bytes) -> bool:
    """Perhaps with its scheme before it: the parser takes off no byte of that, and adds none."""
    others = said.translate(None, _PRINTED)
    return (not others and said != b"") or (others == b" " and said[0] != 32 != said[-1])


def _is_otherwise(line: bytes, said: tuple[bytes, bytes]) -> bool:
    name, _, value = line.partition(b":")
    return (name, value.strip(b" \t")) != said
