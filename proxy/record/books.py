"""Puts what happened into the books: ledger rows, settles, figures, the line in the log. Decides nothing, waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from typing import ParamSpec, Protocol

from proxy.exchange import Row, Story, Try
from proxy.ports import Clock
from proxy.record.redact import plain, scrubbed
from proxy.refusal import Refusal

P = ParamSpec("P")


class Ledger(Protocol):
    """The part of `ports.Store` that the books write to."""

    def settle(self, id: str, tokens: int, nanousd: int, row: Row) -> None: ...
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

    def __init__(self, store: Ledger, metrics: Figures, log: Teller, clock: Clock, shown: Callable[[str], str] = plain) -> None:
        self._store, self._metrics, self._log, self._clock, self._shown = store, metrics, log, clock, shown

    def row_of(self, story: Story, try_: Try) -> Row:
        """The ledger's line for an attempt as it stands. Times in ms; `overhead_ms`: neither the provider's nor told in an earlier row."""
        usage = try_.usage
        ended = self._clock.monotonic() if try_.ended is None else try_.ended
        began = try_.began or ended
        return Row(
            id=try_.id,
            request_id=story.call.id,
            attempt=try_.number,
            kind=try_.kind,
            parent_id=f"{story.call.id}/{story.tries[0].number}" if try_.number > 1 and story.tries else None,
            at=try_.at_ns or self._clock.now_ns(),
            caller=self._shown(story.caller.name) if story.caller else "",
            team=story.caller.team if story.caller else None,
            tier=story.caller.tier if story.caller else None,
            provider=try_.provider,
            model=None if try_.model is None else _shown_model(try_.model),
            operation=story.operation,
            credential=try_.credential,
            status=try_.status,
            end=try_.end,
            input_tokens=usage.input,
            cached_input_tokens=usage.cached_input,
            cache_write_tokens=usage.cache_write,
            output_tokens=usage.output,
            reasoning_tokens=usage.reasoning,
            usage_detail=usage.detail,
            usage_source=usage.source,
            usage_note=usage.note,
            cost_nanousd=try_.cost_nanousd,
            held_nanousd=try_.held_nanousd,
            price_row=try_.price_row,
            policy_generation=story.generation,
            duration_ms=_ms(ended - began),
            first_byte_ms=None if try_.first_byte is None else _ms(try_.first_byte - began),
            overhead_ms=_overhead_ms(story, ended),
            streamed=story.streamed,
        )

    def settle(self, story: Story, try_: Try) -> None:
        """The attempt is over: its true figures go to the limits, its row into the ledger. A second time does nothing.

        No status and usage source "none" says that nothing was sent, and the hold is void: what may have been sent wants an estimate.
        """
        if try_.row is not None:
            return
        row = try_.row = self.row_of(story, try_)
        if not try_.is_held:
            self._store.write(row)
        elif try_.status is None and try_.usage.source == "none":
            self._store.void(try_.id, row)
        else:
            tokens = 0 if try_.is_read_back else try_.usage.input + try_.usage.output
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
            last.kind, last.status = "refusal", no.status
        self.settle(story, last)

    def turned_away(self, code: str, request_id: str) -> None:
        """A refusal before there was a call: nobody to write a row for. Its line in the log is one of a bounded number."""
        self._metrics.refused(code)
        self._log.event("info", "turned away", request_id=request_id, code=code)

    def close(self, story: Story) -> None:
        """The call is over. Never awaits, never raises: what is lost here is a line or a figure, never a settle or a slot."""
        for try_ in story.tries:
            if try_.is_held or try_.began:
                self._safely(self.settle, story, try_)
        self._safely(self._store.leave, story.call.uid)
        self._safely(self._metrics.told, story)
        self._safely(self._log.told, story)

    def _safely(self, do: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            do(*args, **kwargs)
        except Exception as error:
            with suppress(Exception):
                self._log.event("error", "books", error=type(error).__name__)


_shown_model = lru_cache(maxsize=4096)(scrubbed)  # a name from outside: whatever a caller put there by mistake


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _overhead_ms(story: Story, ended: float) -> float:
    told = sum(one.row.overhead_ms for one in story.tries if one.row is not None)
    return max(0.0, round((ended - story.call.began - story.upstream_s) * 1000 - told, 3))
