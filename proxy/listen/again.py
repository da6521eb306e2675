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
_NONE = (None, 0)


class Known:
    """A request whose head is known, as the parser would tell it: what it made of the head before, but for the length of the body and for
    the credential, where one line holds it. It tells the newest request, until the next one is read."""

    __slots__ = (
        "_credential", "_from", "_holes", "_to", "_until_first", "_until_last", "cors", "end", "fields", "head", "id", "is_head", "kept",
        "length", "method", "path", "raw_headers", "route", "seen", "size", "under",
    )  # fmt: skip
    version, should_close, upgrade, chunked = HttpVersion11, False, False, False

    def __init__(self, data: bytes, message: RawRequestMessage, holes: list[tuple[int, int, int]], length: int) -> None:
        """`data`: the head. `holes`: which of the lines, and from where to where its value stands."""
        self.head, self.end, self.size, self.length = data, len(data), len(data) + length, length
        self.method, self.path, self.raw_headers = message.method, message.path, message.raw_headers
        self.is_head = message.method == "HEAD"
        ends = [*(start for _, start, _ in holes[1:]), len(data)]
        self._until_first, self._until_last = data[: holes[0][1]], data[: holes[-1][1]]
        self._holes = [
            (at, key := lower(self.raw_headers[at][0]), _is_length if key == "content-length" else _is_credential, data[until:end])
            for (at, _, until), end in zip(holes, ends, strict=True)
        ]  # and what follows each
        self._credential, self._from, self._to = None, 0, 0  # its line and name, and where in the head its value stands
        for (at, begin, end), (_, key, form, _) in zip(holes, self._holes, strict=True):
            if form is _is_credential:
                self._credential, self._from, self._to = (at, key), begin, end
        self.seen: dict[object, object] = {}  # see `Call.seen`
        self.under: object = None  # the settings under which the edge has told what follows from it, see `means`
        self.fields: dict[str, str] = {}

    def means(self, under: object, call: Call, cors: RawHeaders) -> None:
        """What every request of this head is, but for its number and its time."""
        self.route, self.kept, self.cors, self.fields = call.route, call.kept, cors, {**call.fields}
        self.id = call.id if call.id_is_callers else ""
        self.under = under

    def read(self, data: bytes) -> tuple[bytes, int] | None:
        """What has come of the body of the request that `data` begins and no other follows, and how many bytes are due. None: it wants the
        parser."""
        if not data.startswith(self.head) and not self._is_anothers(data) and not self._is_with_others(data):
            return None
        due = self.size - len(data)
        return (data[self.end :], due) if due >= 0 else None

    def _is_anothers(self, data: bytes) -> bool:
        """Is it the same head, but for the credential?"""
        head, begin, to = self.head, self._from, self._to
        if self._credential is None or not data.startswith(head[:begin]):
            return False
        end, rest = data.find(b"\r", begin, LARGEST), head[to:]
        if end < 0 or not data.startswith(rest, end) or not _is_credential(said := data[begin:end]):
            return False
        at, key = self._credential
        raw, fields = self.raw_headers, self.fields.copy()
        fields[key] = said.decode()
        self.raw_headers = (*raw[:at], (raw[at][0], said), *raw[at + 1 :])
        self.fields, self.seen = fields, {}
        if (last := len(self._until_last)) > begin:  # else it is the last of both
            self._until_last = data[: last + end - to]
        self._to, self.end = end, end + len(rest)
        self.head, self.size = data[: self.end], self.end + self.length
        return True

    def _is_with_others(self, data: bytes) -> bool:
        """Is it the same head, with another length or another credential?"""
        start, holes = self._until_last, self._holes[-1:]
        if not data.startswith(start):
            start, holes = self._until_first, self._holes
            if not data.startswith(start):
                return False
        raw, fields, length, begin, end = [*self.raw_headers], self.fields.copy(), self.length, 0, len(start)
        seen, where = self.seen, (self._from, self._to)
        for at, key, form, after in holes:
            begin, end = end, data.find(b"\r", end, LARGEST)
            name, before = raw[at]
            said = data[begin:end]
            if said != before:
                if not form(said):
                    return False
                raw[at], fields[key] = (name, said), said.decode()
                if form is _is_length:
                    length = int(said)
                else:
                    seen = {}
            if form is _is_credential:
                where = begin, end
            if end < 0 or not data.startswith(after, end):
                return False
            end += len(after)
        self.head, self.end, self.size, self._until_last = data[:end], end, end + length, data[:begin]
        self.length, self.raw_headers, self.fields, self.seen = length, tuple(raw), fields, seen
        self._from, self._to = where
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
