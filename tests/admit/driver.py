"""Not a test: a state in a process of its own, told line by line what to do, so that it can be killed for real.

`driver.py` forks a fresh process (the imports are paid once), says its id and when it has died, and forks the next for a "!".
Between two commands the event loop does not run, unless the command waits: what is unwritten at a kill is known exactly.
`driver.py mutant NAME` does the same with a bug sown.
`driver.py load PATH` holds and settles as fast as it can and says what was acknowledged.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from proxy.admit import admission, limits
from proxy.admit.accounts import Account, Balance
from proxy.admit.counters import Counters
from proxy.admit.embedded import EmbeddedState
from proxy.admit.limits import standings
from proxy.exchange import Row
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.ports import Intent
from proxy.refusal import Refusal

TIER = Claim(
    Limit(
        "tier free", ("caller",), requests=(Rate(6, 60),), tokens=(Rate(100, 60),), spend=(Spend(100, "day"), Spend(250, "month")),
        concurrency=3,
    ),
    "caller=bob",
)  # fmt: skip
TEAM = Claim(Limit("team ops", ("team",), spend=(Spend(400, "total"),), is_shared=True), "team=ops")
CLAIMS = [(), (TIER,), (TEAM,), (TIER, TEAM)]


class HandClock:
    def __init__(self, ns: int) -> None:
        self.ns = self.began = ns

    def now_ns(self) -> int:
        return self.ns

    def monotonic(self) -> float:
        return (self.ns - self.began) / 10**9

    def monotonic_ns(self) -> int:
        return self.ns - self.began


def row(id: str, at: int, cost: int, end: str, kind: str = "first") -> Row:
    source = "estimate" if end == "crashed" else "provider"
    return Row(
        id, id, 1, kind, None, at, "bob", "ops", "free", "openai", "gpt-4o", "chat", None, None, end, 1, 0, 0, 1, 0, {}, source, "",
        cost, cost, None, 1, 1.0, None, 0.1, False,
    )  # fmt: skip


class Driven:
    def __init__(self) -> None:
        self.clock = HandClock(0)
        self.state: EmbeddedState

    async def open(self, path: str, now: int) -> object:
        self.clock = HandClock(now)
        self.state = await EmbeddedState.open(Path(path), clock=self.clock, time_zone="UTC", max_keys=10)
        return self.state.recovery.crashed

    async def wait(self, ns: int) -> None:
        self.clock.ns += ns

    async def enter(self, uid: str, claims: int) -> None:
        await self.state.enter(uid, CLAIMS[claims])

    async def hold(self, id: str, claims: int, nanousd: int, tokens: int) -> None:
        crashed = row(id, self.clock.ns, nanousd, "crashed")
        await self.state.hold(Intent(id, id, CLAIMS[claims], tokens, nanousd, crashed))

    async def settle(self, id: str, nanousd: int, tokens: int) -> None:
        self.state.settle(id, tokens, nanousd, row(id, self.clock.ns, nanousd, "done"))

    async def void(self, id: str) -> None:
        self.state.void(id, row(id, self.clock.ns, 0, "client_gone"))

    async def leave(self, uid: str) -> None:
        self.state.leave(uid)

    async def tick(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def standing(self) -> object:
        now, counters = self.state.now(), self.state._counters
        found = standings(counters, CLAIMS[3], ["caller=bob", "team=ops"], now)
        return [[it.limit, it.kind, it.allowed - it.remaining] for it in found]

    async def rows(self) -> object:
        return [[it["request_id"], it["cost_nanousd"], it["end"]] for it in await self.state.rows(100_000)]

    async def close(self) -> None:
        await self.state.close()


async def serve() -> None:
    driven = Driven()
    for line in sys.stdin:
        command, *arguments = json.loads(line)
        try:
            answer: object = {"answer": await getattr(driven, command)(*arguments)}
        except Refusal as no:
            answer = {"refused": no.code}
        except Exception as problem:
            answer = {"problem": repr(problem)}
        print(json.dumps(answer), flush=True)
        if command == "close":
            return


def fork_for_each_open() -> None:
    while True:
        child = os.fork()
        if not child:
            asyncio.run(serve())
            os._exit(0)
        os.write(2, f"{child}\n".encode())
        os.waitpid(child, 0)
        os.write(2, b"died\n")
        if os.read(0, 1) != b"!":  # "another one, please"; the end of input ends us
            return


async def load(path: str) -> None:
    class RealClock(HandClock):
        def now_ns(self) -> int:
            import time

            return time.time_ns()

        def monotonic(self) -> float:
            import time

            return time.monotonic()

        def monotonic_ns(self) -> int:
            import time

            return time.monotonic_ns()

    state = await EmbeddedState.open(Path(path), clock=RealClock(0), time_zone="UTC", max_keys=10)
    roomy = (Claim(Limit("tier roomy", ("caller",), spend=(Spend(10**15, "total"),)), "caller=bob"),)

    async def calls(worker: int) -> None:
        number = 0
        while True:
            number += 1
            id = f"{os.getpid()}-{worker}-{number}"
            await state.hold(Intent(id, id, roomy, 5, 1000, row(id, 1, 1000, "crashed")))
            os.write(1, f"held {id}\n".encode())
            await asyncio.sleep(0.0005 * (worker % 3))
            state.settle(id, 5, 400, row(id, 1, 400, "done"))
            await asyncio.sleep(0.002)  # longer than a tick
            os.write(1, f"settled {id}\n".encode())

    await asyncio.gather(*(calls(worker) for worker in range(20)))


def sow(mutant: str) -> None:
    """One of the bugs that the state machine must find."""
    real_spend, real_close, closed = limits._spend, Counters.close, {}

    def held_is_ignored(claim, account, spend, want, now):
        blind = Account(spend={period: Balance(it.settled) for period, it in account.spend.items()})
        return real_spend(claim, blind, spend, want, now)

    def settles_twice(self, id, tokens, nanousd):
        hold = self.holds.get(id)
        if hold is not None:
            closed[id] = hold
            return real_close(self, id, tokens, nanousd)
        if id in closed:
            self.settle(closed[id], closed[id].charges, tokens, nanousd)
        return False

    real_recover, real_end = EmbeddedState._recover, EmbeddedState._close

    async def a_crash_is_free(self, *args):
        self._close = lambda id, tokens, nanousd, row: real_end(self, id, tokens, 0, row)
        await real_recover(self, *args)
        del self._close

    if mutant == "held is ignored":
        limits._spend, admission.may_hold = held_is_ignored, lambda *_: False
    elif mutant == "settles twice":
        Counters.close = settles_twice
    elif mutant == "a crash is free":
        EmbeddedState._recover = a_crash_is_free
    else:
        raise ValueError(mutant)


if __name__ == "__main__":
    if sys.argv[1:2] == ["mutant"]:
        sow(sys.argv[2])
    if sys.argv[1:2] == ["load"]:
        asyncio.run(load(sys.argv[2]))
    else:
        fork_for_each_open()
