"""Sums of the ledger: whatever is summed already, and whenever, each answer is that of reading all rows."""

from __future__ import annotations

import sqlite3
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admit import sqlite as index
from proxy.admit import sums
from proxy.admit.inserts import insert
from proxy.admit.ledger import attempts_of, billed_of, dearest_of, failed_of, usage_of
from proxy.exchange import Row

HOUR = sums.HOUR_NS
NOON = 1_795_262_400 * 10**9
GROUPINGS = ("caller", "team", "model", "provider", "tier", "day")

instants = st.one_of(
    st.integers(-8, 12).map(lambda it: NOON + it * HOUR // 4),
    st.integers(NOON - 2 * HOUR, NOON + 3 * HOUR),
)
drafts = st.fixed_dictionaries({
    "at": instants,
    "caller": st.sampled_from(["ann", "bob"]),
    "team": st.sampled_from([None, "ops"]),
    "tier": st.sampled_from([None, "free"]),
    "provider": st.sampled_from(["openai", "anthropic"]),
    "model": st.sampled_from([None, "m1", "m2"]),
    "kind": st.sampled_from(["first", "retry", "turn", "refusal"]),
    "end": st.sampled_from(["done", "client_gone"]),
    "status": st.sampled_from([None, 200, 500]),
    "usage_source": st.sampled_from(["provider", "estimate"]),
    "cost_nanousd": st.integers(0, 50),
    "input_tokens": st.integers(0, 9),
})  # fmt: skip


def add(connection: sqlite3.Connection, rows: list[Row]) -> None:
    for row in rows:
        day = f"day {(row.at // (HOUR // 4) + 1) // 4}"
        connection.execute(insert(1), [day, *(None if isinstance(it, dict) else it for it in row)])


def usage_by_hand(rows: list[Row], by: str, since: int | None, until: int | None) -> dict[object, tuple[int, int, int, int]]:
    cost, requests, failed, tokens = Counter(), Counter(), Counter(), Counter()
    for row in rows:
        if (since is None or row.at >= since) and (until is None or row.at < until):
            name = f"day {(row.at // (HOUR // 4) + 1) // 4}" if by == "day" else getattr(row, by)
            cost[name] += row.cost_nanousd
            requests[name] += row.kind in ("first", "turn")
            failed[name] += row.cost_nanousd * (row.end != "done" or (row.status or 0) >= 400)
            tokens[name] += row.input_tokens
    return {name: (cost[name], requests[name], failed[name], tokens[name]) for name in cost}


@settings(max_examples=200)
@given(
    batches=st.lists(st.tuples(st.lists(drafts, min_size=1, max_size=6), st.booleans()), max_size=5),
    since=st.none() | instants,
    until=st.none() | instants,
    by=st.sampled_from(GROUPINGS),
)
def test_usage_is_the_same_whatever_part_of_it_is_summed(row, batches, since, until, by):
    connection = index._connect(None)
    written: list[Row] = []
    for drafted, is_summed in batches:
        rows = [row(f"u{len(written) + number}/1", **draft) for number, draft in enumerate(drafted)]
        add(connection, rows)
        written += rows
        if is_summed:
            assert sums.advance(connection) == 0
    found = usage_of(connection, by, since, until)
    shown = {it[by]: (it["cost_nanousd"], it["requests"], it["failed_cost_nanousd"], it["input_tokens"]) for it in found}
    assert shown == usage_by_hand(written, by, since, until)
    connection.close()


def test_a_row_is_summed_once_however_often_and_in_whatever_steps(row, monkeypatch):
    monkeypatch.setattr(sums, "STEP", 3)
    connection = index._connect(None)
    add(connection, [row(f"u{number}/1") for number in range(10)])
    waiting = [sums.advance(connection) for _ in range(6)]
    assert waiting == [7, 4, 1, 0, 0, 0]
    assert connection.execute("SELECT SUM(attempts), SUM(cost_nanousd) FROM sums").fetchone() == (10, 7000)
    connection.close()


def test_what_failed_attempts_cost_is_told_by_provider_model_and_end(row):
    connection = index._connect(None)
    add(connection, [
        row("a/1", status=500, cost_nanousd=30, end="done"),
        row("a/2", kind="retry", cost_nanousd=900),
        row("b/1", end="client_gone", cost_nanousd=40, model="m"),
        row("c/1", end="client_gone", cost_nanousd=5, model="m"),
        row("d/0", kind="refusal", end="refused:rate_limited", status=429, cost_nanousd=0),
    ])  # fmt: skip
    for _ in range(2):
        found = [(it["provider"], it["model"], it["end"], it["attempts"], it["cost_nanousd"]) for it in failed_of(connection)]
        assert found == [("openai", "m", "client_gone", 2, 45), ("openai", "gpt-4o", "done", 1, 30)]
        sums.advance(connection)
    connection.close()


def test_the_dearest_calls_are_those_whose_attempts_cost_most_together(row):
    connection = index._connect(None)
    add(connection, [
        row("a/1", cost_nanousd=60), row("a/2", kind="retry", cost_nanousd=60, at=NOON + 5), row("b/1", cost_nanousd=100),
        row("c/1", cost_nanousd=90), row("d/1", cost_nanousd=110, caller="ann"), row("e/0", kind="refusal", cost_nanousd=0),
    ])  # fmt: skip
    found = [(it["request_id"], it["cost_nanousd"], it["attempts"], it["caller"]) for it in dearest_of(connection, 3)]
    assert found == [("a", 120, 2, "bob"), ("d", 110, 1, "ann"), ("b", 100, 1, "bob")]
    assert dearest_of(connection, 3, since_ns=NOON + 6) == []
    connection.close()


def test_all_attempts_of_a_request_are_found_by_its_id_ours_or_the_callers(row):
    connection = index._connect(None)
    add(connection, [
        row("slu-1/1"), row("slu-1/2", kind="retry", at=NOON + 1), row("slu-11/1", request_id="slu-1"),
        row("slu-12/1", request_id="theirs"), row("slu-13/1", request_id="theirs", at=NOON + 2), row("slu-14/1"),
        row("slu-15/1", kind="job", parent_id="slu-1/2", at=NOON + 9),
    ])  # fmt: skip
    assert [it["request_id"] for it in attempts_of(connection, "slu-1")] == ["slu-1", "slu-1", "slu-1", "slu-15"]
    assert [it["at"] for it in attempts_of(connection, "theirs")] == [NOON, NOON + 2]
    assert attempts_of(connection, "slu") == attempts_of(connection, "'") == []
    connection.close()


def test_a_bill_is_compared_per_model_and_utc_day_of_one_provider(row):
    connection = index._connect(None)
    add(connection, [
        row("a/1", cost_nanousd=10), row("b/1", cost_nanousd=20, usage_source="estimate"), row("c/1", at=NOON + 12 * 3600 * 10**9),
        row("d/1", provider="anthropic", model="claude"), row("e/0", kind="refusal", cost_nanousd=0),
    ])  # fmt: skip
    for _ in range(2):
        found = [(it["day"], it["model"], it["attempts"], it["cost_nanousd"], it["estimated_cost_nanousd"])
                 for it in billed_of(connection, "openai")]  # fmt: skip
        assert found == [("2026-11-21", "gpt-4o", 2, 30, 20), ("2026-11-22", "gpt-4o", 1, 700, 0)]
        assert {it["provider"] for it in billed_of(connection)} == {"openai", "anthropic"}
        sums.advance(connection)
    connection.close()


def test_of_a_step_with_rows_of_new_and_of_known_callers_each_row_is_summed_once(row):
    connection = index._connect(None)
    for number, callers in enumerate((["ann"], ["ann", "bob", "ann", "cid", "bob"], ["cid", "ann"])):
        add(connection, [row(f"u{number}-{at}/1", caller=caller, cost_nanousd=10) for at, caller in enumerate(callers)])
        assert sums.advance(connection) == 0
    assert {it["caller"]: (it["attempts"], it["cost_nanousd"]) for it in usage_of(connection, "caller")} == {
        "ann": (4, 40), "bob": (2, 20), "cid": (2, 20)
    }  # fmt: skip
    connection.close()


def test_the_earliest_row_of_a_sum_is_told_whatever_the_order_they_came_in(row):
    connection = index._connect(None)
    for moment in (7, 3, 5):
        add(connection, [row(f"u{moment}/1", at=NOON + moment)])
        sums.advance(connection)
    assert connection.execute("SELECT first, attempts FROM sums").fetchall() == [(NOON + 3, 3)]
    connection.close()


def test_a_row_without_a_figure_adds_nothing_to_it(row):
    connection = index._connect(None)
    add(connection, [row("a/1", input_tokens=None), row("b/1", input_tokens=4)])
    assert sums.advance(connection) == 0
    assert connection.execute("SELECT attempts, input_tokens FROM sums").fetchall() == [(2, 4)]
    connection.close()


def test_pages_are_at_hand_where_callers_are_many_for_a_step_alone_also_for_one_that_fails(row, tmp_path, monkeypatch):
    connection = index._connect(tmp_path / "ledger.sqlite")
    usual, said = connection.execute("PRAGMA cache_size").fetchone(), []
    connection.set_trace_callback(said.append)
    add(connection, [row("a/1")])
    assert sums.advance(connection) == 0
    assert not [it for it in said if it.startswith("PRAGMA cache_size")]
    monkeypatch.setattr(sums, "MANY", 0)
    add(connection, [row("b/1")])
    connection.execute("ALTER TABLE totals RENAME TO gone")
    with pytest.raises(sqlite3.Error):
        sums.advance(connection)
    assert f"PRAGMA cache_size = {-sums.ROOM_KIB}" in said
    assert connection.execute("PRAGMA cache_size").fetchone() == usual
    connection.execute("ALTER TABLE gone RENAME TO totals")
    assert sums.advance(connection) == 0
    assert connection.execute("PRAGMA cache_size").fetchone() == usual == (-512,)
    connection.close()
