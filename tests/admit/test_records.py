from __future__ import annotations

from types import MappingProxyType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.counters import Charge, Counters
from proxy.admit.records import COLUMNS, MOST, Fold, encode, hold_record, tame, values_of

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=5) | st.complex_numbers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters()) | st.integers(), inner) | st.tuples(inner) | st.frozensets(
        st.integers()
    ),
    max_leaves=8,
)  # fmt: skip


@given(ANYTHING)
def test_any_value_becomes_json(value):
    orjson.loads(encode(["s", value]))
    orjson.dumps(tame(value))


def test_what_json_can_hold_stays_as_it_is():
    value = {"a": [1, 2.5, None, True, "ü\n"], "most": 2**63 - 1}
    assert orjson.loads(encode(MappingProxyType(value))) == value
    assert tame(value) == value
    assert orjson.loads(encode([frozenset({2, 1})])) == [[1, 2]]


def test_figures_beyond_all_reason_are_cut_and_instants_are_not(row):
    values = dict(zip(COLUMNS, values_of(row(cost_nanousd=2**80, held_nanousd=2**60)), strict=True))
    assert (values["cost_nanousd"], values["held_nanousd"], values["at"]) == (MOST, MOST, row().at)


@pytest.mark.parametrize("model", ["gpt-4o", "lone \ud800"])
def test_a_hold_is_written_the_same_whether_its_charges_are_at_hand_as_json_or_not(row, model):
    charges = (Charge("tier free", "caller=bob", (60,), ("2026-11-21", "total")),)
    said = orjson.Fragment(encode([tuple(it) for it in charges]))
    values = values_of(row(model=model))
    assert hold_record("u/1", 1, 2, 3, said, values) == hold_record("u/1", 1, 2, 3, charges, values)


@pytest.mark.parametrize("record", [["n"], ["later", 1], ["e", "x", []], ["s", 1, 2]])
def test_a_record_of_another_kind_changes_nothing(record):
    counters = Counters(9)
    Fold(counters, COLUMNS, {}).apply(record, (1, 1))
    assert (counters.books, counters.holds) == ({}, {})
