"""What rooms keep with a plan, side by side, for the calls to come: of its caller alone. Decides nothing."""

from __future__ import annotations

from typing import Any


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
