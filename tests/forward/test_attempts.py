"""The attempts of a call, stepped by hand with a clock and dice of our own."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.exchange import Caller
from proxy.forward.attempts import Budgets, Step, Terms, further, is_last, may_retry, retry_deadline
from proxy.forward.budget import FULL
from proxy.forward.failure import OK, of_answer, of_breaker, of_failure
from proxy.policy.plan import BreakerRules, Credential, GuardRules, Origin, Plan, Pricing, Provider, RetryRules, Target, Timeouts
from proxy.refusal import UpstreamFailed

ORIGIN = Origin("https", "x", 443, b"x")
ONE, TWO = (Target(Provider(name, "openai", "openai", ORIGIN), "m", "m") for name in ("one", "two"))
REFUSED = of_failure(UpstreamFailed("upstream_connect", "connect", sent=False))
RESET = of_failure(UpstreamFailed("upstream_reset", "reset", sent=True))
STALE = of_failure(UpstreamFailed("upstream_reset", "stale", sent=True))
LATE = of_failure(UpstreamFailed("upstream_first_byte_timeout", "first_byte_timeout", sent=True))
ALL = frozenset({"error", "breaker", "rate_limit"})


def answer(status, retry_after=None, credit=None):
    headers = () if retry_after is None else ((b"retry-after", retry_after.encode()),)
    return of_answer(status, headers, credit, is_our_key=True, now_ns=0)


ILL, BUSY, AUTH = answer(500), answer(429), answer(401)


class World:
    def __init__(self, targets=(ONE,), keys=(None,), **terms):
        self.now, self.dice, self.budgets = 0.0, 1.0, Budgets()
        self.targets, self.keys = targets, keys
        self.terms = Terms(**{"rules": RetryRules(), "fallback_on": ALL, "deadline": 600.0, **terms})

    def begin(self):
        """As `Forwarding` drives it: the first step is counted by hand, and the generator begun when it has failed."""
        rules, on = self.terms.rules, self.terms.fallback_on
        who = Caller("bot", "key")
        self.plan = Plan(1, who, "chat", "m", self.targets, (), GuardRules(), rules, BreakerRules(), Timeouts(), Pricing(), fallback_on=on)
        budget = self.budgets.of(self.targets[0].provider.name)
        budget.enter()
        try:
            outcome = yield Step(self.targets[0], self.keys[0], "first")
        except GeneratorExit:
            budget.leave()
            raise
        yield from further(
            outcome, self.targets, self.terms, self.keys, lambda _: self.keys, self.budgets, lambda: self.now, lambda: self.dice
        )

    def run(self, *outcomes):
        """What was tried, as (provider, kind, wait, key), when the attempts end so; a last outcome repeats."""
        steps, tries = [], self.begin()
        step, number = next(tries), 0
        with suppress(StopIteration):
            while True:
                steps.append((step.target.provider.name, step.kind, step.after_s, step.credential))
                self.now += step.after_s
                step = tries.send(outcomes[min(number, len(outcomes) - 1)])
                number += 1
        return steps

    def kinds(self, *outcomes):
        return [f"{provider} {kind}" for provider, kind, _, _ in self.run(*outcomes)]


FIRST, RETRY = "one first", "one retry"


@pytest.mark.parametrize(
    ("outcomes", "count"),
    [
        ((ILL,), 3),
        ((REFUSED,), 3),
        ((BUSY,), 3),
        ((RESET,), 2),
        ((STALE,), 3),
        ((STALE, OK), 2),
        ((answer(408),), 2),
        ((answer(409), answer(409)), 2),
        ((LATE,), 1),
        ((answer(400),), 1),
        ((answer(429, credit="credit"),), 1),
        ((AUTH,), 1),
        ((OK,), 1),
        ((answer(429, "10"),), 3),
        ((answer(429, "11"),), 1),
        ((answer(503, "3600"),), 1),
        ((ILL, OK), 2),
        ((ILL, answer(400)), 2),
        ((of_breaker(3.0),), 1),
    ],
)
def test_how_often_one_target_is_tried(outcomes, count):
    assert World().kinds(*outcomes) == [FIRST, *[RETRY] * (count - 1)]


def test_a_kept_connection_that_died_is_replaced_even_where_no_retry_is_allowed():
    world = World(rules=RetryRules(attempts=1, on_errors=frozenset()), may_retry=False)
    assert world.kinds(STALE) == [FIRST, RETRY]
    assert world.budgets.of("one").tokens == FULL


def test_waits_grow_with_full_jitter_and_have_a_cap():
    world = World(rules=RetryRules(attempts=7))
    assert [wait for _, _, wait, _ in world.run(ILL)] == [0, 0.5, 1, 2, 4, 8, 8]
    world.dice = 0.0
    assert [wait for _, _, wait, _ in world.run(ILL)] == [0] * 7


def test_a_refused_connection_is_retried_at_once_and_then_with_a_wait():
    assert [wait for _, _, wait, _ in World().run(REFUSED)] == [0, 0, 1]


def test_a_wait_that_the_provider_asks_for_is_the_floor_and_a_tenth_more_the_ceiling():
    world = World()
    assert [round(wait, 3) for _, _, wait, _ in world.run(answer(429, "4"))] == [0, 4.4, 4.4]
    world.dice = 0.0
    assert [wait for _, _, wait, _ in world.run(answer(429, "4"))] == [0, 4, 4]


@pytest.mark.parametrize(("on_errors", "retried"), [({"connect"}, REFUSED), ({"429"}, BUSY), ({"5xx"}, ILL)])
def test_the_policy_says_which_errors_are_retried(on_errors, retried):
    for outcome in (REFUSED, BUSY, ILL):
        count = 3 if outcome is retried else 1
        assert len(World(rules=RetryRules(on_errors=frozenset(on_errors))).run(outcome)) == count


def test_the_next_key_is_tried_at_once_whatever_the_policy_says_of_retries():
    keys = tuple(Credential(name, "s") for name in "abc")
    for terms in ({}, {"rules": RetryRules(attempts=1)}, {"may_retry": False}):
        steps = World(keys=keys, **terms).run(AUTH)
        assert [(kind, wait, key.name) for _, kind, wait, key in steps] == [("first", 0, "a"), ("retry", 0, "b"), ("retry", 0, "c")]


def test_a_key_that_was_refused_is_not_used_for_the_retries_after_it():
    keys = tuple(Credential(name, "s") for name in "ab")
    assert [key.name for *_, key in World(keys=keys).run(AUTH, ILL)] == ["a", "b", "b", "b"]


def test_an_sdk_that_retries_itself_gets_no_retries_but_the_fallback():
    assert World((ONE, TWO), may_retry=False).kinds(ILL) == [FIRST, "two fallback"]


@pytest.mark.parametrize(
    ("outcome", "name"), [(ILL, "error"), (LATE, "error"), (AUTH, "error"), (BUSY, "rate_limit"), (of_breaker(9.0), "breaker")]
)
def test_the_policy_says_what_leads_to_the_fallback(outcome, name):
    with_it = World((ONE, TWO), fallback_on=frozenset({name})).kinds(outcome)
    without = World((ONE, TWO), fallback_on=ALL - {name}).kinds(outcome)
    assert "two fallback" in with_it
    assert "two fallback" not in without


def test_the_callers_own_mistake_is_not_tried_elsewhere():
    assert World((ONE, TWO)).kinds(answer(400)) == [FIRST]


def test_a_streamed_upload_is_never_sent_twice():
    assert World((ONE, TWO), is_held=False).kinds(ILL) == [FIRST]
    assert World((ONE, TWO), is_held=False).kinds(RESET) == [FIRST]
    assert World((ONE, TWO), is_held=False).kinds(REFUSED, REFUSED, REFUSED, ILL) == [FIRST, RETRY, RETRY, "two fallback"]


@pytest.mark.parametrize(("deadline", "count"), [(1.4, 1), (1.6, 2), (2.6, 3)])
def test_no_attempt_begins_with_less_than_a_second_left(deadline, count):
    assert len(World(deadline=deadline).run(ILL)) == count


def test_neither_the_next_key_nor_the_fallback_begins_too_late():
    world = World((ONE, TWO), keys=(Credential("a", "s"), Credential("b", "s")), deadline=10.0)
    world.now = 9.5
    assert world.kinds(AUTH) == [FIRST]


def test_each_step_says_whether_another_could_follow():
    world = World((ONE, TWO))
    tries = world.begin()
    steps = [next(tries)]
    with suppress(StopIteration):
        while True:
            steps.append(tries.send(ILL))
    assert [step.is_last for step in steps] == [False, False, False, False, False, True]
    assert not is_last(steps[0], world.plan, {})
    for world, fields in (
        (World(rules=RetryRules(attempts=1)), {}),
        (World((ONE, TWO), fallback_on=frozenset(), rules=RetryRules(attempts=1)), {}),
        (World(), {"x-stainless-retry-count": "1"}),  # the caller's SDK is retrying already
    ):
        assert is_last(next(world.begin()), world.plan, fields)


def test_retries_under_way_are_bounded_whatever_the_load():
    world = World(rules=RetryRules(attempts=9))
    tries = [world.begin() for _ in range(100)]
    for one in tries:
        next(one)
    retried = 0
    for one in tries:
        with suppress(StopIteration):
            one.send(ILL)
            retried += 1
    assert 16 <= retried <= 20  # 20 % of the calls under way, which become fewer as calls fail
    for one in tries:
        one.close()
    budget = world.budgets.of("one")
    assert (budget.active, budget.retries) == (0, 0)


def test_an_outage_empties_the_bucket_and_successes_fill_it_again():
    world = World()
    sent = sum(len(world.run(ILL)) for _ in range(200))
    assert sent == 200 + FULL // 5
    for _ in range(5):
        tries = world.begin()
        next(tries)
        tries.close()
    assert len(world.run(ILL)) == 2
    assert len(world.run(ILL)) == 1


def test_no_budget_means_no_retries():
    assert World(rules=RetryRules(budget=0.0)).kinds(ILL) == [FIRST]


@given(st.lists(st.sampled_from([OK, ILL, BUSY, AUTH, RESET, REFUSED, LATE, answer(408), of_breaker(1.0)]), min_size=1), st.integers(1, 5))
def test_attempts_are_bounded_and_leave_no_trace_in_the_budget(outcomes, most):
    keys = (Credential("a", "s"), Credential("b", "s"))
    world = World((ONE, TWO), keys, rules=RetryRules(attempts=most))
    steps = world.run(*outcomes)
    assert len(steps) <= 2 * (most + len(keys) - 1)
    assert all(0 <= wait <= 8 for _, _, wait, _ in steps)
    for name in ("one", "two"):
        assert (world.budgets.of(name).active, world.budgets.of(name).retries) == (0, 0)


@pytest.mark.parametrize(
    ("fields", "deadline"),
    [
        ({}, 160.0),
        ({"x-stainless-timeout": "30"}, 130.0),
        ({"x-stainless-read-timeout": "20.5", "x-stainless-timeout": "30"}, 120.5),
        ({"x-stainless-timeout": "600"}, 160.0),
        *(({"x-stainless-timeout": value}, 160.0) for value in ("NOT_GIVEN", "", "-1", "0", "nan", "inf", "9" * 50)),
    ],
)
def test_the_deadline_is_the_policys_or_the_time_the_sdk_waits(fields, deadline):
    assert retry_deadline(fields, 100.0, 60.0) == deadline


@pytest.mark.parametrize(
    ("count", "may"), [(None, True), ("0", True), ("1", False), ("2", False), ("x", True), ("\u00b2", True), ("9" * 99, False)]
)
def test_the_retry_count_of_the_sdk_is_respected(count, may):
    assert may_retry({} if count is None else {"x-stainless-retry-count": count}) is may
