"""The embedded state: counters in memory, the journal as the truth, SQLite as its index. One process per state; decides nothing itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from proxy.admit import sqlite
from proxy.admit.accounts import Hold
from proxy.admit.admission import Admission
from proxy.admit.counters import Counters
from proxy.admit.flood import Flood
from proxy.admit.jobs import Jobs, is_job
from proxy.admit.lessons import Lessons
from proxy.admit.moments import Moments
from proxy.admit.periods import Calendar
from proxy.admit.place import LEDGER, SECRET_BYTES, Place, unwritable
from proxy.admit.questions import Questions
from proxy.admit.records import row_held, values_of
from proxy.admit.replay import replay
from proxy.admit.storage import Storage
from proxy.exchange import Row
from proxy.ports import Clock

Durability = Literal["process", "disk"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the start found of the process before: for one log line."""

    crashed: int = 0  # attempts that were open, now closed at their estimate
    torn_bytes: int = 0  # of a record that was being written, kept aside in the state
    damaged_bytes: int = 0  # in the middle of the journal, kept aside; what stands behind them counts


class EmbeddedState(Admission, Questions):
    """Implements `ports.Store`, the keys and the ledger of one sidecar. Open it with `EmbeddedState.open`."""

    def __init__(self, place: Place | None, clock: Clock, moments: Moments, max_keys: int, index: sqlite.Index) -> None:
        Questions.__init__(self, index, clock)
        Admission.__init__(self, Counters(max_keys), moments, index)
        self._place, self._clock = place, clock
        self.secret = place.secret if place else os.urandom(SECRET_BYTES)
        self.lessons = Lessons(place.path if place else None, index.submit)
        self.recovery = Recovery()
        self.refusal_rows_dropped = 0
        self._storage: Storage | None = None
        self._flood = Flood()
        self.jobs = Jobs(self._counters, clock, self)

    @classmethod
    async def open(
        cls, path: Path | None, *, clock: Clock, time_zone: str, max_keys: int, durability: Durability = "process", boot_id: str = ""
    ) -> Self:
        """Replays the journal of the directory `path` (created where missing), so that every counter stands as it stood, and
        closes what the process before left open. None: in memory, nothing is kept. Raises StateProblem.

        `durability` "disk": a hold is on the disk when it returns. `boot_id`: see `Moments`.
        """
        place = Place(path) if path else None
        index = None
        try:
            moments = Moments(clock, Calendar(time_zone), boot_id)
            index = sqlite.Index(path / LEDGER if path else None, Calendar(time_zone).day_of)
            state = cls(place, clock, moments, max_keys, index)
            await state._recover(durability)
            state.jobs.look()
        except BaseException:
            if index is not None:
                index.close()
            if place is not None:
                place.close()
            raise
        return state

    async def _recover(self, durability: Durability) -> None:
        await self.keys.load()
        if self._place is None:
            return
        path = self._place.path
        position = await asyncio.wrap_future(self._index.submit(sqlite.indexed))
        try:
            found = replay(path, self._counters, position)
            self._moments.resume(found.clock)
            self._counters.no_later_than(self.now().ns)
            for rows, at in found.rows:
                self._index.put(rows, at)
            is_on_disk = durability == "disk"
            storage = Storage(path, found, self._index, self._counters, now=self.now, mark=self._moments.mark, is_on_disk=is_on_disk)
        except OSError as problem:
            raise unwritable(path, problem) from problem
        self._storage, self._journal = storage, storage.journal
        crashed = [(id, hold) for id, hold in self.open_holds().items() if not is_job(id)]  # nobody lives to settle them
        for id, hold in crashed:
            self._close(id, hold.tokens, hold.nanousd, row_held(hold))
        storage.journal.flush()
        if found.previous:  # the first segment ever has none before it
            storage.compact()
        await asyncio.wrap_future(self._index.submit(lambda _: None))
        self.recovery = Recovery(len(crashed), found.torn_bytes, found.damaged_bytes)

    async def close(self) -> None:
        """Everything settled is written and synced, the lock released."""
        self.lessons.keep()
        self.jobs.close()
        try:
            if self._storage is not None:
                await self._storage.close()
        finally:
            await asyncio.to_thread(self._index.close)
            if self._place is not None:
                self._place.close()

    def defer(self, id: str, job: str, row: Row, later: Row) -> None:
        self.jobs.defer(id, job, values_of(row), values_of(later))

    def settle_job(self, job: str, true: Callable[[Row], Sequence[Row]], said: bytes = b"") -> bool:
        return self.jobs.settle(job, true)

    def write(self, row: Row) -> None:
        """A row without a hold. Of a flood of one caller's refusals some are left out, and counted in `refusal_rows_dropped`."""
        if row.kind == "refusal" and not (self.is_available and self._flood.has_room(row.caller, self._clock.monotonic())):
            self.refusal_rows_dropped += 1
            return
        values = values_of(row)
        self.note(("w", values), values)

    def open_holds(self) -> dict[str, Hold]:
        """By id: what is neither settled nor voided."""
        return {id: Hold._make(hold) for id, hold in self._counters.holds.items()}

    def contributions(self) -> list[tuple[str, str, str, int, int]]:
        """Limit, account, period id, settled and held (nano-dollars) of all money that this sidecar counted."""
        return list(self._counters.contributions())

    # -- what counts --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        if self._journal is not None:
            self._journal.flush()

    def set_max_keys(self, most: int) -> None:
        """For accounts from now on; those beyond it that exist already stay."""
        self._counters.max_keys = most

    def held_spend(self, limits: Sequence[str]) -> dict[str, int]:
        """Nano-dollars held and spent on these limits, by name; those with none are left out."""
        found = {name: self._counters.spent(name) for name in limits}
        return {name: nanousd for name, nanousd in found.items() if nanousd}
