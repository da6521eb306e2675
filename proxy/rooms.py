"""What the data path is made of: the rooms `app.py` built, and one generation of the policy. Decides nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.dialect.wire import Asked, Dialect, Operation
from proxy.exchange import Call, Caller, RawHeaders, value
from proxy.forward.attempts import Budgets, Dice
from proxy.forward.breaker import Breakers
from proxy.guard.vault import Vault
from proxy.identify.who import Identify
from proxy.listen.peek import Peeked
from proxy.meter.price import Prices
from proxy.policy.plan import Plan, Provider, Rulebook
from proxy.ports import Clock, Metrics, Standing, Store, Upstream
from proxy.record.alerts import Alerts
from proxy.record.books import Books
from proxy.record.log import Log
from proxy.under_way import UnderWay


@dataclass(frozen=True, slots=True)
class Generation:
    """One policy, compiled, with the prices that go with it. Swapped whole; a call keeps the one it began with."""

    rules: Rulebook
    prices: Prices

    def names(self, models: frozenset[str]) -> dict[str, frozenset[str]]:
        """What a label may hold, by kind: what the policy names, and these models."""
        callers = self.rules.callers
        return {
            "provider": frozenset(self.rules.providers),
            "model": self.rules.known_models | models,
            "caller": frozenset({key.name for key in callers.keys} | {token.record.name for token in callers.tokens} | {"anonymous"}),
            "team": callers.teams,
            "tier": callers.tiers,
        }


@dataclass(frozen=True, slots=True)
class Rooms:
    current: Callable[[], Generation]
    identify: Identify
    secret: bytes  # the state's own
    store: Store
    upstream: Upstream
    breakers: Breakers
    budgets: Budgets
    books: Books
    metrics: Metrics
    alerts: Alerts
    log: Log
    clock: Clock
    dice: Dice
    under_way: UnderWay = field(default_factory=UnderWay)


@value(frozen=True, slots=True)
class Ready:
    """A call that passed every room before forward: each attempt is shaped from this, unchanged."""

    call: Call
    plan: Plan
    prices: Prices
    dialect: Dialect
    op: Operation
    asked: Asked
    headers: RawHeaders  # those that may travel on
    body: bytes | None  # as it travels; None: `upload` streams through
    plain: bytes | None  # the same without its content coding
    upload: Peeked | None
    body_len: int  # bytes of text for the estimate
    vault: Vault | None
    standings: tuple[Standing, ...]
    source: Provider  # the provider the caller addressed
    max_upload: int
    may_list: Callable[[Caller, str], bool]
