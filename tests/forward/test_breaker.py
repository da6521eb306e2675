"""The breaker, stepped by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.breaker import MAX_KEYS, SPENT, Breakers
from proxy.policy.plan import BreakerRules

RULES = BreakerRules()


class World:
    def __init__(self, dice=lambda: 1 / 3, rules=RULES):  # 0.8 + 0.6 / 3 = 1: no jitter
        self.now, self.rules, self.changes = 1000.0, rules, []
        self.breakers = Breakers(dice, lambda *change: self.changes.append(change))

    def enter(self, model="m", provider="p"):
        return self.breakers.enter(provider, model, self.rules, self.now)

    def see(self, *oks, model="m", retry_after_s=None):
        for ok in oks:
            self.enter(model).saw(ok, self.now, retry_after_s)

    @property
    def state(self):
        return self.changes[-1][2] if self.changes else "closed"


def test_it_opens_after_five_failures_in_a_row_and_says_for_how_long():
    world = World()
    world.see(False, False, False, False, True, False, False, False, False)
    assert world.enter().is_allowed
    world.see(False)
    refused = world.enter()
    assert (refused.is_allowed, refused.retry_after_s, refused.state, world.changes) == (False, 5.0, "open", [("p", "m", "open")])


def test_it_opens_at_the_ratio_once_there_is_enough_to_judge():
    world = World()
    world.see(*[True, False] * 9, True)
    assert world.state == "closed"
    world.see(False)
    assert world.state == "open"


@pytest.mark.parametrize("later_s", [0.0, 3.5, 7.0])
def test_each_of_many_successes_counts_towards_the_ratio_until_the_window_is_over(later_s):
    world = World()
    world.see(*[True] * 30)
    world.now += later_s
    world.see(*[False, False, False, False, True] * 5)
    assert world.state == "closed"
    world.now += 31 - later_s
    world.see(*[False, False, False, False, True] * 4, False)
    assert world.state == "open"


def test_failures_older_than_the_window_are_forgotten():
    world = World()
    world.see(*[True, False] * 9, True)
    world.now += 31
    world.see(False)
    assert world.state == "closed"


def test_what_is_nobodys_fault_changes_nothing():
    world = World()
    world.see(*[False] * 4, *[None] * 50)
    assert world.state == "closed"
    world.see(False)
    assert world.state == "open"


def test_one_probe_at_a_time_and_three_successes_close_it():
    world = World()
    world.see(*[False] * 5)
    world.now += 5
    for _ in range(3):
        assert world.state in ("open", "half_open")
        probe = world.enter()
        assert (probe.is_allowed, world.enter().is_allowed) == (True, False)
        probe.saw(True, world.now)
    assert [change[2] for change in world.changes] == ["open", "half_open", "closed"]
    assert world.enter().is_allowed


def test_a_failed_probe_doubles_the_open_time_up_to_the_cap():
    world, waits = World(), []
    world.see(*[False] * 5)
    for _ in range(7):
        waits.append(world.enter().retry_after_s)
        world.now += waits[-1]
        world.see(False)
    assert waits == [5, 10, 20, 40, 80, 120, 120]


def test_a_close_starts_the_open_time_anew():
    world = World()
    world.see(*[False] * 5)
    world.now += 5
    world.see(False)
    world.now += 10
    world.see(True, True, True, *[False] * 5)
    assert world.enter().retry_after_s == 5


def test_a_cancelled_probe_hands_its_turn_back():
    world = World()
    world.see(*[False] * 5)
    world.now += 5
    world.see(None)
    probe = world.enter()
    assert probe.is_allowed
    probe.saw(None, world.now)
    probe.saw(False, world.now)  # only the first word counts
    assert world.enter().is_allowed


def test_the_outcome_of_an_older_attempt_says_nothing_about_the_probe():
    world = World()
    old = [world.enter() for _ in range(3)]
    world.see(*[False] * 5)
    old[0].saw(True, world.now)
    world.now += 5
    probe = world.enter()
    old[1].saw(False, world.now)
    old[2].saw(True, world.now)
    assert not world.enter().is_allowed
    probe.saw(True, world.now)
    assert world.state == "half_open"


def test_a_success_that_began_before_the_breaker_opened_breaks_no_row_of_failures_after_it_has_closed():
    world = World()
    old = world.enter()
    world.see(*[False] * 5)
    world.now += 6
    world.see(True, True, True)
    assert world.state == "closed"
    world.see(*[False] * 4)
    old.saw(True, world.now)
    world.see(False)
    assert world.state == "open"


def test_a_turn_of_a_closed_breaker_is_that_of_all_who_come_until_it_opens():
    world = World()
    turn = world.enter()
    for _ in range(4):
        turn.saw(False, world.now)
    assert not turn.tally.is_over
    turn.saw(False, world.now)
    assert (turn.tally.is_over, world.state) == (True, "open")
    for ok in (True, False):
        turn.saw(ok, world.now)
    world.now += 5
    for _ in range(3):
        probe = world.enter()
        assert probe.tally.is_over, "it is nobody else's"
        probe.saw(True, world.now)
    assert (world.state, world.enter().tally.is_over) == ("closed", False)
    turn.saw(False, world.now)
    assert turn.tally.is_over


def test_the_turn_of_a_breaker_that_was_forgotten_is_over():
    world = World()
    turn = world.enter("well")
    for number in range(MAX_KEYS):
        world.see(False, model=f"m{number}")
    assert turn.tally.is_over


def test_a_spent_turn_says_nothing():
    world = World()
    for ok in (True, False, None):
        SPENT.saw(ok, world.now)
    assert (SPENT.tally.is_over, SPENT.tally.failures_in_a_row, SPENT.tally.further) == (True, 0, 0)


@pytest.mark.parametrize(("asked", "wait"), [(60.0, 60.0), (1.0, 5.0), (9999.0, 120.0)])
def test_a_retry_after_of_the_provider_is_kept_within_the_cap(asked, wait):
    world = World()
    world.see(*[False] * 5, retry_after_s=asked)
    assert world.enter().retry_after_s == wait


def test_open_times_are_spread():
    waits = []
    for dice in (0.0, 0.999999):
        world = World(lambda dice=dice: dice)
        world.see(*[False] * 5)
        waits.append(round(world.enter().retry_after_s, 3))
    assert waits == [4.0, 7.0]


def test_a_sick_model_leaves_the_others_of_its_provider_served():
    world = World()
    world.see(*[False] * 5)
    assert not world.enter("m").is_allowed
    assert world.enter("n").is_allowed
    assert world.enter("m", "q").is_allowed


def test_model_names_without_end_share_one_breaker_while_those_before_them_are_ill():
    world = World()
    for number in range(MAX_KEYS):
        world.see(False, model=f"m{number}")
    world.see(*[False] * 4, model="one more")
    world.see(False, model="another")
    assert not world.enter("a third").is_allowed
    assert world.enter("m1").is_allowed
    world.now += 31  # past the window
    assert world.enter("a fourth").is_allowed


def test_names_that_were_well_or_are_too_long_take_nobodys_place():
    world = World()
    for number in range(MAX_KEYS + 10):
        world.see(True, model=f"m{number}")
    world.see(*[False] * 5, model="sick")
    assert not world.enter("sick").is_allowed
    assert world.enter("well").is_allowed
    world.see(*[False] * 5, model="x" * 300)
    assert not world.enter("y" * 300).is_allowed, "names of that length share one"


STEPS = st.lists(st.tuples(st.sampled_from(["enter", "ok", "fail", "nobody", "wait"]), st.floats(0, 40)), max_size=60)


@given(STEPS, st.floats(0, 0.999))
def test_there_are_never_two_probes_and_it_is_never_stuck(steps, dice):
    world = World(lambda: dice)
    turns = []
    for step, seconds in steps:
        if step == "wait":
            world.now += seconds
        elif step == "enter":
            turn = world.enter()
            if turn.is_allowed:
                assert turn.state == "closed" or not any(other.state == "half_open" for other in turns)
                turns.append(turn)
        elif turns:
            turns.pop().saw({"ok": True, "fail": False, "nobody": None}[step], world.now)
    for turn in turns:
        turn.saw(None, world.now)
    world.now += 200
    world.see(True, True, True)
    assert world.enter().state == "closed"
