"""What the guard takes for a request body that holds nothing: µs at 1, 8 and 100 kB, all classes on. Owed: 40 at 8 kB, 250 at 100 kB.

PYTHONPATH=. tests/bench/clean_text.py
"""

from __future__ import annotations

import json
import sys
import timeit
from collections.abc import Callable
from functools import partial
from types import MappingProxyType

from proxy.dialect import dialect_of
from proxy.guard.mask import inspect
from proxy.policy.plan import ENTITIES, GuardRules
from proxy.stream.body import read_json

PROSE = "Please summarise the ticket for the customer in Leeds: the parcel left in March, was scanned twice.\n"
OWED_US = {1: None, 8: 40, 100: 250}
RULES = GuardRules(MappingProxyType(dict.fromkeys(ENTITIES, "mask")), restore=True)


def us(do: Callable[[], object]) -> float:
    return min(timeit.repeat(do, number=200, repeat=7)) / 200 * 1e6


def main() -> int:
    dialect = dialect_of("openai")
    surface = dialect.surface(dialect.operation("POST", "/v1/chat/completions", ""))
    is_kept = True
    for kb, owed in OWED_US.items():
        raw = json.dumps({"model": "m", "messages": [{"role": "user", "content": (PROSE * (kb * 11))[: kb * 1000]}]}).encode()
        assert inspect(raw, surface, RULES) is None
        guard, reading = us(partial(inspect, raw, surface, RULES)), us(partial(read_json, raw))
        is_kept = is_kept and (owed is None or guard <= owed)
        print(f"{kb:4} kB  guard {guard:6.1f} µs  (owed {owed or '-'})  reading the JSON {reading:6.1f} µs")
    return 0 if is_kept else 1


if __name__ == "__main__":
    sys.exit(main())
