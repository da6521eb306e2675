"""Counts what happens, for Prometheus. Labels hold names that the policy or the price table knows, else `other`: no caller's inventions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from proxy import __version__
from proxy.exchange import NANO, Caller, Row, Story, Try, Usage, sort_of
from proxy.ports import Clock
from proxy.record.cells import BEYOND, Cells, Left, Sort
from proxy.record.figures import FIGURES
from proxy.record.process import process_text
from proxy.record.redact import plain
from proxy.record.series import MOST_WAITING, OTHER, Cell, Labels, Reading, Series, text_of
from proxy.standings import Standings, Terms

MAX_SERIES = 10_000  # of one metric; beyond it all labels read `other`
MAX_SORTS = 1024  # of calls whose series are at hand
MAX_CALLERS = 131_072  # of all those sorts
MOST_ROWS = 32  # of standings on the same terms that wait to be looked at
MAX_NAME = 256  # characters of a model's name that is remembered: it comes from outside
BREAKER_STATES = {"closed": 0, "probing": 1, "half_open": 1, "open": 2}
ERRORS = frozenset({"dns", "connect", "tls", "reset", "stale", "protocol", "first_byte_timeout", "timeout", "pool", "event", "5xx"})
NOTES = frozenset({"unconfirmed", "usage_missing", "usage_unparsed"})
RECENT_S = 60.0  # the highest ratio of a limit is shown for one to two of these

NO_LABELS: Labels = ()
NOBODY = Caller("", "anonymous")

Key = tuple[str, str, int | None]  # what the labels of a call follow from but for its caller: `sort_of` it, end, status


def _why(note: str, end: str) -> str:
    """Why the provider's own figures are missing: what the meter noted, else how the attempt ended."""
    noted = next((part for part in note.split(",") if part in NOTES), "")
    return noted or end.partition(":")[0]


class Metrics:
    """Implements `ports.Metrics`. `known(kind, name)`: does the policy or the price table know this provider, model, caller, team or tier?
    It may come to know more at any time, and fewer with a new `policy` alone.

    `shown` is how a caller's name shows (`record.redact`).
    """

    def __init__(self, known: Callable[[str, str], bool], clock: Clock, shown: Callable[[str], str] = plain) -> None:
        self._known, self._clock, self._shown = known, clock, shown
        self._series = {figure.name: Series(figure, MAX_SERIES, *_ODD.get(figure.name, ())) for figure in FIGURES}
        self._sorts: dict[Key, Sort] = {}
        self._at_hand = 0  # callers of those sorts
        self.on_forget: Callable[[], object] = self._sorts.clear  # whoever keeps some of those sorts
        self._of_callers = [self._series[name] for name in ("requests_total", "cost_usd_total", "tokens_total")]
        self._others = Cells(self._series, BEYOND, ("", "", ""))
        self._reads: dict[str, Callable[[], int | float]] = {}
        self._left: dict[Terms, Left] = {}
        self._next_minute = 0.0
        self._breakers: dict[Labels, dict[str | None, int]] = {}
        self._callers: set[str] = set()  # known ones as they show, also where that tells nobody their name: who may have series
        self._series["build_info"].set((__version__,), 1)

    def exposition(self) -> Iterator[bytes]:
        """The text that Prometheus scrapes (format 0.0.4), in slices of about a millisecond: calls go on between two of them."""
        yield process_text()
        self._turn()
        self._sort_in()
        for name, read in self._reads.items():
            self._series[name].set(NO_LABELS, read())
        yield from text_of(self._series.values())

    def read_from(self, name: str, read: Callable[[], int | float]) -> None:
        """A figure without labels that somebody else keeps: read at each scrape. `name` is one of `FIGURES`."""
        if self._series[name].figure.labels:
            raise ValueError(f"{name} has labels")
        self._reads[name] = read

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

    def limits(self, standings: Standings, now: float) -> None:
        """`now`: as `Clock.monotonic` has it."""
        if now >= self._next_minute:
            self._turn()
        left = self._left.get(standings.terms)
        if left is None:
            left = self._left_of(standings.terms)
        rows = left.rows
        rows.append(standings.row)
        if len(rows) >= MOST_ROWS:
            left.sort_in()

    def _left_of(self, terms: Terms) -> Left:
        if len(self._left) >= MAX_SORTS:
            self._forget_left()
        left = self._left[terms] = Left(
            [(self._cell_of(it.limit, it.kind), it.allowed, at) for it, at in zip(terms.each, terms.left, strict=True)]
        )
        return left

    def _sort_in(self) -> None:
        for left in self._left.values():
            left.sort_in()

    def _forget_left(self) -> None:
        self._sort_in()
        self._left.clear()

    def used(self, limit: str, kind: str, share: float) -> None:
        """`share` of this limit's `kind` is used, as one call has met it."""
        self._turn()
        cell = self._cell_of(limit, kind)
        cell[0] = min(cell[0], 1 - share)

    def _cell_of(self, limit: str, kind: str) -> Cell:
        return self._series["limit_used_ratio"].cell((limit, kind))

    def _turn(self) -> None:
        now = self._clock.monotonic()
        if now < self._next_minute:
            return
        self._sort_in()  # the rows are of the minute that is over
        is_next = now < self._next_minute + RECENT_S
        self._next_minute = (now // RECENT_S + 1) * RECENT_S
        for cell in self._series["limit_used_ratio"].cells.values():
            cell[:] = 1.0, cell[0] if is_next else 1.0

    def policy(self, generation: int) -> None:
        """A policy is live from now on; other names may be known."""
        self._forget()
        self._forget_left()
        self._series["policy_generation"].set(NO_LABELS, generation)

    def reload_failed(self) -> None:
        self._series["policy_reload_failed_total"].add(NO_LABELS)

    def jwks_failed(self) -> None:
        self._series["jwks_failed_total"].add(NO_LABELS)

    def told(self, story: Story) -> None:
        """A call that is over: everything that is counted once, at its end."""
        caller, tries = story.caller or NOBODY, story.tries
        last = tries[-1] if tries else Try(0, "refusal", story.call.route.provider, story.model, None)
        sort = self.sort(story, last)
        cells = sort.callers.get(caller.name) or self.cells(sort, caller.name)
        began, durations = story.call.began, sort.durations
        duration = story.ended - began
        durations.append(duration)
        sort.overheads.append(duration - story.upstream_s)
        first_byte, usage = last.first_byte, last.used or last.usage
        if len(tries) > 1:
            first_byte = self._before(tries, cells)
        if first_byte is not None:
            sort.waits().append(first_byte - began)
        if len(durations) >= MOST_WAITING:
            sort.sort_in()
        (cells.requests or cells.of("requests"))[0] += 1
        cells.count(usage, last.cost_nanousd, last.is_read_back)
        if usage.source != "provider":
            self._estimated(self._target(last.provider, last.model), usage.source, usage.note, last.end)
        if story.found:
            self.found(story.found)

    def found(self, found: Mapping[tuple[str, str, str], int]) -> None:
        """(entity, direction, action) → count."""
        for labels, count in found.items():
            self._series["pii_found_total"].add(labels, count)

    def _before(self, tries: Sequence[Try], cells: Cells) -> float | None:
        """Counts all attempts but the last, for the caller of `cells`. When the first of all that had an answer got it."""
        for one in tries[:-1]:
            target = self._target(one.provider, one.model)
            Cells(self._series, (*target, *cells.who)).count(one.usage, one.cost_nanousd, one.is_read_back)
            self._estimated(target, one.usage.source, one.usage.note, one.end)
        return next((one.first_byte for one in tries if one.first_byte is not None), None)

    def job(self, row: Row) -> None:
        """A job that was billed later is settled: what it cost and used, for whoever began it."""
        target = self._target(row.provider, row.model)
        is_known = row.caller in self._callers or self._known("caller", row.caller)
        if is_known:
            self._callers.add(row.caller)
        who = (row.caller if is_known else OTHER, self._label("team", row.team), self._label("tier", row.tier))
        self._estimated(target, row.usage_source, row.usage_note, row.end)
        used = (row.input_tokens, row.cached_input_tokens, row.cache_write_tokens, 0, row.output_tokens, row.reasoning_tokens)
        Cells(self._series, (*target, *who)).count(Usage(*used), row.cost_nanousd, is_read_back=False)

    def _estimated(self, target: Labels, source: str, note: str, end: str) -> None:
        if source in ("counted", "estimate"):
            self._series["estimated_usage_total"].add((*target, source, _why(note, end)))

    def sort(self, story: Story, last: Try) -> Sort:
        """What it has in common with calls of other callers; `last`: of its attempts."""
        memo = last.memo
        key = sort_of(story, last) if memo is None else memo.sort, story.end, story.status
        return self._sorts.get(key) or self._sort(key, story, last)

    def _sort(self, key: Key, story: Story, last: Try) -> Sort:
        caller, end, status = story.caller or NOBODY, story.end, story.status
        sent = str(status) if status is not None and 100 <= status <= 599 else "none"
        group = (self._label("team", caller.team), self._label("tier", caller.tier))
        sort = Sort(self._series, self._target(last.provider, last.model), group, (story.operation, end.partition(":")[0], sent))
        if len(self._sorts) >= MAX_SORTS:
            self._forget()
        if len(last.model or "") <= MAX_NAME:
            self._sorts[key] = sort
        return sort

    def cells(self, sort: Sort, caller: str) -> Cells:
        """Where a caller that is not at hand is counted. A stranger never is at hand: it may become known (a key is minted)."""
        if not caller:
            return sort.nobody
        if not self._known("caller", caller):
            return sort.strangers
        name = self._shown(caller)
        if name not in self._callers and all([series.is_full for series in self._of_callers]):
            cells = self._others
        else:
            self._callers.add(name)
            cells = sort.of(name)
        if self._at_hand >= MAX_CALLERS:
            self._forget()
        self._at_hand += 1
        sort.callers[caller] = cells
        return cells

    def _forget(self) -> None:
        for sort in self._sorts.values():
            sort.callers.clear()
        self._sorts.clear()
        self._at_hand = 0
        self.on_forget()

    def _target(self, provider: str, model: str | None) -> Labels:
        return (self._label("provider", provider), self._label("model", model))

    def _label(self, kind: str, name: str | None) -> str:
        if name is None:
            return ""
        return name if self._known(kind, name) else OTHER


def _dollars(cell: Cell) -> Sequence[float]:
    return (cell[0] / NANO,)


def _most_used(cell: Cell) -> Sequence[float]:
    return (1 - min(cell),)


_ODD: dict[str, tuple[Cell, Reading]] = {"cost_usd_total": ([0], _dollars), "limit_used_ratio": ([1.0, 1.0], _most_used)}
