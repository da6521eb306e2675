"""What counts on one account: windows, money by period, calls under way; and what is held. Never decides and never reads a clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, NamedTuple

from proxy.admit.periods import Periods
from proxy.admit.windows import Ring
from proxy.exchange import value

if TYPE_CHECKING:
    from proxy.admit.counters import Charge
    from proxy.admit.lines import Place

RateKind = Literal["requests", "tokens"]
Window = tuple[RateKind, int]  # what it counts, and how long it is, in seconds


@value(frozen=True, slots=True)
class Moment:
    """Now, as an argument: `ns` never jumps within a process (rates), `periods` follow the calendar (money)."""

    ns: int
    periods: Periods
    skew_ns: int = 0  # added to `ns`, it is the wall clock


@dataclass(slots=True)
class Balance:
    """Money of one account in one period, nano-dollars."""

    settled: int = 0
    held: int = 0


@dataclass(slots=True)
class Account:
    rings: dict[Window, Ring] = field(default_factory=dict)
    spend: dict[str, Balance] = field(default_factory=dict)  # by period id
    in_flight: int = 0
    stay_ns: int = 0  # how long calls keep a slot, a moving average
    forgot: int = 0  # how often it has forgotten something, or was forgotten: who has found a window here before looks again
    place: Place | None = None  # of the claims that came last and whose first is on this account, while it is good
    # All that was ever taken here: no window, slot or balance has grown by more than these have (`lines.look`)
    entries: int = 0
    tokens: int = 0
    nanousd: int = 0
    together: Account | None = None  # where that is summed instead, once it was named beside other accounts (`Counters.join`)

    def ring(self, key: Window) -> Ring:
        ring = self.rings.get(key)
        if ring is None:
            ring = self.rings[key] = Ring(key[1])
        return ring

    def balance(self, period: str) -> Balance:
        balance = self.spend.get(period)
        if balance is None:
            balance = self.spend[period] = Balance()
        return balance

    def is_idle(self, now: Moment) -> bool:
        """Nothing counts here any more, so that forgetting it changes no answer. Drops what is past on the way."""
        past = [id for id, it in self.spend.items() if not it.held and (not it.settled or now.periods.is_past(id))]
        over = [key for key, ring in self.rings.items() if not ring.used(now.ns) and ring.is_empty]
        for id in past:
            del self.spend[id]
        for key in over:
            del self.rings[key]
        is_idle = not (self.in_flight or self.spend or self.rings)
        if past or over or is_idle:
            self.forgot, self.place = self.forgot + 1, None
        return is_idle


class Hold(NamedTuple):
    """What one attempt holds until it is settled or voided. `intent` is its journal record."""

    at: int
    tokens: int
    nanousd: int
    where: tuple[Charge, ...] | Place
    intent: bytes

    @property
    def charges(self) -> tuple[Charge, ...]:
        where = self.where
        return where if isinstance(where, tuple) else tuple(where.shape.held(where.names))


Held = tuple[int, int, int, "tuple[Charge, ...] | Place", bytes]  # the same as it is kept: to make a `Hold` of each is dear
