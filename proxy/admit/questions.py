"""What is asked of an embedded state: minted keys, rows, sums. Counts nothing and refuses nobody."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from proxy.admit import sqlite
from proxy.admit.keys import Keys
from proxy.admit.ledger import Grouping, attempts_of, billed_of, dearest_of, failed_of, figures_of, pruned_of, rows_of, usage_of
from proxy.admit.outgoing import Outgoing
from proxy.admit.upkeep import Kept, Upkeep
from proxy.ports import Clock


class Questions:
    """The part of `EmbeddedState` that its index answers."""

    def __init__(self, index: sqlite.Index, clock: Clock) -> None:
        self._index = index
        self.keys = Keys(index, clock.now_ns)

    def _flush(self) -> None:
        """Rows written before a question was asked are in its answer."""

    @property
    def pending_rows(self) -> int:
        """Rows of the journal that the ledger's index does not hold yet."""
        return self._index.pending

    # -- keys ---------------------------------------------------------------------------------------------------------

    def has_key_named(self, name: str) -> bool:
        return self.keys.has_name(name)

    # -- the ledger ---------------------------------------------------------------------------------------------------

    async def rows(self, limit: int = 100, since_ns: int | None = None, caller: str | None = None) -> list[dict[str, Any]]:
        """The newest `limit` rows, oldest of them first; all written before the call are seen."""
        self._flush()
        return await self._index.ask(lambda connection: rows_of(connection, limit, since_ns, caller))

    async def usage(self, by: Grouping, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
        """Sums per `by` (see `ledger.usage_of`). Raises ValueError for a grouping that does not exist."""
        self._flush()
        return await self._index.ask(lambda connection: usage_of(connection, by, since_ns, until_ns))

    async def dearest(self, limit: int = 10, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
        """The calls that cost most (see `ledger.dearest_of`)."""
        self._flush()
        return await self._index.ask(lambda connection: dearest_of(connection, limit, since_ns, until_ns))

    async def failed(self, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
        """What failed attempts cost (see `ledger.failed_of`)."""
        self._flush()
        return await self._index.ask(lambda connection: failed_of(connection, since_ns, until_ns))

    async def attempts(self, request_id: str) -> list[dict[str, Any]]:
        """All rows of a request (see `ledger.attempts_of`)."""
        self._flush()
        return await self._index.ask(lambda connection: attempts_of(connection, request_id))

    async def billed(self, provider: str | None = None, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
        """What a provider's bill should say (see `ledger.billed_of`)."""
        self._flush()
        return await self._index.ask(lambda connection: billed_of(connection, provider, since_ns, until_ns))

    def outgoing(self, name: str) -> Outgoing:
        """The rows for the place of this name, in order, with a note of what it has got."""
        return Outgoing(self._index, name)

    def upkeep(self, kept: Callable[[], Kept], clock: Clock, tell: Callable[..., None]) -> Upkeep:
        """What keeps the ledger fit, once it is started and until it is stopped."""
        return Upkeep(self._index, kept, clock, tell)

    async def pruned_ns(self) -> int:
        """Up to which instant rows are gone to the archive; 0: none are."""
        return await self._index.ask(pruned_of)

    async def figures_of(self, ids: Collection[str]) -> dict[str, tuple[int, int]]:
        """Tokens and nano-dollars of the rows with these ids; an id without a row is left out."""
        self._flush()
        return await self._index.ask(lambda connection: figures_of(connection, ids))
