"""The embedded state: counters in memory, the journal as the truth, SQLite as its index. One process per state; decides nothing itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proxy.admit import sqlite
from proxy.admit.counters import Counters, Hold, Moment, charges_of
from proxy.admit.flood import Flood
from proxy.admit.journal import Journal, JournalDown, forget_before
from proxy.admit.ledger import Grouping, rows_of, usage_of
from proxy.admit.limits import denied_entry, denied_hold, entry_standings, hold_standings, worst
from proxy.admit.periods import Calendar
from proxy.admit.place import LEDGER, SECRET_BYTES, Place, unwritable
from proxy.admit.records import MOST, Values, encode, entry_record, hold_record, row_held, snapshot_record, uncount_record, values_of
from proxy.admit.replay import replay
from proxy.admit.wording import refusal, unavailable
from proxy.exchange import Row
from proxy.policy.plan import Claim
from proxy.policy.plan_callers import KeyRecord
from proxy.ports import Clock, Intent, Standing

NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the start found of the process before: for one log line."""

    crashed: int = 0  # attempts that were open, now closed at their estimate
    torn_bytes: int = 0  # of a record that was being written, kept aside in the state


class EmbeddedState:
    """Implements `ports.Store`, the keys and the ledger of one sidecar. Open it with `EmbeddedState.open`."""

    def __init__(self, place: Place | None, clock: Clock, calendar: Calendar, max_keys: int, index: sqlite.Index) -> None:
        self._place, self._clock, self._calendar, self._index = place, clock, calendar, index
        self.secret = place.secret if place else os.urandom(SECRET_BYTES)
        self.recovery = Recovery()
        self.refusal_rows_dropped = 0
        self._counters = Counters(max_keys)
        self._journal: Journal | None = None
        self._keys: dict[bytes, KeyRecord] = {}
        self._key_names: set[str] = set()
        self._anchor = clock.now_ns() - int(clock.monotonic() * NS)
        self._latest = 0  # the calendar rolls only forward, also when the clock is put back
        self._flood = Flood()

    @classmethod
    async def open(cls, path: Path | None, *, clock: Clock, time_zone: str, max_keys: int) -> Self:
        """Replays the journal of the directory `path` (created where missing), so that every counter stands as it stood, and
        closes what the process before left open. None: in memory, nothing is kept. Raises StateProblem."""
        place = Place(path) if path else None
        index = None
        try:
            calendar = Calendar(time_zone)
            index = sqlite.Index(path / LEDGER if path else None, Calendar(time_zone).day_of)
            state = cls(place, clock, calendar, max_keys, index)
            await state._recover()
        except BaseException:
            if index is not None:
                index.close()
            if place is not None:
                place.close()
            raise
        return state

    async def _recover(self) -> None:
        self._keys = {key.digest: key for key in await asyncio.wrap_future(self._index.submit(sqlite.keys))}
        self._key_names = {key.name for key in self._keys.values()}
        if self._place is None:
            return
        path = self._place.path
        position = await asyncio.wrap_future(self._index.submit(sqlite.indexed))
        try:
            found = replay(path, self._counters, position)
            self._counters.no_later_than(self._now().ns)
            for rows, at in found.rows:
                self._index.put(rows, at)
            self._journal = Journal(path, found.next_number, snapshot=self._snapshot, wrote=self._index.put, retired=self._retired)
        except OSError as problem:
            raise unwritable(path, problem) from problem
        crashed = list(self._counters.holds.items())
        for id, hold in crashed:
            self._close(id, hold.tokens, hold.nanousd, row_held(hold))
        self._journal.flush()
        self._retired(found.next_number)
        await asyncio.wrap_future(self._index.submit(lambda _: None))
        self.recovery = Recovery(len(crashed), found.torn_bytes)

    def _snapshot(self) -> bytes:
        return snapshot_record(self._counters, self._now())

    def _retired(self, number: int) -> None:
        """Old segments go when their rows are committed; on the writer's thread."""
        place = self._place
        if place is not None:
            self._index.when_safe(lambda: forget_before(place.path, number))

    async def close(self) -> None:
        """Everything settled is written and synced, the lock released."""
        try:
            if self._journal is not None:
                self._journal.close()
        finally:
            await asyncio.to_thread(self._index.close)
            if self._place is not None:
                self._place.close()

    @property
    def is_available(self) -> bool:
        """False: the ledger cannot be written, and every call is refused with 503 until it can."""
        return not (self._journal is not None and self._journal.is_down) and not self._index.is_behind

    @property
    def pending_rows(self) -> int:
        """Rows of the journal that the ledger's index does not hold yet."""
        return self._index.pending

    # -- time ---------------------------------------------------------------------------------------------------------

    def _now(self) -> Moment:
        self._latest = max(self._latest, self._clock.now_ns())
        return Moment(self._rate_ns(), self._calendar.at(self._latest))

    def _rate_ns(self) -> int:
        """Wall time as of the start, then by the monotonic clock: no jump empties or freezes a window."""
        return self._anchor + int(self._clock.monotonic() * NS)

    def _names(self, claims: Sequence[Claim], now: Moment) -> list[str]:
        return [self._counters.name_of(claim, now) for claim in claims]

    # -- ports.Store --------------------------------------------------------------------------------------------------

    def peek(self, claims: Sequence[Claim]) -> None:
        """Raises the Refusal that `enter` or a hold of nothing would raise now; changes nothing."""
        self._check_available()
        now = self._now()
        names = self._names(claims, now)
        entry, hold = denied_entry(self._counters, claims, names, now), denied_hold(self._counters, claims, names, now, 0, 0)
        if no := worst([it for it in (entry, hold) if it]):
            raise refusal(no)

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        """One request and one slot on every claim, or none. Gives the standings of requests and concurrency. Raises Refusal 429, 503."""
        now = self._now()
        names = self._names(claims, now)
        if call_uid not in self._counters.stays and claims:
            self._check_available()
            if no := denied_entry(self._counters, claims, names, now):
                raise refusal(no)
            charges = charges_of(claims, names, now, "requests")
            self._counters.enter(call_uid, charges, now)
            if self._journal is not None and any(charge.rates for charge in charges):
                self._journal.append(entry_record(now.ns, charges))
        return entry_standings(self._counters, claims, names, now)

    def uncount(self, call_uid: str) -> None:
        """The call was refused by a hold: a refusal by admission costs no request. Idempotent."""
        stay = self._counters.uncount(call_uid)
        if stay is not None and self._journal is not None and any(charge.rates for charge in stay.charges):
            self._journal.append(uncount_record(stay.since, stay.charges))

    async def hold(self, intent: Intent) -> tuple[Standing, ...]:
        """Tokens and money on every claim, or none; the intent is in the journal when it returns. Gives the standings of
        tokens and spend. Raises Refusal 400, 402, 429, 503."""
        now = self._now()
        names = self._names(intent.claims, now)
        durable = None
        if intent.id in self._counters.holds:
            durable = self._journal.written() if self._journal is not None else None
        else:
            self._check_available()
            tokens, nanousd = min(intent.tokens, MOST), min(intent.nanousd, MOST)
            if no := denied_hold(self._counters, intent.claims, names, now, tokens, nanousd):
                raise refusal(no, intent)
            charges = charges_of(intent.claims, names, now, "tokens")
            record = b""
            if self._journal is not None:
                record = hold_record(intent.id, now.ns, tokens, nanousd, charges, values_of(intent.row))
                durable = self._journal.hold(record)
            self._counters.hold(intent.id, Hold(now.ns, tokens, nanousd, charges, record), now)
        if durable is not None:
            try:
                await durable
            except JournalDown:
                self._close(intent.id, 0, 0, None)
                raise unavailable() from None
        return hold_standings(self._counters, intent.claims, names, now)

    def standings(self, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        """How a caller stands on each claim now."""
        now = self._now()
        names = self._names(claims, now)
        return (*entry_standings(self._counters, claims, names, now), *hold_standings(self._counters, claims, names, now))

    def _check_available(self) -> None:
        if not self.is_available:
            raise unavailable()

    def settle(self, id: str, tokens: int, nanousd: int, row: Row) -> None:
        """The true figures, in the windows and periods of the hold. An id that is not held (any more) changes nothing."""
        self._close(id, min(tokens, MOST), min(nanousd, MOST), values_of(row))

    def void(self, id: str, row: Row | None) -> None:
        """Nothing was sent: all goes back. An id that is not held changes nothing."""
        self._close(id, 0, 0, None if row is None else values_of(row), is_void=True)

    def _close(self, id: str, tokens: int, nanousd: int, row: Values | None, *, is_void: bool = False) -> None:
        if self._counters.close(id, tokens, nanousd):
            self._note(("v", id, row) if is_void or row is None else ("s", id, tokens, nanousd, row), row)

    def leave(self, call_uid: str) -> None:
        """The call's slots are free. Idempotent."""
        self._counters.leave(call_uid, self._rate_ns())

    def write(self, row: Row) -> None:
        """A row without a hold. Of a flood of one caller's refusals some are left out, and counted in `refusal_rows_dropped`."""
        if row.kind == "refusal" and not (self.is_available and self._flood.has_room(row.caller, self._clock.monotonic())):
            self.refusal_rows_dropped += 1
            return
        values = values_of(row)
        self._note(("w", values), values)

    def _note(self, record: Sequence[object], row: Values | None) -> None:
        if self._journal is not None:
            self._journal.append(encode(record), row)
        elif row is not None:
            self._index.put([row], (0, 0))

    # -- keys ---------------------------------------------------------------------------------------------------------

    def find_key(self, digest: bytes) -> KeyRecord | None:
        return self._keys.get(digest)

    def keys(self) -> list[KeyRecord]:
        return list(self._keys.values())

    def has_key_named(self, name: str) -> bool:
        return name in self._key_names

    async def add_key(self, record: KeyRecord) -> None:
        """Durable when it returns, and valid from then on."""
        await asyncio.wrap_future(self._index.submit(lambda connection: sqlite.add_key(connection, record)))
        self._keys[record.digest] = record
        self._key_names.add(record.name)

    # -- questions ----------------------------------------------------------------------------------------------------

    async def rows(self, limit: int = 100, since_ns: int | None = None, caller: str | None = None) -> list[dict[str, Any]]:
        """The newest `limit` rows, oldest of them first; all written before the call are seen."""
        self._flush()
        return await self._index.ask(lambda connection: rows_of(connection, limit, since_ns, caller))

    async def usage(self, by: Grouping, since_ns: int | None = None, until_ns: int | None = None) -> list[dict[str, Any]]:
        """Sums per `by` (see `ledger.usage_of`). Raises ValueError for a grouping that does not exist."""
        self._flush()
        return await self._index.ask(lambda connection: usage_of(connection, by, since_ns, until_ns))

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


def add_key_offline(path: Path, record: KeyRecord) -> None:
    """Adds a key to the state of a stopped process. Raises StateProblem, also where one runs."""
    place = Place(path)
    try:
        index = sqlite.Index(path / LEDGER, str)
        try:
            index.submit(lambda connection: sqlite.add_key(connection, record)).result()
        finally:
            index.close()
    finally:
        place.close()
