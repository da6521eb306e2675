"""What is held before a call is never less than what the recorded one did cost; what is learned of a model is near the truth."""

import json
import math
from collections import defaultdict
from functools import cache
from typing import NamedTuple

import pytest
from contract.recordings import body_of
from contract.test_prices import PROVIDERS
from contract.test_usage import DIALECTS, TRAFFIC, reason_not_counted, rows, usage_of

from proxy.admit.estimate import Bound, bound
from proxy.admit.learned import ENOUGH, Learned
from proxy.dialect import dialect_of
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import NANO, Usage
from proxy.meter.recompute import recompute
from proxy.meter.row import PriceRow, bound_cost, cost
from proxy.meter.table import PriceTable

pytestmark = pytest.mark.skipif(not TRAFFIC.is_dir(), reason="recorded traffic skipped LOUDLY: shared/ is not here")
AT = 1_795_200_000 * NANO
DEFAULT = 4096
OPEN_ENDED = {  # recordings that name no max_tokens and said more than default_max_tokens: the policy's own word decides there
    "9958e2be3b0c7a86": "gpt-5 with seven web searches wrote 4,474 tokens",
}
TOKENS_FROM_ELSEWHERE = "results of the provider's own tools, and what it has stored: rates are charged for them when they are told"


class Recorded(NamedTuple):
    id: str
    model: tuple[str, str]
    op: Operation
    asked: Asked
    most: Bound
    usage: Usage
    row: PriceRow | None


@cache
def recorded() -> list[Recorded]:
    """Every recorded call with a body that we read and a usage that its provider stated."""
    table, found = PriceTable.read(), []
    for row in rows():
        if reason_not_counted(row):
            continue
        op, usage = usage_of(row)
        body = body_of(row, "request")
        if usage is None or usage.source != "provider" or not op.is_billed or op.is_read_back or op.body != "json" or not body:
            continue
        dialect = dialect_of(DIALECTS[row["provider"]])
        asked = dialect.read_asked(op, json.loads(body))
        price = table.row(PROVIDERS.get(row["provider"], ""), asked.model or "", AT)
        window = price.window if price else None
        most = bound(op, asked, len(body), window, DEFAULT, window=window, family=dialect.family)
        found.append(Recorded(row["id"], (row["provider"], asked.model or ""), op, asked, most, usage, price))
    assert len(found) > 380
    return found


def test_no_recorded_call_used_more_than_was_bounded():
    beyond = []
    for one in recorded():
        if one.usage.input > one.most.input_tokens:
            beyond.append(f"{one.id} {one.model}: input {one.usage.input} > {one.most.input_tokens}")
        if one.usage.output > one.most.output_tokens and one.id not in OPEN_ENDED:
            beyond.append(f"{one.id} {one.model}: output {one.usage.output} > {one.most.output_tokens}")
    assert not beyond, "\n".join(beyond)


def test_no_recorded_call_did_cost_more_than_would_have_been_held():
    beyond, compared, vendors = [], 0, 0
    for one in recorded():
        if one.row is None:
            continue
        most = one.most
        held, _ = bound_cost(
            one.row, input_tokens=most.input_tokens, output_tokens=most.output_tokens, images=most.images, files=most.files,
            fees=most.fees, tier=one.asked.tier,
        )  # fmt: skip
        compared += 1
        vendors += one.usage.cost_nanousd is not None
        if cost(one.row, one.usage) > held:
            beyond.append(f"{one.id} {one.model}: {cost(one.row, one.usage)} > {held}")
    assert not beyond, "\n".join(beyond)
    assert compared > 340 and vendors > 5, (compared, vendors)


def test_with_max_tokens_named_the_true_tokens_are_within_what_rates_are_held_for():
    """All but what the provider itself adds, and each such call says that it may."""
    named = [one for one in recorded() if one.asked.max_tokens is not None]
    beyond = [one for one in named if one.usage.input + one.usage.output > one.most.sent_tokens + one.most.output_tokens]
    assert len(named) > 80
    assert [one.id for one in beyond if not one.asked.reads_more] == []
    print(f"{len(named)} named max_tokens; {len(beyond)} beyond: {TOKENS_FROM_ELSEWHERE}")


def text_calls() -> dict[tuple[str, str], list[Recorded]]:
    """By model: those that generate from the text of the request alone."""
    found = defaultdict(list)
    for one in recorded():
        if one.most.output_tokens and not one.most.kind & 5 and one.op.name not in ("images", "audio"):
            found[one.model].append(one)
    return {model: calls for model, calls in found.items() if len(calls) >= 5}


def test_the_start_is_a_token_a_byte_and_what_is_learned_comes_near_the_truth():
    """Each model's recordings again and again; from the 50th call on, estimates are within 1.3 of the truth and not under it."""
    learned, held, true, first, calls, under = Learned(), 0, 0, 0, 0, 0
    for model, found in text_calls().items():
        times = math.ceil(50 / len(found)) + ENOUGH
        for number in range(times * len(found)):
            one = found[number % len(found)]
            if number < ENOUGH:
                assert learned.of(model).like(one.most.kind, one.most.sent_tokens).tokens(one.most.sent_tokens) == one.most.sent_tokens
            if number >= (times - 1) * len(found):
                estimate = learned.of(model).like(one.most.kind, one.most.sent_tokens).tokens(one.most.sent_tokens)
                held, true, first = held + estimate, true + one.usage.input, first + one.most.sent_tokens
                calls, under = calls + 1, under + (estimate < one.usage.input)
            learned.saw(model, one.most.kind, one.most.sent_tokens, one.usage, None)
    print(f"{calls} calls: {first / true:.2f} of the truth at the start, {held / true:.2f} learned, {under} under it")
    assert calls > 150
    assert true <= held <= 1.3 * true
    assert under <= 0.05 * calls


def test_the_95th_percentile_of_answers_is_learned_and_covers_them():
    """Recorded lengths of answers, of all models that are open-ended, as if they were one."""
    lengths = [one.usage.output for one in recorded() if one.most.is_open and one.usage.output]
    learned, above, seen = Learned(), 0, 0
    for turn in range(3):
        for output in lengths:
            told = learned.of(("p", "m")).output_tokens(DEFAULT, None)
            if turn:
                seen, above = seen + 1, above + (output > told)
            learned.saw(("p", "m"), 0, 1, Usage(output=output, source="provider"), 1)
    assert learned.of(("p", "m")).output_tokens(DEFAULT, None) < DEFAULT
    assert above <= 0.06 * seen, (above, seen)


def test_every_recorded_cost_comes_out_again_from_its_ledger_row_alone():
    priced = [one for one in recorded() if one.row is not None]
    for one in priced:
        usage = one.usage
        stored = {
            "input_tokens": usage.input, "cached_input_tokens": usage.cached_input, "cache_write_tokens": usage.cache_write,
            "output_tokens": usage.output, "reasoning_tokens": usage.reasoning, "usage_source": usage.source,
            "price_row": json.loads(json.dumps(one.row.as_json(usage))),
        }  # fmt: skip
        assert recompute(stored) == cost(one.row, usage), one.id
    assert len(priced) > 340
