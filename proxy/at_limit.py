"""What happens when the money ends: a cheaper model from a share on, and the good end of a running answer. Refuses no call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from proxy.dialect.ending import Ending
from proxy.dialect.wire import Dialect
from proxy.exchange import Try, Usage
from proxy.meter.price import Quote
from proxy.meter.tap import Watch
from proxy.policy.plan import Facts, Plan, Rulebook
from proxy.ports import Outlet, Store
from proxy.rooms import Ready
from proxy.stream.event import Event
from proxy.stream.taps import Line

CHECK, CHECK_MOST = 4 * 1024, 64 * 1024  # bytes between two looks at the cost of an answer
STEP_TOKENS = 1024  # of output, held in addition at a time
SURE = 8  # a count may be so many times too high: output beyond the max_tokens asked for is believed only beyond that


class MoneyEnded(Exception):
    """An answer costs more than is held for it, and its accounts have no money for more."""

    def __init__(self, limit: str, purse: Purse) -> None:
        super().__init__(limit)
        self.limit, self.purse = limit, purse


def degraded(rules: Rulebook, store: Store, facts: Facts, plan: Plan, may_cost: Callable[[], int]) -> Plan:
    """The plan, with a cheaper model where a spend limit of it has reached its share and lists one.

    Where what the call `may_cost` (nano-dollars) does not fit any more, the share counts as reached: it never would be.
    """
    shares = {claim.limit.name: claim.limit.degrade.from_share for claim in plan.degrading if claim.limit.degrade is not None}
    if not shares or not facts.is_billed:
        return plan
    standings = store.standings(plan.degrading)
    cost = may_cost()
    reached = {at.limit for at in standings if at.kind == "spend" and (at.reaches(shares[at.limit]) or cost > at.remaining)}
    return rules.degraded(facts, plan, reached) if reached else plan


class Purse:
    """A `ports.Outlet` before the client's, and a tap behind all others: gets more held for an answer that costs more, or ends it.

    What is looked at is what the watch has counted, every 4 to 64 KiB; a stream that stays within what was held is never stopped.
    """

    def __init__(self, store: Store, try_: Try, ready: Ready, quote: Quote, watch: Watch, ending: Ending) -> None:
        self._store, self._try, self._claims = store, try_, ready.plan.stopping
        self._prices, self._quote, self._watch, self._ending = ready.common.generation.prices, quote, watch, ending
        assert try_.held_usage is not None
        _, output, _, is_open = try_.held_usage
        is_kept = not is_open or ready.plan.pricing.inject_max_tokens
        self._asked = output if is_kept else None  # the provider writes no more; counts are high
        self._step = self._cost(Usage(output=STEP_TOKENS, source="counted"))
        self._passed, self._next, self._owed = 0, CHECK, 0
        self._outlet: Outlet | None = None
        self._line: Line | None = None

    def before(self, outlet: Outlet) -> Outlet:
        self._outlet = outlet
        return self

    def behind(self, line: Line) -> Line:
        """The line that feeds this tap: it ends between two events."""
        self._line = line
        return line

    def words(self) -> bytes:
        """The good end, with the figures so far."""
        return self._ending.words(self._watch.usage())

    # --- as a tap ---

    def feed(self, event: Event) -> Sequence[Event]:
        if event.data:
            self._ending.saw(event.data)
        return (event,)

    def end(self) -> Sequence[Event]:
        return ()

    # --- as an outlet ---

    @property
    def is_full(self) -> bool:
        assert self._outlet is not None
        return self._owed > 0 or self._outlet.is_full

    def push(self, data: bytes, framed: bytes = b"") -> bool:
        assert self._outlet is not None
        is_full = self._outlet.push(data, framed)
        self._passed += len(data)
        if self._passed >= self._next:
            self._look()
        return is_full or self._owed > 0

    async def drain(self) -> None:
        """Until there is room, and money. Raises MoneyEnded."""
        assert self._outlet is not None and self._line is not None
        if self._owed > 0 and not await self._more():
            self._line.cut()
            left = [at for at in self._store.standings(self._claims) if at.kind == "spend"]
            raise MoneyEnded(min(left, key=lambda at: at.remaining).limit, self)
        await self._outlet.drain()

    def _look(self) -> None:
        usage = self._watch.usage()
        if self._asked is not None:
            usage = replace(usage, output=max(min(usage.output, self._asked), usage.output // SURE))
        left = self._try.held_nanousd - self._cost(usage)
        is_readable = usage.source in ("counted", "provider")
        if left < 0 and is_readable and self._ending.is_possible:
            self._owed = -left
        tokens = left * STEP_TOKENS // self._step if left > 0 and self._step else 0
        self._next = self._passed + min(max(CHECK, 3 * tokens), CHECK_MOST)  # no token is counted for fewer than three bytes

    async def _more(self) -> bool:
        for nanousd in (self._owed + self._step, self._owed):
            if await self._store.extend(self._try.id, self._claims, nanousd):
                self._try.held_nanousd += nanousd
                self._owed = 0
                return True
        return False

    def _cost(self, usage: Usage) -> int:
        return self._prices.priced(self._quote, usage).cost_nanousd


def purse(store: Store, ready: Ready, try_: Try, quote: Quote, watch: Watch, dialect: Dialect) -> Purse | None:
    """For a stream that one of its limits may end, and that has a good end; None for all other answers."""
    if not (ready.plan.stopping and watch.is_stream and try_.is_held):
        return None
    ending = dialect.ending(ready.common.op, ready.asked)
    return None if ending is None else Purse(store, try_, ready, quote, watch, ending)
