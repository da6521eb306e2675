#!/usr/bin/env python3
"""`make bench-growth`: how the cost of a call grows. Needs a C compiler and Linux; ten minutes, and 8 GB for 10 M rows (BENCH_DIR).

    PYTHONPATH=. tests/bench/growth.py [-p PART,…] [-n ROUNDS] [-d SECONDS] [--rows 10000000]

Each part serves its sizes side by side, in turn. At the largest of callers, limits, policy and ledger a call may cost 1.15 x as much
as at the smallest, in CPU time and (where `perf` works) in instructions; a kB between 100 kB and 1 MB of prompt 2 x as much as one
between 10 and 100 kB (were the cost quadratic: 10 x); an idle stream 100 kB. Exit 1 if something costs more.
Writes build/bench/growth.json, and the table in growth.md beside it, which `run.py` takes over into docs/performance.md.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import ledger
from growing import OTHER, ROOT, STREAMS, Cost, Sidecar, compare, free_port, idle_streams, mint

OWED = 1.15
LINEAR = 2.0
STREAM_BYTES = 100_000
HERE = pathlib.Path(__file__).resolve().parent
POLICY = """version: 1
default_provider: mock
providers: {mock: {dialect: openai, url: "http://127.0.0.1:@UP@", allow_private: true, max_connections: 4096}}
guard: {pii: {default: mask}, restore: true}
callers:
  pass_through: deny
  default_tier: growth
"""
PRICES = "prices:\n  mock: {input: 2.50, output: 10.00}\n  mock-n200-g600000: {input: 2.50, output: 10.00}\n"
TIERS = "tiers:\n  growth: {requests: 100M/min, tokens: 100000M/min, concurrency: 100000, spend: [$1000000/day, $9000000/month]}\n"
PLAIN = POLICY + TIERS + PRICES


@dataclass
class Asked:
    folder: pathlib.Path
    up: int
    rounds: int
    seconds: float
    rows: int


@dataclass
class Line:
    """One of the table: what a call costs at a size, how many times that of what it is held against, and how many times it may."""

    part: str
    size: str
    cost: Cost | None = None
    times: Cost | None = None
    owed: float | None = None
    note: str = ""

    @property
    def is_broken(self) -> bool:
        return self.owed is not None and self.times is not None and max(self.times.us, self.times.kinstr or 0.0) > self.owed


@contextmanager
def sidecars(
    asked: Asked,
    part: str,
    policies: dict[str, str],
    callers: dict[str, int],
    prompts: dict[str, int],
    *,
    calling: int | None = None,
    is_kept: bool = False,
) -> Iterator[list[Sidecar]]:
    """One for each size, with its keys in its state; a state that is there already is taken as it is. Prompts in bytes. `calling`: so many
    of the callers ever call; None: all."""
    with ExitStack() as stack:
        made = []
        for number, (name, policy) in enumerate(policies.items()):
            folder = asked.folder / f"{part.replace(' ', '-')}-{number}"
            folder.mkdir(exist_ok=True)
            count = callers.get(name, 1)
            mint(folder / "state", count, "growth")
            count = calling or count
            made.append(Sidecar(folder, asked.up, policy, count, prompts.get(name, 1000), is_kept=is_kept))
            stack.callback(made[-1].stop)
            made[-1].warm(max(1_000 * 1_000 // prompts.get(name, 1000), 100, count))
            if made[-1].started_s > 5:
                print(f"{part} {name}: ready after {made[-1].started_s:.1f} s", flush=True)
        yield made


def told(part: str, sizes: Iterable[str], costs: list[Cost], owed: float | None = OWED) -> list[Line]:
    """The largest is held against the smallest."""
    lines = [Line(part, size, cost, cost.times(costs[0])) for size, cost in zip(sizes, costs, strict=True)]
    lines[-1].owed = owed
    return lines


def side_by_side(
    asked: Asked,
    part: str,
    policies: dict[str, str],
    *,
    owed: float | None = OWED,
    callers: dict[str, int] | None = None,
    calling: int | None = None,
    is_kept: bool = False,
) -> list[Line]:
    with sidecars(asked, part, policies, callers or {}, {}, calling=calling, is_kept=is_kept) as made:
        return told(part, policies, compare(made, asked.rounds, asked.seconds), owed)


# --- the parts ---


def prompt(asked: Asked) -> list[Line]:
    sizes = {f"{kb:,} kB": kb for kb in (1, 10, 100, 1_000)}
    with sidecars(asked, "prompt", dict.fromkeys(sizes, PLAIN), {}, {name: kb * 1000 for name, kb in sizes.items()}) as made:
        costs = compare(made, asked.rounds, asked.seconds, 8)
    more = [now.more(was, kb * 0.9) for was, now, kb in zip(costs, costs[1:], list(sizes.values())[1:], strict=False)]
    notes = ["", *(f"{each.us:.2f} µs per kB more" for each in more)]
    lines = [Line("prompt", size, cost, note=note) for size, cost, note in zip(sizes, costs, notes, strict=True)]
    lines[-1].times, lines[-1].owed = more[-1].times(more[-2]), LINEAR
    return lines


def callers_minted(asked: Asked) -> list[Line]:
    """Keys of others in the state, of whom nobody calls: as with limits, policy and ledger, what others have there."""
    sizes = {"1": 1, "1,000": 1_000, "100,000": 100_000}
    return side_by_side(asked, "callers, keys in the state", dict.fromkeys(sizes, PLAIN), callers=sizes, calling=1)


def callers_kept(asked: Asked) -> list[Line]:
    """As most clients do: a connection is one caller's. All have called, so each has its accounts; 32 of them call now. Long enough that
    several snapshots of all accounts fall into it."""
    sizes = {"1": 1, "100,000": 100_000}
    asked = replace(asked, rounds=asked.rounds * 3)
    return side_by_side(asked, "callers, all known, 32 calling", dict.fromkeys(sizes, PLAIN), callers=sizes, is_kept=True)


def callers(asked: Asked) -> list[Line]:
    """Each call by the next of them, on whatever connection: of none is anything in a cache of the processor's."""
    sizes = {"1": 1, "1,000": 1_000, "100,000": 100_000}
    asked = replace(asked, rounds=asked.rounds * 3)
    return side_by_side(asked, "callers, each call by the next", dict.fromkeys(sizes, PLAIN), callers=sizes)


def of_others(number: int) -> str:
    """A limit on calls that are not ours, by exact names: another caller, model, team or tier."""
    what = ("caller: other-@", "model: model-@", f"team: team-{number % 50}", f"tier: tier-{number % 20}")[number % 4]
    return f"  - {{name: limit-{number}, match: {{{what.replace('@', str(number))}}}, per: caller, requests: 1M/min, spend: $1000/day}}\n"


def by_globs(number: int) -> str:
    what = ("caller: 'other-@-*'", "model: 'model-@-*'", "path: '/v@/*'", "'header:x-tenant': 'tenant-@*'")[number % 4]
    return f"  - {{name: limit-{number}, match: {{{what.replace('@', str(number))}}}, per: caller, requests: 1M/min, spend: $1000/day}}\n"


def of_all(number: int) -> str:
    return f"  - {{name: limit-{number}, per: total, requests: {100 + number}M/min}}\n"


OTHERS = (
    "".join(f"  tier-{number}: {{requests: 60/min}}\n" for number in range(20)),
    "teams:\n" + "".join(f"  team-{number}: {{spend: $2000/month}}\n" for number in range(50)),
)


def limited(limit: Callable[[int], str], count: int) -> str:
    ours = "limits:\n  - {name: ours, per: caller, requests: 100M/min}\n"
    return POLICY + TIERS + "".join(OTHERS) + PRICES + ours + "".join(map(limit, range(count - 1)))


def limits(asked: Asked) -> list[Line]:
    sizes = {"1": 1, "30": 30, "1,000": 1_000}
    return side_by_side(asked, "limits, others', by name", {name: limited(of_others, count) for name, count in sizes.items()})


def limits_globs(asked: Asked) -> list[Line]:
    """Globs, paths and headers cannot be looked up by name: what trying them costs, without a bound."""
    sizes = {"1": 1, "1,000": 1_000}
    return side_by_side(asked, "limits, others', by glob", {name: limited(by_globs, count) for name, count in sizes.items()}, owed=None)


def limits_matching(asked: Asked) -> list[Line]:
    """A thousand that all count this call cannot be free: what each costs, without a bound."""
    sizes = {"1": 1, "10": 10, "100": 100, "1,000": 1_000}
    lines = side_by_side(asked, "limits, all matching", {name: limited(of_all, count) for name, count in sizes.items()}, owed=None)
    for line, count in zip(lines[1:], list(sizes.values())[1:], strict=True):
        if line.cost and lines[0].cost:
            line.note = f"{line.cost.more(lines[0].cost, count - 1).us:.2f} µs per limit"
    return lines


def long_policy(lines: int) -> str:
    """Half of it keys, the rest of all else that a policy lists; none of it is about our caller."""
    part = lines // 20
    keys = "  keys:\n" + "".join(
        f'    - {{name: other-{n}, hash: "sha256:{n:064x}", tier: tier-{n % part}, team: team-{n % part}}}\n' for n in range(10 * part)
    )
    tiers = TIERS + "".join(f"  tier-{n}: {{requests: {n + 1}/min, spend: $5/day}}\n" for n in range(part))
    teams = "teams:\n" + "".join(f"  team-{n}: {{spend: ${n + 1}/month}}\n" for n in range(part))
    prices = PRICES + "".join(f"  model-{n}: {{input: 3.00, output: 12.00}}\n" for n in range(3 * part))
    some = "limits:\n" + "".join(
        f"  - {{name: limit-{n}, match: {{caller: other-{n}}}, per: caller, requests: 1M/min}}\n" for n in range(2 * part)
    )
    rules = "rules:\n" + "".join(f"  - {{match: {{caller: other-{n}}}, retry: {{attempts: 2}}}}\n" for n in range(2 * part))
    fallback = "fallback:\n" + "".join(f"  model-{n}: [mock/model-{n + 1}]\n" for n in range(part))
    return POLICY + keys + tiers + teams + prices + some + rules + fallback


def policy(asked: Asked) -> list[Line]:
    texts = (PLAIN, long_policy(1_000), long_policy(10_000))
    return side_by_side(asked, "policy", {f"{text.count(chr(10)):,} lines": text for text in texts})


def policy_per_call(asked: Asked) -> list[Line]:
    """The same where a limit is counted per address: then no plan of one call is that of the next."""
    address = "  - {name: address, per: ip, requests: 100M/min}\n"
    texts = (f"{PLAIN}limits:\n{address}", long_policy(10_000).replace("limits:\n", f"limits:\n{address}"))
    return side_by_side(asked, "policy, with a limit per ip", {f"{text.count(chr(10)):,} lines": text for text in texts})


def ledger_rows(asked: Asked) -> list[Line]:
    sizes = {"0": 0, f"{asked.rows:,}": asked.rows}
    for number, rows in enumerate(sizes.values()):
        (asked.folder / f"ledger-{number}").mkdir()
        if rows:
            ledger.build(asked.folder / f"ledger-{number}" / "state", rows)
    lines = side_by_side(asked, "ledger", dict.fromkeys(sizes, PLAIN))
    return [replace(line, size=f"{line.size} rows") for line in lines]


def streams(asked: Asked) -> list[Line]:
    with sidecars(asked, "streams", {"one": PLAIN}, {}, {}) as (one,):
        for first in idle_streams(one, 50):
            first.close()
        time.sleep(2)
        before = one.resident()
        ones = idle_streams(one, STREAMS)
        time.sleep(2)
        each = (one.resident() - before) / STREAMS
        for stream in ones:
            stream.close()
        note = f"{each / 1000:.1f} kB a stream, {before / 1e6:.0f} MB without"
        return [Line("streams", f"{STREAMS:,} idle", None, Cost(each / STREAM_BYTES, None), 1.0, note)]


PARTS = {
    it.__name__: it
    for it in (
        prompt,
        callers_minted,
        callers_kept,
        callers,
        limits,
        limits_globs,
        limits_matching,
        policy,
        policy_per_call,
        streams,
        ledger_rows,
    )
}


def table(lines: list[Line]) -> str:
    out = ["| what | size | CPU, µs a call | x | k instructions a call | x | at most | |", "|---|---|---|---|---|---|---|---|"]
    for it in lines:
        pairs = ((it.cost, "us", ",.1f"), (it.times, "us", ".2f"), (it.cost, "kinstr", ",.0f"), (it.times, "kinstr", ".2f"))
        found = ((getattr(cost, what, None), form) for cost, what, form in pairs)
        cells = ["" if value is None else format(value, form) for value, form in found]
        bound = f"{it.owed:.2f}{' BROKEN' if it.is_broken else ''}" if it.owed else ""
        out.append(f"| {' | '.join([it.part, it.size, *cells, bound, it.note])} |")
    return "\n".join(out)


def main() -> int:
    args = argparse.ArgumentParser()
    args.add_argument("-p", "--parts", default=",".join(PARTS))
    args.add_argument("-n", "--rounds", type=int, default=4)
    args.add_argument("-d", "--seconds", type=float, default=1.2)
    args.add_argument("--rows", type=int, default=10_000_000)
    opts = args.parse_args()
    tools = ROOT / "build" / "bench"
    subprocess.run(["make", "-s", "-C", str(HERE), f"OUT={tools}"], check=True)
    os.sched_setaffinity(0, {OTHER})
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    up, lines = free_port(), []
    provider = subprocess.Popen([tools / "mock_upstream", str(up)])
    try:
        for part in opts.parts.split(","):
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="sluice-growth-", dir=os.environ.get("BENCH_DIR")) as name:
                found = PARTS[part](Asked(pathlib.Path(name), up, opts.rounds, opts.seconds, opts.rows))
            lines += found
            print(table(found), f"\n{part}: {time.monotonic() - began:.0f} s\n", flush=True)
    finally:
        provider.kill()
        provider.wait()
    (tools / "growth.json").write_text(json.dumps([asdict(line) for line in lines], indent=1) + "\n")
    (tools / "growth.md").write_text(table(lines) + "\n")
    print(table(lines))
    return 1 if any(line.is_broken for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
