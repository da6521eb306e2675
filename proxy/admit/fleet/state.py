"""The state of a fleet: limits are counted in Redis by all sidecars together, what happened is kept by each in its own journal.

Implements `ports.Store` over an `EmbeddedState`, which stays the book of record. Never waits for a Redis that does not answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.alone import Alone
from proxy.admit.fleet.calls import MIRROR, Held, Stay, entries_of, keys_of
from proxy.admit.fleet.duties import Duties
from proxy.admit.fleet.jobs import SharedJobs
from proxy.admit.fleet.link import Link
from proxy.admit.fleet.mode import Mode
from proxy.admit.fleet.ops import Broken, Count, Down, Gone, Leave, Settle, Squeezed, Take, Taken, Uncount, Void, Want
from proxy.admit.fleet.refused import Refused, kept_by_others
from proxy.admit.fleet.shares import is_shared, unbounded
from proxy.admit.fleet.space import Forgot, Space
from proxy.admit.fleet.trips import Trips
from proxy.admit.limits import worst
from proxy.admit.records import MOST
from proxy.admit.shape import charges_of
from proxy.admit.wording import refusal
from proxy.exchange import NANO, Row
from proxy.lessons import Lessons
from proxy.policy.plan import Claim, Limit, OnStateDown
from proxy.ports import Clock, Intent
from proxy.refusal import Refusal
from proxy.standings import Standings

SQUEEZED_S, AGAIN_S = 3.0, 0.1  # how long a caller waits for the others' shares, and how often it asks
BACK_S, BLINK_AGAIN_S = 4.0, 0.02  # … and for a state that is about to be back
MAY_PASS = ("state_unavailable", "rate_limited", "too_many_in_flight", "budget_exhausted")  # refusals that Redis might not make


class SharedState(SharedJobs, Trips):
    def __init__(self, own: EmbeddedState, space: Space, link: Link, clock: Clock, rules: OnStateDown) -> None:
        self.own, self._space, self._link, self._clock = own, space, link, clock
        self._alone = Alone(own, clock, rules)
        self._refused = Refused()
        self.duties: Duties | None = None  # none in a team's space of a Cluster

    def set_rules(self, rules: OnStateDown, limits: Sequence[Limit]) -> None:
        """Those of the policy that is live now."""
        self._alone.rules = rules
        if self.duties is not None:
            self.duties.memory.limits = limits
        instance = {limit.name for limit in limits if "instance" in limit.per}
        self._space.is_shared_limit = lambda name: name not in instance

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, on_mode: Callable[[Mode, str], None]) -> None:
        """`on_mode` hears of each change, and why."""
        self._space.on_mode = on_mode
        self._space.start()
        if self.duties is not None:
            self.duties.start()

    async def close(self) -> None:
        """The last closes are told, the shares given back. The journal is closed by whoever owns it."""
        if self.duties is not None:
            await self.duties.close()
        await self._space.close()
        await self._link.close()

    @property
    def problem(self) -> str | None:
        """Why no calls should come to this sidecar."""
        return None if self.duties is None else self.duties.problem(self.mode, self._clock.monotonic())

    @property
    def mode(self) -> Mode:
        return self._space.health.mode

    @property
    def live(self) -> int:
        """Sidecars of the fleet, as last told."""
        return self._space.shares.live

    @property
    def waiting(self) -> int:
        """Closes that Redis does not know of yet."""
        return len(self._space.outbox)

    @property
    def lessons(self) -> Lessons:
        return self.own.lessons

    # -- a call begins ------------------------------------------------------------------------------------------------

    def peek(self, claims: Sequence[Claim]) -> None:
        """See `ports.Store`. Asks nobody: what Redis refused a moment ago and must refuse again is refused."""
        shared, mine = _parted(claims)
        self.own.peek(mine)
        health = self._space.health
        if shared and not health.is_shared and (self._alone.is_denied(shared) or not health.is_blink(self._clock.monotonic())):
            self._alone.check(shared, self._space.shares)
        self._refused.check(shared, self._clock.monotonic())

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> None:
        """What this sidecar counts alone is decided; the rest is noted, and decided with the call's first hold."""
        shared, mine = _parted(claims)
        await self.own.enter(call_uid, mine)
        if shared and call_uid not in self._space.calls.stays:
            now = self.own.now()
            stay = Stay(call_uid, tuple(shared), now.ns)
            self._space.calls.note(stay)
            self.own.enter_unchecked(call_uid + MIRROR, stay.charges(), now.ns, now)

    async def decide(self, call_uid: str) -> None:
        """See `ports.Store`. Raises Refusal 429, 503."""
        await self.own.decide(call_uid)
        space = self._space
        while stays := space.calls.undecided(call_uid):
            if not space.health.is_shared:
                return await self._alone.decide(space, stays)
            with suppress(Down, Gone, Forgot):
                taken, _ = await self._take(Take(entries_of(stays), None, self._clock.now_ns()), stays)
                self._entered(stays, taken)

    def uncount(self, call_uid: str) -> None:
        self.own.uncount(call_uid)
        self.own.uncount(call_uid + MIRROR)
        stay = self._space.calls.stays.get(call_uid)
        if stay is None or stay.is_uncounted:
            return
        stay.is_uncounted = True
        if stay.remote is not None:
            self._space.put(Uncount(stay.remote))
        elif stay.is_decided:
            self._space.calls.counted("requests", stay.charges(), stay.at_ns, -1)

    def leave(self, call_uid: str) -> None:
        self.own.leave(call_uid)
        self.own.leave(call_uid + MIRROR)
        space, stay = self._space, self._space.calls.drop(call_uid)
        if stay is None:
            return
        if stay.remote is not None:
            space.put(Leave(stay.remote))
        elif not stay.is_decided and not stay.is_uncounted and any(it.rates for it in stay.charges()):
            if space.is_telling:
                space.put(Count("requests", stay.at_ns + space.skew_ns, 1, stay.charges()))
            else:
                space.calls.counted("requests", stay.charges(), stay.at_ns, 1)

    # -- an attempt ---------------------------------------------------------------------------------------------------

    async def hold(self, intent: Intent) -> None:
        """See `ports.Store`: in one trip, with the call's entries; without Redis, by this sidecar's own share."""
        shared, mine = _parted(intent.claims)
        if not shared or intent.id in self._space.calls.held:
            return await self.own.hold(replace(intent, claims=tuple(mine)))
        began, lost = self._clock.monotonic(), 0
        while True:
            if self._space.health.is_shared:
                try:
                    return await self._hold_shared(intent, mine, shared, lost)
                except Squeezed:
                    if self._clock.monotonic() - began >= SQUEEZED_S:
                        raise kept_by_others(shared) from None
                    self._space.squeezed()
                    await asyncio.sleep(AGAIN_S)
                except (Down, Gone, Forgot):
                    lost += 1
                continue
            try:
                return await self._alone.hold(self._space, intent, mine, shared)
            except Refusal as no:
                now = self._clock.monotonic()
                may_wait = no.code in MAY_PASS and now - began < BACK_S and self._space.health.is_blink(now)
                if not may_wait or self._alone.is_denied(shared):
                    raise
            await asyncio.sleep(BLINK_AGAIN_S)

    async def _hold_shared(self, intent: Intent, mine: list[Claim], shared: list[Claim], lost: int) -> None:
        """`lost`: takes of this attempt that were undone before. Raises Squeezed, Down, Gone, Forgot, Refusal."""
        space = self._space
        stays = space.calls.undecided(intent.call_uid)
        id = f"{intent.id}~{lost}" if lost else intent.id
        want = Want(id, tuple(shared), min(intent.tokens, MOST), min(intent.nanousd, MOST))
        taken, mark = await self._take(Take(entries_of(stays), want, self._clock.now_ns()), stays)
        self._entered(stays, taken, intent)
        held = Held(intent.id, want.claims, taken.held, taken.at_ns - space.skew_ns, want.tokens, want.nanousd, id, mark)
        space.calls.held[intent.id] = held
        try:
            await self.own.hold(replace(intent, claims=tuple(mine)), taken.held)
        except BaseException:
            self._closed(intent.id, 0, 0)
            raise

    def _entered(self, stays: Sequence[Stay], taken: Taken, intent: Intent | None = None) -> None:
        """The entries are decided. Raises Refusal."""
        claims = [*(intent.claims if intent else ()), *(claim for stay in stays for claim in stay.claims)]
        self._space.known.told(claims, taken.standings)
        if no := worst(taken.denied):
            self._refused.saw(no, self._clock.monotonic())
            raise refusal(no, intent)
        for stay in stays:
            stay.remote, stay.is_decided = stay.name(), True

    async def _take(self, take: Take, stays: Sequence[Stay] = ()) -> tuple[Taken, int]:
        """With the mark of what it spends: it counts against our share from now on, unless it surely did not happen."""
        space, want = self._space, take.hold or Want("", (), 0, 0)
        charges = charges_of(want.claims, [claim.account for claim in want.claims], self.own.now(), "tokens")
        mark = space.spends(want.claims, charges, want.nanousd)
        is_sure = False
        try:
            taken = await space.take(take)
            is_sure = bool(taken.denied)
            return taken, mark
        except Broken as problem:
            is_sure = True
            raise self._refused.unreadable(problem, self._clock.monotonic()) from None
        except (Squeezed, Gone, Forgot):
            is_sure = True
            raise
        except BaseException:  # it may have happened, and nobody will use it: a late one finds its tombstone
            if want.id:
                space.put(Void(want.id))
            for stay in stays:
                space.put(Uncount(stay.name()))
                space.put(Leave(stay.name()))
                stay.lost += 1
            raise
        finally:
            if is_sure:
                space.shares.came_back(keys_of(charges), want.nanousd, mark)

    async def extend(self, id: str, claims: Sequence[Claim], nanousd: int) -> bool:
        """See `ports.Store`."""
        space, held = self._space, self._space.calls.held.get(id)
        mine = [claim for claim in claims if not is_shared(claim)]
        if held is None:
            return await self.own.extend(id, mine, nanousd)
        if not space.health.is_shared:
            return self._alone.extends(space, held, nanousd) and await self.own.extend(id, mine, nanousd)
        deciding = {claim.key for claim in claims}
        wanted = tuple([claim if claim.key in deciding else unbounded(claim) for claim in held.claims])
        more = f"{id}+{len(held.more) + 1}"
        try:
            taken, _ = await self._take(Take((), Want(more, wanted, 0, nanousd), self._clock.now_ns()))
        except (Down, Squeezed, Gone, Forgot, Refusal):
            return False
        if taken.denied:
            return False
        held.more.append((more, nanousd))
        if id not in space.calls.held or not await self.own.extend(id, mine, nanousd):
            held.more.remove((more, nanousd))
            space.put(Void(more))
            return False
        return True

    def settle(self, id: str, tokens: int, nanousd: int, row: tuple[Any, ...]) -> None:
        self.own.settle(id, tokens, nanousd, row)
        self._closed(id, min(tokens, MOST), min(nanousd, MOST))

    def void(self, id: str, row: Row | None) -> None:
        self.own.void(id, row)
        self._closed(id, 0, 0)

    def _closed(self, id: str, tokens: int, nanousd: int) -> None:
        space, held = self._space, self._space.calls.held.pop(id, None)
        if held is None:
            return
        if held.remote is None:
            return space.shares.came_back(held.money(), held.nanousd + sum(more for _, more in held.more) - nanousd, held.mark)
        space.put(Settle(held.remote, tokens, nanousd) if tokens or nanousd else Void(held.remote))
        for more, _ in held.more:
            space.put(Void(more))

    # -- what is asked ------------------------------------------------------------------------------------------------

    def standings(self, claims: Sequence[Claim]) -> Standings:
        """As last told; of what this sidecar counts alone, as it is."""
        shared, mine = _parted(claims)
        return Standings.of((*self.own.standings(mine), *self._space.known.of(shared)), self._clock.now_ns() // NANO)

    def write(self, row: Row) -> None:
        self.own.write(row)


def _parted(claims: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """Those that all sidecars count together, and those that each counts alone."""
    return [it for it in claims if is_shared(it)], [it for it in claims if not is_shared(it)]
