"""Measures how late the event loop runs. Only reports: health and metrics decide what a late loop means."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

READY_S, LIVE_S = 5.0, 30.0  # faults.md P6
_REPORTED_S = 0.25
_EVERY_S = 0.1
_REMEMBERED_S = 10.0


class Watchdog:
    """One timer of the loop. `on_lag` gets the seconds of each delay above 250 ms; the worst one is remembered for 10 s."""

    def __init__(self, on_lag: Callable[[float], None], monotonic: Callable[[], float]) -> None:
        self._on_lag, self._monotonic = on_lag, monotonic
        self._due = 0.0
        self._worst, self._worst_at = 0.0, 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._due = self._monotonic() + _EVERY_S
        self._timer = asyncio.get_running_loop().call_later(_EVERY_S, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self.saw(self._monotonic() - self._due)
        self.start()

    def saw(self, lag_s: float) -> None:
        """A measured delay in seconds."""
        now = self._monotonic()
        if lag_s > _REPORTED_S:
            self._on_lag(lag_s)
        if lag_s >= self._worst or now - self._worst_at > _REMEMBERED_S:
            self._worst, self._worst_at = max(lag_s, 0.0), now

    @property
    def lag_s(self) -> float:
        """The worst delay of the last 10 s, one that is still going on included."""
        now = self._monotonic()
        remembered = self._worst if now - self._worst_at <= _REMEMBERED_S else 0.0
        overdue = now - self._due if self._timer is not None else 0.0
        return max(remembered, overdue, 0.0)

    @property
    def is_ready(self) -> bool:
        return self.lag_s <= READY_S

    @property
    def is_live(self) -> bool:
        return self.lag_s <= LIVE_S
