"""The embedded state: counters in memory, the journal as the truth, SQLite as its index. One process per state; decides nothing itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

from proxy.admit import sqlite
from proxy.admit.counters import Charge, Counters, Hold, Moment, charges_of
from proxy.admit.flood import Flood
from proxy.admit.growth import has_room
from proxy.admit.jobs import Jobs, is_job
from proxy.admit.journal import Journal
from proxy.admit.lessons import Lessons
from proxy.admit.limits import denied_entry, denied_hold, entry_standings, hold_standings, worst
from proxy.admit.moments import Moments
from proxy.admit.periods import Calendar
from proxy.admit.place import LEDGER, SECRET_BYTES, Place, unwritable
from proxy.admit.questions import Questions
from proxy.admit.records import MOST, Values, encode, entry_record, grown, hold_record, row_held, uncount_record, values_of
from proxy.admit.replay import replay
from proxy.admit.storage import Storage
from proxy.admit.sync import JournalDown
from proxy.admit.wording import refusal, unavailable
from proxy.exchange import Row
from proxy.policy.plan import Claim
from proxy.ports import Clock, Intent, Standing

Durability = Literal["process", "disk"]


@dataclass(frozen=True, slots=True)
class Recovery:
    """What the start found of the process before: for one log line."""

    crashed: int = 0  # attempts that were open, now closed at their estimate
    torn_bytes: int = 0  # of a record that was being written, kept aside in the state
    damaged_bytes: int = 0  # in the middle of the journal, kept aside; what stands behind them counts


class EmbeddedState(Questions):
    """Implements `ports.Store`, the keys and the ledger of one sidecar. Open it with `EmbeddedState.open`."""

    def __init__(self, place: Place | None, clock: Clock, moments: Moments, max_keys: int, index: sqlite.Index) -> None:
        super().__init__(index, clock)
        self._place, self._clock, self._moments = place, clock, moments
        self.now, self.periods = moments.now, moments.periods
        self.secret = place.secret if place else os.urandom(SECRET_BYTES)
        self.lessons = Lessons(place.path if place else None, index.submit)
        self.recovery = Recovery()
        self.refusal_rows_dropped = 0
        self._counters = Counters(max_keys)
        self._storage: Storage | None = None
        self._journal: Journal | None = None
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
        crashed = [(id, hold) for id, hold in self._counters.holds.items() if not is_job(id)]  # nobody lives to settle them
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

    @property
    def is_available(self) -> bool:
        """False: the ledger cannot be written, and every call is refused with 503 until it can."""
        return not (self._journal is not None and self._journal.is_down) and not self._index.is_behind

    def _names(self, claims: Sequence[Claim], now: Moment) -> list[str]:
        return [self._counters.name_of(claim, now) for claim in claims]

    # -- ports.Store --------------------------------------------------------------------------------------------------

    def peek(self, claims: Sequence[Claim]) -> None:
        """Raises the Refusal that `enter` or a hold of nothing would raise now; changes nothing."""
        self._check_available()
        now = self.now()
        names = self._names(claims, now)
        entry, hold = denied_entry(self._counters, claims, names, now), denied_hold(self._counters, claims, names, now, 0, 0)
        if no := worst([it for it in (entry, hold) if it]):
            raise refusal(no)

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        """One request and one slot on every claim, or none. Gives the standings of requests and concurrency. Raises Refusal 429, 503."""
        now = self.now()
        names = self._names(claims, now)
        if call_uid not in self._counters.stays and claims:
            self._check_available()
            if no := denied_entry(self._counters, claims, names, now):
                raise refusal(no)
            self.enter_unchecked(call_uid, charges_of(claims, names, now, "requests"), now.ns, now)
        return entry_standings(self._counters, claims, names, now)

    async def decide(self, call_uid: str) -> None:
        """Nothing: `enter` notes nothing that it does not decide."""

    def uncount(self, call_uid: str) -> None:
        """The call was refused by a hold: a refusal by admission costs no request. Idempotent."""
        stay = self._counters.uncount(call_uid)
        if stay is not None and self._journal is not None and any(charge.rates for charge in stay.charges):
            self._journal.append(uncount_record(stay.since, stay.charges))

    async def hold(self, intent: Intent, also: Sequence[Charge] = ()) -> tuple[Standing, ...]:
        """Tokens and money on every claim, or none; the intent is in the journal when it returns. Gives the standings of
        tokens and spend. Raises Refusal 400, 402, 429, 503. `also`: what a shared state has decided already, held with it."""
        now = self.now()
        names = self._names(intent.claims, now)
        if intent.id in self._counters.holds:
            await self._durable(intent.id)
        else:
            self._check_available()
            tokens, nanousd = min(intent.tokens, MOST), min(intent.nanousd, MOST)
            if no := denied_hold(self._counters, intent.claims, names, now, tokens, nanousd):
                raise refusal(no, intent)
            await self._take(intent, (*charges_of(intent.claims, names, now, "tokens"), *also), now.ns, now)
        return hold_standings(self._counters, intent.claims, names, now)

    async def _take(self, intent: Intent, charges: tuple[Charge, ...], at_ns: int, now: Moment) -> None:
        tokens, nanousd = min(intent.tokens, MOST), min(intent.nanousd, MOST)
        record, durable = b"", None
        if self._journal is not None:
            record = hold_record(intent.id, at_ns, tokens, nanousd, charges, values_of(intent.row))
            durable = self._journal.hold(record)
        self._counters.hold(intent.id, Hold(at_ns, tokens, nanousd, charges, record), now)
        await self._durable(intent.id, durable)

    async def _durable(self, id: str, durable: asyncio.Future[None] | None = None) -> None:
        """Until the intent is in the journal; where it never will be, the hold is undone. Raises Refusal 503."""
        if self._journal is None:
            return
        try:
            await (durable or self._journal.written())
        except JournalDown:
            self._close(id, 0, 0, None)
            raise unavailable() from None

    async def extend(self, id: str, claims: Sequence[Claim], nanousd: int) -> bool:
        """See `ports.Store`; durable when it returns."""
        hold = self._counters.holds.get(id)
        if hold is None or not self.is_available or not has_room(self._counters, hold, claims, nanousd):
            return False
        self._counters.release(id)
        larger = grown(hold, min(hold.nanousd + nanousd, MOST))
        self._counters.hold_again(id, larger)
        if self._journal is None:
            return True
        try:
            await self._journal.hold(encode(("x", id, larger.nanousd)))
        except JournalDown:
            return False  # it stays held here: what cannot be written down is not spent either
        return True

    def standings(self, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        """How a caller stands on each claim now."""
        now = self.now()
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
            self.note(("v", id, row) if is_void or row is None else ("s", id, tokens, nanousd, row), row)

    def defer(self, id: str, job: str, row: Row, later: Row) -> None:
        self.jobs.defer(id, job, values_of(row), values_of(later))

    def settle_job(self, job: str, true: Callable[[Row], Sequence[Row]], said: bytes = b"") -> bool:
        return self.jobs.settle(job, true)

    def leave(self, call_uid: str) -> None:
        """The call's slots are free. Idempotent."""
        self._counters.leave(call_uid, self._moments.rate_ns())

    def write(self, row: Row) -> None:
        """A row without a hold. Of a flood of one caller's refusals some are left out, and counted in `refusal_rows_dropped`."""
        if row.kind == "refusal" and not (self.is_available and self._flood.has_room(row.caller, self._clock.monotonic())):
            self.refusal_rows_dropped += 1
            return
        values = values_of(row)
        self.note(("w", values), values)

    def note(self, record: Sequence[object], row: Values | None) -> None:
        """For the journal, and the row it writes for the ledger."""
        if self._journal is not None:
            self._journal.append(encode(record), row)
        elif row is not None:
            self._index.put([row], (0, 0))

    # -- for a shared state, which has decided already ----------------------------------------------------------------

    def enter_unchecked(self, call_uid: str, charges: Sequence[Charge], at_ns: int, now: Moment | None = None) -> None:
        """Counts a request and a slot on each charge. `at_ns` as in `now().ns`. Idempotent by uid; journalled with the next hold."""
        if call_uid in self._counters.stays:
            return
        self._counters.enter(call_uid, charges, at_ns, now or self.now())
        if self._journal is not None and any(charge.rates for charge in charges):
            self._journal.append(entry_record(at_ns, charges))

    async def book(self, intent: Intent, charges: Sequence[Charge], at_ns: int) -> None:
        """Holds without a check, in the windows and periods of `charges`; durable when it returns. Idempotent. Raises Refusal 503."""
        if intent.id in self._counters.holds:
            await self._durable(intent.id)
        else:
            self._check_available()
            await self._take(intent, tuple(charges), at_ns, self.now())

    def open_holds(self) -> dict[str, Hold]:
        """By id: what is neither settled nor voided."""
        return dict(self._counters.holds)

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
