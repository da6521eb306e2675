"""What counters keep, forget, and are the sum of."""

from __future__ import annotations

from proxy.admit.accounts import Moment
from proxy.admit.columns import rows_of
from proxy.admit.counters import Counters
from proxy.admit.embedded import EmbeddedState
from proxy.admit.periods import Calendar
from proxy.admit.replay import replay


async def test_what_the_journal_says_is_what_the_counters_say(tmp_path, clock, claim, intent, row, told, ticks):
    """I5: every counter is the fold of the journal; ends of calls that were never held fold to nothing."""
    state = await EmbeddedState.open(tmp_path / "a", clock=clock, time_zone="UTC", max_keys=9)
    claims = (claim(spend=("month", 10**9), tokens=1000, requests=9), claim("team ops", "team=ops", spend=("total", 10**9)))
    await state.enter("a", claims)
    for id in ("a/1", "b/1", "c/1"):
        await state.hold(intent(id, claims, nanousd=50, tokens=7))
    state.settle("a/1", 3, 20, row("a/1"))
    state.void("b/1", row("b/1"))
    state.void("b/1", None)
    state.settle("unknown/1", 3, 20, row("unknown/1"))
    await ticks()
    folded = Counters(9)
    replay(tmp_path / "a", folded, (0, 0))
    assert told(folded) == told(state._counters)
    state.leave("a")
    await state.close()


def test_a_snapshot_is_told_what_counts_and_only_what_is_long_past_is_forgotten_on_the_way(clock):
    calendar, counters = Calendar("UTC"), Counters(9)

    def told(name: str) -> list:
        told = counters.told("each", [name], Moment(clock.wall, calendar.at(clock.wall)))
        return [row for columns in told for row in rows_of("each", clock.wall, columns)]

    for name in ("spent", "counted", "free", "held"):
        account = counters.account("each", name)
        account.ring(("requests", 60)).add(1, clock.wall)
        account.ring(("tokens", 86400))
        account.place = "found"  # type: ignore[assignment]  # any sign
    spent, held = counters.account("each", "spent"), counters.account("each", "held")
    spent.balance("2026-11-21").settled = spent.balance("total").settled = 7
    held.balance("2026-11-21").settled, held.balance("2026-11-21").held = 4, 9
    used = ("requests", 60, [(clock.wall, 1)])
    assert told("spent") == [("each", "spent", [used], [("2026-11-21", 7), ("total", 7)])]
    assert told("counted") == [("each", "counted", [used], [])]
    clock.pass_s(61)
    assert told("spent") == [("each", "spent", [], [("2026-11-21", 7), ("total", 7)])]
    assert (spent.place, spent.forgot, [*spent.rings]) == ("found", 0, [("requests", 60), ("tokens", 86400)]), (
        "its caller was here a minute ago"
    )
    counters.account("each", "free").in_flight = 1
    assert (told("counted"), told("free"), told("nobody")) == ([], [], [])
    assert set(counters.books["each"]) == {"spent", "free", "held"}, "a call under way keeps its account"
    clock.pass_s(600)
    assert told("spent") == [("each", "spent", [], [("2026-11-21", 7), ("total", 7)])]
    assert (spent.place, spent.forgot, spent.rings) == (None, 1, {})
    clock.pass_s(3 * 86400)
    assert told("spent") == [("each", "spent", [], [("total", 7)])]
    assert [*spent.spend] == ["total"]
    assert told("held") == [("each", "held", [], [("2026-11-21", 4)])]


def test_a_limit_of_which_no_account_counts_any_more_is_forgotten(clock):
    counters, now = Counters(9), Moment(clock.wall, Calendar("UTC").at(clock.wall))
    for limit in ("idle", "spent"):
        counters.account(limit, "one").balance("total").settled = limit == "spent"
    told = [
        row
        for limit, names in counters.accounts()
        for columns in counters.told(limit, names, now)
        for row in rows_of(limit, now.ns, columns)
    ]
    assert (told, [*counters.books]) == ([("spent", "one", [], [("total", 1)])], ["spent"])


async def test_an_account_is_kept_while_anything_counts_on_it_and_forgotten_after(clock, claim, intent, row):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)

    async def kept() -> set[str]:
        await state.enter("visitor", (claim(account="visitor", requests=10**6),))
        state.leave("visitor")
        for _ in range(3):
            await state.enter(f"new {clock.wall}", (claim(account=f"new {clock.wall}", concurrency=9),))
            state.leave(f"new {clock.wall}")
            clock.pass_s(61)
        return set(state._counters.books["tier free"])

    await state.hold(intent("held/1", (claim(account="held", spend=("day", 100)),), nanousd=1))
    await state.hold(intent("spent/1", (claim(account="spent", spend=("day", 100)),), nanousd=1))
    await state.hold(intent("total/1", (claim(account="total", spend=("total", 100)),), nanousd=1))
    state.settle("spent/1", 0, 1, row("spent/1"))
    state.settle("total/1", 0, 1, row("total/1"))
    assert {"held", "spent", "total"} <= await kept()
    clock.pass_s(3 * 86400)
    for _ in range(4):
        accounts = await kept()
    assert {"held", "total"} <= accounts
    assert "spent" not in accounts
    assert len(accounts) < 8
    await state.close()
