"""What rooms keep for the calls to come: with a plan, side by side, of its caller alone; and of equal values, one. Decides nothing."""

from __future__ import annotations

from collections.abc import Hashable
from functools import lru_cache
from typing import Any, TypeVar

T = TypeVar("T", bound=Hashable)


class Memo:
    """Of a plan's attempts on the target and with the credential that came first; those of others have one each."""

    __slots__ = ("cells", "credential", "first", "like", "model", "name", "others", "provider", "sort", "whose")

    def __init__(self) -> None:
        self.first: Any = None  # where forwarding begins
        self.provider: str | None = None  # of which attempts the rest is; None: of none yet
        self.model: str | None = None
        self.credential: str | None = None
        self.whose: Any = ()  # of their rows: `caller` to `credential`
        self.sort = ""  # as `exchange.sort_of` has it
        self.like: Any = None  # what the next two are good for: `record.usual.Like`, another once either may have changed
        self.cells: Any = None  # where the metrics count them
        self.name = b""  # the caller's, as the log shows it
        self.others: dict[object, Memo] | None = None  # of further attempts, by provider, model and credential


def the_one(it: T) -> T:
    """Of equal values (names, permissions), one object for all callers: it is in memory once, and found without a comparison. Not for
    what is long: some thousand are at hand."""
    found: T = _the_one(it)
    return found


@lru_cache(maxsize=4096, typed=True)
def _the_one(it: Any) -> Any:
    return it
