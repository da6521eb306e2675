"""`durability: disk`: what waits for the disk, what does not, and what a failed sync leads to."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from pathlib import Path

import pytest
from support.standing import held

from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import segments
from proxy.admit.snapshots import snapshots
from proxy.refusal import Refusal

REAL = os.fdatasync


class Disk:
    """A disk whose syncs can be made to wait and to fail; it remembers the names of what was synced."""

    def __init__(self) -> None:
        self.synced: list[str] = []
        self.may_go = threading.Event()
        self.may_go.set()
        self.is_broken = False

    def fdatasync(self, fd: int) -> None:
        self.synced.append(Path(os.readlink(f"/proc/self/fd/{fd}")).name)
        assert self.may_go.wait(20)
        if self.is_broken:
            raise OSError(5, "Input/output error")
        REAL(fd)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk()
    monkeypatch.setattr("os.fdatasync", disk.fdatasync)
    monkeypatch.setattr("proxy.admit.snapshots.RETRY_S", 0.02)
    yield disk
    disk.may_go.set()


async def opened(path, clock, durability="disk") -> EmbeddedState:
    return await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9, durability=durability)


async def until(true) -> None:
    async with asyncio.timeout(20):
        while not true():
            await asyncio.sleep(0.005)


async def test_a_hold_waits_for_the_disk_and_those_that_come_meanwhile_share_the_next_sync(tmp_path, clock, disk, claim, intent, row):
    state = await opened(tmp_path, clock)
    claims = (claim(spend=("day", 10**6)),)
    disk.may_go.clear()
    first = asyncio.ensure_future(state.hold(intent("first/1", claims, nanousd=1)))
    await until(lambda: disk.synced)
    others = [asyncio.ensure_future(state.hold(intent(f"c{number}/1", claims, nanousd=1))) for number in range(100)]
    await asyncio.sleep(0.1)
    assert not first.done()
    assert len(disk.synced) == 1
    disk.may_go.set()
    await asyncio.gather(first, *others)
    assert len(disk.synced) == 2
    disk.may_go.clear()
    state.settle("first/1", 0, 1, row("first/1"))
    assert "first" in [it["request_id"] for it in await state.rows()], "a settle waits for no disk"
    disk.may_go.set()
    await state.close()


async def test_process_durability_never_waits_for_the_disk(tmp_path, clock, disk, claim, intent):
    disk.may_go.clear()
    state = await opened(tmp_path, clock, "process")
    await state.hold(intent("a/1", (claim(spend=("day", 10)),), nanousd=1))
    assert disk.synced == []
    await state.close()


async def test_a_failed_sync_refuses_its_holds_and_a_new_segment_with_all_that_counts_takes_over(tmp_path, clock, disk, claim, intent, row):
    state = await opened(tmp_path / "alive", clock)
    claims = (claim(spend=("day", 1000), tokens=1000),)
    for name in ("settled", "open"):
        await state.hold(intent(f"{name}/1", claims, nanousd=100, tokens=10))
    disk.is_broken = True
    failing = [asyncio.ensure_future(state.hold(intent(f"f{number}/1", claims, nanousd=50))) for number in range(3)]
    for one in failing:
        with pytest.raises(Refusal) as caught:
            await one
        assert (caught.value.status, caught.value.code) == (503, "ledger_unavailable")
    state.settle("settled/1", 5, 60, row("settled/1", cost_nanousd=60))
    disk.is_broken = False
    disk.synced.clear()
    await until(lambda: state.is_available)
    (number, path), *_ = segments(tmp_path / "alive")[::-1]
    assert (number, [it for it, _ in snapshots(tmp_path / "alive")]) == (2, [2])
    await state.hold(intent("after/1", claims, nanousd=7))
    assert set(disk.synced) == {path.name}, "the segment that failed is never synced again, as if that could help"
    assert [it.remaining for it in state.standings(claims)] == [1000 - 5 - 10, 1000 - 60 - 100 - 7]
    await until(lambda: len(segments(tmp_path / "alive")) == 1)  # what the disk did not take is gone
    shutil.copytree(tmp_path / "alive", tmp_path / "killed")
    await state.close()
    state = await opened(tmp_path / "killed", clock)
    assert state.held_spend(["tier free"]) == {"tier free": 60 + 100 + 7}
    await state.close()


async def test_while_the_disk_stays_broken_holds_are_refused_and_what_happens_is_kept(
    tmp_path, clock, disk, claim, intent, row, monkeypatch
):
    state = await opened(tmp_path, clock)
    claims = (claim(spend=("day", 1000)),)
    await state.hold(intent("a/1", claims, nanousd=100))
    fsync, broken = os.fsync, True

    def fails(fd: int) -> None:
        if broken:
            raise OSError(5, "Input/output error")
        fsync(fd)

    monkeypatch.setattr("os.fsync", fails)
    disk.is_broken = True
    with pytest.raises(Refusal):
        await state.hold(intent("b/1", claims, nanousd=100))
    state.settle("a/1", 0, 30, row("a/1", cost_nanousd=30))
    await asyncio.sleep(0.2)
    assert not state.is_available
    with pytest.raises(Refusal):
        state.peek(claims)
    assert [it["cost_nanousd"] for it in await state.rows()] == [30]
    broken = disk.is_broken = False
    await until(lambda: state.is_available)
    (standing,) = await held(state, intent("b/1", claims, nanousd=100))
    assert standing.remaining == 870
    await state.close()


async def test_a_stop_while_the_disk_is_broken_ends(tmp_path, clock, disk, claim, intent):
    state = await opened(tmp_path, clock)
    disk.is_broken = True
    with pytest.raises(Refusal):
        await state.hold(intent("b/1", (claim(spend=("day", 1000)),), nanousd=100))
    async with asyncio.timeout(20):
        await state.close()
    state = await opened(tmp_path, clock, "process")
    assert state.held_spend(["tier free"]) == {}
    await state.close()


async def test_over_rotations_every_hold_is_synced_in_the_segment_that_has_it(tmp_path, clock, disk, claim, intent, row, monkeypatch):
    from proxy.admit.journal import Journal

    monkeypatch.setattr("proxy.admit.storage.Journal", lambda *a, **of: Journal(*a, **of, segment_bytes=2000))
    monkeypatch.setattr("proxy.admit.snapshots.TIMES", 0)
    state = await opened(tmp_path, clock)
    claims = (claim(spend=("day", 10**9)),)

    async def calls(name: str) -> None:
        for number in range(20):
            await state.hold(intent(f"{name}{number}/1", claims, nanousd=10))
            state.settle(f"{name}{number}/1", 0, 3, row(f"{name}{number}/1", cost_nanousd=3))

    await asyncio.gather(*(calls(name) for name in "abcde"))
    assert len(set(disk.synced)) > 5
    before = len(os.listdir("/proc/self/fd"))
    await until(lambda: len(segments(tmp_path)) <= 2 or state._journal is None)
    await state.close()
    assert len(os.listdir("/proc/self/fd")) < before
    state = await opened(tmp_path, clock)
    assert state.held_spend(["tier free"]) == {"tier free": 300}
    await state.close()
