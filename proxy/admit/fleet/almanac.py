"""Which periods a script may choose from: the previous, the present and the next day and month. Reads no clock."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from proxy.admit.periods import TOTAL, Calendar, Span

Spans = tuple[Span, Span, Span]  # previous, present, next


@dataclass(frozen=True, slots=True)
class Around:
    """The periods next to one instant."""

    day: Spans
    month: Spans

    def span(self, kind: Literal["day", "month", "total"], which: int) -> Span:
        """`which`: 1 previous, 2 present, 3 next, as Lua counts; `total` has no such choice."""
        if kind == "total":
            return TOTAL
        return (self.day if kind == "day" else self.month)[which - 1]


class Almanac:
    """Periods of a time zone, worked out once a day."""

    def __init__(self, time_zone: str) -> None:
        self._calendar = Calendar(time_zone)
        self._now: Around | None = None

    def around(self, ns: int) -> Around:
        now = self._now
        if now is None or not now.day[1].start_ns <= ns < now.day[1].end_ns:
            day, month = self._calendar.at(ns).day, self._calendar.at(ns).month
            now = self._now = Around(
                (self._calendar.at(day.start_ns - 1).day, day, self._calendar.at(day.end_ns).day),
                (self._calendar.at(month.start_ns - 1).month, month, self._calendar.at(month.end_ns).month),
            )
        return now
