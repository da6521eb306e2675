"""Where personal data stands in text. Linear in the text whatever it holds; says what and where, never what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import re2  # type: ignore[import-untyped]  # google-re2 ships no types

from proxy.guard.phone import PHONES
from proxy.guard.recognise import CARD, EMAIL, IBAN, IPV4, IPV6, SSN, SSN_NAMED, Recogniser

ALL = (EMAIL, IBAN, CARD, SSN, SSN_NAMED, IPV6, IPV4, *PHONES)  # where two claim the same text, the earlier has it
ENTITIES = frozenset(recogniser.entity for recogniser in ALL)


class Hit(NamedTuple):
    """Byte offsets in the UTF-8 text."""

    start: int
    end: int
    entity: str


@dataclass(frozen=True, slots=True)
class _Compiled:
    recogniser: Recogniser
    pattern: Any  # re2's own compiled pattern
    rank: int


class Finder:
    """The recognisers of some entities, compiled. Made once for each set of entities: see `finder`."""

    def __init__(self, entities: frozenset[str]) -> None:
        chosen = [recogniser for recogniser in ALL if recogniser.entity in entities]
        self._compiled = [_Compiled(one, re2.compile(one.pattern), rank) for rank, one in enumerate(chosen)]
        self._hint = re2.compile("|".join(f"(?:{one.hint or one.pattern})" for one in chosen)) if chosen else None

    def may_hold(self, text: bytes) -> bool:
        """False: certainly nothing there. True of JSON source too, where it holds neither `\\u` nor `\\/`: no match crosses others."""
        return self._hint is not None and self._hint.search(text) is not None

    def find(self, text: bytes) -> list[Hit]:
        """Every value in UTF-8 text, in order, none overlapping: the earlier begin wins, then the longer, then the order of `ALL`."""
        found: list[tuple[int, int, int, str]] = []
        for one in self._compiled:
            recogniser = one.recogniser
            for match in one.pattern.finditer(text):
                for start, end in recogniser.check(text, *match.span(recogniser.group)):
                    found.append((start, -end, one.rank, recogniser.entity))
        return list(_without_overlaps(sorted(found)))


def _without_overlaps(found: Iterable[tuple[int, int, int, str]]) -> Iterable[Hit]:
    reached = 0
    for start, minus_end, _, entity in found:
        if start >= reached:
            reached = -minus_end
            yield Hit(start, reached, entity)


@lru_cache(maxsize=64)
def finder(entities: frozenset[str]) -> Finder:
    return Finder(entities)
