#!/usr/bin/env python3
"""`make crash`: kill -9 of a sidecar under load, fifty times, and after each start what must be true of its ledger, rates and slots.

    tests/bench/crash.py [-n ROUNDS] [--durability process|disk] [--paced CALLS_A_MINUTE]

Ends with 1 and the first difference where one of them is not. The suite runs the same for a few rounds (tests/wire/test_money.py).
"""

import argparse
import asyncio
import pathlib
import sys
import tempfile
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
EDGE_S = 59.0  # a call reaches the provider up to a second after it was admitted: arrivals of so long were admitted within a minute


async def run(rounds: int, durability: str, paced: int) -> None:
    sys.path[:0] = [str(TESTS), str(TESTS.parent)]
    from support import chat, crashes
    from support.provider import Provider
    from support.sluice import sidecar

    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="sluice-crash-") as folder:
        async with Provider(chat.good) as provider:
            policy = crashes.POLICY.format(url=provider.url, durability=durability, paced=paced)
            async with sidecar(pathlib.Path(folder), policy) as sluice:
                them = crashes.Crashes(sluice)
                provider.script = them.script
                figures = {}
                for number in range(rounds):
                    await them.round(0.4 + them.dice.random() * 0.8)
                    figures = await them.check()
                    print(f"{number + 1:3} kills: {figures}", file=sys.stderr)
                most = them.most_in_a_minute(EDGE_S)
                assert most <= paced, f"{most} calls within {EDGE_S:.0f} s on a limit of {paced}"
                await them.check_slots(provider)
    start = sorted(them.started_s)
    print(
        f"{rounds} kills in {time.monotonic() - began:.0f} s, durability {durability}\n"
        f"attempts that the provider saw: {len(them.arrived)}; rows: {figures['attempts']}; unaccounted: 0; booked twice: 0\n"
        f"closed as crashed at their estimate: {figures['crashed']}; answered before the kill and exact: {figures['exact']}\n"
        f"calls sent: {len(them.sent)}; admitted within any minute: {most} of {paced} allowed; slots taken by the dead: 0 of 24\n"
        f"start after a kill: median {start[len(start) // 2]:.2f} s, longest {start[-1]:.2f} s"
    )


def main() -> None:
    args = argparse.ArgumentParser()
    args.add_argument("-n", "--rounds", type=int, default=50)
    args.add_argument("--durability", choices=("process", "disk"), default="process")
    args.add_argument("--paced", type=int, default=700)
    given = args.parse_args()
    try:
        asyncio.run(run(given.rounds, given.durability, given.paced))
    except AssertionError as difference:
        sys.exit(f"crash: {difference}")


if __name__ == "__main__":
    main()
