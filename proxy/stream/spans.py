"""Byte spans of the values in JSON text, so that one value can change and no other byte does. Never parses, never re-serialises.

All of it takes JSON that a parser has accepted (`stream/body.py`); offsets are of bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import orjson
import re2

from proxy.stream.surface import Place, Wanted, compiled

# A search for one byte is five times as fast as one for two: up to a quote; behind one backslash it is escaped, behind none it is the end.
_REST = rb'(?:[^"]*+(?:(?<=[^\\]\\)"[^"]*+)*+(?<!\\)"|[^"\\]*+(?:\\.[^"\\]*+)*+")'  # of a string, behind its first quote
_STRING = b'"' + _REST
_DIGITS = rb"(?<![0-9.eE+\-].)(?:(?<=-)[0-9]|(?<!-))[0-9]{6,}[0-9.eE+\-]*"  # of a number as long as the shortest thing worth hiding
# It begins with a set of bytes, which a search looks for ten times as fast as it tries alternatives at each byte.
_TOKEN = re.compile(rb'["\[{\]}\-0-9](?:(?<=")' + _REST + rb"([ \t\r\n]*:)?|(?<=[\[{\]}])|" + _DIGITS + rb")", re.DOTALL)
_VALUE = re.compile(_STRING + rb"|[\[{]|[^\s,\]}]+", re.DOTALL)
_KEY = re.compile(rb"[ \t\r\n,]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_NEXT = re.compile(rb"[ \t\r\n,]*+([^\]])")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)", re.DOTALL)
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_-]*+")
_BLANKS = b" \t\r\n"
_HIDING_ESCAPE = re2.compile(rb"\\[u/]")
_QUOTE, _BACKSLASH = 0x22, 0x5C  # sought as a number: of bytes, `in` asks first whether they are one, by an exception
_LONG_WORD = 64  # bytes; base64 of anything worth sending is longer

Edit = tuple[int, int, bytes]  # start, end, what stands there now


class Span(NamedTuple):
    """A string value, its quotes left out. `is_json`: the string is JSON source itself (tool arguments)."""

    start: int
    end: int
    is_json: bool
    is_number: bool = False  # a number, written out


def has_hiding_escape(raw: bytes) -> bool:
    """Is a character that needs no escape spelt as one: `\\uXXXX`, or the `\\/` that PHP writes? A search of the source misses it."""
    return _BACKSLASH in raw and _HIDING_ESCAPE.search(raw) is not None


def top_level(raw: bytes) -> dict[str, tuple[int, int]]:
    """Key → span of its raw value, of an object. Of a repeated key the last, as the parser has it."""
    return {key: (start, end) for key, start, end in members(raw, 0)}


def members(raw: bytes, at: int) -> Iterable[tuple[str, int, int]]:
    """Key and value span of each member of the object that begins at, or behind blanks after, `at`."""
    at = _skip(raw, at)
    if raw[at : at + 1] != b"{":
        return
    at += 1
    while key := _KEY.match(raw, at):
        end = value_end(raw, key.end())
        yield _name(key.group(1)), key.end(), end
        at = end


def locate(raw: bytes, path: Sequence[str | int]) -> tuple[int, int] | None:
    """The span of the value at `path` (keys and indices), quotes included; None where there is none."""
    start, end = _skip(raw, 0), len(raw)
    for step in path:
        found: tuple[int, int] | None = None
        if isinstance(step, str):
            for key, first, last in members(raw, start):
                if key == step:
                    found = (first, last)
        else:
            found = _item(raw, start, step)
        if found is None:
            return None
        start, end = found
    return start, end if path else value_end(raw, start)


def value_span(raw: bytes, path: Sequence[str | int], text: str) -> tuple[int, int] | None:
    """`locate`, of a string that is known to say `text`: where the document says it only once, no walk is needed to find it."""
    quoted = orjson.dumps(text)
    at = raw.find(quoted)
    if at >= 0 and raw.rfind(quoted) == at and not has_hiding_escape(raw):  # else it may be spelt in another way
        return at, at + len(quoted)
    return locate(raw, path)


def _item(raw: bytes, at: int, index: int) -> tuple[int, int] | None:
    if raw[at : at + 1] != b"[":
        return None
    at += 1
    while first := _NEXT.match(raw, at):
        at = value_end(raw, first.start(1))
        if index == 0:
            return first.start(1), at
        index -= 1
    return None


def value_end(raw: bytes, at: int) -> int:
    """Where the value that begins at `at` is over."""
    value = _VALUE.match(raw, at)
    if value is None:
        return at
    if raw[at] not in b"[{":
        return value.end()
    depth = 0
    for token in _TOKEN.finditer(raw, at):
        mark = raw[token.start()]
        if mark in b"[{":
            depth += 1
        elif mark in b"]}":
            depth -= 1
            if not depth:
                return token.end()
    return len(raw)


def strings(raw: bytes, surface: tuple[str, ...]) -> list[Span]:
    """The string values that a surface reaches (`stream/surface.py`), and below a `**` the keys and long numbers too, in document order."""
    found: list[Span] = []
    around: list[Place | None] = []  # of the containers open
    place: Place | None = None  # the innermost
    here = compiled(surface)
    for token in _TOKEN.finditer(raw):
        start, end = token.span()
        mark = raw[start]
        if mark == _QUOTE:
            if place is not None and token.lastindex:  # a key
                end = token.start(1)
                if place.keys:
                    _take(found, raw, start, end, place.keys)
                name = raw[start + 1 : end - 1]
                here = place.named.get(name if _BACKSLASH not in name else _name(raw[start:end]).encode(), place.other)
                continue
            if here is not None and here.here:
                _take(found, raw, start, end, here.here)
        elif mark in b"[{":
            around.append(place)
            place = here
        elif mark in b"]}":
            place = around.pop()
        elif here and here.numbers:
            found.append(Span(start, end, False, is_number=True))
        here = place.other if place else None  # an array's next item; an object's next value has its key before it
    return found


def _is_base64(raw: bytes, start: int, end: int) -> bool:
    """Is this string, quotes included, one long word of base64's letters? Running text never is."""
    return end - start > _LONG_WORD and _BASE64.fullmatch(raw, start + 1, end - 1) is not None


def _take(found: list[Span], raw: bytes, start: int, end: int, wanted: Wanted) -> None:
    if end - start > 2 and (wanted.is_always or not _is_base64(raw, start, end)):
        found.append(Span(start + 1, end - 1, wanted.is_json))


@dataclass(slots=True)
class Text:
    """A string value without its escapes, as UTF-8, and the way back: where each byte of it stands in the document."""

    text: bytes = field(repr=False)
    raw: bytes = field(repr=False)  # with its escapes
    start: int  # of `raw` in the document, or in the text of `outer`
    outer: Text | None = None
    is_number: bool = False
    _starts: Sequence[int] = ()  # in `text`, of each character that is spelt as an escape
    _longer: Sequence[int] = ()  # by how much `raw` is ahead of `text` behind so many escapes

    def raw_at(self, offset: int) -> int:
        """The offset in the document. Exact for the edges of characters."""
        if len(self.text) != len(self.raw):
            if not self._starts:
                self._starts, self._longer = _escapes(self.raw, len(self.raw) - len(self.text))
            offset += self._longer[bisect_left(self._starts, offset)]
        offset += self.start
        return self.outer.raw_at(offset) if self.outer else offset


def decode(raw: bytes, start: int, end: int, outer: Text | None = None) -> Text:
    """The string between `start` and `end` (quotes left out) of `raw`, which is a document or the text of `outer`.

    Every escape is longer than what it stands for: texts of equal length are equal.
    """
    inner = raw[start:end]
    if _BACKSLASH not in inner:
        return Text(inner, inner, start, outer)
    value: str = orjson.loads(b'"' + inner + b'"')
    return Text(value.encode(), inner, start, outer)


def _escapes(raw: bytes, longer: int) -> tuple[Sequence[int], Sequence[int]]:
    """Where the text has characters that `raw` spells as escapes, and how far `raw` is ahead behind none, one, two … of them."""
    parts = raw.split(b"\\")
    if longer == len(parts) - 1 and b"" not in parts[1:]:  # each is a backslash and a letter: line breaks and quotes, as a rule
        return list(accumulate(map(len, parts))), range(len(parts))
    starts: list[int] = []
    ahead = [0]
    for escape in _ESCAPE.finditer(raw):
        spelt = escape.group()
        starts.append(escape.start() - ahead[-1])
        ahead.append(ahead[-1] + len(spelt) - (1 if len(spelt) == 2 else len(orjson.loads(b'"' + spelt + b'"').encode())))
    return starts, ahead


def edit(raw: bytes, edits: Iterable[Edit]) -> bytes:
    """`raw` with each span replaced. Spans must not overlap."""
    parts: list[bytes] = []
    at = 0
    for start, end, replacement in sorted(edits):
        parts += (raw[at:start], replacement)
        at = end
    parts.append(raw[at:])
    return b"".join(parts)


def insert_key(raw: bytes, key: str, value: bytes) -> bytes:
    """The object with one more member, `value` being JSON, behind its opening brace."""
    at = raw.index(b"{") + 1
    comma = b"" if raw[_skip(raw, at)] == 0x7D else b","
    return raw[:at] + orjson.dumps(key) + b":" + value + comma + raw[at:]


def _skip(raw: bytes, at: int) -> int:
    while raw[at : at + 1] and raw[at] in _BLANKS:
        at += 1
    return at


def _name(quoted: bytes) -> str:
    if _BACKSLASH not in quoted:
        return quoted[1:-1].decode()
    name: str = orjson.loads(quoted)
    return name
