"""One algorithm, three stores: the same commands to memory, to a journal on disk and to the shipped scripts on a real server.

They must answer alike to the last word, and each of them must hold the invariants of money (I1, I2, I4 to I7, I9, I10), which a
small model of its own checks. Three mutants of the script show that the machine bites.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import redis
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.script import Scripts
from proxy.exchange import Row
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.ports import Intent
from proxy.refusal import Refusal
from proxy.standings import Standing
from tests.support import standing
from tests.support.scripted_store import SCRIPTS, ScriptedStore, patched
from tests.support.valkey import Server, valkey

S, US = 10**9, 1000
ZONE = "Europe/Berlin"
STARTS = [1_792_879_140 * S, 1_798_757_940 * S, 1_774_738_740 * S]  # a minute before local midnight: DST ends, a new year, DST begins
FREE = Limit(
    "tier free", ("caller",), requests=(Rate(5, 60), Rate(40, 3600)), tokens=(Rate(100, 60), Rate(300, 86400)),
    spend=(Spend(100, "day"), Spend(150, "month")), concurrency=3,
)  # fmt: skip
TEAM = Limit("team | ops", ("team",), spend=(Spend(130, "total"),), is_shared=True)
NONE = Limit("nothing", ("caller",), tokens=(Rate(0, 60),))
WILD = Limit("wild", ("ip",), requests=(Rate(2, 60),), spend=(Spend(40, "day"),), is_unbounded=True)
HUGE = Limit("huge", ("caller",), spend=(Spend(2 * 10**14 + 2, "day"),))
MAX_KEYS = 2
BOB = (Claim(FREE, "caller=bob"),)
CLAIMS = {
    "bob": BOB, "ann": (Claim(FREE, "caller=ann"),), "ops": (Claim(TEAM, "team=ops"),), "bob in ops": (*BOB, Claim(TEAM, "team=ops")),
    "none": (*BOB, Claim(NONE, "caller=bob")), "huge": (Claim(HUGE, "caller=bob"),), "nobody": (),
    **{f"wild {n}": (Claim(WILD, f"ip={n}"),) for n in range(4)},
}  # fmt: skip
WHO = st.sampled_from([*sorted(CLAIMS), "bob", "bob", "bob in ops"])
Balances = Mapping[tuple[str, str, str], tuple[int, int]]  # limit, account, period → settled, held


@dataclass
class HandClock:
    ns: int

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / S  # not exact; only its differences count

    def monotonic_ns(self) -> int:
        return self.ns

    def copy(self) -> HandClock:
        return replace(self)


class Telling:
    """An EmbeddedState that answers as the scripts do: with how a caller stands after it."""

    def __init__(self, state: EmbeddedState) -> None:
        self._state = state

    def __getattr__(self, name: str) -> Any:
        return getattr(self._state, name)

    async def enter(self, uid: str, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        return tuple(await standing.entered(self._state, uid, claims))

    async def hold(self, intent: Intent) -> tuple[Standing, ...]:
        return tuple(await standing.held(self._state, intent))


class Kept:
    """An EmbeddedState in memory (path None) or on disk, stepped by its own loop."""

    def __init__(self, clock: HandClock, path: Path | None) -> None:
        self.clock, self.path, self.runner = clock, path, asyncio.Runner()
        self._open()

    def _open(self) -> None:
        self.state = Telling(self.run(EmbeddedState.open(self.path, clock=self.clock, time_zone=ZONE, max_keys=MAX_KEYS)))

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.runner.run(coroutine)

    def balances(self) -> Balances:
        books = self.state._counters.books
        found = {
            (limit, name, period): (it.settled, it.held)
            for limit, book in books.items() for name, account in book.items() for period, it in account.spend.items()
        }  # fmt: skip
        return {key: it for key, it in found.items() if it != (0, 0)}

    def slots(self, limit: str, account: str) -> int:
        found = self.state._counters.find(limit, account)
        return found.in_flight if found else 0

    def die(self, open_holds: Mapping[str, tuple[int, int]], open_calls: Sequence[str]) -> None:
        """A crash: what was open is charged at its estimate."""
        if self.path is None:  # memory does not outlive a crash: this is what a survivor would do
            for id, (tokens, nanousd) in open_holds.items():
                self.state.settle(id, tokens, nanousd, row(id))
            for uid in open_calls:
                self.state.leave(uid)
        else:
            self.run(self.state.close())
            self._open()

    def close(self) -> None:
        self.run(self.state.close())
        self.runner.close()


class Shared(ScriptedStore):
    """The scripts, with the same face."""

    def __init__(self, client: redis.Redis, clock: HandClock, scripts: Scripts) -> None:
        super().__init__(client, clock, scripts=scripts, time_zone=ZONE, max_keys=MAX_KEYS)
        self.state, self.lives, self.scripts = self, 1, scripts

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        with pytest.raises(StopIteration) as end:
            coroutine.send(None)
        return end.value.value

    def balances(self) -> Balances:
        found = {}
        for key in self.key_names():
            if key.startswith("b:"):
                period, limit, account = key[2:].split("|")
                it = self.balance(limit, account, period)
                found[limit.replace("%7C", "|"), account, period] = it.get("settled", 0), it.get("held", 0)
        return {key: it for key, it in found.items() if it != (0, 0)}

    def slots(self, limit: str, account: str) -> int:
        return super().slots(limit.replace("|", "%7C"), account)

    def die(self, open_holds: Mapping[str, tuple[int, int]], open_calls: Sequence[str]) -> None:
        """Its lease is over: another process finds it dead."""
        self.lives += 1
        self.process = self.another(f"life {self.lives}", scripts=self.scripts, time_zone=ZONE, max_keys=MAX_KEYS)
        while self.process.send().expired:
            pass

    def close(self) -> None:
        if keys := [f"{self.prefix}{key}" for key in self.key_names()]:
            self.link.client.delete(*keys)


def row(id: str, cost: int = 0) -> Row:
    return Row(
        id, id, 1, "first", None, 0, "bob", None, "free", "openai", "gpt-4o", "chat", None, 200, "done", 1, 0, 0, 1, 0, {}, "provider", "",
        cost, cost, None, 1, 1.0, None, 0.1, False,
    )  # fmt: skip


def periods_of(ns: int) -> Mapping[str, str]:
    local = datetime.fromtimestamp(ns // S, ZoneInfo(ZONE))
    return {"day": f"{local:%Y-%m-%d}", "month": f"{local:%Y-%m}", "total": "total"}


class Model:
    """What must be true of money and slots, worked out anew by nobody's code but this."""

    def __init__(self) -> None:
        self.settled: dict[tuple[str, str, str], int] = defaultdict(int)
        self.under: dict[tuple[str, str, str], int] = defaultdict(int)  # U: what settled above its estimate
        self.holds: dict[str, tuple[int, int, list[tuple[str, str, str]]]] = {}  # tokens, nanousd, where
        self.calls: dict[str, list[tuple[str, str]]] = {}
        self.limits: dict[tuple[str, str, str], int] = {}

    def hold(self, id: str, claims: Sequence[Claim], names: Mapping[str, str], ns: int, tokens: int, nanousd: int) -> None:
        where = []
        for claim in claims:
            for spend in claim.limit.spend:
                key = claim.limit.name, names.get(claim.limit.name, claim.account), periods_of(ns)[spend.period]
                self.limits[key] = spend.nanousd
                where.append(key)
        self.holds[id] = tokens, nanousd, where

    def close(self, id: str, nanousd: int) -> None:
        _, held, where = self.holds.pop(id)
        for key in where:
            self.settled[key] += nanousd
            self.under[key] += max(0, nanousd - held)

    def balances(self) -> Balances:
        held: dict[tuple[str, str, str], int] = defaultdict(int)
        for _, nanousd, where in self.holds.values():
            for key in where:
                held[key] += nanousd
        found = {key: (self.settled[key], held[key]) for key in {*self.settled, *held}}
        return {key: it for key, it in found.items() if it != (0, 0)}


class Machine(RuleBasedStateMachine):
    client: redis.Redis
    scripts: Scripts = SCRIPTS

    @initialize(start=st.sampled_from(STARTS), is_wild=st.booleans())
    def begin(self, start: int, is_wild: bool) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.clocks = [HandClock(start) for _ in range(3)]
        memory, disk = Kept(self.clocks[0], None), Kept(self.clocks[1], Path(self.folder.name))
        self.shared = Shared(self.client, self.clocks[2], self.scripts)
        self.stores: list[Any] = [memory, disk, self.shared]
        self.model, self.number, self.is_wild = Model(), 0, is_wild
        self.closed: list[str] = []

    def teardown(self) -> None:
        for store in getattr(self, "stores", ()):
            store.close()
        if hasattr(self, "folder"):
            self.folder.cleanup()

    def _all(self, do: Any) -> tuple[Standing, ...] | None:
        """The one answer of the three; None where they refuse."""
        answers = [self._answer(store, do) for store in self.stores]
        assert answers[0] == answers[1] == answers[2], answers
        return answers[0][1] if answers[0][0] == "taken" else None

    def _answer(self, store: Any, do: Any) -> tuple[Any, ...]:
        before = store.balances(), [store.slots(*it) for it in self._seats()]
        try:
            return "taken", store.run(do(store.state))
        except Refusal as no:
            assert before == (store.balances(), [store.slots(*it) for it in self._seats()]), "I10: a refusal is free"
            wait = None if no.kind == "concurrency" else no.retry_after  # an estimate, from an average that idle accounts may forget
            return "refused", no.status, no.code, no.message, wait, no.should_retry, no.limit, no.kind, no.used

    def _seats(self) -> list[tuple[str, str]]:
        return [(claim.limit.name, claim.account) for who in ("bob", "ann", "ops") for claim in CLAIMS[who]]

    def _claims(self, who: str) -> tuple[Claim, ...]:
        return CLAIMS["bob" if who.startswith("wild") and not self.is_wild else who]

    def _names(self) -> Mapping[str, str]:
        """Where the stores counted the last unbounded account: they agreed on it, or the balances will tell."""
        held = self.stores[0].state.open_holds().get(f"h{self.number}")
        return {charge.limit: charge.account for charge in held.charges} if held else {}

    # -- commands -------------------------------------------------------------------------------------------------------------

    @rule(us=st.sampled_from([1, 999_999, 10**6, 7_300_000, 59_999_999, 60 * 10**6, 3601 * 10**6, 12 * 3600 * 10**6]))
    def time_passes(self, us: int) -> None:
        for clock in self.clocks:
            clock.ns += us * US

    @rule(who=st.sampled_from(["bob", "bob in ops", "wild 0"]), number=st.integers(2, 6), what=st.sampled_from(["enter", "hold"]))
    def many_come_at_once(self, who: str, number: int, what: str) -> None:
        for _ in range(number):
            if what == "enter":
                self.a_call_enters(who)
            else:
                self.an_attempt_holds(who, 9, 25)

    @rule(who=WHO)
    def a_call_enters(self, who: str) -> None:
        self.number += 1
        uid, claims = f"c{self.number}", self._claims(who)
        if self._all(lambda store: store.enter(uid, claims)) is not None:
            self.model.calls[uid] = [(claim.limit.name, claim.account) for claim in claims]

    @rule(who=WHO, nanousd=st.sampled_from([0, 1, 9, 25, 40, 41, 101]), tokens=st.sampled_from([0, 1, 30, 50, 101]))
    def an_attempt_holds(self, who: str, nanousd: int, tokens: int) -> None:
        self.number += 1
        id, claims, now = f"h{self.number}", self._claims(who), self.clocks[0].ns
        nanousd += 10**14 + 1 if who == "huge" else 0
        intent = Intent(id, id, claims, tokens, nanousd, row(id, nanousd), max_tokens=100, output_nanousd=nanousd)
        if self._all(lambda store: store.hold(intent)) is not None:
            self.model.hold(id, claims, self._names(), now, tokens, nanousd)
            for key in self.model.holds[id][2]:
                settled, held = self.model.balances().get(key, (0, 0))
                assert settled + held <= self.model.limits[key], "I1: what is admitted fits"

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def a_hold_is_said_again(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.model.holds)))
        tokens, nanousd, _ = self.model.holds[id]
        self._all(lambda store: store.hold(Intent(id, id, BOB, tokens, nanousd, row(id))))

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data(), nanousd=st.sampled_from([0, 1, 8, 30, 60]), tokens=st.sampled_from([0, 20, 120]))
    def an_attempt_settles(self, data: st.DataObject, nanousd: int, tokens: int) -> None:
        id = data.draw(st.sampled_from(sorted(self.model.holds)))
        self._close(lambda state: state.settle(id, tokens, nanousd, row(id, nanousd)), id, nanousd)

    @precondition(lambda self: self.model.holds)
    @rule(data=st.data())
    def an_attempt_is_voided(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(sorted(self.model.holds)))
        self._close(lambda state: state.void(id, None), id, 0)

    def _close(self, do: Any, id: str, nanousd: int) -> None:
        for store in self.stores:
            do(store.state)
        self.model.close(id, nanousd)
        self.closed.append(id)

    @precondition(lambda self: self.closed)
    @rule(data=st.data(), is_void=st.booleans())
    def a_close_is_said_again(self, data: st.DataObject, is_void: bool) -> None:
        id = data.draw(st.sampled_from(self.closed))
        for store in self.stores:
            if is_void:
                store.state.void(id, None)
            else:
                store.state.settle(id, 11, 13, row(id, 13))

    @precondition(lambda self: self.model.calls)
    @rule(data=st.data(), what=st.sampled_from(["leave", "leave", "uncount"]))
    def a_call_ends(self, data: st.DataObject, what: str) -> None:
        uid = data.draw(st.sampled_from(sorted(self.model.calls)))
        for store in self.stores:
            getattr(store.state, what)(uid)
        if what == "leave":
            del self.model.calls[uid]

    @precondition(
        lambda self: not self.is_wild and (self.model.holds or self.model.calls)
    )  # a restart forgets idle accounts at once, the others by and by
    @rule()
    def the_process_dies_and_its_lease_ends(self) -> None:
        open_holds = {id: (tokens, nanousd) for id, (tokens, nanousd, _) in self.model.holds.items()}
        for clock in self.clocks:
            clock.ns += 121 * S
        for store in self.stores:
            store.die(open_holds, list(self.model.calls))
        for id, (_, nanousd) in open_holds.items():
            self.model.close(id, nanousd)
            self.closed.append(id)
        self.model.calls.clear()

    # -- what must be true at all times ---------------------------------------------------------------------------------------

    @invariant()
    def money_is_where_the_model_says(self) -> None:
        """I4 (once), I5 (conservation), I6 (nothing falls but by its own settle), I7 (in the period of its hold)."""
        wanted = self.model.balances()
        kept = {key: it for key, it in wanted.items() if key[0] != "wild"}  # idle unbounded accounts are forgotten when past
        for store in self.stores:
            found = store.balances()
            assert {key: it for key, it in found.items() if key[0] != "wild" and not self._is_past(key)} == {
                key: it for key, it in kept.items() if not self._is_past(key)
            }, type(store)
            assert all(wanted.get(key) == it for key, it in found.items() if key[0] == "wild"), type(store)

    def _is_past(self, key: tuple[str, str, str]) -> bool:
        """A store may forget what no answer depends on any more."""
        return key[2] != "total" and key[2] < periods_of(self.clocks[0].ns - 25 * 3600 * S)["day" if len(key[2]) == 10 else "month"]

    @invariant()
    def no_budget_is_exceeded_but_by_what_was_underestimated(self) -> None:
        """I2."""
        for key, (settled, held) in self.model.balances().items():
            assert settled + held <= self.model.limits[key] + self.model.under[key], key

    @invariant()
    def slots_are_the_calls_under_way(self) -> None:
        """I9."""
        for seat in self._seats():
            wanted = sum(seat in calls for calls in self.model.calls.values())
            assert [store.slots(*seat) for store in self.stores] == [wanted] * 3, seat


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with valkey() as running:
        yield running


def run(server: Server, examples: int, steps: int, scripts: Scripts = SCRIPTS) -> None:
    with redis.Redis(port=server.port) as client:
        machine = type("Machine", (Machine,), {"client": client, "scripts": scripts})
        how = settings(
            max_examples=examples, stateful_step_count=steps, database=None, derandomize=scripts is SCRIPTS,
            suppress_health_check=list(HealthCheck), phases=(Phase.generate,), print_blob=False,
        )  # fmt: skip
        run_state_machine_as_test(machine, settings=how)


def test_three_stores_give_the_same_answers_and_keep_the_invariants_of_money(server: Server) -> None:
    run(server, examples=60, steps=40)


@pytest.mark.parametrize(
    "mutant",
    [
        pytest.param(("take", "limit - balance.settled - balance.held", "limit - balance.settled"), id="what is held is ignored"),
        pytest.param(("send", "redis.call('HDEL', open, 'h:' .. id)", ""), id="a settle counts twice"),
        pytest.param(("send", "close(dead, packed, tokens, nanousd)", "close(dead, packed, 0, 0)"), id="an expiry is free"),
    ],
)
def test_the_machine_catches(server: Server, mutant: tuple[str, str, str]) -> None:
    scripts = patched(*mutant)
    with pytest.raises(AssertionError):
        for _ in range(8):  # each finds it most of the time
            run(server, examples=60, steps=40, scripts=scripts)
