"""Jobs that are billed later: a hold that outlives its attempt, its process, until a later reply
shows what was used. Knows no reply."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from proxy.admit.accounts import Held, Hold
from proxy.admit.counters import Counters
from proxy.admit.records import Values, hold_record, row_held
from proxy.exchange import Row
from proxy.ports import Clock

KEPT_NS = 31 * 86_400_000_000_000  # what nobody has read back by then is charged at its estimate
LOOKED_S = 3_600.0  # between two looks for those
_PREFIX = "job/"


def job_id(provider: str, id: str) -> str:
    """Of the hold and of its first row; an attempt's id never begins so."""
    return f"{_PREFIX}{provider}/{id}/1"


def named(id: str) -> tuple[str, str]:
    """Provider and job of what `job_id` made."""
    provider, _, rest = id.removeprefix(_PREFIX).partition("/")
    return provider, rest.removesuffix("/1")


def is_job(id: str) -> bool:
    return id.startswith(_PREFIX)


class Writer(Protocol):
    """The part of the embedded state that jobs write through."""

    def note(self, record: Sequence[object], row: Values | None) -> None: ...
    def settle(self, id: str, tokens: int, nanousd: int, row: Row) -> None: ...
    def write(self, row: Row) -> None: ...


class Jobs:
    """Those of one state: they are open holds like others, whose intents carry the row of the job."""

    def __init__(self, counters: Counters, clock: Clock, writer: Writer) -> None:
        self._counters, self._clock, self._writer = counters, clock, writer
        self.settled_by = writer.settle  # a shared state settles more than our own books
        self._next: asyncio.TimerHandle | None = None

    def defer(self, id: str, job: str, row: Values, later: Values) -> None:
        """See `ports.Store`. A job that is held already (the provider took a repeated request for the first) is held once."""
        hold = self._counters.release(id)
        if hold is None:
            return
        if job in self._counters.holds:
            self._counters.settle(hold, hold.charges, 0, 0)
            self._writer.note(("v", id, row), row)
            return
        record = hold_record(job, hold.at, hold.tokens, hold.nanousd, hold.charges, later)
        self._counters.hold_again(job, Hold(hold.at, hold.tokens, hold.nanousd, hold.charges, record))
        self._writer.note(("d", id, job, later, row), row)

    def open(self) -> list[str]:
        return [id for id in self._counters.holds if is_job(id)]

    def settle(self, job: str, true: Callable[[Row], Sequence[Row]]) -> bool:
        """See `ports.Store`."""
        hold = self._counters.holds.get(job)
        if hold is None:
            return False
        rows = true(_row_of(hold))
        tokens = sum(row.input_tokens + row.output_tokens for row in rows)
        self.settled_by(job, tokens, sum(row.cost_nanousd for row in rows), rows[0])
        for row in rows[1:]:
            self._writer.write(row)
        return True

    def look(self) -> None:
        """Settles those that nobody has read back for too long, now and every hour."""
        now_ns = self._clock.now_ns()
        for id, hold in list(self._counters.holds.items()):
            if is_job(id) and (row := _row_of(hold)).at + KEPT_NS <= now_ns:
                self.settled_by(id, row.input_tokens + row.output_tokens, row.cost_nanousd, row)
        self._next = asyncio.get_running_loop().call_later(LOOKED_S, self.look)

    def close(self) -> None:
        if self._next is not None:
            self._next.cancel()


def _row_of(hold: Held) -> Row:
    return Row._make(row_held(Hold._make(hold)))
