"""Grants as they are drawn: asks the homes of accounts for what the purses lack, all of a call or nothing. Decides by grants alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from proxy.admit.counters import OTHERS
from proxy.admit.fleet.almanac import Almanac
from proxy.admit.fleet.encode import spans
from proxy.admit.fleet.grants import Ask, Level, Purse, Used, Wish, denied, impossible
from proxy.admit.fleet.ops import Down, Link, Script
from proxy.admit.fleet.script import LEASE_MS, load
from proxy.admit.limits import Denied
from proxy.admit.records import encode
from proxy.policy.plan import Claim, Spend
from proxy.ports import Clock
from proxy.standings import Standing

Spent = Callable[[str, str, str], int]  # limit, account, period id
AWAY_NS = 500_000_000  # a home that did not answer is not asked for so long: no call waits for it twice
TELL_AGAIN_NS = 20_000_000_000  # slots are told again well within their lease; what lay unused for so long goes back


@dataclass(slots=True)
class Place:
    """An account at its home."""

    home: str
    claim: Claim
    account: str
    purse: Purse = field(default_factory=Purse)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    used_ns: int = 0  # monotonic
    told_ns: int = 0


@dataclass(slots=True)
class Took:
    """What the wishes of a call took, in order; or why they took nothing."""

    denied: list[Denied] = field(default_factory=list)
    used: list[tuple[Place, Used]] = field(default_factory=list)

    def close(self, tokens: int, nanousd: int) -> None:
        """Once: the true figures of an attempt; 0 and 0 for one that was not sent."""
        for place, used in self.used:
            place.purse.close(used, tokens, nanousd)

    def uncount(self) -> None:
        for place, used in self.used:
            place.purse.uncount(used)

    def undo(self) -> None:
        self.close(0, 0)
        self.uncount()
        self.leave()
        self.used = []

    def leave(self) -> None:
        for place, used in self.used:
            place.purse.leave(used)


class Granter:
    """All grants of one process. `instance` as in Remote."""

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        instance: str,
        time_zone: str,
        max_keys: int,
        spent: Spent = lambda limit, account, period: 0,
        lease_ms: int = LEASE_MS,
        script: Script | None = None,
    ) -> None:
        """`spent`: what this process had used of an account's money in a period before it began, by its journal; nano-dollars."""
        self.max_keys, self._spent = max_keys, spent
        self._away: dict[str, int] = {}  # homes that did not answer, and until when (monotonic ns) they are not asked
        self._link, self._clock, self._almanac, self._script = link, clock, Almanac(time_zone), script or load("grant")
        self._common: Mapping[str, object] = {"instance": instance, "lease_ms": lease_ms, "recover_ms": 0}
        self._places: dict[tuple[str, str], Place] = {}
        self._count: Counter[str] = Counter()  # of places, by limit
        self._skew_ns = 0  # of the server's clock over ours
        self._seq = 0  # of the last question, whichever place asked

    async def take(self, wishes: Sequence[tuple[str, Wish]]) -> Took:
        """`wishes`: each with the home of its account. Raises Down: then nothing is taken."""
        took = Took([no for _, wish in wishes for no in impossible(wish)])
        if took.denied:
            return took
        try:
            waits = [(place, wish) for home, wish in wishes if not self._took_at_once(place := self._place(home, wish.claim), wish, took)]
            if waits:
                found = await asyncio.gather(*(self._take(place, wish, took) for place, wish in waits), return_exceptions=True)
                for problem in found:
                    if isinstance(problem, BaseException):
                        raise problem
        except BaseException:
            took.undo()
            raise
        if took.denied:
            took.undo()
        return took

    def force(self, wishes: Sequence[tuple[str, Wish]]) -> Took:
        """Money that is spent whatever the limit says: the next grants make up for it."""
        took = Took()
        for home, wish in wishes:
            place = self._place(home, wish.claim)
            took.used.append((place, place.purse.use_anyway(wish)))
        return took

    def has(self, wishes: Sequence[tuple[str, Wish]]) -> bool:
        """Could these be taken without asking?"""
        return all(self._place(home, it.claim).purse.has(it, self._now(), self._server_ns()) for home, it in wishes)

    def standings(self, claims: Sequence[Claim]) -> Iterator[Standing]:
        now = self._server_ns()
        for claim in claims:
            if place := self._places.get((claim.limit.name, claim.account)):
                yield from place.purse.standings(claim, now)

    async def tend(self) -> None:
        """Every second or so: what lies unused goes back, slots are told again before their lease ends. Raises Down."""
        now = self._now()
        for key, place in list(self._places.items()):
            is_idle = now - place.used_ns >= TELL_AGAIN_NS
            if is_idle and place.purse.is_empty(self._server_ns()) and not place.lock.locked():
                del self._places[key]
                self._count[key[0]] -= 1
            elif now - place.told_ns >= TELL_AGAIN_NS and not place.lock.locked():
                async with place.lock:
                    limit = place.claim.limit
                    await self._draw(place, place.purse.asks_back(limit) if is_idle else place.purse.tells(limit))

    async def close(self) -> None:
        """All that is not used goes back. Raises Down."""
        for place in list(self._places.values()):
            async with place.lock:
                await self._draw(place, place.purse.asks_back(place.claim.limit))

    def _server_ns(self) -> int:
        return self._clock.now_ns() + self._skew_ns

    def _now(self) -> int:
        return int(self._clock.monotonic() * 1e9)

    def _place(self, home: str, claim: Claim) -> Place:
        limit, account = claim.limit.name, claim.account
        place = self._places.get((limit, account))
        if place is None and claim.limit.is_unbounded and self._count[limit] >= self.max_keys:
            account = OTHERS
            place = self._places.get((limit, account))
        if place is None:
            place = self._places[limit, account] = Place(home, claim, account)
            self._count[limit] += 1
            around = self._almanac.around(self._server_ns())
            for spend in claim.limit.spend:
                id = around.span(spend.period, 2).id
                place.purse.spend[spend.period] = Level(id, used=self._spent(limit, account, id))
        place.claim = claim  # its numbers may be those of a new policy
        return place

    def _took_at_once(self, place: Place, wish: Wish, took: Took) -> bool:
        place.used_ns = self._now()
        return not place.lock.locked() and self._took(place, wish, took)

    async def _take(self, place: Place, wish: Wish, took: Took) -> None:
        async with place.lock:  # who comes while we ask finds what we were given
            if self._took(place, wish, took):
                return
            asks = place.purse.asks(wish, self._now(), self._server_ns())
            told = await self._draw(place, asks)
            refusals = [no for ask, said in zip(asks, told, strict=True) if (no := self._denied(place, wish, ask, said))]
            took.denied += refusals
            if not refusals and not self._took(place, wish, took):
                raise Down("timeout", "a grant was over before it could be used")

    def _took(self, place: Place, wish: Wish, took: Took) -> bool:
        if not place.purse.has(wish, self._now(), self._server_ns()):
            return False
        took.used.append((place, place.purse.use(wish)))
        return True

    @staticmethod
    def _denied(place: Place, wish: Wish, ask: Ask, said: Sequence[int]) -> Denied | None:
        level = place.purse.spend.get(ask.bound.period) if isinstance(ask.bound, Spend) else place.purse.slots
        return denied(wish, ask, level, said)

    async def _draw(self, place: Place, asks: Sequence[Ask]) -> Sequence[Sequence[int]]:
        wall, asked_ns = self._clock.now_ns(), self._now()
        around = self._almanac.around(wall + self._skew_ns)
        self._seq = max(self._seq + 1, wall // 1000)  # beyond that of the process before, and of a place that was given up
        limit = place.claim.limit.name
        request = {**self._common, **spans(around), "limit": limit, "account": place.account, "seq": self._seq}
        request["asks"] = [ask.values() for ask in asks]
        if asked_ns < self._away.get(place.home, 0):
            raise Down("away", "it did not answer a moment ago")
        try:
            reply = await self._link.call(self._script, [f"sluice:{{{place.home}}}:meta"], [encode(request)])
        except Down:
            self._away[place.home] = asked_ns + AWAY_NS
            raise
        self._away.pop(place.home, None)
        if reply[0] != b"granted":
            raise Down("stale", "an earlier question came later")
        self._skew_ns, place.told_ns = reply[1] * 1000 - wall, asked_ns
        for ask, said in zip(asks, reply[2], strict=True):
            span = around.span(ask.bound.period, said[1]) if isinstance(ask.bound, Spend) else None
            place.purse.told(ask, said, (span.id, span.end_ns) if span else ("", 0), asked_ns)
        return list(reply[2])
