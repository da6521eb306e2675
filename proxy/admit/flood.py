"""How many rows of refusals the ledger takes: all of them, but for floods. One caller's flood costs no other caller a row."""

from __future__ import annotations

BURST = 1000  # rows of one caller at once
PER_S = 10  # and so many a second after that (faults.md: sampled above 10 a second)
MAX_CALLERS = 1000  # that are told apart; the rest share one allowance


class Flood:
    """An allowance for each caller, that fills up again with time. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # caller → (as of, rows left then)

    def has_room(self, caller: str, now_s: float) -> bool:
        """Takes one row of the caller's allowance, where there is one."""
        if caller not in self._left and len(self._left) >= MAX_CALLERS:
            self._left = {name: it for name, it in self._left.items() if _left(it, now_s) < BURST}
            caller = caller if len(self._left) < MAX_CALLERS else ""
        left = _left(self._left.get(caller, (now_s, BURST)), now_s)
        self._left[caller] = now_s, left - 1 if left >= 1 else left
        return left >= 1


def _left(it: tuple[float, float], now_s: float) -> float:
    as_of, left = it
    return min(BURST, left + (now_s - as_of) * PER_S)
