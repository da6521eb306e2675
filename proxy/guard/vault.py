"""Which placeholder stands for which value, for one call and no longer. Shown nowhere: not in a repr, a log or a store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

LABELS: Final = {
    "email": "EMAIL",
    "phone": "PHONE",
    "credit_card": "CREDIT_CARD",
    "iban": "IBAN",
    "us_ssn": "US_SSN",
    "ip_address": "IP_ADDRESS",
}
MAX_DIGITS = 7  # of a placeholder's number: 10 million values in one call is above any body


class Vault:
    """The same value always has the same placeholder: `[EMAIL_1]`. `is_taken` tells names that the caller's own text holds."""

    __slots__ = ("_is_taken", "_last", "_names", "_values")

    def __init__(self, is_taken: Callable[[bytes], bool] = lambda name: False) -> None:
        self._is_taken = is_taken
        self._last: dict[str, int] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._values: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"Vault({len(self._values)} values)"

    def __len__(self) -> int:
        return len(self._values)

    @property
    def labels(self) -> frozenset[str]:
        """The kinds of placeholder given out."""
        return frozenset(LABELS[entity] for entity in self._last)

    def placeholder(self, entity: str, value: str) -> bytes:
        """Plain ASCII without quotes, backslashes, `<`, `>` and `&`: it stands in JSON and in HTML as it is."""
        name = self._names.get((entity, value))
        if name is None:
            name = self._names[entity, value] = self._new(entity)
            self._values[name] = value
        return b"[%s]" % name.encode()

    def value(self, name: str) -> str | None:
        """What `EMAIL_1` (no brackets) stands for; None for what we never gave out."""
        return self._values.get(name)

    def _new(self, entity: str) -> str:
        number = self._last.get(entity, 0) + 1
        while self._is_taken(f"[{LABELS[entity]}_{number}]".encode()):
            number += 1
        self._last[entity] = number
        return f"{LABELS[entity]}_{number}"
