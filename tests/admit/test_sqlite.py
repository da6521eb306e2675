"""The index when it falls behind: the journal has the rows, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio

import pytest

from proxy.admit import sqlite
from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import segments
from proxy.refusal import Refusal


async def test_rows_that_the_index_could_not_take_are_indexed_by_the_next_start(
    tmp_path, clock, row, no_file_larger_than, ticks, monkeypatch
):
    monkeypatch.setattr("proxy.admit.sqlite.GATHER_S", 5.0)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    state.write(row("a/1"))
    await ticks()
    with no_file_larger_than(2000):  # room for the journal's snapshot, none for a page of SQLite
        await state.close()
    assert len(segments(tmp_path)) == 2
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    assert [it["request_id"] for it in await state.rows()] == ["a"]
    await state.close()
    assert len(segments(tmp_path)) == 1


async def test_an_index_without_room_catches_up_when_there_is_some(tmp_path, clock, row, monkeypatch, no_file_larger_than, ticks):
    monkeypatch.setattr("proxy.admit.sqlite.RETRY_S", 0.02)
    monkeypatch.setattr("proxy.admit.sqlite.GATHER_S", 0.0)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    with no_file_larger_than(3000):
        state.write(row("a/1"))
        await ticks()
        await asyncio.sleep(0.1)
    assert [it["request_id"] for it in await state.rows()] == ["a"]
    await state.close()


async def test_an_index_far_behind_refuses_calls_before_memory_runs_out(clock, intent, row, monkeypatch):
    monkeypatch.setattr("proxy.admit.sqlite.MOST_WAITING", 5)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    for number in range(6):
        state.write(row(f"a{number}/1"))
    with pytest.raises(Refusal) as caught:
        await state.hold(intent("u/1"))
    assert caught.value.code == "ledger_unavailable"
    await state.rows()
    await state.hold(intent("u/1"))
    await state.close()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 137])
async def test_rows_of_any_number_go_in_by_few_kinds_of_statement(count, clock, row, monkeypatch):
    kinds, insert = set(), sqlite._insert
    monkeypatch.setattr(sqlite, "_insert", lambda size: (kinds.add(size), insert(size))[1])
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    for number in range(count):
        state.write(row(f"a{number}/1"))
    assert {it["request_id"] for it in await state.rows(limit=1000)} == {f"a{number}" for number in range(count)}
    assert kinds <= set(sqlite.CHUNKS)
    await state.close()


async def test_each_row_keeps_its_own_price_row_whether_many_share_it_or_none(clock, row, monkeypatch):
    monkeypatch.setattr(sqlite, "MOST_PRICES", 3)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    shared = [{"name": "a"}, {"name": "b"}, None]
    expected = {}
    for number in range(40):
        price = shared[number % 3] if number < 20 else {"name": f"own {number}"}
        expected[f"u{number}"] = price
        state.write(row(f"u{number}/1", price_row=price))
    assert {it["request_id"]: it["price_row"] for it in await state.rows(limit=100)} == expected
    assert len(state._index._prices) <= 3
    await state.close()
