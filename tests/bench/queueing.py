"""The queue before one Redis that serves a fleet of sidecars, simulated from what its scripts cost. Measures nothing; seeded.

How the sidecars behave is as proxy/admit/fleet/space.py and keys.py have it; the server is one thread that serves in order of arrival.
"""

import heapq
import random
import statistics
from dataclasses import dataclass

from proxy.admit.fleet.keys import EVERY_S
from proxy.admit.fleet.outbox import MOST
from proxy.admit.fleet.space import BEAT_S, GATHER_S

SIDECARS = 1000
STEP = 50  # calls a second


@dataclass(frozen=True)
class Costs:
    """Microseconds of the server's one thread."""

    take: float  # entry and hold of a call
    send: float  # a batch of closes, without them
    op: float  # a close in it
    beat: float  # a heartbeat with its watches
    poll: float  # of the keys


@dataclass(frozen=True)
class Found:
    """Of the holds: from leaving the sidecar to the answer, ms; of the server: the share of time it works."""

    p50: float
    p99: float
    mean_wait: float  # before the server begins, ms
    utilisation: float
    batches: float  # a second
    ops: float  # of a batch, on average


class Fleet:
    """Sidecars, the network and the server; `begin`: from when on it is counted."""

    def __init__(self, costs: Costs, calls: float, sidecars: int, call_s: float, rtt: tuple[float, float], begin: float, seed: int) -> None:
        self.costs, self.calls, self.sidecars, self.call_s, self.rtt, self.begin = costs, calls, sidecars, call_s, rtt, begin
        self.dice = random.Random(seed)
        self.events: list[tuple[float, int, str, int, float]] = []
        self.count = 0
        self.free = self.busy = 0.0  # when the server has done all it was given; how long it has worked since `begin`
        self.unsent, self.is_sending = [0] * sidecars, [False] * sidecars
        self.took: list[float] = []
        self.waits: list[float] = []
        self.batches = self.ops = 0

    def at(self, when: float, what: str, who: int = 0, since: float = 0.0) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, who, since))

    def way(self) -> float:
        """Of a message, seconds."""
        return self.dice.uniform(*self.rtt) / 2

    def serve(self, now: float, cost_us: float) -> float:
        """When the answer leaves."""
        self.free = max(now, self.free) + cost_us / 1e6
        self.busy += cost_us / 1e6 if now >= self.begin else 0.0
        return self.free

    def run(self, until: float) -> None:
        does = {"call": self.call, "take": self.take, "close": self.close, "batch": self.batch, "sent": self.sent}
        does |= {"beat": self.beat, "poll": self.poll}
        while self.events and self.events[0][0] < until:
            now, _, what, who, since = heapq.heappop(self.events)
            does[what](now, who, since)

    def call(self, now: float, who: int, since: float) -> None:
        self.at(now + self.dice.expovariate(self.calls), "call")
        self.at(now + self.way(), "take", self.dice.randrange(self.sidecars), now)

    def take(self, now: float, who: int, since: float) -> None:
        wait = max(0.0, self.free - now)
        answered = self.serve(now, self.costs.take) + self.way()
        if now >= self.begin:
            self.took.append(answered - since)
            self.waits.append(wait)
        self.at(answered + self.dice.expovariate(1 / self.call_s), "close", who)

    def close(self, now: float, who: int, since: float) -> None:
        self.unsent[who] += 2  # settle and leave
        if not self.is_sending[who]:
            self.is_sending[who] = True
            self.at(now + GATHER_S + self.way(), "batch", who)

    def batch(self, now: float, who: int, since: float) -> None:
        ops = min(MOST, self.unsent[who])
        self.unsent[who] -= ops
        if now >= self.begin:
            self.batches, self.ops = self.batches + 1, self.ops + ops
        self.at(self.serve(now, self.costs.send + ops * self.costs.op) + self.way(), "sent", who)

    def sent(self, now: float, who: int, since: float) -> None:
        self.is_sending[who] = self.unsent[who] > 0
        if self.is_sending[who]:
            self.at(now + GATHER_S + self.way(), "batch", who)

    def beat(self, now: float, who: int, since: float) -> None:
        self.serve(now, self.costs.beat)
        self.at(now + BEAT_S, "beat", who)

    def poll(self, now: float, who: int, since: float) -> None:
        self.serve(now, self.costs.poll)
        self.at(now + EVERY_S, "poll", who)


def simulate(
    costs: Costs,
    calls: float,
    *,
    sidecars: int = SIDECARS,
    seconds: float = 10.0,
    seed: int = 1,
    rtt: tuple[float, float] = (3e-4, 5e-4),
    call_s: float = 1.0,
    in_step: bool = False,
) -> Found:
    """`calls` a second of all sidecars together (Poisson), each `call_s` long (exponential); heartbeats at instants of their own, or all
    of them `in_step`. What begins in the first three `call_s` is not counted: closes are not yet as many as holds."""
    fleet = Fleet(costs, calls, sidecars, call_s, rtt, 3 * call_s, seed)
    for who in range(sidecars):
        fleet.at(0.0 if in_step else fleet.dice.random() * BEAT_S, "beat", who)
        fleet.at(0.0 if in_step else fleet.dice.random() * EVERY_S, "poll", who)
    fleet.at(0.0, "call")
    fleet.run(fleet.begin + seconds)
    fleet.took.sort()
    p50, p99 = (1e3 * fleet.took[int(len(fleet.took) * share)] for share in (0.5, 0.99))
    sent = fleet.ops / max(1, fleet.batches)
    return Found(p50, p99, 1e3 * statistics.fmean(fleet.waits), fleet.busy / seconds, fleet.batches / seconds, sent)


def most_calls(costs: Costs, p99_ms: float, sidecars: int = SIDECARS) -> int:
    """Calls a second of all sidecars together at which 99 of 100 holds are answered within `p99_ms`; a multiple of STEP."""
    low, high = 0, int(1e6 / (costs.take + 2 * costs.op)) // STEP + 1
    while high - low > 1:
        middle = (low + high) // 2
        found = simulate(costs, middle * STEP, sidecars=sidecars)
        low, high = (middle, high) if found.p99 < p99_ms and found.utilisation < 1 else (low, middle)
    return low * STEP
