"""The spaces of a Cluster that this sidecar has open: one for each team or caller that calls, left when it is idle. Decides on no call."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from proxy.admit.fleet.mode import Mode
from proxy.admit.fleet.shares import is_shared
from proxy.admit.fleet.space import Space
from proxy.admit.fleet.spaces import Who, parted, tag_of
from proxy.admit.fleet.state import SharedState
from proxy.policy.plan import Claim, Limit, OnStateDown
from proxy.ports import Clock

K = TypeVar("K")
V = TypeVar("V")
IDLE_S = 120.0  # a space without calls for so long is left
MOST_KNOWN = 100_000

OpenSpace = Callable[[str], tuple[SharedState, Space]]  # by its hash tag
Tell = Callable[[Mode, str], None]


@dataclass(slots=True)
class Region:
    """A space that is open."""

    name: str
    state: SharedState
    space: Space
    used_at: float = 0.0
    is_open: int = 0  # calls and attempts under way
    was_shared: bool = False


@dataclass(frozen=True, slots=True)
class Parted:
    """Claims by where they are counted."""

    mine: tuple[Claim, ...]  # by this sidecar alone
    inside: tuple[Claim, ...]  # in the space of the call
    crossing: tuple[tuple[str, Claim], ...]  # with the hash tags of their homes


class Regions:
    def __init__(self, open_space: OpenSpace, namespace: str, clock: Clock, rules: OnStateDown) -> None:
        self._open_space, self._namespace, self._clock = open_space, namespace, clock
        self.rules = rules
        self._limits: Sequence[Limit] = ()
        self._regions: dict[str, Region] = {}
        self._homes: OrderedDict[tuple[str, str], str] = OrderedDict()  # limit, account → the space it is counted in
        self._callers: OrderedDict[str, Who] = OrderedDict()  # as last seen
        self._off: set[str] = set()  # spaces that were shared and are not
        self.on_mode: Tell = lambda mode, why: None

    def set_rules(self, rules: OnStateDown, limits: Sequence[Limit]) -> None:
        self.rules, self._limits = rules, limits
        for region in self._regions.values():
            region.state.set_rules(rules, limits)

    def open(self, who: Who) -> Region:
        """The space of this caller's calls."""
        _keep(self._callers, who.caller, who)
        region = self._regions.get(who.space)
        if region is None:
            region = self._regions[who.space] = self._opened(who.space)
        region.used_at = self._clock.monotonic()
        return region

    def _opened(self, name: str) -> Region:
        region = Region(name, *self._open_space(tag_of(self._namespace, name)))
        region.state.set_rules(self.rules, self._limits)
        region.space.counts_here = lambda limit, account: self._homes.get((limit, account)) == name
        region.state.start(lambda mode, why: self._tell(region, mode, why))
        return region

    def find(self, who: Who) -> Region | None:
        return self._regions.get(who.space)

    def all(self) -> list[Region]:
        return list(self._regions.values())

    def _tell(self, region: Region, mode: Mode, why: str) -> None:
        if region.was_shared:
            (self._off.discard if mode is Mode.SHARED else self._off.add)(region.name)
            self.on_mode(mode, f"{region.name}: {why}" if why else region.name)
        region.was_shared = region.was_shared or mode is Mode.SHARED

    @property
    def mode(self) -> Mode:
        """Of a space that fell out of the fleet, if one did."""
        return next((region.state.mode for space, region in self._regions.items() if space in self._off), Mode.SHARED)

    async def leave_idle(self) -> None:
        now = self._clock.monotonic()
        for space, region in list(self._regions.items()):
            if not region.is_open and not region.state.waiting and now - region.used_at > IDLE_S:
                del self._regions[space]
                self._off.discard(space)
                await region.space.close()

    async def close(self) -> None:
        await asyncio.gather(*(region.space.close() for region in self._regions.values()))

    # -- who and where --------------------------------------------------------------------------------------------------

    def guess(self, claims: Iterable[Claim]) -> Who:
        """Who calls, by the accounts of a call that has not come to an attempt yet."""
        named = dict(part.split("=", 1) for claim in claims for part in claim.account.split(",") if "=" in part)
        caller, team = named.get("caller", ""), named.get("team")
        return Who(caller, team) if team else self._callers.get(caller, Who(caller, None))

    def parted(self, claims: Iterable[Claim], who: Who) -> Parted:
        every = tuple(claims)
        inside, crossing = parted([claim for claim in every if is_shared(claim)], who)
        for claim in inside:
            _keep(self._homes, (claim.limit.name, claim.account), who.space)
        mine = tuple([claim for claim in every if not is_shared(claim)])
        return Parted(mine, tuple(inside), tuple([(tag_of(self._namespace, home), claim) for home, claim in crossing]))


def _keep(memory: OrderedDict[K, V], key: K, value: V) -> None:
    """Bounded: the longest unseen is forgotten first."""
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > MOST_KNOWN:
        memory.popitem(last=False)
