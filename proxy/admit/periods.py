"""Calendar days and months of a time zone, as names and instants. Reads no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

NS = 1_000_000_000
Period = Literal["day", "month"]  # those that end

GRACE_NS = 25 * 3600 * NS  # a clock may be put back this far across midnight and find its old counters


@dataclass(frozen=True, slots=True)
class Span:
    """One period: `id` sorts by time ("2026-11-21", "2026-11"); instants are ns since the epoch, end excluded."""

    id: str
    start_ns: int
    end_ns: int


TOTAL = Span("total", 0, 0)  # never ends


@dataclass(frozen=True, slots=True)
class Periods:
    """The periods that one instant belongs to."""

    day: Span
    month: Span
    kept_from: tuple[str, str]  # day and month ids; counters of older ones may be forgotten

    def span(self, period: Literal["day", "month", "total"]) -> Span:
        if period == "day":
            return self.day
        return self.month if period == "month" else TOTAL

    def is_past(self, id: str) -> bool:
        """May the counters of this period be forgotten?"""
        return id != TOTAL.id and id < self.kept_from[0 if len(id) == len("2026-11-21") else 1]


class Calendar:
    """Periods of an IANA time zone. A local midnight that a clock change skips or repeats still ends a day exactly once."""

    def __init__(self, time_zone: str) -> None:
        self._zone = ZoneInfo(time_zone)
        self._now: Periods | None = None
        self._named = Span("", 0, 0)  # the day asked for last

    def at(self, ns: int) -> Periods:
        now = self._now
        if now is None or not now.day.start_ns <= ns < now.day.end_ns:
            day, month = self._day(ns), self._month(ns)
            kept = self._day(ns - GRACE_NS), self._month(ns - GRACE_NS)
            now = self._now = Periods(day, month, (kept[0].id, kept[1].id))
        return now

    def around(self, ns: int, period: Period) -> tuple[Span, Span, Span]:
        """The period before that of an instant, its own, and the one after."""
        now = self.at(ns).span(period)
        find = self._day if period == "day" else self._month
        return find(now.start_ns - 1), now, find(now.end_ns)

    def day_of(self, ns: int) -> str:
        """The id of any instant's day, without turning away from the present."""
        day = self._named
        if not day.start_ns <= ns < day.end_ns:
            day = self._named = self._day(ns)
        return day.id

    def _day(self, ns: int) -> Span:
        local = self._local(ns)
        start, end = self._midnight(local), self._midnight(local + timedelta(days=1))
        while end <= ns:  # the clock went back over midnight: the new day has begun and goes on
            local += timedelta(days=1)
            start, end = end, self._midnight(local + timedelta(days=1))
        return Span(local.isoformat(), start, end)

    def _month(self, ns: int) -> Span:
        first = self._local(ns).replace(day=1)
        start, end = self._midnight(first), self._midnight(_next_month(first))
        while end <= ns:
            first = _next_month(first)
            start, end = end, self._midnight(_next_month(first))
        return Span(f"{first:%Y-%m}", start, end)

    def _local(self, ns: int) -> date:
        return datetime.fromtimestamp(ns // NS, self._zone).date()

    def _midnight(self, day: date) -> int:
        """The first instant of a local date; inside a skipped hour, the instant of the change."""
        return int(datetime(day.year, day.month, day.day, tzinfo=self._zone).timestamp()) * NS


def _next_month(first: date) -> date:
    return (first + timedelta(days=31)).replace(day=1)
