"""When a sick model of a provider is left alone, and when it is tried again: a state machine. Shares nothing and reads no clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from proxy.exchange import value
from proxy.policy.plan import BreakerRules

Dice = Callable[[], float]  # uniform in [0, 1)

BUCKETS = 10  # of the window
TO_CLOSE = 3  # successes of probes in a row
PROBE_WAIT_S = 1.0  # told to those who come while a probe is under way
MAX_KEYS = 4096  # breakers of their own; further models of a provider share one
MAX_NAME = 256  # characters of a model's name that is told apart: names come from outside
FEW_S = 30.0  # a longer wait is none for a client: x-should-retry: false


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


@value(frozen=True, slots=True)
class Breaker:
    """`epoch` changes with every state and every probe: an outcome counts only in the epoch its attempt began in."""

    state: State = State.CLOSED
    epoch: int = 0
    window: tuple[tuple[int, int, int], ...] = ()  # (bucket number, outcomes, failures)
    consecutive: int = 0  # failures in a row; while half-open: successes in a row
    openings: int = 0  # in a row, without having closed
    until: float = 0.0
    is_probing: bool = False

    def allows(self, now: float) -> tuple[bool, Breaker]:
        """May an attempt begin? One probe at a time once the open time is over."""
        match self.state:
            case State.CLOSED:
                return True, self
            case State.OPEN if now >= self.until:
                return True, Breaker(State.HALF_OPEN, self.epoch + 1, openings=self.openings, is_probing=True)
            case State.HALF_OPEN if not self.is_probing:
                return True, Breaker(State.HALF_OPEN, self.epoch + 1, consecutive=self.consecutive, openings=self.openings, is_probing=True)
            case _:
                return False, self

    def wait_s(self, now: float) -> float:
        """How long until the next attempt may begin, about."""
        return max(self.until - now, PROBE_WAIT_S) if self.state is State.OPEN else PROBE_WAIT_S

    def is_past(self, now: float, rules: BreakerRules) -> bool:
        """Nothing is lost by forgetting it, or little: it is well, or nobody has asked for long."""
        if self.state is State.OPEN:
            return now > self.until + rules.open_max_s
        is_old = not self.window or self.window[-1][0] <= int(now * BUCKETS / rules.window_s) - BUCKETS
        return self.state is State.CLOSED and (not self.consecutive or is_old)

    def saw(self, ok: bool | None, epoch: int, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None = None) -> Breaker:
        """How an attempt of `epoch` ended. None: nobody's fault; a probe hands its turn back."""
        if epoch != self.epoch or self.state is State.OPEN:
            return self
        if self.state is State.HALF_OPEN:
            return self._probed(ok, now, rules, dice, retry_after_s)
        if ok is None:
            return self
        window = _counted(self.window, int(now * BUCKETS / rules.window_s), failed=not ok)
        consecutive = 0 if ok else self.consecutive + 1
        if not ok and _is_sick(window, consecutive, rules):
            return self._opened(now, rules, dice, retry_after_s)
        return Breaker(State.CLOSED, self.epoch, window, consecutive)

    def _probed(self, ok: bool | None, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None) -> Breaker:
        if ok is False:
            return self._opened(now, rules, dice, retry_after_s)
        successes = self.consecutive + (1 if ok else 0)
        if successes >= TO_CLOSE:
            return Breaker(State.CLOSED, self.epoch + 1)
        return Breaker(State.HALF_OPEN, self.epoch, consecutive=successes, openings=self.openings)

    def _opened(self, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None) -> Breaker:
        doubled = min(rules.open_max_s, rules.open_min_s * 2.0 ** min(self.openings, 30))
        asked = min(retry_after_s or 0.0, rules.open_max_s)
        until = now + max(doubled * (0.8 + 0.6 * dice()), asked)
        return Breaker(State.OPEN, self.epoch + 1, openings=self.openings + 1, until=until)


def _counted(window: tuple[tuple[int, int, int], ...], bucket: int, *, failed: bool) -> tuple[tuple[int, int, int], ...]:
    if window and window[-1][0] == bucket:
        _, outcomes, failures = window[-1]
        return (*window[:-1], (bucket, outcomes + 1, failures + failed))
    return (*(one for one in window if one[0] > bucket - BUCKETS), (bucket, 1, int(failed)))


def _is_sick(window: tuple[tuple[int, int, int], ...], consecutive: int, rules: BreakerRules) -> bool:
    outcomes = sum(one[1] for one in window)
    failures = sum(one[2] for one in window)
    return consecutive >= rules.consecutive or (outcomes >= rules.min_requests and failures >= rules.failure_ratio * outcomes)


@dataclass(slots=True)
class Turn:
    """The leave to attempt, or its refusal. `saw` is called once it is known how the attempt went; only the first call counts."""

    is_allowed: bool
    retry_after_s: float  # of a refusal
    state: str  # closed | open | half_open, for the metric
    _saw: Callable[[bool | None, float, float | None], None] | None = field(default=None, repr=False)

    def saw(self, ok: bool | None, now: float, retry_after_s: float | None = None) -> None:
        """True: it answered; False: a failure; None: nobody's fault (cancelled, refused, rate-limited)."""
        report, self._saw = self._saw, None
        if report is not None:
            report(ok, now, retry_after_s)


class Breakers:
    """One breaker per (provider, model). `on_change(provider, model, state)` hears of every change of state."""

    def __init__(self, dice: Dice, on_change: Callable[[str, str | None, str], None]) -> None:
        self._dice, self._on_change = dice, on_change
        self._all: dict[tuple[str, str | None], Breaker] = {}

    def enter(self, provider: str, model: str | None, rules: BreakerRules, now: float) -> Turn:
        """Asks for leave to attempt. `model` None: the call names none, all those of a provider share one breaker."""
        key = (provider, model if model is None or len(model) <= MAX_NAME else None)
        if key not in self._all and len(self._all) >= MAX_KEYS:
            self._all = {known: it for known, it in self._all.items() if not it.is_past(now, rules)}
            key = key if len(self._all) < MAX_KEYS else (provider, None)
        before = self._all.get(key, _HEALTHY)
        is_allowed, after = before.allows(now)
        self._keep(key, before, after)
        if not is_allowed:
            return Turn(False, after.wait_s(now), after.state.value)
        epoch = after.epoch

        def saw(ok: bool | None, now: float, retry_after_s: float | None) -> None:
            before = self._all.get(key, _HEALTHY)
            self._keep(key, before, before.saw(ok, epoch, now, rules, self._dice, retry_after_s))

        return Turn(True, 0.0, after.state.value, saw)

    def _keep(self, key: tuple[str, str | None], before: Breaker, after: Breaker) -> None:
        if after is not before:
            self._all[key] = after
            if after.state is not before.state:
                self._on_change(key[0], key[1], after.state.value)


_HEALTHY = Breaker()
