"""Clocks that jump, restarts in between, and days that are longer, shorter or missing: through the store."""

from __future__ import annotations

import collections
import shutil
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pytest
from support.standing import entered

from proxy.admit.embedded import EmbeddedState
from proxy.refusal import Refusal

S = 10**9
NOON = 1_795_262_400 * S
HOUR = 3600 * S


class BootClock:
    """One machine: its monotonic clock goes on over every restart of the process; its wall clock does what it likes."""

    def __init__(self, ns: int) -> None:
        self.wall, self.mono_ns = ns, 500 * S

    def now_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono_ns / S

    def monotonic_ns(self) -> int:
        return self.mono_ns

    def pass_s(self, seconds: float) -> None:
        self.wall += int(seconds * S)
        self.mono_ns += int(seconds * S)


async def opened(path, clock, boot_id="boot 1", zone="UTC") -> EmbeddedState:
    return await EmbeddedState.open(path, clock=clock, time_zone=zone, max_keys=9, boot_id=boot_id)


async def is_admitted(call) -> bool:
    try:
        await call
    except Refusal:
        return False
    return True


@pytest.mark.parametrize("jump_s", [3600, -3600, 50 * 365 * 86400, 0])
@pytest.mark.parametrize("is_killed", [True, False])
async def test_no_jump_of_the_clock_before_during_or_after_a_restart_empties_or_freezes_a_window(tmp_path, claim, jump_s, is_killed):
    clock, claims = BootClock(NOON), (claim(requests=3),)
    admitted: list[int] = []
    state, path = await opened(tmp_path / "0", clock), tmp_path / "0"
    for step in range(60):
        if await is_admitted(state.enter(f"u{step}", claims)):
            admitted.append(clock.mono_ns)
        state.leave(f"u{step}")
        clock.pass_s(7)
        if step % 9 == 4:
            clock.wall += jump_s * S * (1 if step % 2 else -1)
        if step % 9 == 5:
            await state.rows()  # what is written is written
            if is_killed:
                shutil.copytree(path, tmp_path / str(step))
            await state.close()
            path = tmp_path / str(step) if is_killed else path
            state = await opened(path, clock)
    await state.close()
    worst = max(sum(end - 60 * S < at <= end for at in admitted) for end in admitted)
    assert worst == 3
    assert len(admitted) >= 60 * 7 // 60 * 3 - 3, "nor is anybody shut out"


async def test_after_a_new_start_of_the_machine_the_wall_clock_is_all_there_is(tmp_path, claim):
    clock, claims = BootClock(NOON), (claim(requests=1),)
    for boot, passed_s, admitted in (("one", 0, True), ("two", 30, False), ("two", 31, True), ("three", -3600, False), ("four", 61, True)):
        clock.pass_s(passed_s)
        clock.mono_ns = 3 * S if boot != "two" else clock.mono_ns
        state = await opened(tmp_path, clock, boot)
        assert await is_admitted(state.enter(f"{boot} {passed_s}", claims)) is admitted
        await state.close()


async def test_a_clock_put_back_over_midnight_gives_no_extra_budget_over_a_restart_either(tmp_path, claim, intent):
    clock, claims = BootClock(NOON + 12 * HOUR + 60 * S), (claim(spend=("day", 100)),)
    state = await opened(tmp_path, clock)
    await state.hold(intent("a/1", claims, nanousd=100))
    for number in range(3):
        clock.wall -= HOUR // 2
        assert not await is_admitted(state.hold(intent(f"b{number}/1", claims, nanousd=1)))
        await state.close()
        state = await opened(tmp_path, clock)
        assert not await is_admitted(state.hold(intent(f"c{number}/1", claims, nanousd=1)))
    clock.wall = NOON - 10 * 24 * HOUR  # further than any clock is put back: it was wrong before
    await state.close()
    state = await opened(tmp_path, clock)
    assert await is_admitted(state.hold(intent("d/1", claims, nanousd=1)))
    await state.close()


async def test_the_instant_a_window_is_free_again_is_told_by_the_wall_clock_of_the_reply(claim):
    clock, claims = BootClock(NOON), (claim(requests=3, concurrency=2),)
    state = await opened(None, clock)
    clock.wall += 5 * HOUR
    requests, slots = await entered(state, "a", claims)
    assert (requests.resets_at, slots.resets_at) == ((NOON + 5 * HOUR) // S + 60, (NOON + 5 * HOUR) // S)
    await state.close()


# A change of the clocks within three days from the first; in Cairo and Havana at midnight; Apia skipped a day.
CHANGES = [
    ("Europe/Berlin", "2026-03-28"), ("Europe/Berlin", "2026-10-24"), ("America/New_York", "2026-03-07"), ("Pacific/Apia", "2011-12-28"),
    ("Africa/Cairo", "2026-04-23"), ("Africa/Cairo", "2026-10-28"), ("America/Havana", "2026-03-07"), ("America/Havana", "2026-10-31"),
    ("America/New_York", "2026-10-31"), ("Australia/Lord_Howe", "2026-04-04"),
]  # fmt: skip


@pytest.mark.parametrize(("zone", "first"), CHANGES)
async def test_every_local_day_has_its_budget_once_whatever_the_clocks_are_put_to(tmp_path, zone, first, claim, intent, row):
    """A call every 20 minutes for four days, each settled 20 minutes later, over every midnight too: charged to the day it began."""
    at = ZoneInfo(zone)
    clock = BootClock(int(datetime.combine(date.fromisoformat(first), datetime.min.time(), at).timestamp()) * S + 10 * S)
    claims = (claim(spend=("day", 1000)),)
    state = await opened(tmp_path, clock, zone=zone)
    begun: collections.Counter[str] = collections.Counter()
    spent: collections.Counter[str] = collections.Counter()
    before = None
    for number in range(4 * 72):
        id = f"c{number}/1"
        today = datetime.fromtimestamp(clock.wall // S, UTC).astimezone(at).date().isoformat()
        begun[today] += 1
        is_held = await is_admitted(state.hold(intent(id, claims, nanousd=20)))
        assert is_held is (spent[today] + 20 <= 1000)
        if before:
            state.settle(before[0], 0, 15, row(before[0], cost_nanousd=15))
        if is_held:
            spent[today] += 20
        if before:
            spent[before[1]] -= 5
        before = (id, today) if is_held else None
        if number % 50 == 30:
            await state.close()
            state = await opened(tmp_path, clock, zone=zone)
            if before:  # its process is gone: it costs what it held
                before = None
        (standing,) = state.standings(claims)
        assert standing.remaining == 1000 - spent[today]
        end = datetime.fromtimestamp(standing.resets_at, UTC).astimezone(at)
        just_before = datetime.fromtimestamp(standing.resets_at - 1, UTC).astimezone(at)
        assert (just_before.date().isoformat(), end.date() > just_before.date()) == (today, True)
        clock.pass_s(1200)
    kept = {period: settled + held for _, _, period, settled, held in state.contributions()}
    assert len(kept) >= 2, "of the days before yesterday no counter is kept"
    assert kept.items() <= spent.items()
    assert len(begun) in (4, 5)
    await state.close()


async def test_when_a_window_is_empty_is_told_by_the_wall_clock_as_it_stands_rounded_up_wherever_it_goes(claim):
    clock, at = BootClock(NOON - 3), (claim(requests=9, spend=("day", 9)),)
    state = await opened(None, clock)
    await state.enter("a", at)
    passed, jumps = 0, [(-30 * S, S // 3), (S // 2, S // 2), (2 * 86_400 * S, 7), (-1, 0)]
    for wall, mono in [(0, 0), (3, 3), (S - 5, S - 5), (4, 4), (1, 1), (1, 1), *jumps]:
        clock.wall, clock.mono_ns, passed = clock.wall + wall, clock.mono_ns + mono, passed + mono
        requests, spend = standings = state.standings(at)
        assert standings.now_s == clock.wall // S
        assert requests.resets_at == -((passed - clock.wall) // S) + 60
        assert spend.resets_at == state.periods()["day"][1].end_ns // S
    clock.mono_ns += 60 * S
    clock.wall += 60 * S
    assert next(iter(state.standings(at))).resets_at == -(-clock.wall // S), "nothing is left in it"


async def test_periods_around_now_are_told_with_their_ends(claim):
    state = await opened(None, BootClock(NOON), zone="Europe/Berlin")
    days, months = state.periods()["day"], state.periods()["month"]
    assert [it.id for it in (*days, *months)] == ["2026-11-20", "2026-11-21", "2026-11-22", "2026-10", "2026-11", "2026-12"]
    assert [one.end_ns == two.start_ns for one, two in ((days[0], days[1]), (days[1], days[2]), (months[0], months[1]))] == [True] * 3
    await state.close()
