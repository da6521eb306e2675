"""Where personal data stands in text. Linear in the text whatever it holds; says what and where, never what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import re2

from proxy.guard.phone import PHONES
from proxy.guard.recognise import CARD, EMAIL, IBAN, IPV4, IPV6, SSN, SSN_NAMED, Bounds, Recogniser, may_be_email

ALL = (EMAIL, IBAN, CARD, SSN, SSN_NAMED, IPV6, IPV4, *PHONES)  # where two claim the same text, the earlier has it
ENTITIES = frozenset(recogniser.entity for recogniser in ALL)
_HIDING = r"\\[u/]"  # what `stream.spans.has_hiding_escape` looks for: behind it anything may stand
_WINDOW = 1024  # bytes read around a hint, at least
_SHORTEST = 3  # bytes: ::1
_AT = 0x40
_ANYWHERE = re2._Anchor.UNANCHORED


class Hit(NamedTuple):
    """Byte offsets in the UTF-8 text."""

    start: int
    end: int
    entity: str


class Family:
    """Recognisers that are hinted at by one pattern."""

    def __init__(self, members: Sequence[Recogniser], hint: str, is_likely: Callable[[bytes, int], bool]) -> None:
        self._members = [(_matching(one.pattern), one, ALL.index(one)) for one in members]
        self._match = _matching(hint)
        self._is_likely = is_likely

    def hint(self, source: bytes, at: int = 0) -> Bounds | None:
        """The next place where something may stand. None: certainly nothing behind `at`."""
        start, end = self._match(_ANYWHERE, source, at, len(source))[0]
        while start >= 0 and not self._is_likely(source, start):
            start, end = self._match(_ANYWHERE, source, end, len(source))[0]
        return (start, end) if start >= 0 else None

    def find(self, text: bytes) -> Iterator[tuple[int, int, int, str]]:
        """Start, minus the end, rank and entity of all that its members claim."""
        for first, last in self._windows(text):
            for match, one, rank in self._members:
                at = first
                while last - at >= _SHORTEST and (found := match(_ANYWHERE, text, at, last))[0][0] >= 0:
                    at = found[0][1]
                    for start, end in one.check(text, *found[one.group]):
                        yield start, -end, rank, one.entity

    def _windows(self, text: bytes) -> Iterator[Bounds]:
        """Whole lines around each hint: no value goes on in the next line."""
        at = 0
        while near := self.hint(text, at):
            first = text.rfind(b"\n", at, near[0]) + 1 or at
            at = text.find(b"\n", max(near[1], first + _WINDOW))
            if at < 0:
                at = len(text)
            yield first, at


class Emails(Family):
    """Few bytes are read around an address: it holds no blank."""

    def __init__(self) -> None:
        super().__init__([EMAIL], EMAIL.hint, may_be_email)

    def _windows(self, text: bytes) -> Iterator[Bounds]:
        read = 0
        at = text.find(b"@")
        while at >= 0:
            if may_be_email(text, at):
                first = text.rfind(b" ", read, at) + 1 or read
                at = text.find(b" ", at)
                read = at if at >= 0 else len(text)
                yield first, read
            at = text.find(b"@", max(read, at + 1))


class Finder:
    """The recognisers of some entities, compiled. Made once for each set of entities: see `finder`."""

    def __init__(self, entities: frozenset[str]) -> None:
        others = [one for one in ALL if one.entity in entities and one is not EMAIL]
        hint = "|".join([*(f"(?:{one.hint or one.pattern})" for one in others), _HIDING])
        self._emails = (Emails(),) if EMAIL.entity in entities else ()
        self._all = (*self._emails, Family(others, hint, lambda source, at: True))
        self._match = _matching(hint)

    def look(self, source: bytes) -> Sequence[Family]:
        """The families that may find something in a text; in JSON source all of them, where an escape may hide what it holds. Raises
        nothing: where it cannot tell, all may."""
        try:
            if self._match(_ANYWHERE, source, 0, len(source))[0][0] >= 0:
                return self._all
            return self._emails if _AT in source and self._emails and self._emails[0].hint(source) else ()
        except Exception:
            return self._all

    def is_sure(self, families: Sequence[Family]) -> bool:
        """No escape was in the way of a look that came to this."""
        return families is not self._all

    def find(self, text: bytes, families: Sequence[Family] | None = None) -> list[Hit]:
        """Every value in UTF-8 text, in order, none overlapping: the earlier begin wins, then the longer, then the order of `ALL`."""
        among = self._all if families is None else families
        return _without_overlaps(sorted([found for family in among for found in family.find(text)]))


def _matching(pattern: str) -> Any:
    """What re2's own `search` and `finditer` call, which cost as much as 300 bytes of text: spans, (-1, -1) where there is none."""
    return re2.compile(pattern)._regexp.Match


def _without_overlaps(found: Iterable[tuple[int, int, int, str]]) -> list[Hit]:
    hits, reached = [], 0
    for start, minus_end, _, entity in found:
        if start >= reached:
            reached = -minus_end
            hits.append(Hit(start, reached, entity))
    return hits


@lru_cache(maxsize=64)
def finder(entities: frozenset[str]) -> Finder:
    return Finder(entities)
