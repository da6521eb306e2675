"""How much was used in any trailing window, in at most 61 buckets. Never under-counts and never reads a clock."""

from __future__ import annotations

BUCKETS = 60
NONE = -1  # the index of no bucket
NS = 1_000_000_000

Bucket = tuple[int, int, int]  # index, instant of its last event (ns), count: a tuple is smaller, and none for the collector


class Ring:
    """A conservative trailing window (design.md section 4): a bucket counts in full until its last event is a window old.

    All instants are ns; `period_s` is 60, 3600 or 86400 and a bucket is a sixtieth of it. As long as callers add only
    when `wait_ns` is 0, no window of `period_s` seconds, wherever it begins, holds more than the limit.
    """

    __slots__ = ("before", "edge", "index", "last", "older", "period_ns", "total", "width_ns")

    def __init__(self, period_s: int) -> None:
        self.period_ns = period_s * NS
        self.width_ns = self.period_ns // BUCKETS
        self.index, self.last = NONE, 0  # the newest bucket
        self.older: list[Bucket] | None = None  # all before it: most callers never have one
        self.total = self.before = 0  # of all, and of those; the rest is in the newest
        self.edge = 0  # up to here nothing is over that was not, and what comes counts in the newest bucket

    @property
    def buckets(self) -> list[Bucket]:
        """All of them, oldest first."""
        return [] if self.index == NONE else [*(self.older or ()), (self.index, self.last, self.total - self.before)]

    @property
    def is_empty(self) -> bool:
        """Not even what was taken back is in it."""
        return self.index == NONE

    def used(self, now: int) -> int:
        """What counts at `now`; buckets that are over are forgotten."""
        over = now - self.period_ns
        if self.last <= over:  # and so is all before it
            self.index, self.older = NONE, None
            self.last = self.total = self.before = self.edge = 0
            return 0
        older = self.older
        while older and older[0][1] <= over:
            over_now = older.pop(0)[2]
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
        over, index, older = now - self.period_ns, now // self.width_ns, self.older
        if self.last <= over or self.index == NONE:
            self.total = self.before = 0
            self.index, self.last, older = index, now, None
        elif older and older[0][1] <= over:
            self.used(now)
        if self.index < index:
            newest = (self.index, self.last, self.total - self.before)
            if older:
                older.append(newest)
            else:
                older = [newest]
            self.index, self.last, self.before = index, now, self.total
        self.older, edge = older, (self.index + 1) * self.width_ns
        if older and older[0][1] + self.period_ns < edge:
            edge = older[0][1] + self.period_ns
        self.edge = edge

    def adjust(self, at: int, change: int) -> None:
        """Corrects what was added at the instant `at`, if that bucket still counts."""
        index = at // self.width_ns
        if index == self.index:
            self.total += change
            return
        older = self.older or []
        for back, (its, last, count) in enumerate(reversed(older), 1):
            if its == index:
                older[-back] = its, last, count + change
                self.total += change
                self.before += change
                return
            if its < index:
                return

    def wait_ns(self, want: int, limit: int, now: int) -> int | None:
        """ns until `want` more fit under `limit`: 0 for now, None for never (more than the whole limit)."""
        if want > limit:
            return None
        too_much, wait = self.used(now) + want - limit, 0
        if too_much <= 0:
            return 0
        for _, last, count in self.buckets:
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
        late = sum(bucket[1] > now for bucket in buckets)
        if late:
            index, count = now // self.width_ns, sum(bucket[2] for bucket in buckets[-late:])
            self.restore([*buckets[:-late], (index, now, count)])

    def restore(self, buckets: list[Bucket]) -> None:
        *older, (self.index, self.last, newest) = buckets or [(NONE, 0, 0)]
        self.older = [(index, last, count) for index, last, count in older] or None  # as they are read, they are lists
        self.before, self.edge = sum(bucket[2] for bucket in older), 0
        self.total = self.before + newest


def seconds_until_room(wait_ns: int) -> int:
    """Whole seconds for `retry-after`, rounded up so that a call made then does pass; at least 1."""
    return max(1, -(-wait_ns // NS))
