"""When calls may come to a sidecar of a fleet, by what its duties found out."""

from types import SimpleNamespace

import pytest

from proxy.admit.fleet.duties import READY_AFTER_S, Duties
from proxy.admit.fleet.mode import Mode

NOT_YET = "the shared state is not reached yet"


def duties(has_met=True, has_looked=True, problem=None):
    keys, memory = SimpleNamespace(has_met=has_met), SimpleNamespace(has_looked=has_looked, problem=problem)
    return Duties(keys, SimpleNamespace(), memory, began=100.0)


@pytest.mark.parametrize(
    ("mode", "has_met", "has_looked", "expected"),
    [
        (Mode.SHARED, True, True, None),
        (Mode.LOCAL, True, True, NOT_YET),
        (Mode.RECOVERING, True, True, NOT_YET),
        (Mode.SHARED, False, True, NOT_YET),
        (Mode.SHARED, True, False, NOT_YET),
    ],
)
def test_no_call_may_come_before_redis_is_reached_its_keys_are_known_and_its_memory_was_looked_at(mode, has_met, has_looked, expected):
    theirs = duties(has_met, has_looked)
    assert theirs.problem(mode, 101.0) == expected
    assert theirs.problem(mode, 100.0 + READY_AFTER_S) == expected
    assert theirs.problem(mode, 100.1 + READY_AFTER_S) is None, "it was waited for long enough"


def test_a_redis_that_was_reached_once_may_go_away_but_not_become_unsafe():
    theirs = duties()
    assert theirs.problem(Mode.SHARED, 101.0) is None
    assert theirs.problem(Mode.LOCAL, 102.0) is None
    theirs.memory.problem = "it may drop keys"
    assert [theirs.problem(mode, 1000.0) for mode in Mode] == ["it may drop keys"] * 3
