"""What calls and attempts take of their limits and give back: counted, written down, told. Opens and closes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from orjson import Fragment, dumps

from proxy.admit import sqlite
from proxy.admit.accounts import Hold, Moment
from proxy.admit.counters import Charge, Counters
from proxy.admit.growth import has_room
from proxy.admit.journal import Journal
from proxy.admit.limits import denied_entry, denied_hold, worst
from proxy.admit.lines import Place, Places, look, may_enter, may_hold, standings_on
from proxy.admit.moments import Moments
from proxy.admit.periods import NS
from proxy.admit.records import MOST, Values, encode, grown, hold_record, plain, uncount_record, values_of
from proxy.admit.sync import JournalDown
from proxy.admit.wording import refusal, unavailable
from proxy.exchange import Row
from proxy.policy.plan import Claim
from proxy.ports import Intent
from proxy.standings import NO_STANDINGS, Standings


class Admission:
    """The part of `EmbeddedState` that every call goes through."""

    def __init__(self, counters: Counters, moments: Moments, index: sqlite.Index) -> None:
        self._counters, self._moments, self._index = counters, moments, index
        self.now, self.periods = moments.now, moments.periods
        self._places = Places(counters, moments)
        self._journal: Journal | None = None

    @property
    def is_available(self) -> bool:
        """False: the ledger cannot be written, and every call is refused with 503 until it can."""
        return not self._is_down()

    def _is_down(self) -> bool:
        journal, index = self._journal, self._index
        return (journal is not None and journal.is_down) or (index.was_behind and index.is_behind)

    def _names(self, claims: Sequence[Claim], now: Moment) -> list[str]:
        return [self._counters.name_of(claim, now) for claim in claims]

    def peek(self, claims: Sequence[Claim]) -> None:
        """Raises the Refusal that `enter` or a hold of nothing would raise now; counts nothing."""
        journal = self._journal
        if (journal is None or journal.is_down or self._index.was_behind) and self._is_down():
            raise unavailable()
        counters = self._counters
        place = counters.place if claims is counters.claims else self._places.of(claims)
        if place is not None:
            sums = place.sums
            if (sums.entries < place.entries_to and sums.tokens <= place.tokens_to and sums.nanousd <= place.nanousd_to) or look(place):
                return
        now = self.now()
        names = self._names(claims, now)
        entry, hold = denied_entry(counters, claims, names, now), denied_hold(counters, claims, names, now, 0, 0)
        if no := worst([it for it in (entry, hold) if it]):
            raise refusal(no)

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> None:
        self.enter_at_once(call_uid, claims)

    def enter_at_once(self, call_uid: str, claims: Sequence[Claim]) -> bool:
        """One request and one slot on every claim, or none. Raises Refusal 429, 503."""
        counters, journal, moments = self._counters, self._journal, self._moments
        if call_uid in counters.stays or not claims:
            return True
        if (journal is None or journal.is_down or self._index.was_behind) and self._is_down():
            raise unavailable()
        monotonic_ns = moments.monotonic_ns
        ns = moments.anchor + monotonic_ns()  # `Moments.ns`, but for the call and the calendar: no money is counted here
        place = counters.place if claims is counters.claims else self._places.of(claims)
        if place is None or (place.sums.entries >= place.entries_to and not may_enter(place, ns)):
            now = self.now()
            names, ns = self._names(claims, now), now.ns
            if no := denied_entry(counters, claims, names, now):
                raise refusal(no)
            place = self._places.made(claims, names, now)
        everyone = place.everyone
        for account in everyone:
            account.in_flight += 1
        for ring in place.asked:  # `Ring.add`, but for the call
            if ns >= ring.edge:
                ring.turn(ns)
            if ns > ring.last:
                ring.last = ns
            ring.total += 1
        place.sums.entries += place.times
        counters.stays[call_uid] = ns, everyone, place
        if journal is not None and place.entry is not None:
            journal.begin(call_uid, ns, place.entry)
        return True

    async def decide(self, call_uid: str) -> None:
        """All is decided: it is written down, as the hold that it might have been written with may be far off."""
        if self._journal is not None:
            self._journal.flush()

    def uncount(self, call_uid: str) -> None:
        """The call was refused by a hold: a refusal by admission costs no request. Idempotent."""
        counted, journal = self._counters.uncount(call_uid), self._journal
        if counted is not None and journal is not None and any(charge.rates for charge in counted[1]) and not journal.drops(call_uid):
            journal.append(uncount_record(*counted))

    def hold_at_once(self, id: str, call_uid: str, claims: Sequence[Claim], tokens: int, nanousd: int, values: Values, at_ns: int) -> bool:
        """See `ports.Store`: True for most calls, which nothing refuses and nothing keeps waiting."""
        counters, journal, moments = self._counters, self._journal, self._moments
        if (journal is None or journal.is_down or journal.is_on_disk or self._index.was_behind) and (
            self._is_down() or (journal is not None and journal.is_on_disk)
        ):
            return False
        if id in counters.holds:
            return False
        monotonic_ns = moments.monotonic_ns
        moments.wall = at_ns  # `Moments.ns`, but for the call
        if at_ns >= moments.over:
            moments.turn(at_ns)
        ns = moments.anchor + monotonic_ns()
        place = counters.place if claims is counters.claims else self._places.of(claims)
        if place is None:
            return False
        sums = place.sums
        if (sums.tokens + tokens > place.tokens_to or sums.nanousd + nanousd > place.nanousd_to) and (
            tokens > MOST or nanousd > MOST or not may_hold(place, ns, tokens, nanousd)
        ):
            return False
        record = b""
        if journal is not None:
            entry = journal.entry
            try:  # `hold_record`, but for what is odd
                if entry is not None and entry[0] == call_uid:
                    record = dumps(("h", id, ns, tokens, nanousd, place.held, values, entry[1], entry[2]), default=plain)
                else:
                    entry, record = None, dumps(("h", id, ns, tokens, nanousd, place.held, values), default=plain)
                journal.hold(record, entry)
            except (JournalDown, TypeError):
                return False
        counters.hold_on(id, place, ns, tokens, nanousd, record)
        return True

    async def hold(self, intent: Intent, also: Sequence[Charge] = ()) -> None:
        """Tokens and money on every claim, or none; the intent is in the journal when it returns. Raises Refusal 400, 402, 429, 503.
        `also`: what a shared state has decided already, held with it."""
        id, claims, tokens, nanousd = intent.id, intent.claims, intent.tokens, intent.nanousd
        if not also and self.hold_at_once(id, intent.call_uid, claims, tokens, nanousd, intent.values, self._moments.wall_ns()):
            return
        if id in self._counters.holds:
            return await self._durable(id)
        if self._is_down():
            raise unavailable()
        tokens, nanousd, ns = min(tokens, MOST), min(nanousd, MOST), self._moments.ns()
        place = self._places.of(claims)
        if place is None or not may_hold(place, ns, tokens, nanousd):
            place, ns = self._looked_at(intent, tokens, nanousd)
        await self._book(intent, (*place.shape.held(place.names), *also) if also else place, ns, tokens, nanousd)

    def _looked_at(self, intent: Intent, tokens: int, nanousd: int) -> tuple[Place, int]:
        """Where it counts, and when, by a closer look. Raises Refusal 400, 402, 429."""
        claims, now = intent.claims, self.now()
        names = self._names(claims, now)
        if no := denied_hold(self._counters, claims, names, now, tokens, nanousd):
            raise refusal(no, intent)
        return self._places.made(claims, names, now), now.ns

    async def _book(self, intent: Intent, where: tuple[Charge, ...] | Place, at_ns: int, tokens: int, nanousd: int) -> None:
        """Holds there, whoever decided it."""
        journal, record, durable = self._journal, b"", None
        if journal is not None:
            entry = journal.entry if journal.entry is not None and journal.entry[0] == intent.call_uid else None
            charges = where if isinstance(where, tuple) else where.held
            record = hold_record(intent.id, at_ns, tokens, nanousd, charges, intent.values, entry)
            try:
                durable = journal.hold(record, entry)
            except JournalDown:
                raise unavailable() from None
        if isinstance(where, tuple):
            self._counters.hold(intent.id, Hold(at_ns, tokens, nanousd, where, record), self.now())
        else:
            self._counters.hold_on(intent.id, where, at_ns, tokens, nanousd, record)
        if durable is not None:
            await self._durable(intent.id, durable)

    async def _durable(self, id: str, waiter: asyncio.Future[None] | None = None) -> None:
        """Until the intent is in the journal; where it never will be, the hold is undone. Raises Refusal 503."""
        try:
            if waiter is None and self._journal is not None:
                waiter = self._journal.written()
            if waiter is not None:
                await waiter
        except JournalDown:
            self._close(id, 0, 0, None)
            raise unavailable() from None

    async def extend(self, id: str, claims: Sequence[Claim], nanousd: int) -> bool:
        """See `ports.Store`; durable when it returns."""
        found = self._counters.holds.get(id)
        if found is None or not self.is_available or not has_room(self._counters, hold := Hold._make(found), claims, nanousd):
            return False
        self._counters.release(id)
        larger = grown(hold, min(hold.nanousd + nanousd, MOST))
        self._counters.hold_again(id, larger)
        if self._journal is None:
            return True
        try:
            if (durable := self._journal.hold(encode(("x", id, larger.nanousd)))) is not None:
                await durable
        except JournalDown:
            return False  # it stays held here: what cannot be written down is not spent either
        return True

    def standings(self, claims: Sequence[Claim]) -> Standings:
        """How a caller stands on each claim now."""
        if not claims:
            return NO_STANDINGS
        moments, counters = self._moments, self._counters
        wall_ns, monotonic_ns = moments.wall_ns, moments.monotonic_ns
        wall = wall_ns()
        part_ns = wall - moments.second_ns
        if part_ns >= NS or part_ns < 0:
            part_ns = moments.tick(wall)
        place = counters.place if claims is counters.claims else self._places.of(claims)
        if place is None:
            place = self._places.named(claims, [counters.name_of(claim) for claim in claims], moments.present)
        return standings_on(place, moments.anchor + monotonic_ns(), moments.second, part_ns)

    def leave(self, call_uid: str) -> None:
        """The call's slots are free. Idempotent."""
        stay = self._counters.stays.pop(call_uid, None)
        if stay is None:
            return
        since, accounts, _ = stay
        moments = self._moments
        monotonic_ns = moments.monotonic_ns
        took = moments.anchor + monotonic_ns() - since
        for account in accounts:
            account.in_flight -= 1
            average = account.stay_ns
            account.stay_ns = average + (took - average >> 3) if average else took

    def settle(self, id: str, tokens: int, nanousd: int, row: tuple[Any, ...]) -> None:
        """The true figures, in the windows and periods of the hold. An id that is not held (any more) changes nothing."""
        if tokens > MOST or nanousd > MOST:  # which the row says too
            tokens, nanousd, row = min(tokens, MOST), min(nanousd, MOST), tuple(values_of(row))
        if self._counters.close(id, tokens, nanousd):
            record, journal = ("s", id, tokens, nanousd, row), self._journal
            if journal is None:
                self.note(record, row)
            else:
                journal.settled(record, row)

    def void(self, id: str, row: Row | None) -> None:
        """Nothing was sent: all goes back. An id that is not held changes nothing."""
        self._close(id, 0, 0, None if row is None else values_of(row), is_void=True)

    def _close(self, id: str, tokens: int, nanousd: int, row: Values | None, *, is_void: bool = False) -> None:
        if self._counters.close(id, tokens, nanousd):
            self.note(("v", id, row) if is_void or row is None else ("s", id, tokens, nanousd, row), row)

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
            self._journal.begin(call_uid, at_ns, Fragment(encode(list(map(tuple, charges)))))

    async def book(self, intent: Intent, charges: Sequence[Charge], at_ns: int) -> None:
        """Holds without a check, in the windows and periods of `charges`; durable when it returns. Idempotent. Raises Refusal 503."""
        if intent.id in self._counters.holds:
            await self._durable(intent.id)
        else:
            if self._is_down():
                raise unavailable()
            await self._book(intent, tuple(charges), at_ns, min(intent.tokens, MOST), min(intent.nanousd, MOST))
