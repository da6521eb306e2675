"""How exact the shipped script is, on a real server, with time from a test prelude only. Real time: `make accuracy`."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import redis

from proxy.admit.fleet.ops import Entry
from proxy.policy.plan import Claim, Limit, Rate
from tests.support.arrivals import PATTERNS, Pattern, Record, at_the_edge
from tests.support.scripted_store import ScriptedStore
from tests.support.valkey import valkey

S = 10**9
NOON = 1_795_262_400 * S
LIMIT, MINUTES = 60, 15


@dataclass
class HandClock:
    ns: int = NOON

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return self.ns / S

    def monotonic_ns(self) -> int:
        return self.ns


@pytest.fixture(scope="module")
def client() -> Iterator[redis.Redis]:
    with valkey() as server, redis.Redis(port=server.port) as client:
        yield client


def measured(client: redis.Redis, pattern: Pattern, load: float) -> Record:
    """A simulated run; every wrong refusal is one of at most a bucket: a second later there is room."""
    clock = HandClock()
    store = ScriptedStore(client, clock)
    claims = (Claim(Limit("tier free", ("caller",), requests=(Rate(LIMIT, 60),)), "caller=bob"),)
    record = Record(LIMIT, 60 * S)
    for number, at in enumerate(pattern(load * LIMIT / 60, random.Random(7))):
        if at >= MINUTES * 60:
            return record
        clock.ns = NOON + int(at * 10**6) * 1000
        taken = store.process.take(Entry(f"c{number}", claims))
        if record.note(taken.at_ns, not taken.denied):
            assert taken.denied[0].wait_ns <= S
    raise AssertionError("arrivals have no end")


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_at_nine_tenths_of_the_limit_hardly_anyone_is_refused_wrongly(client: redis.Redis, pattern: Pattern) -> None:
    record = measured(client, pattern, 0.9)
    assert record.most <= LIMIT
    assert record.share_wrongly_refused <= 0.025, record.share_wrongly_refused


@pytest.mark.parametrize("pattern", [*PATTERNS.values(), at_the_edge], ids=[*PATTERNS, "at the edge"])
def test_no_minute_wherever_it_begins_holds_more_than_the_limit(client: redis.Redis, pattern: Pattern) -> None:
    record = measured(client, pattern, 2.5)
    assert record.most == LIMIT, "all of it can be used, and no more"


def test_not_even_bursts_on_both_sides_of_each_minute_are_kept_waiting_for_more_than_a_bucket(client: redis.Redis) -> None:
    """The worst case of one-second buckets: all of a minute's calls within one of them. `measured` holds each refusal to a second."""
    assert measured(client, at_the_edge, 0.9).most <= LIMIT
