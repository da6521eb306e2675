from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.windows import NS, Ring, seconds_until_room

START = 1_795_262_400 * NS


@pytest.mark.parametrize("period_s", [60, 3600, 86400])
@given(data=st.data())
def test_no_window_ever_holds_more_than_the_limit(period_s: int, data: st.DataObject) -> None:
    limit = data.draw(st.integers(1, 8))
    gaps = st.integers(0, period_s * NS // 3) | st.sampled_from([0, 1, NS, period_s * NS // 60, period_s * NS, period_s * NS - 1])
    ring, now, admitted = Ring(period_s), START, []
    for gap, count in data.draw(st.lists(st.tuples(gaps, st.integers(1, 3)), max_size=60)):
        now += gap
        if ring.wait_ns(count, limit, now) == 0:
            ring.add(count, now)
            admitted.append((now, count))
    for end, _ in admitted:
        assert sum(count for at, count in admitted if end - period_s * NS < at <= end) <= limit
    assert len(ring.buckets) <= 61


@given(
    events=st.lists(st.tuples(st.integers(0, 20 * NS), st.integers(1, 5)), min_size=1, max_size=40),
    want=st.integers(0, 9),
    limit=st.integers(1, 9),
)
def test_who_waits_as_told_is_admitted_and_is_never_told_more_than_the_window(events: list[tuple[int, int]], want: int, limit: int) -> None:
    ring, now = Ring(60), START
    for gap, count in events:
        now += gap
        ring.add(count, now)
    wait = ring.wait_ns(want, limit, now)
    if want > limit:
        assert wait is None
        return
    assert wait is not None
    assert wait <= 60 * NS
    if wait:
        assert ring.wait_ns(want, limit, now + wait - 1) != 0
    assert ring.wait_ns(want, limit, now + seconds_until_room(wait) * NS) == 0


class Naive:
    """The same in the plainest way: buckets by number, each with its last event and its count."""

    def __init__(self, period_s: int) -> None:
        self.period_ns, self.width_ns = period_s * NS, period_s * NS // 60
        self.buckets: dict[int, tuple[int, int]] = {}

    def live(self, now: int) -> list[tuple[int, int]]:
        return [(last, count) for _, (last, count) in sorted(self.buckets.items()) if last > now - self.period_ns]

    def add(self, count: int, now: int) -> None:
        self.buckets[now // self.width_ns] = now, self.buckets.get(now // self.width_ns, (0, 0))[1] + count

    def adjust(self, at: int, change: int) -> None:
        if at // self.width_ns in self.buckets:
            last, count = self.buckets[at // self.width_ns]
            self.buckets[at // self.width_ns] = last, count + change


@given(data=st.data())
def test_whatever_is_added_and_corrected_when_it_counts_what_the_plainest_window_counts(data: st.DataObject) -> None:
    """Two windows of one length at instants of their own: what they share tells neither of the other."""
    period_s = data.draw(st.sampled_from([60, 3600]))
    gaps = st.integers(0, period_s * NS // 3) | st.sampled_from([0, 1, period_s * NS // 60, period_s * NS, period_s * NS - 1])
    rings, naives, now = [Ring(period_s), Ring(period_s)], [Naive(period_s), Naive(period_s)], [START, START + 7 * NS]
    added: list[list[int]] = [[], []]
    for which, gap, what, count in data.draw(
        st.lists(st.tuples(st.integers(0, 1), gaps, st.sampled_from(["add", "add", "adjust", "used", "kept"]), st.integers(0, 300)))
    ):
        now[which] += gap
        ring, naive, at = rings[which], naives[which], now[which]
        if what == "add":
            ring.add(count, at)
            naive.add(count, at)
            added[which].append(at)
        elif what == "adjust":
            of = data.draw(st.sampled_from([*added[which], at]))
            ring.adjust(of, -count)
            naive.adjust(of, -count)
        elif what == "kept":
            live = naive.live(at)
            rings[which] = ring = Ring(period_s)
            ring.restore([[last // naive.width_ns, last, count] for last, count in live] if count % 2 else live)
        else:
            assert ring.used(at) == sum(count for _, count in naive.live(at))
            assert ring.buckets == naive.live(at) or (not ring.total and not naive.live(at))
    for ring, naive, at in zip(rings, naives, now, strict=True):
        assert ring.used(at) == sum(count for _, count in naive.live(at))


def test_at_nine_tenths_of_the_rate_hardly_anyone_is_refused_wrongly() -> None:
    """Even spacing, so that an exact log would refuse nobody: neither does the ring but for the width of a bucket."""
    ring, refused = Ring(60), 0
    for number in range(2000):
        now = START + number * (60 * NS * 10) // (60 * 9)
        if ring.wait_ns(1, 60, now) == 0:
            ring.add(1, now)
        else:
            refused += 1
    assert refused / 2000 <= 0.025


def test_a_refund_makes_room_at_once() -> None:
    ring = Ring(60)
    ring.add(90, START)
    assert ring.wait_ns(20, 100, START + NS) == 59 * NS
    ring.adjust(START, -50)
    assert ring.wait_ns(20, 100, START + NS) == 0


def test_a_correction_of_what_is_out_of_the_window_changes_nothing() -> None:
    ring = Ring(60)
    ring.add(5, START)
    ring.add(1, START + 61 * NS)
    ring.adjust(START, 70)
    ring.adjust(START + 30 * NS, 70)
    ring.adjust(START + 62 * NS, 70)
    assert ring.used(START + 61 * NS) == 1
    empty = Ring(60)
    empty.adjust(START, 5)
    assert empty.used(START) == 0


def test_it_says_when_all_is_free_again() -> None:
    ring = Ring(60)
    assert ring.empty_at(START) == START
    ring.add(1, START)
    assert ring.empty_at(START + NS) == START + 60 * NS


def test_a_clock_put_back_counts_the_future_as_now() -> None:
    ring = Ring(60)
    ring.restore([[(START - 30 * NS) // NS, START - 30 * NS, 1], [START // NS + 3600, START + 3600 * NS, 2]])
    ring.no_later_than(START)
    assert ring.used(START) == 3
    assert ring.used(START + 30 * NS) == 2
    assert ring.used(START + 60 * NS) == 0


def test_an_instant_before_the_newest_counts_with_the_newest() -> None:
    ring = Ring(60)
    ring.add(1, START)
    ring.add(1, START - 5 * NS)
    assert ring.used(START + 59 * NS) == 2


def test_a_wait_is_whole_seconds_rounded_up() -> None:
    assert [seconds_until_room(ns) for ns in (0, 1, NS, NS + 1, 60 * NS)] == [1, 1, 1, 2, 60]
