"""Questions to a ledger stay cheap however long it is, and the state answers them all, beside calls and beside its process."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from proxy.admit import sqlite as index
from proxy.admit import sums
from proxy.admit.embedded import EmbeddedState
from proxy.admit.ledger import (
    attempts_of,
    billed_of,
    dearest_of,
    failed_of,
    read_attempts,
    read_billed,
    read_dearest,
    read_failed,
    read_usage,
    usage_of,
)

NOON = 1_795_262_400 * 10**9
HOUR = 3600 * 10**9

QUESTIONS = {
    **{f"usage by {by}": lambda it, by=by: usage_of(it, by, NOON - HOUR // 3, NOON + HOUR) for by in ("caller", "model", "day", "tier")},
    "failed": lambda it: failed_of(it, NOON, NOON + HOUR),
    "billed": lambda it: billed_of(it, "openai", NOON, NOON + HOUR),
    "dearest": lambda it: dearest_of(it, 10, NOON, NOON + HOUR),
    "attempts": lambda it: attempts_of(it, "slu-1"),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_no_question_about_a_time_reads_all_rows(question):
    connection = index._connect(None)
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    QUESTIONS[question](connection)
    connection.set_trace_callback(None)
    plans = [step[3] for text in asked if "rows" in text for step in connection.execute("EXPLAIN QUERY PLAN " + text)]
    assert plans
    assert not [step for step in plans if step.startswith("SCAN rows") or step.startswith("SCAN sums")]
    connection.close()


async def test_every_question_is_answered_alike_by_the_state_and_from_beside_it(tmp_path: Path, clock, row):
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    for number in range(40):
        state.write(row(f"u{number}/1", at=NOON + number * HOUR // 4, cost_nanousd=number, end="client_gone" if number % 4 else "done"))
    asked = [
        await state.usage("caller", NOON + HOUR, NOON + 3 * HOUR),
        await state.dearest(3, NOON),
        await state.failed(NOON, NOON + HOUR),
        await state.attempts("u7"),
        await state.billed("openai"),
    ]
    beside = [
        read_usage(tmp_path, "caller", NOON + HOUR, NOON + 3 * HOUR),
        read_dearest(tmp_path, 3, NOON),
        read_failed(tmp_path, NOON, NOON + HOUR),
        read_attempts(tmp_path, "u7"),
        read_billed(tmp_path, "openai"),
    ]
    assert [it.rows for it in beside] == asked
    assert {it.behind for it in beside} == {it.pruned_ns for it in beside} == {0}
    assert await state.pruned_ns() == 0
    usage, dearest, failed, attempts, billed = asked
    assert usage[0]["attempts"] == 8 and usage[0]["cost_nanousd"] == sum(range(4, 12))
    assert [it["cost_nanousd"] for it in dearest] == [39, 38, 37]
    assert [(it["end"], it["attempts"], it["cost_nanousd"]) for it in failed] == [("client_gone", 3, 6)]
    assert [it["cost_nanousd"] for it in attempts] == [7]
    assert [it["attempts"] for it in billed] == [40]
    await state.close()


async def test_a_state_in_memory_answers_too(clock, row):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=9)
    state.write(row("a/1"))
    assert [it["attempts"] for it in await state.usage("day")] == [1]
    assert [it["request_id"] for it in await state.dearest()] == ["a"]
    assert await state.failed() == []
    await state.close()


async def test_questions_that_are_asked_while_rows_are_written_and_summed_see_each_row_once(tmp_path, clock, row, monkeypatch):
    monkeypatch.setattr(index, "GATHER_S", 0.001)
    monkeypatch.setattr(sums, "STEP", 20)
    state = await EmbeddedState.open(tmp_path, clock=clock, time_zone="UTC", max_keys=9)
    counts: list[int] = []
    wrote = 0

    async def ask() -> None:
        while wrote < 400:
            before = wrote
            found = await state.usage("model", NOON + 1)
            counts.append(sum(it["attempts"] for it in found))
            assert before <= counts[-1] <= wrote

    async def sum_up() -> None:
        while wrote < 400:
            await asyncio.wrap_future(state._index.submit(sums.advance))

    asking = [asyncio.create_task(ask()), asyncio.create_task(ask()), asyncio.create_task(sum_up())]
    while wrote < 400:
        state.write(row(f"u{wrote}/1", at=NOON + 1 + wrote * HOUR // 60))
        wrote += 1
        await asyncio.sleep(0.001)
    await asyncio.gather(*asking)
    assert len(set(counts)) > 3
    assert sum(it["attempts"] for it in await state.usage("model")) == 400
    await state.close()
