"""Byte spans of the values in JSON text, so that one value can change and no other byte does. Never parses, never re-serialises.

All of it takes JSON that a parser has accepted (`stream/body.py`); offsets are of bytes.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import orjson
import re2  # type: ignore[import-untyped]  # google-re2 ships no types

from proxy.stream.surface import Nodes, below, compiled

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_NUMBER = rb"(?<![0-9.eE+\-])(?P<number>-?[0-9]{7,}[0-9.eE+\-]*)"  # with as many digits as the shortest thing worth hiding has
_TOKEN = re.compile(_STRING + rb"(?P<key>[ \t\r\n]*:)?|[\[{\]}]|" + _NUMBER, re.DOTALL)
_VALUE = re.compile(_STRING + rb"|[\[{]|[^\s,\]}]+", re.DOTALL)
_KEY = re.compile(rb"[ \t\r\n,]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_NEXT = re.compile(rb"[ \t\r\n,]*+([^\]])")
_ESCAPE = re.compile(rb"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|u....|.)", re.DOTALL)
_BASE64 = re.compile(rb"[A-Za-z0-9+/=_-]*+")
_BLANKS = b" \t\r\n"
_UNICODE_ESCAPE, _HIDING_ESCAPE = re2.compile(rb"\\u"), re2.compile(rb"\\[u/]")
_LONG_WORD = 64  # bytes; base64 of anything worth sending is longer

Edit = tuple[int, int, bytes]  # start, end, what stands there now


class Span(NamedTuple):
    """A string value, its quotes left out. `is_json`: the string is JSON source itself (tool arguments)."""

    start: int
    end: int
    is_json: bool
    is_number: bool = False  # a number, written out


def has_unicode_escape(raw: bytes) -> bool:
    """Is a character of this JSON source spelt as `\\uXXXX`? (Python's own search for two bytes takes 1 to 2 ns a byte.)"""
    return b"\\" in raw and _UNICODE_ESCAPE.search(raw) is not None


def has_hiding_escape(raw: bytes) -> bool:
    """Is a character that needs no escape spelt as one: `\\uXXXX`, or the `\\/` that PHP writes? A search of the source misses it."""
    return b"\\" in raw and _HIDING_ESCAPE.search(raw) is not None


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
    around: list[tuple[Nodes, Nodes]] = []  # containers open: its own places, those of an array's next item
    here = compiled(surface)
    at = 0
    while token := _TOKEN.search(raw, at):
        start, at = token.span()
        mark = raw[start]
        if mark == 0x22:  # a quote
            if token["key"] is not None:
                places = around[-1][0]
                _take(found, raw, start, token.start("key"), tuple(node for node in places if node.is_deep))
                here = below(places, _name(raw[start : token.start("key")]))
                continue
            _take(found, raw, start, at, here)
        elif token["number"] is not None:
            if any(node.is_deep and node.text for node in here):
                found.append(Span(start, at, False, is_number=True))
        elif mark not in b"[{":
            around.pop()
        elif here:
            items = below(here, None) if mark == 0x5B else ()
            around.append((here, items))
            here = items
            continue
        else:
            at = value_end(raw, start)
        here = around[-1][1] if around else ()
    return found


def _is_base64(raw: bytes, start: int, end: int) -> bool:
    """Is this string, quotes included, one long word of base64's letters? Running text never is."""
    return end - start > _LONG_WORD and _BASE64.fullmatch(raw, start + 1, end - 1) is not None


def _take(found: list[Span], raw: bytes, start: int, end: int, places: Nodes) -> None:
    if end - start > 2 and any(node.text or node.json or (node.either and not _is_base64(raw, start, end)) for node in places):
        found.append(Span(start + 1, end - 1, any(node.json for node in places)))


@dataclass(slots=True)
class Text:
    """A string value without its escapes, as UTF-8, and the way back: where each byte of it stands in the document."""

    text: bytes = field(repr=False)
    raw: bytes = field(repr=False)  # with its escapes
    start: int  # of `raw` in the document, or in the text of `outer`
    outer: Text | None = None
    is_number: bool = False
    _here: list[int] = field(default_factory=list)  # starts of the pieces between and of escapes, in `text`
    _there: list[int] = field(default_factory=list)  # the same in `raw`

    def raw_at(self, offset: int) -> int:
        """The offset in the document. Exact for the edges of characters."""
        if len(self.text) != len(self.raw):
            if not self._here:
                self._here, self._there = _pieces(self.raw)
            piece = bisect_right(self._here, offset) - 1
            offset = self._there[piece] + offset - self._here[piece]
        offset += self.start
        return self.outer.raw_at(offset) if self.outer else offset


def decode(raw: bytes, start: int, end: int, outer: Text | None = None) -> Text:
    """The string between `start` and `end` (quotes left out) of `raw`, which is a document or the text of `outer`.

    Every escape is longer than what it stands for: texts of equal length are equal.
    """
    inner = raw[start:end]
    if b"\\" not in inner:
        return Text(inner, inner, start, outer)
    value: str = orjson.loads(b'"' + inner + b'"')
    return Text(value.encode(), inner, start, outer)


def _pieces(raw: bytes) -> tuple[list[int], list[int]]:
    here, there = [0], [0]
    at = length = 0
    for escape in _ESCAPE.finditer(raw):
        length += escape.start() - at
        here.append(length)
        there.append(escape.start())
        value: str = orjson.loads(b'"' + escape.group() + b'"')
        length += len(value.encode())
        at = escape.end()
        here.append(length)
        there.append(at)
    return here, there


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
    if b"\\" not in quoted:
        return quoted[1:-1].decode()
    name: str = orjson.loads(quoted)
    return name
