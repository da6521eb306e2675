"""What time it is for a state: rates follow the monotonic clock, money the calendar, and neither goes back. Counts nothing."""

from __future__ import annotations

from collections.abc import Callable

from proxy.admit.accounts import Moment
from proxy.admit.periods import GRACE_NS, NS, Calendar, Period, Span
from proxy.admit.records import ClockMark
from proxy.ports import Clock


class Moments:
    """`boot_id` of the machine: while it is the same, rates count on by the monotonic clock over a restart, whatever the wall
    clock did. "" is unknown: then they go on by the wall clock."""

    def __init__(self, clock: Clock, calendar: Calendar, boot_id: str) -> None:
        self._clock, self._calendar, self._boot_id = clock, calendar, boot_id
        self.wall_ns, self.monotonic_ns = clock.now_ns, clock.monotonic_ns
        self.anchor = clock.now_ns() - clock.monotonic_ns()  # added to `monotonic_ns`: this instant, as rates count it
        self.present = calendar.at(clock.now_ns())  # the periods of the last `ns`
        self.turned: Callable[[], None] = lambda: None  # hears that `present` is another
        self.wall = self._latest = self.over = 0  # the calendar rolls only forward, also when the clock is put back
        self.second, self.second_ns = -1, -NS  # Unix time of the last `tick`, whole; and in ns

    def ns(self) -> int:
        """This instant, as rates count it: wall time as of the start, then by the monotonic clock, so that no jump empties or freezes a
        window. As money counts it, it is in `present` from here on, as the wall clock has it, in `wall`."""
        self.wall = wall = self.wall_ns()
        if wall >= self.over:
            self.turn(wall)
        return self.anchor + self.monotonic_ns()

    def tick(self, wall: int) -> int:
        """Another second has begun by this wall clock: since when, ns."""
        if wall >= self.over:
            self.turn(wall)
        self.second = wall // NS
        self.second_ns = self.second * NS
        return wall - self.second_ns

    def turn(self, wall: int) -> None:
        """`present` is `over` by this wall clock."""
        self._latest = wall
        self.present = self._calendar.at(wall)
        self.over = self.present.day.end_ns
        self.second_ns = -NS  # whoever has looked at the second only looks again
        self.turned()

    def now(self) -> Moment:
        ns = self.ns()
        return Moment(ns, self.present, self.wall - ns)

    def periods(self) -> dict[Period, tuple[Span, Span, Span]]:
        """The previous, present and next span of each kind of period that ends."""
        self.ns()
        return {period: self._calendar.around(self._latest, period) for period in ("day", "month")}

    def mark(self) -> ClockMark:
        """For the next process."""
        return ClockMark(self._boot_id, self.anchor, max(self._latest, self.wall))

    def resume(self, mark: ClockMark) -> None:
        """Goes on with the time of the process before, as far as that can be known."""
        if self._boot_id and mark.boot_id == self._boot_id:
            self.anchor = mark.anchor_ns
        if mark.latest_ns <= self._clock.now_ns() + GRACE_NS:  # beyond that, the clock was wrong then
            self.turn(mark.latest_ns)
