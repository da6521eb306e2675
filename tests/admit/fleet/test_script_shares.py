"""A fleet on the shipped scripts whose processes lose replies, spend their shares alone, die and come back: never above the limit.

Each process keeps to what ops.py asks of it and to nothing else, so the machine tests that contract.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from proxy.admit.fleet.ops import Gone, Op, Rebase, Settle, Squeezed, Void, Watch
from proxy.admit.fleet.script import Scripts
from proxy.policy.plan import Claim, Limit, Spend
from tests.support.scripted_store import SCRIPTS, Process, ScriptedStore, patched
from tests.support.valkey import Server, valkey

S = 10**9
NOON = 1_795_262_400 * S
LIMIT = 100
SPEND = Spend(LIMIT, "total")
CLAIM = Claim(Limit("tier free", ("caller",), spend=(SPEND,)), "caller=bob")
USED_S = 3240  # of the hour for which a silent process's share is kept


@dataclass
class HandClock:
    ns: int = NOON

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / S

    def monotonic_ns(self) -> int:
        return self.ns


@dataclass
class Sidecar:
    process: Process
    left: int = 0  # of its share
    told_at: int = 0
    queue: list[Op] = field(default_factory=list)
    unanswered: tuple[tuple[Op, ...], Watch] | None = None  # the batch that is sent again, as it was
    open: dict[str, int] = field(default_factory=dict)  # held through the store
    settled: int = 0  # as of the last batch that was made
    since: int = 0  # held or spent since then
    alone: int = 0  # spent without the store, and in no batch yet
    on_the_way: int = 0  # and in a batch that the store has not seen
    is_untold: bool = False  # or may not have seen, for all that the process knows


class Machine(RuleBasedStateMachine):
    client: redis.Redis
    scripts: Scripts = SCRIPTS

    @initialize(number=st.integers(2, 3))
    def begin(self, number: int) -> None:
        self.clock = HandClock()
        self.store = ScriptedStore(self.client, self.clock, scripts=self.scripts)
        self.fleet = [Sidecar(self.store.another(f"p{at}", scripts=self.scripts)) for at in range(number)]
        self.number, self.silent = 0, 0
        self.late, self.graves = list[tuple[Sidecar, str, int]](), dict[str, int]()

    def teardown(self) -> None:
        if hasattr(self, "store"):
            for key in self.store.key_names():
                self.client.delete(self.store.prefix + key)

    def one(self, which: int) -> Sidecar:
        found = self.fleet[which % len(self.fleet)]
        if self.clock.ns - found.told_at > USED_S * S:
            found.left = 0
        return found

    WHICH = st.integers(0, 3)
    COSTS = st.sampled_from([7, 34, 60, 100])

    @rule(seconds=st.sampled_from([1, 1, 1, 3, 3, 60, 121, 1800, 3600]))
    def time_passes(self, seconds: int) -> None:
        self.clock.ns += seconds * S

    @rule(which=WHICH, cost=COSTS, fate=st.sampled_from(["done", "done", "reply lost", "late"]))
    def a_hold(self, which: int, cost: int, fate: str) -> None:
        one, id = self.one(which), self._id()
        if one.alone or one.is_untold:
            return
        if fate == "late":
            self.late.append((one, id, cost))
        else:
            try:
                taken = one.process.hold(id, (CLAIM,), cost)
            except Squeezed:
                return
            if fate == "done" and taken.denied:
                return
        one.left, one.since = max(0, one.left - cost), one.since + cost
        if fate == "done":
            one.open[id] = cost
        else:
            one.queue.append(Void(id))

    @rule()
    def the_late_arrive(self) -> None:
        for one, id, cost in self.late:
            with suppress(Squeezed, Gone):
                one.process.hold(id, (CLAIM,), cost)
        self.late.clear()

    @rule(which=WHICH, actual=COSTS)
    def a_settle(self, which: int, actual: int) -> None:
        one = self.one(which)
        if one.open:
            id, held = one.open.popitem()
            one.settled += min(actual, held)
            one.queue.append(Settle(id, 0, min(actual, held)))

    @rule(which=WHICH, cost=COSTS)
    def it_spends_alone(self, which: int, cost: int) -> None:
        """The store is out of its reach, so it goes by its share: to the end of it, if the cost is that high."""
        one = self.one(which)
        cost = min(cost, one.left)
        one.left, one.since, one.alone = one.left - cost, one.since + cost, one.alone + cost

    @rule()
    def the_store_is_gone_for_all(self) -> None:
        for at in range(len(self.fleet)):
            self.it_spends_alone(at, LIMIT)

    @rule(fates=st.lists(st.sampled_from(["done", "done", "reply lost"]), min_size=3, max_size=3))
    def all_hearts_beat(self, fates: list[str]) -> None:
        for at in range(len(self.fleet)):
            self.a_heartbeat(at, fates[at], is_wanted=True)

    @rule(
        which=WHICH,
        fate=st.sampled_from(["done", "done", "reply lost", "request lost"]),
        is_wanted=st.sampled_from([True, True, True, False]),
    )
    def a_heartbeat(self, which: int, fate: str, is_wanted: bool) -> None:
        one, sent_at = self.one(which), self.clock.ns
        if one.unanswered is None:
            one.settled, one.on_the_way, one.alone, one.since = one.settled + one.alone, one.alone, 0, 0
            ops = (*one.queue, Rebase("tier free", "caller=bob", "total", one.settled))
            one.unanswered = ops, Watch(CLAIM, SPEND, one.left, is_wanted)
            one.queue, one.process.seq, one.is_untold = [], one.process.seq + 1, one.on_the_way > 0
        if fate == "request lost":
            return
        ops, watch = one.unanswered
        pulse = one.process.send_again(*ops, watch=[watch])
        one.on_the_way = 0
        self.free(pulse.freed)
        if fate == "done":
            one.unanswered, one.is_untold, one.told_at = None, False, sent_at
            one.left = max(0, pulse.shares[0].nanousd - one.since)

    def free(self, name: str) -> None:
        """After an hour of silence the bound is what it spent alone and told nobody: there is no share of it aside any more."""
        self.graves.pop(name, None)
        self.silent += sum(one.alone + one.on_the_way for one in self.fleet if one.process.name == name)

    @rule(which=WHICH)
    def it_dies(self, which: int) -> None:
        """Nobody hears of it again. What it spent alone is known to nobody; its share covers that for an hour."""
        if len(self.fleet) > 2:
            dead = self.fleet.pop(which % len(self.fleet))
            self.graves[dead.process.name] = dead.alone + dead.on_the_way

    def _id(self) -> str:
        self.number += 1
        return f"h{self.number}"

    @invariant()
    def never_more_than_the_limit(self) -> None:
        found = self.store.balance("tier free", "caller=bob", "total") if hasattr(self, "store") else {}
        known, told = found.get("settled", 0) + found.get("held", 0), found.get("told", 0)
        if found:
            assert known + sum(one.alone + one.on_the_way for one in self.fleet) + sum(self.graves.values()) <= LIMIT + self.silent
            assert told == sum(amount for name, amount in found.items() if name.startswith("g:"))


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with valkey() as running:
        yield running


def play(server: Server, examples: int, scripts: Scripts = SCRIPTS) -> None:
    with redis.Redis(port=server.port) as client:
        machine = type("Machine", (Machine,), {"client": client, "scripts": scripts})
        how = settings(
            max_examples=examples, stateful_step_count=50, database=None, derandomize=scripts is SCRIPTS,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate,), print_blob=False,
        )  # fmt: skip
        run_state_machine_as_test(machine, settings=how)


def test_a_fleet_never_spends_more_than_the_limit_with_or_without_its_store(server: Server) -> None:
    play(server, examples=80)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(("send", "set_mine(balance, math.max(share, kept))", "set_mine(balance, share)"), id="a smaller share counts at once"),
        pytest.param(("take", "nanousd > room - (balance.told - balance.mine)", "false"), id="a hold takes what others were told"),
        pytest.param(("send", "math.min(room - others, math.floor(room / live))", "math.floor(room / live)"), id="shares are not added up"),
    ],
)
def test_the_machine_catches(server: Server, mutant: tuple[str, str, str]) -> None:
    scripts = patched(*mutant)
    with pytest.raises(AssertionError):
        for _ in range(8):  # each finds it most of the time
            play(server, examples=200, scripts=scripts)
