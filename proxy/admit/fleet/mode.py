"""When a shared state is trusted, as a state machine with the time as an argument. Talks to nobody and keeps no money.

`shared` until an operation fails; then `local` at once and for all calls, so that no two calls wait for the same dead server. A state that
forgot what it had acknowledged is `recovering`: as `local`, until every sidecar had time to tell it. Both end after quick good answers in a
row, once the state was told what happened meanwhile and has acknowledged it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

SLOW_S = 0.05  # an answer later than this is no good one (faults.md S3)
MOST_SLOW = 3  # so many in a row are a failure
GOOD = 2  # quick answers in a row that end a failure
PROBES_S = (0.1, 0.25, 0.5)  # waits between probes: a hiccup is over soon, a dead server is not asked more than twice a second
BLINK_S = 2.0  # what failed just now may be back in a moment


class Mode(StrEnum):
    SHARED = "shared"
    LOCAL = "local"
    RECOVERING = "recovering"


@dataclass(frozen=True, slots=True)
class Health:
    """Begins as `local`: whoever starts does not know yet."""

    mode: Mode = Mode.LOCAL
    since: float = 0.0  # of the failure; monotonic seconds
    why: str = "starting"
    good: int = 0  # answers in a row
    slow: int = 0
    bad: int = 0

    @property
    def is_shared(self) -> bool:
        return self.mode is Mode.SHARED

    def failed(self, now: float, why: str) -> Health:
        if self.is_shared:
            return Health(Mode.LOCAL, now, why)
        return Health(Mode.LOCAL, self.since, why, bad=self.bad + 1)

    def forgot(self, now: float) -> Health:
        """The state lost what it had acknowledged, to us or to another sidecar."""
        if self.mode is Mode.RECOVERING:
            return self
        why = "the state forgot what it had acknowledged" if self.is_shared else self.why
        return Health(Mode.RECOVERING, now if self.is_shared else self.since, why)

    def answered(self, now: float, took_s: float) -> Health:
        """A good answer to the background call, `took_s` after it was sent."""
        if took_s <= SLOW_S:
            return replace(self, good=self.good + 1, slow=0)
        if self.is_shared and self.slow + 1 >= MOST_SLOW:
            return self.failed(now, "slow")
        return replace(self, good=0, slow=self.slow + 1)

    def caught_up(self) -> Health:
        """The state knows all that happened meanwhile."""
        return self if self.is_shared or self.good < GOOD else Health(Mode.SHARED, why="")

    def probe_after_s(self) -> float:
        return PROBES_S[min(self.bad, len(PROBES_S) - 1)]

    def is_blink(self, now: float) -> bool:
        """Will it be back in a moment, as far as we can tell, so that a call which cannot be served without it may wait?"""
        return self.mode is Mode.RECOVERING or (not self.is_shared and now - self.since < BLINK_S)
