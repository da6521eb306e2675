"""The state of a fleet on a Cluster: each call is decided in the slot of its team, else of its caller; what crosses that slot, by grants.

A `SharedState` for each of those spaces, all over one journal. Counts nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from proxy.admit.fleet.crossing import GRANTED, Begins, Crossing, Under
from proxy.admit.fleet.granter import Granter
from proxy.admit.fleet.grants import Wish
from proxy.admit.fleet.mode import Mode
from proxy.admit.fleet.ops import Down
from proxy.admit.fleet.regions import Region, Regions
from proxy.admit.fleet.shares import is_shared
from proxy.admit.fleet.spaces import Who, who
from proxy.admit.fleet.state import SharedState
from proxy.admit.fleet.trips import Trips
from proxy.admit.records import MOST
from proxy.exchange import NANO, Row
from proxy.lessons import Lessons
from proxy.policy.plan import Claim, Limit, OnStateDown
from proxy.ports import Intent
from proxy.standings import Standings

TEND_S = 1.0
LAST_S = 2.0  # for the grants that go back at the end


class ClusterState(Trips):
    """`base`: the space of the namespace itself, in which every sidecar of the fleet is known; it counts nothing."""

    def __init__(self, base: SharedState, regions: Regions, granter: Granter) -> None:
        self.base, self.own = base, base.own
        self._regions, self._granter = regions, granter
        self._crossing = Crossing(granter, regions, base)
        self._calls: dict[str, Under] = {}
        self._of_call: dict[str, list[str]] = {}  # call → uids of what began for it (a session's model counts beside it)
        self._attempts: dict[str, Under] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def set_rules(self, rules: OnStateDown, limits: Sequence[Limit]) -> None:
        """Those of the policy that is live now."""
        self.base.set_rules(rules, limits)
        self._regions.set_rules(rules, limits)

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self, on_mode: Callable[[Mode, str], None]) -> None:
        """`on_mode` hears of each change, and why."""
        self._regions.on_mode = on_mode
        self.base.start(on_mode)
        self._do(self._tend())

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(what, name="shared state: Cluster")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            with suppress(Down):
                await self._granter.tend()
            await self._regions.leave_idle()

    async def close(self) -> None:
        """The last closes are told, shares and grants given back. The journal is closed by whoever owns it."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._regions.close()
        with suppress(Down, TimeoutError):
            async with asyncio.timeout(LAST_S):
                await self._granter.close()
        await self.base.close()

    @property
    def problem(self) -> str | None:
        """Why no calls should come to this sidecar."""
        return self.base.problem

    @property
    def mode(self) -> Mode:
        return self._regions.mode if self.base.mode is Mode.SHARED else self.base.mode

    @property
    def live(self) -> int:
        return self.base.live

    @property
    def waiting(self) -> int:
        return self.base.waiting + sum(region.state.waiting for region in self._regions.all())

    @property
    def lessons(self) -> Lessons:
        return self.own.lessons

    # -- a call begins ------------------------------------------------------------------------------------------------

    def peek(self, claims: Sequence[Claim]) -> None:
        """See `ports.Store`. Asks nobody."""
        them = self._regions.guess(claims)
        it, region = self._regions.parted(claims, them), self._regions.find(them)
        self.own.peek(it.mine)
        if region is not None and region.was_shared:  # one that is new may be waited for
            region.state.peek(it.inside)

    async def enter(self, call_uid: str, claims: Sequence[Claim]) -> None:
        """What this sidecar counts alone is decided; the rest is noted, and decided with the call's first hold."""
        await self.own.enter(call_uid, [it for it in claims if not is_shared(it)])
        if call_uid not in self._calls:
            self._calls[call_uid] = Under(tuple(claims))
            self._of_call.setdefault(_call(call_uid), []).append(call_uid)

    async def decide(self, call_uid: str) -> None:
        """See `ports.Store`. Raises Refusal 429, 503."""
        await self.own.decide(call_uid)
        begins = self._begins(call_uid)
        if begins:
            them = self._regions.guess([claim for _, under in begins for claim in under.claims])
            region = self._regions.open(them)
            await self._begin(begins, region, them)
            try:
                await self._crossing.take(None, begins, None)
                await region.state.decide(call_uid)
            except BaseException:
                for _, under in begins:
                    under.undo()
                raise

    def uncount(self, call_uid: str) -> None:
        self.own.uncount(call_uid)
        under = self._calls.get(call_uid)
        if under is None or under.is_uncounted:
            return
        under.is_uncounted = True
        self.own.uncount(call_uid + GRANTED)
        for took in under.took:
            took.uncount()
        if under.region is not None:
            under.region.state.uncount(call_uid)

    def leave(self, call_uid: str) -> None:
        self.own.leave(call_uid)
        under = self._calls.pop(call_uid, None)
        if under is None:
            return
        self._of_call[_call(call_uid)].remove(call_uid)
        if not self._of_call[_call(call_uid)]:
            del self._of_call[_call(call_uid)]
        self.own.leave(call_uid + GRANTED)
        for took in under.took:
            took.leave()
        if under.region is not None:
            under.region.is_open -= 1
            under.region.state.leave(call_uid)
        elif not under.is_uncounted and any(is_shared(it) and it.limit.requests for it in under.claims):
            self._do(self._count(call_uid, under.claims))

    async def _count(self, call_uid: str, claims: Sequence[Claim]) -> None:
        """The request of a call that never came to an attempt."""
        them = self._regions.guess(claims)
        it, region = self._regions.parted(claims, them), self._regions.open(them)
        await region.state.enter(call_uid, it.inside)
        region.state.leave(call_uid)
        with suppress(Down):
            await self._granter.take([(home, Wish(claim, requests=1)) for home, claim in it.crossing])

    def _begins(self, call_uid: str) -> Begins:
        """What of the call nobody has decided yet."""
        return [(uid, under) for uid in self._of_call.get(call_uid, ()) if not (under := self._calls[uid]).is_granted]

    async def _begin(self, begins: Begins, region: Region, them: Who) -> None:
        for uid, under in begins:
            if under.region is None:
                it = self._regions.parted(under.claims, them)
                under.region, under.crossing = region, it.crossing
                region.is_open += 1
                await region.state.enter(uid, it.inside)

    # -- an attempt ---------------------------------------------------------------------------------------------------

    async def hold(self, intent: Intent) -> None:
        """See `ports.Store`: grants first, for they are kept if the rest fails; then all that lives in the caller's space, in one trip."""
        if intent.id in self._attempts:
            return
        row = intent.row
        them = who(row.caller, row.team)
        it, region, begins = self._regions.parted(intent.claims, them), self._regions.open(them), self._begins(intent.call_uid)
        await self._begin(begins, region, them)
        attempt = Under(it.inside, region, it.crossing)
        region.is_open += 1
        try:
            is_local = await self._crossing.take(intent, begins, attempt)
            claims = (*it.mine, *it.inside, *(self._crossing.mirrored(claim, is_local) for _, claim in it.crossing))
            await region.state.hold(replace(intent, claims=claims))
        except BaseException:
            region.is_open -= 1
            for under in (attempt, *(under for _, under in begins)):
                under.undo()
            raise
        self._attempts[intent.id] = attempt

    async def extend(self, id: str, claims: Sequence[Claim], nanousd: int) -> bool:
        """See `ports.Store`."""
        attempt = self._attempts.get(id)
        if attempt is None or attempt.region is None:
            return await self.own.extend(id, claims, nanousd)
        deciding, crossing = {claim.key for claim in claims}, {claim.key for _, claim in attempt.crossing}
        wishes = [(home, Wish(claim, nanousd=nanousd, is_hold=True)) for home, claim in attempt.crossing if claim.limit.spend]
        try:
            took = await self._granter.take([it for it in wishes if it[1].claim.key in deciding])
        except Down:
            return False
        inside = [claim for claim in claims if claim.key not in crossing]
        is_extended = not took.denied and await attempt.region.state.extend(id, inside, nanousd)
        if not is_extended or self._attempts.get(id) is not attempt:
            took.undo()
            return False
        attempt.took += [took, self._granter.force([it for it in wishes if it[1].claim.key not in deciding])]
        return True

    def settle(self, id: str, tokens: int, nanousd: int, row: tuple[Any, ...]) -> None:
        region = self._closed(id, min(tokens, MOST), min(nanousd, MOST))
        (self.own if region is None else region.state).settle(id, tokens, nanousd, row)

    def void(self, id: str, row: Row | None) -> None:
        region = self._closed(id, 0, 0)
        (self.own if region is None else region.state).void(id, row)

    def defer(self, id: str, job: str, row: Row, later: Row) -> None:
        """See `ports.Store`: what was granted for the attempt is the job's."""
        attempt = self._attempts.pop(id, None)
        if attempt is not None and job not in self._attempts:
            self._attempts[job] = attempt
        (self.own if attempt is None or attempt.region is None else attempt.region.state).defer(id, job, row, later)

    def settle_job(self, job: str, true: Callable[[Row], Sequence[Row]], said: bytes = b"") -> bool:
        return self.base.settle_job(job, true, said)

    def hear(self, on_job: Callable[[str, bytes], None]) -> None:
        self.base.hear(on_job)

    def _closed(self, id: str, tokens: int, nanousd: int) -> Region | None:
        attempt = self._attempts.pop(id, None)
        if attempt is None or attempt.region is None:
            return None
        attempt.region.is_open -= 1
        for index, took in enumerate(attempt.took):
            took.close(*((0, 0) if index else (tokens, nanousd)))  # what it was extended by is in the whole figure
        return attempt.region

    # -- what is asked ------------------------------------------------------------------------------------------------

    def standings(self, claims: Sequence[Claim]) -> Standings:
        """As last told; of what this sidecar counts alone, as it is."""
        them = self._regions.guess(claims)
        it, region = self._regions.parted(claims, them), self._regions.find(them)
        told = region.state.standings(it.inside) if region is not None else ()
        crossing = self._granter.standings([claim for _, claim in it.crossing])
        now = self.own.now()
        return Standings.of((*self.own.standings(it.mine), *told, *crossing), (now.ns + now.skew_ns) // NANO)

    def write(self, row: Row) -> None:
        self.own.write(row)


def _call(uid: str) -> str:
    return uid.partition("/")[0]
