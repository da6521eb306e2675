"""The index when it falls behind: the journal has the rows, and nothing is lost or counted twice."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest

from proxy.admit import inserts, sqlite, sums, tally
from proxy.admit.embedded import EmbeddedState
from proxy.admit.journal import segments
from proxy.admit.ledger import usage_of
from proxy.admit.periods import Calendar
from proxy.admit.records import values_of
from proxy.admit.sqlite import Index
from proxy.refusal import Refusal

NOON = 1_795_262_400 * 10**9
HOUR = 3600 * 10**9


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


async def all_in(index):
    async with asyncio.timeout(60):
        while index.pending:
            await asyncio.sleep(0.01)


async def test_rows_enough_for_a_transaction_wait_for_no_others(clock, row, monkeypatch):
    monkeypatch.setattr("proxy.admit.sqlite.GATHER_S", 600.0)
    monkeypatch.setattr("proxy.admit.sqlite.AT_ONCE", 4)
    monkeypatch.setattr("proxy.admit.sqlite.COMPANY", 4)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    index = state._index
    for number in range(3):
        state.write(row(f"a{number}/1"))
    await asyncio.sleep(0.3)
    assert index.pending == 3  # they wait for company
    state.write(row("a3/1"))
    await all_in(index)
    await state.close()


async def test_company_enough_leaves_together_some_time_after_those_before(clock, row, monkeypatch):
    monkeypatch.setattr("proxy.admit.sqlite.GATHER_S", 600.0)
    monkeypatch.setattr("proxy.admit.sqlite.COMPANY", 3)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    index = state._index
    for number in range(2):
        state.write(row(f"a{number}/1"))
    await asyncio.sleep(0.3)
    assert index.pending == 2
    index._done = time.monotonic() + 600  # those before have but left
    state.write(row("a2/1"))
    await asyncio.sleep(0.1)
    assert index.pending == 3
    index._done = 0.0
    state.write(row("a3/1"))
    await all_in(index)
    await state.close()


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 137])
async def test_rows_of_any_number_go_in_by_few_kinds_of_statement(count, clock, row, monkeypatch):
    kinds, insert = set(), inserts.insert
    monkeypatch.setattr(inserts, "insert", lambda size, shared: (kinds.add((size, shared)), insert(size, shared))[1])
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    for number in range(count):
        state.write(row(f"a{number}/1"))
    assert {it["request_id"] for it in await state.rows(limit=1000)} == {f"a{number}" for number in range(count)}
    assert kinds <= {*((size, ()) for size in inserts.CHUNKS), *((inserts.CHUNKS[0], form) for form in inserts.FORMS)}
    await state.close()


async def test_each_row_keeps_its_own_price_row_whether_many_share_it_or_none(clock, row, monkeypatch):
    monkeypatch.setattr(inserts, "MOST_PRICES", 3)
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    shared = [{"name": "a"}, {"name": "b"}, None]
    expected = {}
    for number in range(40):
        price = shared[number % 3] if number < 20 else {"name": f"own {number}"}
        expected[f"u{number}"] = price
        state.write(row(f"u{number}/1", price_row=price))
    assert {it["request_id"]: it["price_row"] for it in await state.rows(limit=100)} == expected
    assert len(state._index._inserts._prices) <= 3
    await state.close()


CALLERS = (["bob"] * 150, ["bob", "ann"] * 75, ["bob"] * 80 + ["ann"] * 70)
VARYING = {"kind": ["first", "retry", "refusal"], "status": [200, None, 429], "team": [None, "ops"], "cached_input_tokens": [0, 3],
           "end": ["done", "client_gone"], "streamed": [True, False], "usage_source": ["provider", "estimate"],
           "model": [None, "m"]}  # fmt: skip


def many(row, callers, varying=()):
    """As many rows as callers; what is named varies among them."""
    for number, caller in enumerate(callers):
        varied = {name: VARYING[name][number % len(VARYING[name])] for name in varying}
        yield row(f"u{number}/1", caller=caller, at=NOON + number, input_tokens=number, duration_ms=number + 0.5, **varied)


@pytest.mark.parametrize("varying", [(), *((name,) for name in VARYING), tuple(VARYING)])
@pytest.mark.parametrize("callers", CALLERS)
async def test_rows_are_kept_each_as_it_is_whatever_they_have_in_common(callers, varying, clock, row):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    written = list(many(row, callers, varying))
    for each in written:
        state.write(each)
    shown = [{name: value for name, value in each._asdict().items() if name != "id"} for each in written]
    assert await state.rows(limit=1000) == shown
    await state.close()


@pytest.mark.parametrize("instants", [(NOON, NOON + 13 * HOUR), (NOON - HOUR // 2, NOON + 1)])
async def test_rows_of_one_statement_have_each_its_own_day(instants, clock, row):
    state = await EmbeddedState.open(None, clock=clock, time_zone="Asia/Kolkata", max_keys=9)
    for number in range(70):
        state.write(row(f"u{number}/1", at=instants[number % 2]))
    days = Counter(Calendar("Asia/Kolkata").day_of(instants[number % 2]) for number in range(70))
    assert {it["day"]: it["attempts"] for it in await state.usage("day")} == days
    await state.close()


def sums_of(index):
    return index.submit(lambda it: it.execute("SELECT * FROM sums JOIN whos USING (who) ORDER BY day, caller, team, model, end").fetchall())


def put(index, rows):
    index.put([values_of(each) for each in rows], (1, 1))


@pytest.mark.parametrize("varying", [(), ("kind",), ("status", "end"), ("usage_source",), ("cached_input_tokens",), tuple(VARYING)])
@pytest.mark.parametrize("callers", CALLERS)
async def test_sums_told_in_advance_are_those_that_reading_the_rows_gives(callers, varying, row):
    found = []
    for is_told in (True, False):
        index = Index(None, Calendar("UTC").day_of)
        for hour in range(2):
            if is_told:
                await index.sum_up()
            put(index, [each._replace(id=f"{each.id}{hour}", at=each.at + hour * HOUR) for each in many(row, callers, varying)])
            assert is_told == await index.ask(lambda _, index=index: bool(index._tally._sums))
            while await (index.sum_up() if is_told else index.ask(sums.advance)):
                pass
        found.append({line[:2] + line[3:] for line in sums_of(index).result()})  # but for the numbers that they are given
        index.close()
    assert found[0] == found[1] != set()


@pytest.mark.parametrize("trouble", ["again", "elsewhere", "tame", "hours", "many", "odd"])
async def test_sums_told_in_advance_that_do_not_hold_are_forgotten_and_the_rows_read(trouble, row, monkeypatch):
    index = Index(None, Calendar("UTC").day_of)
    await index.sum_up()
    put(index, many(row, ["bob"] * 3))
    more = [row(f"v{number}/1", caller="ann") for number in range(4)]
    match trouble:
        case "again":  # a row that is there already
            more.append(row("u1/1"))
        case "elsewhere":  # somebody else moves the mark
            assert await index.ask(sums.advance) == 0
        case "tame":
            more.append(row("w/1", credential="\ud800"))
        case "hours":
            more.append(row("w/1", at=NOON + HOUR))
        case "many":
            monkeypatch.setattr(tally, "MOST", 0)
        case "odd":
            more.append(row("w/1", reasoning_tokens="1"))
    put(index, more)
    put(index, [row("x/1")])
    while await index.sum_up():
        pass
    of_rows = await index.ask(lambda it: it.execute("SELECT COUNT(*), SUM(cost_nanousd), SUM(input_tokens) FROM rows").fetchone())
    assert of_rows[0] == 8 + (trouble in ("tame", "hours", "odd"))
    query = "SELECT SUM(attempts), SUM(cost_nanousd), SUM(input_tokens) FROM sums"
    assert await index.ask(lambda it: it.execute(query).fetchone()) == of_rows
    index.close()


async def test_a_process_that_ends_before_its_sums_are_written_leaves_them_to_the_next(tmp_path, row):
    index = Index(tmp_path / "ledger.sqlite", Calendar("UTC").day_of)
    await index.sum_up()
    put(index, many(row, ["bob"] * 50))
    index.close()
    index = Index(tmp_path / "ledger.sqlite", Calendar("UTC").day_of)
    assert await index.ask(sums.unsummed) == 50
    assert await index.sum_up() == 0
    assert [it["attempts"] for it in await index.ask(lambda it: usage_of(it, "caller"))] == [50]
    assert (await index.ask(lambda it: it.execute("SELECT SUM(attempts) FROM sums").fetchone())) == (50,)
    index.close()


async def test_a_batch_is_committed_in_parts_that_claim_no_row_of_the_journal_which_is_not_in(row, monkeypatch):
    monkeypatch.setattr(sqlite, "AT_ONCE", 10)
    index = Index(None, Calendar("UTC").day_of)
    rows = [values_of(row(f"u{number}/1")) for number in range(36)]
    taken, write = [], index._write
    monkeypatch.setattr(index, "_write", lambda rows, *more: (taken.append((len(rows), more[0])), write(rows, *more)))
    index._do([(rows[:4], (1, 4)), (rows[4:12], (1, 12)), (rows[12:34], (1, 34)), (rows[34:], (1, 36))])
    assert taken == [(10, (1, 4)), (10, (1, 12)), (10, (1, 12)), (6, (1, 36))]
    assert await index.ask(lambda it: it.execute("SELECT COUNT(*) FROM rows").fetchone()) == (36,)
    index.close()


async def test_rows_that_went_in_before_a_crash_are_not_taken_again_though_no_position_claims_them(tmp_path, row, monkeypatch):
    monkeypatch.setattr(sqlite, "AT_ONCE", 10)
    rows = [values_of(row(f"u{number}/1")) for number in range(36)]
    index = Index(tmp_path / "ledger.sqlite", Calendar("UTC").day_of)
    await index.sum_up()
    monkeypatch.setattr(index, "_take", lambda rows, position: Index._take(index, rows, position) if not index.taken else None)
    index.put(rows, (1, 36))  # of which one part goes in
    index.close()
    index = Index(tmp_path / "ledger.sqlite", Calendar("UTC").day_of)
    assert await index.ask(sqlite.indexed) == (0, 0)
    await index.sum_up()
    index.put(rows, (1, 36))
    assert await index.ask(sqlite.indexed) == (1, 36)
    while await index.sum_up():
        pass
    query = "SELECT (SELECT COUNT(*) FROM rows), SUM(attempts) FROM sums"
    assert await index.ask(lambda it: it.execute(query).fetchone()) == (36, 36)
    index.close()
