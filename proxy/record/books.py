"""Puts what happened into the books: ledger rows, settles, figures, the line in the log. Decides nothing, waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from proxy.exchange import Begun, Row, Story, Try, sort_of
from proxy.memo import Memo, the_one
from proxy.ports import Clock
from proxy.record.redact import plain, scrubbed
from proxy.refusal import Refusal

WHOLE = 1.5 * 2**52  # floats of this size have no fraction: to add it and take it away again rounds, for a fifth of what `round` takes


Whose = tuple[str, str | None, str | None, str, str | None, str, str | None]  # of a row: `caller` to `credential`


class Ledger(Protocol):
    """The part of `ports.Store` that the books write to."""

    def settle(self, id: str, tokens: int, nanousd: int, row: tuple[Any, ...]) -> None: ...
    def void(self, id: str, row: Row | None) -> None: ...
    def defer(self, id: str, job: str, row: Row, later: Row) -> None: ...
    def leave(self, call_uid: str) -> None: ...
    def write(self, row: Row) -> None: ...


class Figures(Protocol):
    """The part of the metrics that the books count on."""

    def refused(self, code: str) -> None: ...
    def used(self, limit: str, kind: str, share: float) -> None: ...
    def told(self, story: Story) -> None: ...


class Teller(Protocol):
    """The part of the log that tells of a call."""

    def told(self, story: Story) -> None: ...
    def event(self, level: str, event: str, **fields: object) -> None: ...


class Books:
    """Every upstream attempt exactly once, every refusal of an identified caller. All methods are synchronous."""

    def __init__(
        self,
        store: Ledger,
        metrics: Figures,
        log: Teller,
        clock: Clock,
        shown: Callable[[str], str] = plain,
        usual: Callable[[Story], bool] = lambda _: False,
    ) -> None:
        """`usual` tells metrics and log at once of a call that is over, or says that they are to be told one by one."""
        self._store, self._metrics, self._log, self._clock, self._shown, self._usual = store, metrics, log, clock, shown, usual
        self._now = clock.monotonic

    def row_of(self, story: Story, try_: Try) -> Row:
        """The ledger's line for an attempt as it stands."""
        return Row._make(self._values(story, try_))

    def _values(self, story: Story, try_: Try) -> tuple[Any, ...]:
        """Of its row. Times in ms; `overhead_ms`: neither the provider's nor told in an earlier row."""
        usage, first_byte = try_.used or try_.usage, try_.first_byte
        ended = try_.ended
        if ended is None:
            ended = self._now()
        began = try_.began or ended
        overhead_ms = ((ended - story.call.began - story.upstream_s) * 1e6 + WHOLE - WHOLE) / 1e3
        if len(story.tries) > 1:
            overhead_ms = _untold(overhead_ms, story)
        rest = (
            try_.status,
            try_.end,
            usage.input,
            usage.cached_input,
            usage.cache_write,
            usage.output,
            usage.reasoning,
            usage.detail or {},
            usage.source,
            usage.note,
            try_.cost_nanousd,
            try_.held_nanousd,
            try_.price_row,
            story.generation,
            ((ended - began) * 1e6 + WHOLE - WHOLE) / 1e3,
            None if first_byte is None else ((first_byte - began) * 1e6 + WHOLE - WHOLE) / 1e3,
            overhead_ms if overhead_ms > 0.0 else 0.0,
            story.streamed,
        )
        return (try_.head or self.held(story, try_, Memo(), 0, 0)[0]) + rest

    def held(self, story: Story, try_: Try, kept: Memo, input: int, output: int) -> Begun:
        """What is known of the row of an attempt that is about to leave. `kept`: of the plan."""
        if kept.model != try_.model or kept.provider != try_.provider or kept.credential != try_.credential:
            kept = self._keep(kept, story, try_)
        try_.memo = kept
        call, number, parent = story.call, try_.number, None
        overhead_ms = (try_.began - call.began - story.upstream_s) * 1e3
        if number > 1 and story.tries:
            parent = f"{call.id}/{story.tries[0].number}"
            overhead_ms = _untold(overhead_ms, story)
        own = try_.id, call.id, number, try_.kind, parent, try_.at_ns or self._clock.now_ns()
        head = try_.head = own + kept.whose
        return head, input, output, try_.price_row, story.generation, overhead_ms, story.streamed

    def _keep(self, kept: Memo, story: Story, try_: Try) -> Memo:
        key, others = (try_.provider, try_.model, try_.credential), kept.others or {}
        if key in others:
            return others[key]
        whose, sort = self._whose(story, try_), sort_of(story, try_)
        memo, may_keep = Memo(), len(try_.model or "") <= MAX_NAME
        if may_keep:
            sort = the_one(sort)
            if kept.provider is None:
                memo = kept
            elif len(others) < MAX_KEPT:
                others[key], kept.others = memo, others
        memo.provider, memo.model, memo.credential = key
        memo.whose, memo.sort = whose, sort
        return memo

    def _whose(self, story: Story, try_: Try) -> Whose:
        caller = story.caller
        return (
            self._shown(caller.name) if caller else "",
            caller.team if caller else None,
            caller.tier if caller else None,
            try_.provider,
            _shown_models[try_.model],
            story.operation,
            try_.credential,
        )

    def settle(self, story: Story, try_: Try) -> None:
        """The attempt is over: its true figures go to the limits, its row into the ledger. A second time does nothing.

        No status and usage source "none" says that nothing was sent, and the hold is void: what may have been sent wants an estimate.
        """
        if try_.row is not None:
            return
        row = try_.row = self._values(story, try_)
        if not try_.is_held:
            self._store.write(Row._make(row))
        elif try_.status is None and try_.usage.source == "none":
            self._store.void(try_.id, Row._make(row))
        else:
            usage = try_.used or try_.usage
            tokens = 0 if try_.is_read_back else usage.input + usage.output
            self._store.settle(try_.id, tokens, try_.cost_nanousd, row)

    def defer(self, story: Story, try_: Try, job: str, later: Row) -> None:
        """The attempt is over and its provider is not: what is held for it is held for the job, whose row is `later`."""
        row = try_.row = self.row_of(story, try_)
        self._store.defer(try_.id, job, row, later)

    def refused(self, story: Story, no: Refusal) -> None:
        """Counts the refusal; a row only for an identified caller, and only where no attempt's own row tells of the same failure."""
        self._metrics.refused(no.code)
        if no.limit is not None and no.kind is not None and no.used is not None:
            self._metrics.used(no.limit, no.kind, no.used)
        last = story.tries[-1] if story.tries else None
        is_told = last is not None and last.row is not None and no.status >= 500
        if story.caller is None or is_told:
            return
        if last is None or last.row is not None:
            number = last.number + 1 if last else 0
            last = Try(number, "refusal", story.call.route.provider, story.model, None, id=f"{story.call.uid}/{number}")
        last.began = last.began or story.call.began
        last.end = f"refused:{no.code}"
        if last.usage.source == "none":  # else it is under way, its provider may bill it, and it stays the attempt that it is
            last.kind, last.status, last.head = "refusal", no.status, None
        self.settle(story, last)

    def turned_away(self, code: str, request_id: str) -> None:
        """A refusal before there was a call: nobody to write a row for. Its line in the log is one of a bounded number."""
        self._metrics.refused(code)
        self._log.event("info", "turned away", request_id=request_id, code=code)

    def close(self, story: Story) -> None:
        """The call is over. Never awaits, never raises: what is lost here is a line or a figure, never a settle or a slot."""
        for try_ in story.tries:
            if try_.row is None:
                self._end_with(story, try_)
        now, usual = self._now, self._usual
        story.ended = now()
        try:
            self._store.leave(story.call.uid)
        except Exception as error:
            self._failed(error)
        try:
            if usual(story):
                return
            self._metrics.told(story)
        except Exception as error:
            self._failed(error)
        try:
            self._log.told(story)
        except Exception as error:
            self._failed(error)

    def _end_with(self, story: Story, try_: Try) -> None:
        """An attempt that the call's own end has cut short."""
        try_.end = story.end
        if try_.is_held or try_.began:
            try:
                self.settle(story, try_)
            except Exception as error:
                self._failed(error)

    def _failed(self, error: Exception) -> None:
        with suppress(Exception):
            self._log.event("error", "books", error=type(error).__name__)


def _untold(overhead_ms: float, story: Story) -> float:
    """What of it no earlier row tells."""
    told: float = sum(one.row[_OVERHEAD] for one in story.tries if one.row is not None)
    return round(overhead_ms - told, 3)


class _Shown(dict[str | None, str | None]):
    """Names of models as they show: they come from outside, and with them whatever a caller put there by mistake."""

    def __missing__(self, name: str | None) -> str | None:
        shown = None if name is None else scrubbed(name)
        if name is None or len(name) <= MAX_NAME:
            if len(self) >= MAX_MODELS:
                self.clear()
            self[name] = shown
        return shown


_OVERHEAD = Row._fields.index("overhead_ms")
MAX_MODELS, MAX_NAME = 4096, 256  # names that are at hand as they show; characters of one
MAX_KEPT = 16  # with a plan, beside what came first: a session's turns may name ever new models
_shown_models = _Shown()
