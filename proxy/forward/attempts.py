"""The attempts of one call: its first step, then a generator that is told what became of each. It never waits itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Literal

import tenacity
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from proxy.exchange import value
from proxy.forward.breaker import Dice
from proxy.forward.budget import COST, COST_AFTER_TIMEOUT, Budget, Budgets
from proxy.forward.failure import Outcome
from proxy.policy.plan import Credential, Plan, RetryRules, Target

LEAST_S = 1.0  # no attempt starts with less time left
LONGEST_ASKED_S = 10.0  # a longer Retry-After is the caller's to wait for

__all__ = ["Budget", "Budgets", "Dice", "Step", "Terms", "further", "is_last", "may_retry", "retry_deadline"]


@value(frozen=True, slots=True)
class Step:
    """Where the next attempt goes, and how long to wait before it. `is_last`: no other would follow a failure of it; see the function."""

    target: Target
    credential: Credential | None
    kind: Literal["first", "retry", "fallback"]
    after_s: float = 0.0
    is_last: bool = False


@value(frozen=True, slots=True)
class Terms:
    """What the policy and the caller allow. `deadline` is monotonic: no attempt starts later than a second before it."""

    rules: RetryRules
    fallback_on: frozenset[str]
    deadline: float
    may_retry: bool = True  # False: the caller's SDK is retrying already
    is_held: bool = True  # False: the body streams through, and once a byte of it has left it cannot be sent again


def is_last(step: Step, plan: Plan, fields: Mapping[str, str]) -> bool:
    """Would no other attempt follow, should this one fail? `fields`: the caller's. Of the first it is asked only where that matters."""
    if step.kind != "first":
        return step.is_last
    has_more = len(plan.targets) > 1 and bool(plan.fallback_on)
    return not has_more and (plan.retry.attempts < 2 or not may_retry(fields))


def further(
    outcome: Outcome,
    targets: Sequence[Target],
    terms: Terms,
    keys: Sequence[Credential | None],
    credentials: Callable[[Target], Sequence[Credential | None]],
    budgets: Budgets,
    clock: Callable[[], float],
    dice: Dice,
) -> Generator[Step, Outcome, None]:
    """The attempts after a first one, with `keys[0]` on `targets[0]`, that failed with `outcome`. Send the outcome of each that failed.

    Close it when the call is over. What `Budget.enter` counted for the first target it takes over as soon as it runs.
    """
    failed: Outcome | None = outcome
    for number, target in enumerate(targets):
        budget = budgets.of(target.provider.name)
        if number:
            budget.enter()
            keys = credentials(target)
        has_more = number + 1 < len(targets) and bool(terms.fallback_on)
        try:
            outcome = yield from _on(target, failed, terms, keys, budget, clock, dice, has_more=has_more)
        except GeneratorExit:
            budget.leave()
            raise
        budget.gave_up()
        failed = None
        if outcome.fallback not in terms.fallback_on or not _can_send_again(outcome, terms) or clock() > terms.deadline - LEAST_S:
            return


def _on(
    target: Target,
    failed: Outcome | None,
    terms: Terms,
    keys: Sequence[Credential | None],
    budget: Budget,
    clock: Callable[[], float],
    dice: Dice,
    *,
    has_more: bool,
) -> Generator[Step, Outcome, Outcome]:
    """All attempts on one target, `failed` (if it has) the first of them; gives the outcome of the last."""
    most = terms.rules.attempts if terms.may_retry else 1
    is_last = most < 2 and not has_more
    outcome = failed or (yield Step(target, keys[0], "fallback", is_last=is_last))
    retry: _Retry | None = None
    used, is_renewed = 1, False
    while _can_send_again(outcome, terms):
        if outcome.is_free and not is_renewed:
            is_renewed = True
            outcome = yield Step(target, keys[used - 1], "retry", is_last=is_last)
            continue
        if outcome.credential_fault and used < len(keys) and clock() <= terms.deadline - LEAST_S:
            outcome = yield Step(target, keys[used], "retry", is_last=is_last)
            used += 1
            continue
        if retry is None:
            retry = _Retry(terms, most, budget, clock, dice)
        after_s = retry.after(outcome)
        if after_s is None:
            break
        budget.take(_cost(outcome))
        try:
            is_last_retry = retry.state.attempt_number + 1 >= most and not has_more
            outcome = yield Step(target, keys[used - 1], "retry", after_s, is_last_retry)
        finally:
            budget.give_back()
    return outcome


def _can_send_again(outcome: Outcome, terms: Terms) -> bool:
    return terms.is_held or not outcome.is_sent


def _cost(outcome: Outcome) -> int:
    return COST_AFTER_TIMEOUT if outcome.kind.endswith("timeout") else COST


# --- strategies: tenacity's own, and ours in its form ---


class _State(tenacity.RetryCallState):
    """What a strategy may ask: `attempt_number`, `upcoming_sleep`, and the outcome of the attempt that failed."""

    def __init__(self, outcome: Outcome, now: float) -> None:
        super().__init__(_NOBODY, None, (), {})
        self.start_time = now
        self.failed = outcome


_NOBODY = tenacity.Retrying()  # tenacity wants an owner for a state; ours are driven by the generator


class _FullJitter(wait_base):
    """uniform(0, min(longest, shortest · 2ⁿ)); the first retry after a broken connection does not wait."""

    def __init__(self, rules: RetryRules, dice: Dice) -> None:
        self._most = tenacity.wait_exponential(multiplier=rules.backoff_min_s, max=rules.backoff_max_s)
        self._dice = dice

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        assert isinstance(retry_state, _State)
        if retry_state.failed.is_immediate and retry_state.attempt_number == 1:
            return 0.0
        return self._dice() * self._most(retry_state)


class _RetryAfter(wait_base):
    """Never sooner than the provider asked for, and up to a tenth later."""

    def __init__(self, inner: wait_base, dice: Dice) -> None:
        self._inner, self._dice = inner, dice

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        assert isinstance(retry_state, _State)
        asked = retry_state.failed.retry_after_s or 0.0
        return max(self._inner(retry_state), asked * (1 + 0.1 * self._dice()))


class _StopIfHopeless(stop_base):
    """What kind of failure it was decides, before any number does."""

    def __init__(self, rules: RetryRules) -> None:
        self._on = rules.on_errors

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        assert isinstance(retry_state, _State)
        failed = retry_state.failed
        is_covered = failed.error == "once" or failed.error in self._on
        return not failed.worth_another_try or not is_covered or (failed.is_once and retry_state.attempt_number > 1)


class _StopAtDeadline(stop_base):
    """Neither later than the deadline allows, nor after a wait that eats up half of what is left."""

    def __init__(self, deadline: float, clock: Callable[[], float]) -> None:
        self._deadline, self._clock = deadline, clock

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        assert isinstance(retry_state, _State)
        left = self._deadline - self._clock()
        asked = retry_state.failed.retry_after_s or 0.0
        return left - retry_state.upcoming_sleep < LEAST_S or asked > min(LONGEST_ASKED_S, left / 2)


class _StopWithoutBudget(stop_base):
    def __init__(self, budget: Budget, share: float) -> None:
        self._budget, self._share = budget, share

    def __call__(self, retry_state: tenacity.RetryCallState) -> bool:
        assert isinstance(retry_state, _State)
        return not self._budget.has_room(self._share, _cost(retry_state.failed))


class _Retry:
    """Made after a first failure: when, if at all, the same target is tried again."""

    def __init__(self, terms: Terms, most: int, budget: Budget, clock: Callable[[], float], dice: Dice) -> None:
        rules = terms.rules
        self.state = _State(_NO_OUTCOME, clock())
        self.state.attempt_number = 0
        self._wait = _RetryAfter(_FullJitter(rules, dice), dice)
        self._stop = tenacity.stop_any(
            tenacity.stop_after_attempt(most),
            _StopIfHopeless(rules),
            _StopAtDeadline(terms.deadline, clock),
            _StopWithoutBudget(budget, rules.budget),
        )

    def after(self, outcome: Outcome) -> float | None:
        """Seconds until the next attempt; None: there is none."""
        self.state.attempt_number += 1
        self.state.failed = outcome
        self.state.upcoming_sleep = self._wait(self.state)
        return None if self._stop(self.state) else self.state.upcoming_sleep


_NO_OUTCOME = Outcome("none", None)


def retry_deadline(fields: Mapping[str, str], began: float, total_s: float) -> float:
    """Until when attempts make sense: the policy's total, or the time the SDK says it waits (x-stainless-*, seconds; garbage ignored)."""
    said = (_seconds(fields.get("x-stainless-timeout")), _seconds(fields.get("x-stainless-read-timeout")))
    return began + min(total_s, *said)


def may_retry(fields: Mapping[str, str]) -> bool:
    """False where the SDK is on a retry of its own: ours would multiply with it."""
    count = fields.get("x-stainless-retry-count")
    return count is None or not (count.isascii() and count.isdigit() and int(count[:9]) > 0)


def _seconds(text: str | None) -> float:
    try:
        seconds = float(text) if text is not None and len(text) < 32 else math.inf
    except ValueError:
        return math.inf
    return seconds if seconds > 0 else math.inf
