"""What rows of `bench.measure` say: figures, ratios to the plain pass-through, verdicts, what is void. Measures nothing."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]
Rows = Sequence[Row]

PLAIN, ON, OFF, RATES = "aiohttp", "sluice-on", "sluice-off", "sluice-rates"
PLAIN_TLS, ON_TLS = "aiohttp-tls", "sluice-on-tls"
PROMPT, COMPLETION = 2_500, 10_000  # nano-dollars a token: $2.50 and $10 a million, for every model of the policy
BAD = ("4xx", "5xx", "failed", "mixed", "unequal", "unfinished", "unsent")
CALM, ENOUGH = 0.25, 5  # the most that plain's own p99 may spread for a p99 to be judged, and over how many rounds at least


@dataclass(frozen=True)
class Figure:
    """A number of a row. `is_added`: minus that of `direct` in the same round."""

    what: str
    at: tuple[str, ...]
    is_added: bool = False


@dataclass(frozen=True)
class Owed:
    """A figure of one target, over that of another unless `base` is empty, and what is asked of it."""

    figure: Figure
    goals: tuple[float | str | None, float | str | None, float | str | None]  # must, goal, stretch; a text: what could not be measured
    base: str = PLAIN
    of: str = ON
    unit: str = "x"
    is_more_better: bool = False
    what: str = ""


T64 = Figure("calls/s per core, 1 kB, 64 connections", ("t64", "rps"))
T64_8K = Figure("calls/s per core, 8 kB", ("t64_8k", "rps"))
T64_100K = Figure("calls/s per core, 100 kB", ("t64_100k", "rps"))
CPU = Figure("CPU per call, 1 kB, µs", ("t64", "cpu_us"))
P50_500 = Figure("added p50 at 500 calls/s, µs", ("o500", "lat_us", "p50"), True)
P99_500 = Figure("added p99 at 500 calls/s, µs", ("o500", "lat_us", "p99"), True)
FIRST = Figure("added first token p50, 50 streams, µs", ("s50", "ttft_us", "p50"), True)
EVENT_P50 = Figure("delay added per event p50, 50 streams, µs", ("s50", "event_us", "p50"), True)
EVENT_P99 = Figure("delay added per event p99, 50 streams, µs", ("s50", "event_us", "p99"), True)
CPU_EVENT = Figure("CPU per event, 50 streams, µs", ("s50", "cpu_us_per_event"))
FIRST_APART = Figure("added first token p50, 50 streams out of step, µs", ("s50_apart", "ttft_us", "p50"), True)
P50_APART = Figure("delay added per event p50, 50 streams out of step, µs", ("s50_apart", "event_us", "p50"), True)
P99_APART = Figure("delay added per event p99, 50 streams out of step, µs", ("s50_apart", "event_us", "p99"), True)
CPU_APART = Figure("CPU per event, 50 streams out of step, µs", ("s50_apart", "cpu_us_per_event"))
CPU_RESTORE = Figure("CPU per event, 50 streams, restore active, µs", ("s50_mail", "cpu_us_per_event"))
IDLE = Figure("memory idle, MB", ("idle_mb",))
MEMORY = Figure("memory after load, MB", ("loaded_mb",))
START = Figure("exec to first 200, s", ("start_s",))
CPU_TLS = Figure("CPU per call at 500 calls/s, TLS to the provider, µs", ("tls500", "cpu_us"))

FIGURES = (
    T64,
    T64_8K,
    T64_100K,
    Figure("calls/s per core, 8 kB with 3 e-mail addresses to mask and restore", ("t64_mail", "rps")),
    Figure("calls/s per core at p99 < 10 ms, open loop, 1 kB", ("max10", "rps")),
    CPU,
    Figure("CPU per call, 8 kB, µs", ("t64_8k", "cpu_us")),
    Figure("CPU per call, 100 kB, µs", ("t64_100k", "cpu_us")),
    Figure("CPU per call, 8 kB with 3 e-mail addresses, µs", ("t64_mail", "cpu_us")),
    Figure("added p50, one connection, µs", ("c1", "lat_us", "p50"), True),
    Figure("added p99, one connection, µs", ("c1", "lat_us", "p99"), True),
    Figure("added p50 at 100 calls/s, µs", ("o100", "lat_us", "p50"), True),
    Figure("added p99 at 100 calls/s, µs", ("o100", "lat_us", "p99"), True),
    P50_500,
    P99_500,
    FIRST,
    Figure("added first token p99, 50 streams, µs", ("s50", "ttft_us", "p99"), True),
    EVENT_P50,
    EVENT_P99,
    CPU_EVENT,
    FIRST_APART,
    P50_APART,
    P99_APART,
    CPU_APART,
    CPU_RESTORE,
    Figure("events/s per core, as fast as they go", ("sflood", "events_per_s")),
    IDLE,
    MEMORY,
    START,
)

TARGETS = (
    Owed(T64, (2.0, 3.2, 4.0), is_more_better=True),
    Owed(T64_8K, (1.3, 1.9, 2.4), is_more_better=True),
    Owed(T64_100K, (0.45, 0.65, 0.9), is_more_better=True),
    Owed(CPU, (0.50, 0.31, 0.25)),
    Owed(P50_500, (0.80, 0.55, 0.5)),
    Owed(P99_500, (0.90, 0.65, 0.6)),
    Owed(FIRST, (1.0, 0.90, 0.8)),
    Owed(EVENT_P50, (0.5, 0.22, "nginx's")),
    Owed(EVENT_P99, (0.5, 0.25, "nginx's")),
    Owed(CPU_EVENT, (0.65, 0.48, 0.45)),
    Owed(FIRST_APART, (1.0, 0.90, 0.8)),
    Owed(P50_APART, (0.5, 0.22, "nginx's")),
    Owed(P99_APART, (0.5, 0.25, "nginx's")),
    Owed(CPU_APART, (0.65, 0.48, 0.45)),
    Owed(CPU_RESTORE, (1.0, 0.7, 0.6)),
    Owed(MEMORY, (70, 60, 50), base="", unit=" MB"),
    Owed(START, (0.6, 0.40, 0.30), base="", unit=" s"),
    Owed(T64, (0.55, 0.70, 0.80), base=OFF, unit="%", is_more_better=True, what="share of the no-policy throughput kept (of sluice-off)"),
    Owed(CPU, (1.20, None, None), base=RATES, what="CPU per call, 1 kB, µs: what durable money costs (of sluice-rates)"),
    Owed(CPU_TLS, (None, None, None), base=PLAIN_TLS, of=ON_TLS),
)


SAID: Mapping[str, Callable[[float], str]] = {
    "x": "{:.2f}x".format,
    "%": "{:.0%}".format,
    " MB": "{:.0f} MB".format,
    " s": "{:.2f} s".format,
}


class Found:
    """The rows of a run, those that are void left out."""

    def __init__(self, rows: Rows) -> None:
        self.void = [text for row in rows for text in faults(row)]
        self.names = list(dict.fromkeys(str(row["target"]) for row in rows))
        self.rounds = sorted({int(row["round"]) for row in rows})
        self._all = rows
        self._rows = {(str(row["target"]), int(row["round"])): row for row in rows if not any(row_faults(row))}

    def value(self, name: str, turn: int, at: Sequence[str]) -> float | None:
        row = self._rows.get((name, turn), {})
        if isinstance(scenario := row.get(at[0]), Mapping) and any(scenario_faults(scenario)):
            return None
        return within(row, at)

    def figure(self, name: str, turn: int, figure: Figure) -> float | None:
        value = self.value(name, turn, figure.at)
        direct = self.value("direct", turn, figure.at) if figure.is_added else 0.0
        return None if value is None or direct is None else value - direct

    def all(self, name: str, figure: Figure) -> list[float]:
        return [value for turn in self.rounds if (value := self.figure(name, turn, figure)) is not None]

    def missing(self, name: str, figure: Figure) -> str:
        """What stands where no round has a figure."""
        return "void" if any(row["target"] == name and within(row, figure.at) is not None for row in self._all) else "-"

    def ratios(self, name: str, base: str, figure: Figure) -> list[float]:
        """Each round by itself. A base that is not above 0 is no base."""
        pairs = [(self.figure(name, turn, figure), self.figure(base, turn, figure)) for turn in self.rounds]
        return [value / of for value, of in pairs if value is not None and of is not None and of > 0]

    def unrest(self, figure: Figure) -> str:
        """Why a p99 may not be judged, if so."""
        own = [value for turn in self.rounds if (value := self.value(PLAIN, turn, figure.at)) is not None]
        if len(own) < ENOUGH:
            return f"of {len(own)} rounds, not {ENOUGH}"
        spread = (max(own) - min(own)) / statistics.median(own)
        return "" if spread < CALM else f"plain's own p99 spreads by {spread:.0%}"


def within(row: Row, at: Sequence[str]) -> float | None:
    found: object = row
    for step in at:
        found = found.get(step) if isinstance(found, Mapping) else None
    return float(found) if isinstance(found, int | float) else None


# --- what is void ---


def faults(row: Row) -> Iterator[str]:
    where = f"round {row['round']}, {row['target']}"
    yield from (f"{where}: {text}" for text in row_faults(row))
    for name, scenario in row.items():
        if isinstance(scenario, Mapping):
            yield from (f"{where}, {name}: {text}" for text in scenario_faults(scenario))


def scenario_faults(scenario: Row) -> Iterator[str]:
    """Nothing of an overloaded probe but answers that are wrong."""
    if "error" in scenario:
        yield str(scenario["error"])
    yield from (f"{scenario[kind]} {kind}" for kind in BAD if scenario.get(kind))
    for probe in scenario.get("probes", ()):
        yield from (f"{probe[kind]} {kind}" for kind in ("mixed", "unequal") if probe.get(kind))


def row_faults(row: Row) -> Iterator[str]:
    """Books that do not agree with the provider's, and values that were to be masked and were not."""
    if "error" in row:
        yield str(row["error"])
        return
    provider, ledger = row["provider"], row.get("ledger")
    if row.get("is_masking") and provider["masked"] != provider["echoed"]:
        yield f"{provider['echoed'] - provider['masked']} of {provider['echoed']} addresses reached the provider"
    if ledger is None:
        return
    cost = provider["prompt_tokens"] * PROMPT + provider["completion_tokens"] * COMPLETION
    if ledger["rows"] != provider["calls"] or ledger["refusals"]:
        yield f"{provider['calls']} calls reached the provider, the ledger holds {ledger['rows']} rows and {ledger['refusals']} refusals"
    if ledger["cost_nanousd"] != cost:
        yield f"the provider's usage costs {cost} nano-dollars, the ledger says {ledger['cost_nanousd']}"


# --- tables ---


def number(value: float) -> str:
    return f"{value:,.2f}" if abs(value) < 10 else f"{value:,.0f}"


def spread(values: Sequence[float]) -> str:
    """Half the range, as a share of the median."""
    middle = statistics.median(values)
    return f"±{abs((max(values) - min(values)) / 2 / middle):.0%}" if middle else "-"


def side_by_side(found: Found) -> str:
    names = [name for name in found.names if name not in (RATES, PLAIN_TLS, ON_TLS)]
    lines = ["| what | " + " | ".join(names) + " |", "|---|" + "---|" * len(names)]
    for figure in FIGURES:
        cells = [_cell(found, name, figure) for name in names]
        if set(cells) != {"-"}:
            lines.append(f"| {figure.what} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(found: Found, name: str, figure: Figure) -> str:
    values = found.all(name, figure)
    if name == "direct" and figure.is_added:
        return "-"
    if not values:
        return found.missing(name, figure)
    if not any(values):
        return "none held"
    ratios = [] if name in (PLAIN, "direct") else found.ratios(name, PLAIN, figure)
    return f"{number(statistics.median(values))} {spread(values)}" + (f" ({statistics.median(ratios):.2f}x)" if ratios else "")


def targets(found: Found) -> str:
    lines = ["| what | base | Sluice | ratio | spread | must | goal | stretch | verdict |", "|---|---|---|---|---|---|---|---|---|"]
    lines += [line for owed in TARGETS if (line := _target(found, owed))]
    return "\n".join(lines)


def _target(found: Found, owed: Owed) -> str:
    values = found.all(owed.of, owed.figure)
    ratios = found.ratios(owed.of, owed.base, owed.figure) if owed.base else values
    if not ratios:
        is_void = all(found.missing(name, owed.figure) == "void" for name in (owed.of, owed.base) if name)
        return f"| {owed.what or owed.figure.what} | - | - | - | - | - | - | - | **void** |" if is_void else ""
    said = SAID[owed.unit]
    nginx = found.ratios("nginx", PLAIN, owed.figure)
    goals = [statistics.median(nginx) if isinstance(goal, str) and nginx else goal for goal in owed.goals]
    base = number(statistics.median(found.all(owed.base, owed.figure))) if owed.base else "-"
    cells = [owed.what or owed.figure.what, base, number(statistics.median(values)), said(statistics.median(ratios)), spread(ratios)]
    cells += ["-" if goal is None else goal if isinstance(goal, str) else said(goal) for goal in goals]
    return "| " + " | ".join([*cells, _verdict(found, owed, statistics.median(ratios), goals)]) + " |"


def _verdict(found: Found, owed: Owed, value: float, goals: Sequence[float | str | None]) -> str:
    """The highest that is reached, and all before it. (nginx's, which is a stretch, may be less than the goal.)"""
    if owed.figure.at[-1] == "p99" and (why := found.unrest(owed.figure)):
        return f"not judged: {why}"
    if goals[0] is None:
        return "-"
    reached = [isinstance(goal, int | float) and (value >= goal if owed.is_more_better else value <= goal) for goal in goals]
    return ("**missed**", "must", "goal", "stretch")[(*reached, False).index(False)]
