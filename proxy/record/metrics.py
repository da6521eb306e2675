"""Counts what happens, for Prometheus. Labels hold names that the policy or the price table knows, else `other`: no caller's inventions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from proxy import __version__
from proxy.exchange import NANO, Row, Story, Try
from proxy.ports import Clock, Standing
from proxy.record.figures import FIGURES, PREFIX, Figure
from proxy.record.redact import plain

OTHER = "other"
MAX_SERIES = 2000  # of one metric; beyond it all labels read `other` (a scrape of 500 series costs 7 ms of the loop: performance.md)
BREAKER_STATES = {"closed": 0, "probing": 1, "half_open": 1, "open": 2}
ERRORS = frozenset({"dns", "connect", "tls", "reset", "stale", "protocol", "first_byte_timeout", "timeout", "pool", "event", "5xx"})
NOTES = frozenset({"unconfirmed", "usage_missing", "usage_unparsed"})
RECENT_S = 60.0  # the highest ratio of a limit is shown for one to two of these

Labels = tuple[str, ...]
NO_LABELS: Labels = ()
KINDS = ("input", "cached_input", "cache_write", "output", "reasoning")  # of tokens
NO_COUNTS = (0, 0, 0, 0, 0)
_NOT_MET = (-2, 0.0, 0.0)  # in no minute


@dataclass(slots=True)
class _Spread:
    """One series of a histogram: how many fell into each bucket, the last one open."""

    counts: list[int]
    sum: float = 0.0


class _Series:
    """The values of one metric by labels. The event loop alone touches them, so they need no lock; ints stay exact."""

    __slots__ = ("figure", "spreads", "values")

    def __init__(self, figure: Figure) -> None:
        self.figure = figure
        self.values: dict[Labels, int | float] = {} if figure.labels or figure.buckets else {NO_LABELS: 0}
        self.spreads: dict[Labels, _Spread] = {}

    def add(self, labels: Labels, amount: int = 1) -> None:
        if labels not in self.values:
            labels = self._bounded(labels, len(self.values))
        self.values[labels] = self.values.get(labels, 0) + amount

    def set(self, labels: Labels, value: int | float) -> None:
        self.values[labels if labels in self.values else self._bounded(labels, len(self.values))] = value

    def observe(self, labels: Labels, seconds: float) -> None:
        spread = self.spreads.get(labels)
        if spread is None:
            labels = self._bounded(labels, len(self.spreads))
            spread = self.spreads.setdefault(labels, _Spread([0] * (len(self.figure.buckets) + 1)))
        spread.counts[bisect_left(self.figure.buckets, seconds)] += 1
        spread.sum += seconds

    def _bounded(self, labels: Labels, held: int) -> Labels:
        return labels if held < MAX_SERIES else (OTHER,) * len(labels)

    def family(self, divisor: int = 1) -> Metric:
        name, text, labels = PREFIX + self.figure.name, self.figure.help, self.figure.labels
        if self.figure.type == "histogram":
            histogram = HistogramMetricFamily(name, text, labels=labels)
            for key, spread in self.spreads.items():
                histogram.add_metric(key, _cumulated(self.figure.buckets, spread.counts), spread.sum)
            return histogram
        plain_family = (CounterMetricFamily if self.figure.type == "counter" else GaugeMetricFamily)(name, text, labels=labels)
        for key, value in self.values.items():
            plain_family.add_metric(key, value / divisor)
        return plain_family


def _why(note: str, end: str) -> str:
    """Why the provider's own figures are missing: what the meter noted, else how the attempt ended."""
    noted = next((part for part in note.split(",") if part in NOTES), "")
    return noted or end.partition(":")[0]


def _cumulated(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    total, buckets = 0, []
    for bound, count in zip((*map(str, bounds), "+Inf"), counts, strict=True):
        total += count
        buckets.append((bound, float(total)))
    return buckets


class Metrics(Collector):
    """Implements `ports.Metrics`. `known(kind, name)`: does the policy or the price table know this provider, model, caller, team or tier?

    `shown` is how a caller's name shows (`record.redact`).
    """

    def __init__(self, known: Callable[[str, str], bool], clock: Clock, shown: Callable[[str], str] = plain) -> None:
        self._known, self._clock, self._shown = known, clock, shown
        self._series = {figure.name: _Series(figure) for figure in FIGURES}
        self._reads: dict[str, Callable[[], int | float]] = {}
        self._ratios: dict[Labels, tuple[int, float, float]] = {}  # (limit, kind) → minute, highest in it, highest in the one before
        self._breakers: dict[Labels, dict[str | None, int]] = {}
        self._callers: set[str] = set()  # as known ones show, also where that tells nobody their name
        self._series["build_info"].set((__version__,), 1)
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes (format 0.0.4)."""
        return generate_latest(self._registry)

    def read_from(self, name: str, read: Callable[[], int | float]) -> None:
        """A figure without labels that somebody else keeps: read at each scrape. `name` is one of `FIGURES`."""
        if self._series[name].figure.labels:
            raise ValueError(f"{name} has labels")
        self._reads[name] = read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, read in self._reads.items():
            self._series[name].set(NO_LABELS, read())
        minute = self._minute()
        for key, (at, now, before) in self._ratios.items():
            recent = max(now, before) if at == minute else now if at == minute - 1 else 0.0
            self._series["limit_used_ratio"].set(key, recent)
        for name, series in self._series.items():
            yield series.family(NANO if name == "cost_usd_total" else 1)

    def in_flight(self, change: int) -> None:
        self._series["in_flight"].add(NO_LABELS, change)

    def refused(self, code: str) -> None:
        self._series["refusals_total"].add((code,))

    def retried(self, provider: str, model: str | None, error: str) -> None:
        is_ours = error in ERRORS or (len(error) == 3 and error.isdecimal())
        self._series["retries_total"].add((*self._target(provider, model), error if is_ours else OTHER))

    def fell_back(self, provider: str, model: str | None) -> None:
        self._series["fallbacks_total"].add(self._target(provider, model))

    def breaker(self, provider: str, model: str | None, state: str) -> None:
        labels = self._target(provider, model)
        states = self._breakers.setdefault(labels, {})  # of the models that show under these labels: the worst is told
        states[model] = BREAKER_STATES[state]
        self._series["breaker_state"].set(labels, max(states.values()))
        if state == "closed":
            del states[model]

    def unpriced(self, provider: str, model: str | None, reason: str) -> None:
        self._series["unpriced_total"].add((*self._target(provider, model), reason))

    def alerted(self, limit: str, share: str) -> None:
        self._series["alerts_total"].add((limit, share))

    def alert_post(self, outcome: str) -> None:
        self._series["alert_posts_total"].add((outcome,))

    def recovered(self, crashed: int) -> None:
        """Attempts that a crash left open: the start has charged them at their estimate."""
        if crashed:
            self._series["estimated_usage_total"].add(("", "", "estimate", "crashed"), crashed)

    def limits(self, standings: Sequence[Standing]) -> None:
        minute = self._minute()
        for standing in standings:
            share = 1 - standing.remaining / standing.allowed if standing.allowed else 1.0
            self._met((standing.limit, standing.kind), share, minute)

    def used(self, limit: str, kind: str, share: float) -> None:
        """`share` of this limit's `kind` is used, as one call has met it."""
        self._met((limit, kind), share, self._minute())

    def _met(self, key: Labels, share: float, minute: int) -> None:
        at, now, before = self._ratios.get(key, _NOT_MET)
        if at != minute:
            now, before = 0.0, now if at == minute - 1 else 0.0
        elif share <= now:
            return
        self._ratios[key] = (minute, max(now, share), before)

    def policy(self, generation: int) -> None:
        self._series["policy_generation"].set(NO_LABELS, generation)

    def reload_failed(self) -> None:
        self._series["policy_reload_failed_total"].add(NO_LABELS)

    def jwks_failed(self) -> None:
        self._series["jwks_failed_total"].add(NO_LABELS)

    def told(self, story: Story) -> None:
        """A call that is over: everything that is counted once, at its end."""
        call, last = story.call, story.tries[-1] if story.tries else None
        who = self._who(story)
        target = self._target(last.provider, last.model) if last else self._target(call.route.provider, story.model)
        status = str(story.status) if story.status is not None and 100 <= story.status <= 599 else "none"
        self._series["requests_total"].add((*target, *who, story.operation, story.end.partition(":")[0], status))
        times = (target[0], story.operation)
        duration = self._clock.monotonic() - call.began
        self._series["request_duration_seconds"].observe(times, duration)
        self._series["overhead_seconds"].observe(times, max(0.0, duration - story.upstream_s))
        first = next((one.first_byte for one in story.tries if one.first_byte is not None), None)
        if first is not None:
            self._series["first_byte_seconds"].observe(times, first - call.began)
        for one in story.tries:
            self._used(one, who)
        for found, count in story.found.items():
            self._series["pii_found_total"].add(found, count)

    def _used(self, one: Try, who: Labels) -> None:
        usage, target = one.usage, self._target(one.provider, one.model)
        self._estimated(target, usage.source, usage.note, one.end)
        counts = (usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning)
        self._paid((*target, *who), one.cost_nanousd, NO_COUNTS if one.is_read_back else counts)

    def job(self, row: Row) -> None:
        """A job that was billed later is settled: what it cost and used, for whoever began it."""
        target = self._target(row.provider, row.model)
        is_known = row.caller in self._callers or self._known("caller", row.caller)
        who = (row.caller if is_known else OTHER, self._label("team", row.team), self._label("tier", row.tier))
        self._estimated(target, row.usage_source, row.usage_note, row.end)
        counts = (row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, row.output_tokens, row.reasoning_tokens)
        self._paid((*target, *who), row.cost_nanousd, counts)

    def _estimated(self, target: Labels, source: str, note: str, end: str) -> None:
        if source in ("counted", "estimate"):
            self._series["estimated_usage_total"].add((*target, source, _why(note, end)))

    def _paid(self, labels: Labels, nanousd: int, counts: tuple[int, ...]) -> None:
        if nanousd:
            self._series["cost_usd_total"].add(labels, nanousd)
        tokens = self._series["tokens_total"]
        for kind, count in zip(KINDS, counts, strict=True):
            if count:
                tokens.add((*labels, kind), count)

    def _who(self, story: Story) -> Labels:
        caller = story.caller
        if caller is None:
            return ("", "", "")
        name = self._shown(caller.name) if self._known("caller", caller.name) else OTHER
        self._callers.add(name)
        return (name, self._label("team", caller.team), self._label("tier", caller.tier))

    def _target(self, provider: str, model: str | None) -> Labels:
        return (self._label("provider", provider), self._label("model", model))

    def _label(self, kind: str, name: str | None) -> str:
        if name is None:
            return ""
        return name if self._known(kind, name) else OTHER

    def _minute(self) -> int:
        return int(self._clock.monotonic() // RECENT_S)
