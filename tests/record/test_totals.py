"""Sums over the rows of a stream are those of the ledger's own index, figure by figure."""

from __future__ import annotations

import random
import time

import orjson
import pytest
from record.test_stream import row

from proxy.admit import EmbeddedState
from proxy.record import totals
from proxy.record.rows import rfc3339, shown_row

START = 1_790_000_000 * 10**9
HOUR = 3600 * 10**9
SEEDS = range(6)


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


def calls(dice: random.Random):
    """Calls of one to three attempts, refusals, turns and jobs of one or two models among them, over three days."""
    for number in range(120):
        at = START + dice.randrange(72 * 3600 * 1000) * 10**6
        who = {"caller": dice.choice(["ann", "bob"]), "team": dice.choice([None, "finance"]), "tier": dice.choice([None, "free"])}
        asked = dice.choice([f"slu-{number}", "theirs"])
        for attempt in range(1, dice.randint(1, 3) + 1):
            kind = "first" if attempt == 1 else dice.choice(["retry", "fallback", "turn"])
            if dice.random() < 0.1:
                yield row(
                    number, **who, id=f"slu-{number}/{attempt}", request_id=asked, attempt=attempt, at=at + attempt * 10**6,
                    kind="refusal", status=402, end="refused:budget_exhausted", usage_source="none", cost_nanousd=0, input_tokens=0,
                    output_tokens=0,
                )  # fmt: skip
                break
            yield row(
                number, **who, id=f"slu-{number}/{attempt}", request_id=asked, attempt=attempt,
                kind=kind, at=at + attempt * 10**6, provider=dice.choice(["openai", "azure"]), model=dice.choice([None, "gpt-4o", "o3"]),
                status=dice.choice([None, 200, 429, 500]), end=dice.choice(["done", "done", "upstream_cut", "crashed"]),
                input_tokens=dice.randrange(10**6), cached_input_tokens=dice.randrange(100), cache_write_tokens=dice.randrange(100),
                output_tokens=dice.randrange(10**5), reasoning_tokens=dice.randrange(100),
                usage_source=dice.choice(["provider", "counted", "estimate", "none"]), cost_nanousd=dice.randrange(10**14),
            )  # fmt: skip
        for model in range(1, dice.choice([0, 0, 1, 2]) + 1):
            yield row(
                number, **who, id=f"job/openai/batch_{number}/{model}", request_id=asked, attempt=model, kind="job", at=at,
                parent_id=f"{asked}/1", provider="openai", model=f"model-{model}", cost_nanousd=dice.randrange(2 * 10**14),
            )  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
async def test_the_same_figures_come_from_the_ledger_and_from_its_stream(seed):
    dice = random.Random(seed)
    state = await EmbeddedState.open(None, clock=Clock(), time_zone="UTC", max_keys=1000)
    try:
        for one in calls(dice):
            state.write(one)
        rows, more = await state.outgoing("test").unsent(10_000)
        sent = [orjson.loads(orjson.dumps({**shown_row(it), "id": it["id"]})) for it in rows]
        assert more == 0 and len(sent) > 120
        dice.shuffle(sent)
        for since, until in ((None, None), (START + 10 * HOUR, START + 40 * HOUR), (START + 5 * HOUR + 10**6, None)):
            span = [None if at is None else rfc3339(at) for at in (since, until)]
            some = list(totals.within(sent, *span))
            for by in ("caller", "team", "model", "provider", "tier", "day"):
                assert totals.usage(some, by) == await state.usage(by, since, until)
            assert totals.failed(some) == await state.failed(since, until)
            named = [{k: v for k, v in it.items() if k in totals.billed(some)[0]} for it in await state.billed(None, since, until)]
            ours = [{k: v for k, v in it.items() if k in named[0]} for it in totals.billed(some)]
            assert ours == named
            assert [it for it in ours if it["provider"] == "azure"] == [
                {k: v for k, v in it.items() if k in ours[0]} for it in await state.billed("azure", since, until)
            ]
            assert totals.dearest(some, 5) == [shown_row(it) for it in await state.dearest(5, since, until)]
    finally:
        await state.close()


def test_nothing_sums_to_nothing():
    assert totals.usage([], "day") == totals.failed([]) == totals.billed([]) == totals.dearest([], 5) == []
