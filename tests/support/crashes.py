"""kill -9 of a real sidecar under load, again and again, and what must be true after each start. Used by the suite and by `make crash`."""

from __future__ import annotations

import asyncio
import collections
import random
import time
from dataclasses import dataclass, field

from support import chat
from support.caller import Caller
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice

CALLERS = 20
PACED = "gpt-4o-mini"  # the model whose rate is limited so that the load reaches it
TICK_S = 0.25  # an answer this much older than the kill has been booked, also on a slow machine
POLICY = """
version: 1
durability: {durability}
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: money, per: caller, requests: 100000/min, spend: $100000/total}}
  - {{name: paced, per: total, match: {{model: gpt-4o-mini}}, requests: {paced}/min}}
  - {{name: slots, per: total, concurrency: 24}}
breaker: off
"""


@dataclass
class Crashes:
    sluice: Sluice
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    sent: list[str] = field(default_factory=list)
    answered: dict[str, float] = field(default_factory=dict)  # whole answers of 200, and when
    arrived: list[tuple[float, str, str]] = field(default_factory=list)  # at the provider: when, call, model
    kills: list[float] = field(default_factory=list)
    started_s: list[float] = field(default_factory=list)

    async def script(self, seen: Seen, reply: Reply) -> None:
        """A provider that is slow now and then, fails now and then, and dies in the middle of a stream now and then."""
        self.arrived.append((time.monotonic(), seen.header("x-request-id") or "", seen.json["model"]))
        await asyncio.sleep(self.dice.random() * 0.05)
        roll = self.dice.random()
        if roll < 0.1:
            await reply.json(chat.error(), 503, [("retry-after-ms", "1")])
        elif not seen.json.get("stream"):
            await reply.json(chat.whole())
        else:
            await reply.start()
            await reply.event(chat.delta(None))
            for _ in range(5):
                await reply.event(chat.delta("word "))
                await asyncio.sleep(0.01)
            if roll < 0.2:
                reply.abort()
            else:
                await chat.stream_end(reply)

    async def round(self, seconds: float) -> None:
        """Load, kill, start. On a slow machine the load lasts longer: until one of its answers has surely been booked."""
        stop, began = asyncio.Event(), time.monotonic()
        load = [asyncio.ensure_future(self._caller(number, stop)) for number in range(CALLERS)]
        await asyncio.sleep(seconds)
        async with asyncio.timeout(30):
            while not any(began < at < time.monotonic() - TICK_S for at in self.answered.values()):
                await asyncio.sleep(0.02)
        self.kills.append(time.monotonic())
        await self.sluice.kill()
        stop.set()
        await asyncio.gather(*load)
        began = time.monotonic()
        await self.sluice.start()
        self.started_s.append(time.monotonic() - began)

    async def _caller(self, number: int, stop: asyncio.Event) -> None:
        dice = random.Random(len(self.kills) * CALLERS + number)
        while not stop.is_set():
            name = f"call-{len(self.sent)}"
            self.sent.append(name)
            body = chat.asked(stream=dice.random() < 0.5, model=PACED if number % 4 == 0 else "gpt-4o")
            try:
                async with Caller(self.sluice.port) as one:
                    await one.send("POST", chat.TARGET, [chat.JSON, chat.KEY, ("X-Request-Id", name)], body)
                    if dice.random() < 0.1:
                        await asyncio.sleep(0.01)
                        continue  # and gone
                    if (await one.answer()).status == 200:
                        self.answered[name] = time.monotonic()
                    else:
                        await asyncio.sleep(0.02)
            except Exception:
                await asyncio.sleep(0.01)

    async def check(self) -> dict[str, int]:
        """After a start: one row for each attempt that the provider saw, exact where the answer was whole, else at its estimate."""
        rows = [row for row in await self.sluice.rows() if row["kind"] != "refusal"]
        seen = collections.Counter(name for _, name, _ in self.arrived)
        booked = collections.Counter(row["request_id"] for row in rows)
        unaccounted = {name: count for name, count in seen.items() if booked[name] < count}
        assert unaccounted == {}, "seen and not booked"
        on_the_way = collections.Counter(row["request_id"] for row in rows if row["end"] in ("crashed", "client_gone"))
        assert all(booked[name] - seen[name] <= on_the_way[name] for name in booked), "booked, not seen, and neither crashed nor cut"
        ids = [(row["request_id"], row["attempt"]) for row in rows]
        assert len(set(ids)) == len(ids), "booked twice"
        crashed = [row for row in rows if row["end"] == "crashed"]
        assert all(row["usage_source"] == "estimate" and row["cost_nanousd"] == row["held_nanousd"] > 0 for row in crashed)
        last = {row["request_id"]: row for row in rows}
        sure = [name for name, at in self.answered.items() if not any(kill - TICK_S < at < kill + 1 for kill in self.kills)]
        for name in sure:
            row = last[name]
            figures = (row["usage_source"], row["end"], row["input_tokens"], row["output_tokens"])
            assert figures == ("provider", "done", chat.INPUT, chat.OUTPUT), (name, row)
        return {"attempts": len(rows), "crashed": len(crashed), "exact": len(sure)}

    def most_in_a_minute(self, window_s: float = 60.0) -> int:
        """Calls of the paced model that reached the provider within any `window_s`."""
        first: dict[str, float] = {}
        for at, name, model in self.arrived:
            if model == PACED:
                first.setdefault(name, at)
        times, most, begin = sorted(first.values()), 0, 0
        for end, at in enumerate(times):
            while times[begin] <= at - window_s:
                begin += 1
            most = max(most, end - begin + 1)
        return most

    async def check_slots(self, provider: Provider) -> None:
        """None of the 24 slots is taken by a process that is dead."""
        gate, inside = asyncio.Event(), 0

        async def waits(seen: Seen, reply: Reply) -> None:
            nonlocal inside
            inside += 1
            await gate.wait()
            await reply.json(chat.whole())

        async def call() -> int:
            async with Caller(self.sluice.port) as one:
                return (await one.ask("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status

        provider.script = waits
        calls = [asyncio.ensure_future(call()) for _ in range(25)]
        async with asyncio.timeout(20):
            while inside < 24 or not any(one.done() for one in calls):
                await asyncio.sleep(0.01)
        gate.set()
        assert sorted(await asyncio.gather(*calls)) == [200] * 24 + [429]
