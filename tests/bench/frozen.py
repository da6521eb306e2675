"""Four sidecars and a Redis that freezes for a minute: what they spent at the provider, of what was left.

`PYTHONPATH=.:tests python tests/bench/frozen.py [seconds]`

Exits 1 where more than the limit was spent, or less than 80 % of what was left could be.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from support import chat
from support.caller import ask
from support.provider import Provider
from support.sluice import sidecar
from support.valkey import valkey

LIMIT, COST = 100_000_000_000, 100_000_000  # nano-dollars: $100; a call holds $1 and costs $0.10
POLICY = """
version: 1
providers: {{openai: {{url: "{url}"}}}}
prices: {{one-dollar: {{input: 0.00, output: 20.00}}}}
limits: [{{name: frozen, per: total, spend: $100/total}}]
"""


def dollars(nanousd: int) -> str:
    return f"${nanousd / 1e9:.2f}"


async def script(seen, reply):
    await reply.json({**chat.whole(), "usage": {"prompt_tokens": 1, "completion_tokens": 5_000, "total_tokens": 5_001}})


async def main(seconds: float) -> int:
    folder = Path(tempfile.mkdtemp(prefix="sluice-frozen-"))
    async with AsyncExitStack() as stack:
        server = stack.enter_context(valkey())
        provider = await stack.enter_async_context(Provider(script))
        sluices = []
        for number in range(4):
            here = folder / str(number)
            here.mkdir()
            args = ("--state", f"{server.url}?journal={here / 'journal'}")
            sluices.append(await stack.enter_async_context(sidecar(here, POLICY.format(url=provider.url), args=args)))
        codes: dict[str, int] = {}
        is_over = False

        async def caller(sluice) -> None:
            while not is_over:
                began = time.monotonic()
                got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked(model="one-dollar", max_tokens=50_000))
                key = f"{got.status} {got.code or ''}"
                codes[key] = codes.get(key, 0) + 1
                await asyncio.sleep(max(0.0, 0.1 - (time.monotonic() - began)))

        calls = [asyncio.ensure_future(caller(one)) for one in sluices]
        await asyncio.sleep(4)
        before = len(provider.seen) * COST
        server.freeze()
        await asyncio.sleep(seconds)
        alone = len(provider.seen) * COST - before
        server.thaw()
        await asyncio.sleep(8)
        is_over = True
        await asyncio.gather(*calls)
        spent, left = len(provider.seen) * COST, LIMIT - before
        deadline = time.monotonic() + 30
        while (known := [int(it) for it in server.ask("HMGET", KEY, "settled", "held")]) != [spent, 0] and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
    share = f"{dollars(alone)} of {dollars(left)} left, {alone / left:.0%}"
    print(f"limit {dollars(LIMIT)}; before {dollars(before)}; frozen {seconds:.0f} s: {share}; in all {dollars(spent)} at the provider")
    print(f"Redis knows {dollars(known[0])} settled and {dollars(known[1])} held; answers {codes}")
    is_good = spent <= LIMIT and alone >= 0.8 * left and known == [spent, 0]
    print("ok" if is_good else "FAILED")
    return 0 if is_good else 1


KEY = "sluice:{default}:b:total|limit frozen|total"

if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0)))
