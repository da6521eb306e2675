"""Accounts by columns: whatever windows and money they have, read back they are what each of them counts."""

from __future__ import annotations

import random

import orjson
import pytest

from proxy.admit.accounts import Moment
from proxy.admit.columns import LATELY_NS, rows_of
from proxy.admit.counters import Counters
from proxy.admit.periods import Calendar
from proxy.admit.windows import NS

KEYS = [("requests", 60), ("tokens", 60), ("tokens", 3600)]
PERIODS = ["2026-11-21", "2026-11", "total", "2026-11-01"]
NAMES = [f"caller={number}" for number in range(30)]


def counted(draw: random.Random, now: int) -> Counters:
    """Mostly alike, as accounts of one limit are; some that lack something, that stand on less, or on what is past."""
    counters, most = Counters(99), draw.choice([3, 2])
    for name in NAMES:
        account = counters.account("each", name)
        for key in draw.sample(KEYS, draw.choice([most, most, most, 0, 1])):
            for ago in sorted(draw.choices([0, 1, 20, 61, 700, 3700], k=draw.choice([0, 1, 3])), reverse=True):
                account.ring(key).add(draw.randrange(400), now - ago * NS)
        for period in draw.sample(PERIODS, draw.choice([most, most, most, 0, 1])):
            balance = account.balance(period)
            balance.settled, balance.held = draw.choice([0, 7, 10**12]), draw.choice([0, 0, 5])
        account.in_flight = draw.choice([0, 0, 0, 1])
    return counters


def plainly(counters: Counters, names: list[str], now: Moment) -> dict[str, tuple[dict, dict]]:
    """Name to windows that are not over and what is settled; none of those on which nothing counts."""
    told = {}
    for name in names:
        if (account := counters.find("each", name)) is None:
            continue
        rings = {key: [bucket for bucket in ring.buckets] for key, ring in account.rings.items() if ring.last > now.ns - ring.period_ns}
        spend = {id: it.settled for id, it in account.spend.items() if it.settled}
        if rings or spend:
            told[name] = rings, spend
    return told


@pytest.mark.parametrize("seed", range(60))
def test_what_is_told_of_accounts_is_read_back_as_it_was_and_nothing_that_counts_is_forgotten(seed, clock):
    draw, now = random.Random(seed), Moment(clock.wall, Calendar("UTC").at(clock.wall))
    counters = counted(draw, now.ns)
    before = {name: account.is_idle(now) for name, account in counted(random.Random(seed), now.ns).books["each"].items()}
    columns = orjson.loads(orjson.dumps(counters.told("each", [*NAMES, "nobody"], now)))
    told = [row for some in columns for row in rows_of("each", now.ns, some)]
    read = Counters(99)
    for row in told:
        read.restore(*row)
    found = plainly(counters, NAMES, now)
    assert plainly(read, NAMES, now) == found
    assert len(told) == len(found)
    for name in NAMES:
        account = counters.find("each", name)
        assert account is not None or before[name], "what counts is there"
        if account is None:
            continue
        assert not before[name] or name in found or any(ring.last > now.ns - LATELY_NS for ring in account.rings.values())
        assert not any(not it.held and now.periods.is_past(id) for id, it in account.spend.items()), "what is past is gone"


def test_where_all_are_alike_one_set_of_columns_tells_of_them(clock):
    counters, now = Counters(99), Moment(clock.wall, Calendar("UTC").at(clock.wall))
    for number, name in enumerate(NAMES):
        account = counters.account("each", name)
        account.ring(("tokens", 60)).add(number, now.ns)
        account.balance("2026-11").settled = number + 1
    ((names, windows, money),) = counters.told("each", NAMES, now)
    assert (names, money) == (NAMES, [("2026-11", [*range(1, 31)])])
    assert windows == [("tokens", 60, [(now.ns, number, None) for number in range(30)])]
    counters.account("each", NAMES[3]).balance("total").settled = 1
    assert [len(names) for names, _, _ in counters.told("each", NAMES, now)] == [29, 1]
