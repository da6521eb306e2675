"""A hold that grows while its answer runs: only where there is money, in its own period, and known to the next process."""

import asyncio

import pytest

from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import segments
from proxy.refusal import Refusal


@pytest.fixture(params=["memory", "journal"])
async def state(request, tmp_path, clock):
    one = await EmbeddedState.open(tmp_path / "s" if request.param == "journal" else None, clock=clock, time_zone="UTC", max_keys=10)
    yield one
    await one.close()


async def test_it_grows_to_the_last_nano_dollar_and_no_further(state, intent, claim, row):
    limit = 10**14 + 1
    claims = (claim(spend=("day", limit)),)
    await state.hold(intent("u/1", claims, nanousd=1000))
    assert await state.extend("u/1", claims, limit - 1001)
    assert [at.remaining for at in state.standings(claims)] == [1]
    assert not await state.extend("u/1", claims, 2), "refused whole, nothing taken"
    assert [at.remaining for at in state.standings(claims)] == [1]
    assert await state.extend("u/1", claims, 1)
    with pytest.raises(Refusal):
        await state.hold(intent("v/1", claims, nanousd=1))
    state.settle("u/1", 0, 700, row("u/1"))
    assert [at.remaining for at in state.standings(claims)] == [limit - 700]


async def test_the_claims_that_are_named_decide_and_all_of_the_attempt_are_charged(state, intent, claim):
    strict, other = claim("strict", spend=("day", 100)), claim("other", spend=("day", 50))
    await state.hold(intent("u/1", (strict, other), nanousd=40))
    assert not await state.extend("u/1", (strict, other), 20)
    assert await state.extend("u/1", (strict,), 20)
    assert [at.remaining for at in state.standings((strict, other))] == [40, 0]
    state.void("u/1", None)
    assert [at.remaining for at in state.standings((strict, other))] == [100, 50]


async def test_what_is_not_held_does_not_grow(state, intent, claim, row):
    claims = (claim(spend=("day", 100)),)
    assert not await state.extend("u/1", claims, 1)
    await state.hold(intent("u/1", claims, nanousd=1))
    assert not await state.extend("u/1", (claim("another", spend=("day", 100)),), 1)
    state.settle("u/1", 0, 1, row("u/1"))
    assert not await state.extend("u/1", claims, 1)


async def test_over_midnight_it_grows_in_the_period_of_its_hold(state, intent, claim, clock, row):
    claims = (claim(spend=("day", 100)),)
    await state.hold(intent("u/1", claims, nanousd=60))
    clock.pass_s(86_400)
    await state.hold(intent("v/1", claims, nanousd=90))
    assert not await state.extend("u/1", claims, 41), "its own day has no room for more"
    assert await state.extend("u/1", claims, 40)
    assert [at.remaining for at in state.standings(claims)] == [10], "of today nothing was taken"


async def test_tokens_are_counted_when_it_settles(state, intent, claim, row):
    claims = (claim(spend=("day", 100), tokens=1000),)
    await state.hold(intent("u/1", claims, nanousd=10, tokens=100))
    assert await state.extend("u/1", claims, 10)
    assert [at.remaining for at in state.standings(claims) if at.kind == "tokens"] == [900]
    state.settle("u/1", 300, 20, row("u/1"))
    assert [at.remaining for at in state.standings(claims) if at.kind == "tokens"] == [700]


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_after_a_crash_the_attempt_costs_what_it_had_grown_to(tmp_path, intent, claim, clock, ticks, is_compacted):
    """The journal as it stands when the process dies: nobody closes it."""
    claims = (claim(spend=("day", 100)),)
    one = await EmbeddedState.open(tmp_path / "s", clock=clock, time_zone="UTC", max_keys=10)
    await one.hold(intent("u/1", claims, nanousd=10))
    assert await one.extend("u/1", claims, 15)
    if is_compacted:
        await one._storage._snapshots.write()
    assert await one.extend("u/1", claims, 5)
    copy = tmp_path / "copy"
    await asyncio.to_thread(_copied, tmp_path / "s", copy)
    await one.close()
    two = await EmbeddedState.open(copy, clock=clock, time_zone="UTC", max_keys=10)
    try:
        assert two.recovery.crashed == 1
        assert [at.remaining for at in two.standings(claims)] == [70]
        (found,) = await two.rows(10)
        assert (found["end"], found["cost_nanousd"], found["held_nanousd"]) == ("crashed", 30, 30)
    finally:
        await two.close()


def _copied(folder, copy):
    import shutil

    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.lock"))
    assert segments(copy)
