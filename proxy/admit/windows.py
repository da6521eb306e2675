"""How much was used in any trailing window, in at most 61 buckets. Never under-counts and never reads a clock."""

from __future__ import annotations

from collections import deque

BUCKETS = 60
NS = 1_000_000_000

Bucket = list[int]  # index, instant of its last event (ns), count


class Ring:
    """A conservative trailing window (design.md section 4): a bucket counts in full until its last event is a window old.

    All instants are ns; `period_s` is 60, 3600 or 86400 and a bucket is a sixtieth of it. As long as callers add only
    when `wait_ns` is 0, no window of `period_s` seconds, wherever it begins, holds more than the limit.
    """

    __slots__ = ("buckets", "edge", "period_ns", "total", "width_ns")

    def __init__(self, period_s: int) -> None:
        self.period_ns = period_s * NS
        self.width_ns = self.period_ns // BUCKETS
        self.buckets: deque[Bucket] = deque()
        self.total = 0
        self.edge = 0  # up to here nothing is over that was not, and what comes counts in the newest bucket

    def used(self, now: int) -> int:
        """What counts at `now`; buckets that are over are forgotten."""
        buckets, over = self.buckets, now - self.period_ns
        while buckets and buckets[0][1] <= over:
            self.total -= buckets.popleft()[2]
            self.edge = 0
        return self.total

    def has_room(self, want: int, limit: int, now: int) -> bool:
        """Is `wait_ns` 0? What is over is forgotten only where it matters."""
        return self.total + want <= limit or self.used(now) + want <= limit

    def add(self, count: int, now: int) -> None:
        if now >= self.edge:
            self._turn(now)
        newest = self.buckets[-1]
        if now > newest[1]:
            newest[1] = now
        newest[2] += count
        self.total += count

    def _turn(self, now: int) -> None:
        """Forgets what is over and begins a bucket, if it is time to."""
        self.used(now)
        index = now // self.width_ns
        if not self.buckets or self.buckets[-1][0] < index:
            self.buckets.append([index, now, 0])
        self.edge = min((self.buckets[-1][0] + 1) * self.width_ns, self.buckets[0][1] + self.period_ns)

    def adjust(self, at: int, change: int) -> None:
        """Corrects what was added at the instant `at`, if that bucket still counts."""
        index = at // self.width_ns
        for bucket in reversed(self.buckets):
            if bucket[0] == index:
                bucket[2] += change
                self.total += change
                return
            if bucket[0] < index:
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
        return self.buckets[-1][1] + self.period_ns if self.used(now) else now

    def no_later_than(self, now: int) -> None:
        """After a start with a clock that went back: what lies in the future counts as used now."""
        late = [bucket for bucket in self.buckets if bucket[1] > now]
        if late:
            self.edge = 0
            for _ in late:
                self.buckets.pop()
            self.buckets.append([now // self.width_ns, now, sum(bucket[2] for bucket in late)])

    def restore(self, buckets: list[Bucket]) -> None:
        self.buckets = deque(list(bucket) for bucket in buckets)
        self.total, self.edge = sum(bucket[2] for bucket in buckets), 0


def seconds_until_room(wait_ns: int) -> int:
    """Whole seconds for `retry-after`, rounded up so that a call made then does pass; at least 1."""
    return max(1, -(-wait_ns // NS))
