"""When a sick model of a provider is left alone, and when it is tried again: a state machine. Shares nothing and reads no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import field
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


_CLOSED, _OPEN, _HALF_OPEN = State  # as plain names: a member read off its class costs as much as a call


class Tally:
    """How the attempts of the window went. The one thing here that changes in place: a success among successes is one addition."""

    __slots__ = ("_buckets", "_now", "failures_in_a_row", "further", "is_over", "until")

    def __init__(self) -> None:
        self._now = [-1.0, 0, 0]  # bucket number, outcomes, failures
        self._buckets = deque([self._now], BUCKETS)
        self.failures_in_a_row = 0
        self.further = 0  # successes in the newest bucket that are not in its outcomes yet
        self.until = 0.0  # when that bucket is over
        self.is_over = False  # nobody reads it any more: the breaker has opened, or was forgotten

    def add(self, now: float, failed: int, window_s: float) -> None:
        """In the bucket it is `now`."""
        number, bucket = now * BUCKETS // window_s, self._now
        bucket[1] += self.further
        self.further, self.until = 0, (number + 1) * window_s / BUCKETS
        if number != bucket[0]:
            bucket = self._now = [number, 0, 0]
            self._buckets.append(bucket)
        bucket[1] += 1
        if failed:
            bucket[2] += 1
            self.failures_in_a_row += 1
        else:
            self.failures_in_a_row = 0

    def is_sick(self, rules: BreakerRules) -> bool:
        """Asked when a failure was added."""
        fresh = [one for one in self._buckets if one[0] > self._now[0] - BUCKETS]
        outcomes, failures = sum(one[1] for one in fresh), sum(one[2] for one in fresh)
        return self.failures_in_a_row >= rules.consecutive or (
            outcomes >= rules.min_requests and failures >= rules.failure_ratio * outcomes
        )

    def is_past(self, number: float) -> bool:
        """Nothing is lost by forgetting it, or little: all is well, or nobody has asked for long."""
        return not self.failures_in_a_row or self._now[0] <= number - BUCKETS


@value(frozen=True, slots=True)
class Breaker:
    """`epoch` changes with every state and every probe: an outcome counts only in the epoch its attempt began in."""

    state: State = _CLOSED
    epoch: int = 0
    successes: int = 0  # of probes, in a row
    openings: int = 0  # in a row, without having closed
    until: float = 0.0
    is_probing: bool = False
    tally: Tally = field(default_factory=Tally)  # while closed

    def allows(self, now: float) -> tuple[bool, Breaker]:
        """May an attempt begin? One probe at a time once the open time is over."""
        match self.state:
            case State.CLOSED:
                return True, self
            case State.OPEN if now >= self.until:
                return True, Breaker(_HALF_OPEN, self.epoch + 1, openings=self.openings, is_probing=True)
            case State.HALF_OPEN if not self.is_probing:
                return True, Breaker(_HALF_OPEN, self.epoch + 1, self.successes, self.openings, is_probing=True)
            case _:
                return False, self

    def wait_s(self, now: float) -> float:
        """How long until the next attempt may begin, about."""
        return max(self.until - now, PROBE_WAIT_S) if self.state is _OPEN else PROBE_WAIT_S

    def is_past(self, now: float, rules: BreakerRules) -> bool:
        """Nothing is lost by forgetting it, or little."""
        if self.state is _OPEN:
            return now > self.until + rules.open_max_s
        return self.state is _CLOSED and self.tally.is_past(now * BUCKETS // rules.window_s)

    def saw(self, ok: bool | None, epoch: int, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None = None) -> Breaker:
        """How an attempt of `epoch` ended. None: nobody's fault; a probe hands its turn back."""
        if epoch != self.epoch or self.state is _OPEN:
            return self
        if self.state is _HALF_OPEN:
            return self._probed(ok, now, rules, dice, retry_after_s)
        if ok is None:
            return self
        self.tally.add(now, not ok, rules.window_s)
        return self if ok or not self.tally.is_sick(rules) else self._opened(now, rules, dice, retry_after_s)

    def _probed(self, ok: bool | None, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None) -> Breaker:
        if ok is False:
            return self._opened(now, rules, dice, retry_after_s)
        successes = self.successes + (1 if ok else 0)
        if successes >= TO_CLOSE:
            return Breaker(_CLOSED, self.epoch + 1)
        return Breaker(_HALF_OPEN, self.epoch, successes, self.openings)

    def _opened(self, now: float, rules: BreakerRules, dice: Dice, retry_after_s: float | None) -> Breaker:
        doubled = min(rules.open_max_s, rules.open_min_s * 2.0 ** min(self.openings, 30))
        asked = min(retry_after_s or 0.0, rules.open_max_s)
        until = now + max(doubled * (0.8 + 0.6 * dice()), asked)
        return Breaker(_OPEN, self.epoch + 1, openings=self.openings + 1, until=until)


Key = tuple[str, str | None]


class Turn:
    """The leave to attempt. `saw` is called once it is known how the attempt went. Of a closed breaker it is the leave of all who come
    until `tally.is_over`: each of them says once how it went, and is `SPENT` then.
    """

    __slots__ = ("_all", "_breaker", "_key", "_rules", "tally")

    is_allowed, retry_after_s = True, 0.0
    state = "closed"  # for the metric

    def __init__(self, all: Breakers | None, key: Key, breaker: Breaker, rules: BreakerRules) -> None:
        self._all = all
        self._key = key
        self._breaker = breaker
        self._rules = rules
        self.tally = breaker.tally

    def saw(self, ok: bool | None, now: float, retry_after_s: float | None = None) -> None:
        """True: it answered; False: a failure; None: nobody's fault (cancelled, refused, rate-limited)."""
        tally = self.tally
        if not ok:
            self._told(ok, now, retry_after_s)
        elif now < tally.until and not tally.failures_in_a_row:
            tally.further += 1
        else:
            tally.add(now, 0, self._rules.window_s)

    def _told(self, ok: bool | None, now: float, retry_after_s: float | None) -> None:
        if self._all is not None:
            self._all.saw(self._key, ok, self._breaker.epoch, now, self._rules, retry_after_s)


class OddTurn(Turn):
    """Of a breaker that is not closed: the leave of one to probe, or, without `all`, a refusal. Only the first word counts."""

    __slots__ = ("is_allowed", "retry_after_s", "state")

    def __init__(self, all: Breakers | None, key: Key, breaker: Breaker, rules: BreakerRules, retry_after_s: float = 0.0) -> None:
        super().__init__(all, key, breaker, rules)
        self.is_allowed, self.retry_after_s, self.state = all is not None, retry_after_s, breaker.state.value
        self.tally.is_over = True

    def saw(self, ok: bool | None, now: float, retry_after_s: float | None = None) -> None:
        self._told(ok, now, retry_after_s)
        self._all = None


SPENT = OddTurn(None, ("", None), Breaker(), BreakerRules())


class Breakers:
    """One breaker per (provider, model). `on_change(provider, model, state)` hears of every change of state."""

    def __init__(self, dice: Dice, on_change: Callable[[str, str | None, str], None]) -> None:
        self._dice, self._on_change = dice, on_change
        self._all: dict[Key, Breaker] = {}

    def enter(self, provider: str, model: str | None, rules: BreakerRules, now: float) -> Turn:
        """Asks for leave to attempt. `model` None: the call names none, all those of a provider share one breaker."""
        key = (provider, model)
        before = self._all.get(key)
        if before is None:
            key, before = self._of(provider, model, rules, now)
        if before.state is _CLOSED:
            return Turn(self, key, before, rules)
        is_allowed, after = before.allows(now)
        self._keep(key, before, after)
        if not is_allowed:
            return OddTurn(None, key, after, rules, after.wait_s(now))
        return OddTurn(self, key, after, rules)

    def saw(self, key: Key, ok: bool | None, epoch: int, now: float, rules: BreakerRules, retry_after_s: float | None) -> None:
        """How an attempt ended: `Turn.saw` says it."""
        before = self._all.get(key)
        if before is None:  # forgotten since: it was well then
            before = self._all[key] = Breaker()
        after = before.saw(ok, epoch, now, rules, self._dice, retry_after_s)
        if after is not before:
            self._keep(key, before, after)

    def _of(self, provider: str, model: str | None, rules: BreakerRules, now: float) -> tuple[Key, Breaker]:
        """A breaker that is not known yet, or, of names without end, the one they share."""
        key = (provider, model if model is None or len(model) <= MAX_NAME else None)
        if key not in self._all and len(self._all) >= MAX_KEYS:
            for past in [known for known, it in self._all.items() if it.is_past(now, rules)]:
                self._all.pop(past).tally.is_over = True
            key = key if len(self._all) < MAX_KEYS else (provider, None)
        return key, self._all.setdefault(key, Breaker())

    def _keep(self, key: Key, before: Breaker, after: Breaker) -> None:
        self._all[key] = after
        if after.state is not before.state:
            before.tally.is_over = True
            self._on_change(key[0], key[1], after.state.value)
