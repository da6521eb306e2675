"""Placeholders back into values, in texts whole or in pieces. Holds back at most one placeholder's length; exact names only."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

import orjson

from proxy.guard.vault import MAX_DIGITS, Vault
from proxy.stream.spans import Edit


def quoted(text: str) -> str:
    """As it stands between the quotes of a JSON string."""
    return orjson.dumps(text).decode()[1:-1]


class Patterns(NamedTuple):
    """Of the placeholders with some labels. Models that write Markdown put a backslash before both brackets: that is read too."""

    whole: re.Pattern[str]  # the last group that took part is the name
    in_bytes: re.Pattern[bytes]
    begun: re.Pattern[str]  # at the end of a text
    longest: int
    may_stand: re.Pattern[bytes]  # in JSON source: a placeholder, or an escape that may spell one
    opens: re.Pattern[bytes]  # in an event of a stream: a placeholder, or a text that ends within one; but for those
    spells: re.Pattern[bytes]  # that begin with a backslash


@lru_cache(maxsize=64)  # as many as there are sets of labels
def patterns(labels: frozenset[str]) -> Patterns:
    names = "|".join(sorted(labels))
    name = rf"((?:{names})_[0-9]{{1,{MAX_DIGITS}}})"
    whole = rf"\[{name}\]|\\\[{name}\\\]|\\\\\[{name}\\\\\]"  # each begins with one byte: a search jumps to the next
    number = rf"[0-9]{{0,{MAX_DIGITS}}}\\{{0,2}}"
    begun = "|".join(_begun(f"{label}_", number) for label in sorted(labels))
    initials = "".join(sorted({label[0] for label in labels})).encode()
    return Patterns(
        re.compile(whole),
        re.compile(whole.encode()),
        re.compile(rf"(?:\\{{0,2}}\[(?:{begun})|\\{{1,2}})\Z"),
        max(map(len, labels), default=0) + MAX_DIGITS + 7,  # brackets, underscore, four backslashes
        re.compile(rb"\[[%s]|\\u" % (initials or b'"')),
        re.compile(rb'\[["%s]' % initials),
        re.compile(rb"\\\\|\\u005"),
    )


class Swap:
    """Finds a vault's placeholders in text."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._whole, self._in_bytes, self._begun, self._longest, self.may_stand, self.opens, self.spells = patterns(vault.labels)

    def swapped(self, text: str, is_json: bool = False) -> str:
        """All placeholders replaced; in JSON source, by the value as it stands in a JSON string."""
        return self._whole.sub(lambda match: self._value(match[0], match[match.lastindex or 0], int(is_json)), text)

    def found(self, text: bytes, quotes: int) -> list[Edit]:
        """Where in UTF-8 text, and what goes there, quoted so many times."""
        return [
            (match.start(), match.end(), self._value(match[0].decode(), match[match.lastindex or 0].decode(), quotes).encode())
            for match in self._in_bytes.finditer(text)
        ]

    def split(self, text: str) -> tuple[str, str]:
        """What may go, and what may be the beginning of a placeholder."""
        begun = self._begun.search(text, max(0, len(text) - self._longest))
        return (text[: begun.start()], text[begun.start() :]) if begun else (text, "")

    def _value(self, whole: str, name: str, quotes: int) -> str:
        value = self._vault.value(name)
        if value is None:
            return whole
        for _ in range(quotes):
            value = quoted(value)
        return value


class Pieces:
    """One text that comes in pieces."""

    __slots__ = ("_is_json", "_swap", "held")

    def __init__(self, swap: Swap, is_json: bool) -> None:
        self._swap, self._is_json = swap, is_json
        self.held = ""

    def feed(self, piece: str) -> str:
        ready, self.held = self._swap.split(self.held + piece)
        return self._swap.swapped(ready, self._is_json)

    def end(self) -> str:
        """What was held: no placeholder after all."""
        rest, self.held = self.held, ""
        return rest


def _begun(name: str, number: str) -> str:
    """A pattern for every beginning of `name`, the empty one included, and behind the whole of it for `number`."""
    pattern = number
    for letter in reversed(name):
        pattern = f"(?:{re.escape(letter)}{pattern})?"
    return pattern
