"""Sums of rows that were just written: at any moment they and the rows beyond their mark are what all rows say."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admit import posting, retention, sums, tally
from proxy.admit.ledger import read_usage, usage_of
from proxy.admit.periods import Calendar
from proxy.admit.place import LEDGER, StateProblem
from proxy.admit.records import values_of
from proxy.admit.sqlite import SCHEMA_VERSION, Index

NOON = 1_795_262_400 * 10**9
HOUR = 3600 * 10**9
DAY = 24 * HOUR
ROOMY = 10**12
KATHMANDU = Calendar("Asia/Kathmandu")  # its days begin at 18:15 UTC

FORMER = f"""
    ALTER TABLE totals RENAME TO kept;
    DROP VIEW sums;
    CREATE TABLE sums (
        hour INTEGER, day TEXT, who INTEGER, first INTEGER NOT NULL, {", ".join(f"{it} INTEGER NOT NULL" for it in sums.FIGURES)},
        PRIMARY KEY (hour, day, who)
    ) WITHOUT ROWID;
    INSERT INTO sums SELECT hour, day, key & 4294967295, first, {", ".join(sums.FIGURES)} FROM hours JOIN kept ON key >> 32 = slot;
    DROP TABLE kept;
    DROP TABLE hours;
    PRAGMA user_version = 2;
"""  # makes of a ledger what a Sluice of version 2 would have written

rows_put = st.lists(
    st.fixed_dictionaries({
        "caller": st.sampled_from(["ann", "bob", "cid", "dan"]),
        "at": st.integers(0, 7).map(lambda it: NOON + it * HOUR // 4),
        "team": st.sampled_from([None, "", "ops"]),
        "kind": st.sampled_from(["first", "retry", "refusal"]),
        "status": st.sampled_from([None, 200, 500]),
        "usage_source": st.sampled_from(["provider", "estimate"]),
        "cost_nanousd": st.integers(0, 9),
        "reasoning_tokens": st.integers(0, 1),
    }),
    min_size=1, max_size=12,
)  # fmt: skip
together = st.tuples(st.sampled_from([("ann",), ("ann", "bob"), ("ann", "bob", "cid", "dan")]), st.integers(60, 80)).map(
    lambda it: [{"caller": it[0][number % len(it[0])], "at": NOON + number} for number in range(it[1])]
)
steps = st.lists(rows_put | together | st.sampled_from(["sum up", "read rows", "crash", "prune", "fold"]), min_size=1, max_size=12)


def prune(connection):
    chunk = retention.due(connection, NOON + HOUR, ROOMY)
    if chunk is not None:
        retention.forget(connection, chunk, None, 0)


def told(row):
    is_bad = (row.status or 0) >= 400
    return {
        "requests": row.kind == "first", "attempts": row.kind != "refusal", "refusals": row.kind == "refusal",
        "input_tokens": row.input_tokens, "reasoning_tokens": row.reasoning_tokens, "cost_nanousd": row.cost_nanousd,
        "failed_cost_nanousd": row.cost_nanousd * is_bad, "estimated_cost_nanousd": row.cost_nanousd * (row.usage_source == "estimate"),
    }  # fmt: skip


def by_hand(rows, name):
    found = {}
    for row in rows:
        so_far = found.setdefault(name(row), dict.fromkeys(told(row), 0))
        found[name(row)] = {it: so_far[it] + count for it, count in told(row).items()}
    return found


WORK = {
    "sum up": lambda index: index.submit(index._tally.advance).result(),
    "read rows": lambda index: index.submit(sums.advance).result(),
    "prune": lambda index: index.submit(prune).result(),
    "fold": lambda index: index.submit(sums.fold).result(),
}
NAMED = {"caller": lambda it: it.caller, "team": lambda it: it.team or None, "day": lambda it: KATHMANDU.day_of(it.at)}


@settings(max_examples=150)
@given(steps=steps, most=st.sampled_from([1, 5, tally.MOST]), rows_at_most=st.sampled_from([40, tally.MOST_ROWS]))
def test_at_any_moment_each_row_counts_once_whoever_sums_it_and_whatever_ends_between(steps, most, rows_at_most, row):
    written = []
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(tally, "MOST", most)
        patch.setattr(tally, "MOST_ROWS", rows_at_most)
        index = Index(Path(folder) / LEDGER, KATHMANDU.day_of)
        for step in steps:
            if step == "crash":  # what was in memory alone is gone
                index.close()
                index = Index(Path(folder) / LEDGER, KATHMANDU.day_of)
            elif isinstance(step, str):
                WORK[step](index)
            else:
                written += put(index, row, len(written), step)
            for by, name in NAMED.items():
                found = index.submit(lambda it, by=by: usage_of(it, by)).result()
                assert (
                    {it[by]: {name: it[name] for name in told(written[0])} for it in found} == by_hand(written, name)
                    if written
                    else not found
                )
        index.close()


def put(index, row, number, drafts):
    rows = [row(f"u{number + at}/1", **draft) for at, draft in enumerate(drafts)]
    index.put([values_of(each) for each in rows], (1, 1))
    index.submit(lambda _: None).result()
    return rows


def many(row, callers, hour=0, apart=1):
    return [values_of(row(f"u{hour}-{at}/1", caller=caller, at=NOON + hour * HOUR + at * apart)) for at, caller in enumerate(callers)]


def filled(path, row):
    """Hours of three days, one of two days at once; the first are pruned and folded."""
    index = Index(path, KATHMANDU.day_of)
    for hour in (-30, -29, -18, 6):
        index.submit(index._tally.advance).result()
        index.put(many(row, ["ann", "bob", "ann"], hour, HOUR // 6), (1, 1))
    for work in (index._tally.advance, prune, prune, sums.fold, sums.fold):
        index.submit(work).result()
    index.put(many(row, ["cid"], 7), (1, 1))
    index.close()


async def test_a_ledger_whose_sums_are_one_table_is_taken_over_with_every_figure(tmp_path, row):
    filled(tmp_path / LEDGER, row)
    expected = [read_usage(tmp_path, by, since).rows for by in ("caller", "day") for since in (None, NOON - HOUR)]
    connection = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
    connection.executescript(FORMER)
    connection.close()
    assert [read_usage(tmp_path, by, since).rows for by in ("caller", "day") for since in (None, NOON - HOUR)] == expected  # as it stands
    for _ in range(2):
        index = Index(tmp_path / LEDGER, KATHMANDU.day_of)
        assert [read_usage(tmp_path, by, since).rows for by in ("caller", "day") for since in (None, NOON - HOUR)] == expected
        assert index.submit(lambda it: it.execute("PRAGMA user_version").fetchone()).result() == (SCHEMA_VERSION,)
        index.submit(index._tally.advance).result()
        index.close()


async def test_a_ledger_that_could_not_be_taken_over_stays_as_it_was(tmp_path, row, monkeypatch):
    filled(tmp_path / LEDGER, row)
    connection = sqlite3.connect(tmp_path / LEDGER, isolation_level=None)
    connection.executescript(FORMER)
    connection.close()
    before = read_usage(tmp_path, "caller").rows
    with monkeypatch.context() as patch:
        patch.setattr(sums, "MOVE", sums.MOVE + "INSERT INTO nowhere VALUES (1);")
        with pytest.raises(StateProblem):
            Index(tmp_path / LEDGER, KATHMANDU.day_of)
    assert read_usage(tmp_path, "caller").rows == before
    Index(tmp_path / LEDGER, KATHMANDU.day_of).close()
    assert read_usage(tmp_path, "caller").rows == before


def numbers(index):
    return index.submit(lambda it: dict(it.execute("SELECT caller, who FROM whos").fetchall())).result()


async def test_callers_at_hand_are_those_of_the_ledger_told_apart_by_all_they_are_summed_by_and_few(row, monkeypatch):
    monkeypatch.setattr(posting, "MOST_KNOWN", 150)
    index = Index(None, KATHMANDU.day_of)
    await index.sum_up()
    for hour, count in enumerate((100, 200, 90)):
        index.put(many(row, [f"c{at % count}" for at in range(512)], hour), (1, 1))
        await index.sum_up()
        ((_, whos),) = index._tally._posting._known.items()
        assert len(whos) == count and whos.items() <= numbers(index).items()
    index.put([values_of(row(f"v{at}/1", caller="c1", model=f"m{at % 2}")) for at in range(8)], (1, 1))
    await index.sum_up()
    assert len({whos["c1"] for whos in index._tally._posting._known.values() if "c1" in whos}) == len(index._tally._posting._known) == 3
    index.close()


async def test_the_earliest_row_of_each_sum_is_told_whatever_the_order_they_came_in(row):
    for callers in (["ann"] * 70, ["ann", "bob"] * 35, ["ann", "bob", "cid"]):
        index = Index(None, KATHMANDU.day_of)
        await index.sum_up()
        rows = [row(f"u{at}/1", caller=caller, at=NOON + 1 + at * 37 % 70) for at, caller in enumerate(callers)]
        index.put([values_of(each) for each in rows], (1, 1))
        assert await index.sum_up() == 0
        found = await index.ask(lambda it: dict(it.execute("SELECT caller, first FROM sums JOIN whos USING (who)").fetchall()))
        assert found == {caller: min(it.at for it in rows if it.caller == caller) for caller in set(callers)}
        index.close()


async def test_a_caller_that_was_met_in_vain_is_met_again(tmp_path, row, monkeypatch):
    index = Index(tmp_path / LEDGER, KATHMANDU.day_of)
    await index.sum_up()
    index.put(many(row, ["ann"] * 3 + ["bob"]), (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(sums, "set_mark", lambda *_: index._connection.execute("INSERT INTO nowhere VALUES (1)"))
        with pytest.raises(sqlite3.Error):
            await index.sum_up()
    assert numbers(index) == {} == index._tally._posting._known
    assert await index.sum_up() == 0
    assert {it["caller"]: it["attempts"] for it in await index.ask(lambda it: usage_of(it, "caller"))} == {"ann": 3, "bob": 1}
    index.close()


async def test_what_a_tally_holds_is_bounded_by_lines_by_rows_and_by_groups(row, monkeypatch):
    monkeypatch.setattr(tally, "MOST", 100)
    monkeypatch.setattr(tally, "MOST_GROUPS", 20)
    index = Index(None, KATHMANDU.day_of)
    await index.sum_up()
    index.put(many(row, [f"c{at}" for at in range(128)]), (1, 1))
    assert await index.ask(sums.unsummed) == 0 and not index._tally._sums
    index.put([values_of(row(f"v{at}/1", model=f"m{at}")) for at in range(64)], (1, 1))
    index.put(many(row, ["ann"] * 64, 0), (1, 1))
    index.put([values_of(row(f"w{at}/1")) for at in range(5)], (1, 1))
    await index.ask(lambda _: None)
    assert len(index._tally._sums) <= 20 + 512
    while await index.sum_up():
        pass
    assert await index.ask(lambda it: it.execute("SELECT SUM(attempts) FROM sums").fetchone()) == (128 + 64 + 5,)
    index.close()
