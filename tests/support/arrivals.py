"""Ways in which calls arrive, and how a limiter did on them: most admitted in any window, and what it refused without need."""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

Arrivals = Iterator[float]  # seconds since the beginning, ascending, without end
Pattern = Callable[[float, random.Random], Arrivals]  # of so many a second


def even(per_s: float, dice: random.Random) -> Arrivals:
    at = dice.random()
    while True:
        yield at
        at += 1 / per_s


def poisson(per_s: float, dice: random.Random) -> Arrivals:
    at = 0.0
    while True:
        at += dice.expovariate(per_s)
        yield at


def on_and_off(per_s: float, dice: random.Random) -> Arrivals:
    """Twice the rate for ten seconds, then nothing for ten."""
    for at in poisson(2 * per_s, dice):
        yield at // 10 * 20 + at % 10


def in_groups(per_s: float, dice: random.Random) -> Arrivals:
    """Three at once, as a batch job or a page with three questions sends them."""
    for at in poisson(per_s / 3, dice):
        yield from (at, at, at)


def at_the_edge(per_s: float, dice: random.Random) -> Arrivals:
    """A minute's worth at once around every full minute: what beats a counter per calendar minute, and a weighted one."""
    each = round(60 * per_s)
    minute = 0
    while True:
        minute += 1
        yield from sorted(minute * 60 + dice.uniform(-0.4, 0.4) for _ in range(each))


PATTERNS: Mapping[str, Pattern] = {
    "even": even, "poisson": poisson, "on and off": on_and_off, "in groups": in_groups,
}  # fmt: skip


@dataclass
class Record:
    """What a limiter of `limit` in any `window` (the unit of the instants) did."""

    limit: int
    window: int
    admitted: list[int] = field(default_factory=list)
    calls: int = 0
    wrongly_refused: int = 0

    def note(self, at: int, is_admitted: bool) -> bool:
        """At an instant not before that of the last call. True: it was refused, and an exact log of the window has room."""
        self.calls += 1
        if is_admitted:
            self.admitted.append(at)
            return False
        is_wrong = len(self.admitted) - bisect_right(self.admitted, at - self.window) < self.limit
        self.wrongly_refused += is_wrong
        return is_wrong

    @property
    def most(self) -> int:
        """Admitted in any window, wherever it begins; its end excluded."""
        return max((number - bisect_right(self.admitted, at - self.window) for number, at in enumerate(self.admitted, 1)), default=0)

    @property
    def share_wrongly_refused(self) -> float:
        return self.wrongly_refused / self.calls
