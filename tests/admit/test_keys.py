"""The keys of a state on its disk: what two changes come to, and what a disk that fails leaves behind."""

import asyncio
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from proxy.admit.embedded import EmbeddedState
from proxy.admit.keyring import Kept, revoked
from proxy.admit.place import LEDGER
from proxy.policy.plan_callers import KeyRecord

BOB = KeyRecord("bob", b"b" * 32)


@asynccontextmanager
async def opened(path, clock):
    state = await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
    try:
        yield state
    finally:
        await state.close()


@pytest.mark.parametrize("rotates_first", [True, False])
async def test_a_revocation_that_meets_a_rotation_is_on_the_disk_whichever_comes_first(tmp_path, clock, rotates_first):
    async with opened(tmp_path, clock) as state:
        await state.keys.add(BOB)
        both = [state.keys.rotate("bob", b"n" * 32, 10**9, ()), state.keys.learn([revoked(Kept(BOB, 1), clock.now_ns())])]
        await asyncio.gather(*(both if rotates_first else both[::-1]))
        known = {kept.record.digest: kept for kept in state.keys.all()}
        assert known[BOB.digest].record.is_revoked
    async with opened(tmp_path, clock) as state:
        assert {kept.record.digest: kept for kept in state.keys.all()} == known


async def test_each_change_is_told_once_it_is_valid_and_nothing_is_told_twice(tmp_path, clock):
    async with opened(tmp_path, clock) as state:
        told = []
        state.keys.on_news = lambda news: told.append([(kept.record, state.keys.ring.find(kept.record.digest)) for kept in news])
        await state.keys.add(BOB)
        (kept,) = state.keys.all()
        await state.keys.learn([kept, kept])
        await state.keys.learn([revoked(kept, 5)])
        dead = replace(BOB, is_revoked=True)
        assert told == [[(BOB, BOB)], [(dead, dead)]]


async def test_a_disk_that_takes_no_key_mints_none_revokes_what_others_revoked_and_the_ledger_goes_on(tmp_path, clock, row):
    async with opened(tmp_path, clock) as state:
        await state.keys.add(BOB)
        other = sqlite3.connect(tmp_path / LEDGER)
        for when in ("INSERT", "UPDATE"):
            other.execute(f"CREATE TRIGGER no_{when} BEFORE {when} ON keys BEGIN SELECT RAISE(ABORT, 'full'); END")
        other.commit()
        with pytest.raises(sqlite3.Error):
            await state.keys.add(KeyRecord("ann", b"a" * 32))
        assert state.keys.ring.find(b"a" * 32) is None, "nobody was given this key"
        with pytest.raises(sqlite3.Error):
            await state.keys.learn([revoked(Kept(BOB, 1), 5)])
        assert state.keys.ring.find(BOB.digest).is_revoked
        other.execute("DROP TRIGGER no_INSERT")
        other.commit()
        other.close()
        state.write(row())
        assert len(await state.rows()) == 1
        await state.keys.add(KeyRecord("ann", b"a" * 32))
        assert state.keys.ring.find(b"a" * 32) is not None
