"""How exact the shared limiter is in real time: the shipped scripts on a real server through the real link, four processes' worth of
tasks, for three minutes. `make accuracy`, or `python -m tests.bench.accuracy [SECONDS]`, 90 at least. Fails where a figure is missed."""

from __future__ import annotations

import asyncio
import random
import sys
import time

from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.link import open_link
from proxy.admit.fleet.ops import Batch, Entry, Leave, Take
from proxy.admit.fleet.script import Remote
from proxy.policy.plan import Claim, Limit, Rate
from tests.support.arrivals import PATTERNS, Pattern, Record, at_the_edge
from tests.support.valkey import valkey

S = 10**9
LIMIT, SIDECARS = 120, 4
MOST_WRONG = 0.025


async def measured(remotes: list[Remote], name: str, pattern: Pattern, load: float, seconds: float) -> Record:
    """Calls arrive at any of the sidecars. Instants are the server's."""
    claims = (Claim(Limit(name, ("total",), requests=(Rate(LIMIT, 60),)), "total"),)
    seen: list[tuple[int, bool]] = []
    dice = random.Random(7)

    async def call(number: int) -> None:
        remote = dice.choice(remotes)
        taken = await remote.take("accuracy", Take((Entry(f"{name}-{number}", claims),), None, time.time_ns()))
        seen.append((taken.at_ns, not taken.denied))

    began = time.monotonic()
    async with asyncio.TaskGroup() as calls:
        for number, at in enumerate(pattern(load * LIMIT / 60, random.Random(3))):
            if at >= seconds:
                break
            await asyncio.sleep(max(0.0, began + at - time.monotonic()))
            calls.create_task(call(number))
    record = Record(LIMIT, 60 * S)
    for instant, is_admitted in sorted(seen, key=lambda it: it[0]):
        record.note(instant, is_admitted)
    return record


async def main(seconds: float) -> int:
    with valkey(appendonly=True) as server:
        links = [open_link(read_address(server.url)) for _ in range(SIDECARS)]
        remotes = [Remote(link, instance=f"s{at}", time_zone="UTC", max_keys=100) for at, link in enumerate(links)]
        for remote in remotes:
            await remote.send("accuracy", Batch(1, (Leave("nobody"),), (), time.time_ns()), asks_run=False)
        cases = [
            (f"{name} {load}", pattern, load) for load in (0.9, 2.5) for name, pattern in [*PATTERNS.items(), ("at the edge", at_the_edge)]
        ]
        records = await asyncio.gather(*(measured(remotes, name, pattern, load, seconds) for name, pattern, load in cases))
        for link in links:
            await link.close()
    print(f"limit {LIMIT} per minute, {SIDECARS} sidecars, {seconds:.0f} s, valkey with AOF everysec")
    missed = 0
    for (name, _, load), record in zip(cases, records, strict=True):
        is_missed = record.most > LIMIT or (load < 1 and not name.startswith("at the edge") and record.share_wrongly_refused > MOST_WRONG)
        missed += is_missed
        most, wrong = record.most / LIMIT, record.share_wrongly_refused
        print(
            f"  {name:16} {record.calls:5} calls, most in any 60 s {most:.3f} x limit, wrongly refused {wrong:.2%}{' MISSED' * is_missed}"
        )
    return missed


if __name__ == "__main__":
    sys.exit(asyncio.run(main(max(90.0, float(sys.argv[1])) if sys.argv[1:] else 180.0)))
