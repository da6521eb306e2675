"""kill -9 of a real server with AOF everysec, under load: what it acknowledged is there after its restart, though nobody tells it again.

While a sync of the disk is slow, Redis puts its writes off for up to two seconds, and acknowledges all the same: what it
acknowledged last may then be lost to it. Not to the fleet, whose journals tell it again (test_faults.py: a Redis that refuses
connections is killed there, and knows each nano-dollar afterwards).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.link import open_link
from proxy.admit.fleet.ops import Batch, Down, Settle, Take, Want
from proxy.admit.fleet.script import Remote
from tests.support.fleet import budget
from tests.support.valkey import Server, valkey

ROUNDS, PROCESSES, HELD, COST, SPACE = 2, 4, 2, 1, "killed"
PUT_OFF_S = 2.5
CLAIM = budget(10**15)
KEY = f"sluice:{{{SPACE}}}:b:total|budget|total"


@dataclass
class Process:
    """Holds and settles, eight at a time, and remembers what was acknowledged. Its journal is not asked: it has none."""

    name: str
    url: str
    sent: int = 0
    acknowledged: int = 0
    sure: int = 0  # of them, so long ago that the slowest disk has them
    is_over: bool = False

    async def run(self) -> None:
        link = open_link(read_address(self.url))
        remote = Remote(link, instance=self.name, time_zone="UTC", max_keys=100)
        seq = 0
        while not self.is_over:
            seq += 1
            ids = [f"{self.name}-{seq}-{n}" for n in range(8)]
            wants = [Take((), Want(id, (CLAIM,), 1, HELD), time.time_ns()) for id in ids]
            self.sent += len(ids)
            await self._surely(lambda wants=wants: asyncio.gather(*(remote.take(SPACE, want) for want in wants)))
            batch = Batch(seq, tuple([Settle(id, 1, COST) for id in ids]), (), time.time_ns())
            if await self._surely(lambda batch=batch: remote.send(SPACE, batch, asks_run=False)):
                self.acknowledged += len(ids)
        await link.close()

    async def _surely(self, do) -> bool:
        """All of it is idempotent: again, until it is acknowledged or the server is gone."""
        while True:
            try:
                await do()
                return True
            except Down:
                if self.is_over:
                    return False
                await asyncio.sleep(0.01)


async def one_round(server: Server, number: int) -> list[Process]:
    them = [Process(f"r{number}p{n}", server.url) for n in range(PROCESSES)]
    running = [asyncio.ensure_future(one.run()) for one in them]
    async with asyncio.timeout(60):
        while not all(one.acknowledged > 100 for one in them):
            assert not any(task.done() for task in running)
            await asyncio.sleep(0.01)
    for one in them:
        one.sure = one.acknowledged
    await asyncio.sleep(PUT_OFF_S)
    await asyncio.to_thread(server.kill9)
    for one in them:
        one.is_over = True
    await asyncio.gather(*running)
    server.restart()
    return them


async def test_no_acknowledged_settle_is_lost_by_kill_9_of_a_redis_with_aof_everysec():
    with valkey(appendonly=True) as server:
        everybody: list[Process] = []
        for number in range(ROUNDS):
            everybody += await one_round(server, number)
            found = {name.decode(): int(value) for name, value in server.ask("HGETALL", KEY).items()}
            known = {one.name: found.get(f"c:{one.name}", 0) for one in everybody}
            assert all(one.sure * COST <= known[one.name] <= one.sent * COST for one in everybody), (everybody, known)
            assert found["settled"] == sum(known.values())
            assert found["held"] % HELD == 0 and found["held"] <= sum(one.sent - known[one.name] for one in everybody) * HELD
