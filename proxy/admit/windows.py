"""How much was used in any trailing window, in at most 61 buckets. Never under-counts and never reads a clock."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

BUCKETS = 60
NS = 1_000_000_000
NEVER = 2**63  # no bucket begins then; and minus it, the last event of none

Bucket = tuple[int, int]  # instant of its last event (ns), count: a tuple is smaller, and none for the collector


class Span:
    """A period and how wide its buckets are: one for all rings of it, which mostly ask about the same bucket, the present one."""

    __slots__ = ("begin", "end", "period_ns", "width_ns")

    def __init__(self, period_s: int) -> None:
        self.period_ns = period_s * NS
        self.width_ns = self.period_ns // BUCKETS
        self.begin = self.end = 0  # of the bucket that was asked for last

    def look(self, now: int) -> None:
        self.begin = now - now % self.width_ns
        self.end = self.begin + self.width_ns


@lru_cache(maxsize=64)
def span_of(period_s: int) -> Span:
    return Span(period_s)


class Ring:
    """A conservative trailing window (design.md section 4): a bucket counts in full until its last event is a window old.

    All instants are ns; `period_s` is 60, 3600 or 86400 and a bucket is a sixtieth of it. As long as callers add only
    when `wait_ns` is 0, no window of `period_s` seconds, wherever it begins, holds more than the limit.
    """

    __slots__ = ("before", "begin", "edge", "last", "older", "period_ns", "span", "total")

    def __init__(self, period_s: int) -> None:
        self.span = span = span_of(period_s)
        self.period_ns = span.period_ns
        self.begin, self.last = NEVER, -NEVER  # of the newest bucket: where it begins, and its last event
        self.older: list[Bucket] | None = None  # all before it: most callers never have one
        self.total = self.before = 0  # of all, and of those; the rest is in the newest
        self.edge = 0  # up to here nothing is over that was not, and what comes counts in the newest bucket

    @property
    def buckets(self) -> list[Bucket]:
        """All of them, oldest first."""
        return [] if self.begin == NEVER else [*(self.older or ()), (self.last, self.total - self.before)]

    @property
    def is_empty(self) -> bool:
        """Not even what was taken back is in it."""
        return self.begin == NEVER

    def used(self, now: int) -> int:
        """What counts at `now`; buckets that are over are forgotten."""
        over = now - self.period_ns
        if self.last <= over:  # and so is all before it
            self.begin, self.last, self.older = NEVER, -NEVER, None
            self.total = self.before = self.edge = 0
            return 0
        older = self.older
        while older and older[0][0] <= over:
            over_now = older.pop(0)[1]
            self.total -= over_now
            self.before -= over_now
            self.edge = 0
        return self.total

    def has_room(self, want: int, limit: int, now: int) -> bool:
        """Is `wait_ns` 0? What is over is forgotten only where it matters."""
        return self.total + want <= limit or self.used(now) + want <= limit

    def add(self, count: int, now: int) -> None:
        if now >= self.edge:
            self.turn(now)
        if now > self.last:
            self.last = now
        self.total += count

    def turn(self, now: int) -> None:
        """Forgets what is over and begins a bucket, if it is time to."""
        span, older, over = self.span, self.older, now - self.period_ns
        if not span.begin <= now < span.end:
            span.look(now)
        if self.last <= over:
            self.total = self.before = 0
            self.begin, self.edge, self.last, self.older = span.begin, span.end, now, None
            return
        if older and older[0][0] <= over:
            self.used(now)
        if self.begin < span.begin:
            newest, edge = (self.last, self.total - self.before), span.end
            if older:
                older.append(newest)
            else:
                self.older = older = [newest]
            self.begin, self.last, self.before = span.begin, now, self.total
        else:
            edge = self.begin + span.width_ns
        if older and older[0][0] + self.period_ns < edge:
            edge = older[0][0] + self.period_ns
        self.edge = edge

    def adjust(self, at: int, change: int) -> None:
        """Corrects what was added at the instant `at`, if that bucket still counts."""
        width, older = self.span.width_ns, self.older or []
        if self.begin <= at < self.begin + width:
            self.total += change
            return
        begin = at - at % width
        for back, (last, count) in enumerate(reversed(older), 1):
            if last < begin:
                return
            if last < begin + width:
                older[-back] = last, count + change
                self.total += change
                self.before += change
                return

    def wait_ns(self, want: int, limit: int, now: int) -> int | None:
        """ns until `want` more fit under `limit`: 0 for now, None for never (more than the whole limit)."""
        if want > limit:
            return None
        too_much, wait = self.used(now) + want - limit, 0
        if too_much <= 0:
            return 0
        for last, count in self.buckets:
            if too_much <= 0:
                break
            too_much -= count
            wait = last + self.period_ns - now
        return wait

    def empty_at(self, now: int) -> int:
        """The instant from which nothing of today's use counts any more; `now` for an empty window."""
        return self.last + self.period_ns if self.used(now) else now

    def no_later_than(self, now: int) -> None:
        """After a start with a clock that went back: what lies in the future counts as used now."""
        buckets = self.buckets
        late = sum(last > now for last, _ in buckets)
        if late:
            self.restore([*buckets[:-late], (now, sum(count for _, count in buckets[-late:]))])

    def restore(self, buckets: Sequence[Sequence[int]]) -> None:
        """Oldest first; one of an older version begins with its number, which follows from its last event."""
        older = [(bucket[-2], bucket[-1]) for bucket in buckets[:-1]]
        self.last, newest = buckets[-1][-2:] if buckets else (-NEVER, 0)
        self.begin = self.last - self.last % self.span.width_ns if buckets else NEVER
        self.older, self.edge = older or None, 0
        self.before = sum([count for _, count in older])
        self.total = self.before + newest


def seconds_until_room(wait_ns: int) -> int:
    """Whole seconds for `retry-after`, rounded up so that a call made then does pass; at least 1."""
    return max(1, -(-wait_ns // NS))
