"""A call executes no more than it did: counts of bytecodes, C calls and bytes, kept in tests/bench/hotpath.json. No clock is read."""

import functools

import pytest

from tests.bench import hotpath

SOWN = """
import orjson
from proxy.pipeline import Pipeline
from proxy.record.books import Books

close, run = Books.close, Pipeline.run
TEXT = b'"' + b"." * ({bytes} - 2) + b'"'

def needlessly(self, story):
    for number in range({rounds}):
        pass
    for number in range({lengths}):
        len(TEXT)
    if {bytes}:
        orjson.loads(TEXT)
    return close(self, story)

async def holding(self, *args):
    held = bytes({held})
    return await run(self, *args)

Books.close, Pipeline.run = needlessly, holding
"""


def sown(**much):
    return SOWN.format(**{"rounds": 0, "lengths": 0, "bytes": 0, "held": 0, **{name: round(it) for name, it in much.items()}})


@functools.cache
def measured(scenario):
    return hotpath.measure(scenario)


def test_there_is_a_baseline_for_each_scenario():
    if hotpath.baseline() is None:
        pytest.skip(f"THE HOT PATH IS NOT GUARDED: no counts for Python {hotpath.PYTHON} in tests/bench/hotpath.json: `make hotpath`")
    assert list(hotpath.baseline()) == list(hotpath.SCENARIOS)


@pytest.mark.parametrize("scenario", hotpath.SCENARIOS)
def test_a_call_executes_no_more_than_the_baseline(scenario):
    if hotpath.baseline() is None:
        pytest.skip(f"THE HOT PATH IS NOT GUARDED: no counts for Python {hotpath.PYTHON} in tests/bench/hotpath.json: `make hotpath`")
    changes = list(hotpath.changes(hotpath.baseline()[scenario], measured(scenario)))
    assert not [text for change, text in changes if change > hotpath.MOST], "see `python tests/bench/hotpath.py --by function`"
    if less := [text for change, text in changes if change < -hotpath.MOST]:
        print(f"{scenario} executes less than its baseline, which holds it to the old figures: run `make hotpath`", *less, sep="\n  ")


def test_a_policy_of_a_thousand_lines_about_others_costs_no_more_than_15_percent():
    assert not [text for change, text in hotpath.changes(measured("json_1k"), measured("json_1k_long")) if change > 0.15]


def test_counting_again_gives_the_same():
    assert all(abs(change) < 0.01 for change, _ in hotpath.changes(measured("json_1k"), hotpath.measure("json_1k")))


@pytest.mark.parametrize(
    ("figure", "slow"),
    [
        ("bytecodes", lambda before, share: {"rounds": before * share / 3}),
        ("c_calls", lambda before, share: {"lengths": before * share}),
        ("c_bytes", lambda before, share: {"bytes": before * share}),
        ("peak_bytes", lambda before, share: {"held": before * share}),
    ],
)
def test_a_sown_slow_down_of_6_percent_is_found_and_one_of_2_is_let_pass(figure, slow):
    before = measured("json_1k")
    for share, is_found in ((0.06, True), (0.02, False)):
        now = hotpath.measure("json_1k", sown(**slow(before["all"][figure], share)))
        found = [text for change, text in hotpath.changes(before, now) if change > hotpath.MOST]
        assert [text.split()[0] for text in found] == [figure] * is_found
        assert figure == "peak_bytes" or all("record +" in text for text in found), "the room that grew is named"
