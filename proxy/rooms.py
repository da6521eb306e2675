"""What the data path is made of: the rooms `app.py` built, and one generation of the policy. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from proxy.dialect.wire import Asked, Dialect, Operation
from proxy.exchange import Story
from proxy.forward.attempts import Budgets, Dice
from proxy.forward.breaker import Breakers
from proxy.forward.shape import Shaping
from proxy.guard.vault import Vault
from proxy.identify.who import Identify
from proxy.listen.peek import Peeked
from proxy.meter.price import Prices
from proxy.policy.plan import Plan, Provider, Rulebook
from proxy.ports import Clock, Metrics, Store, Upstream
from proxy.record.alerts import Alerts
from proxy.record.books import Books
from proxy.record.log import Log
from proxy.under_way import UnderWay

ANY_TEXT = ("**",)  # of a JSON body whose operation we do not know: every string may be text


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


@dataclass(slots=True)
class Rooms:
    generation: Generation  # the live one: set anew by `app.py`, alone of all these
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


@dataclass(slots=True, eq=False)
class Common:
    """What all calls with one head have in common, under one generation of the policy."""

    generation: Generation
    provider: Provider  # the one that the caller addressed
    dialect: Dialect
    op: Operation
    speaks: str  # the wire format that the caller speaks
    shaping: Shaping
    may_keep: bool  # the policy looks at nothing that differs between calls of one head and one caller
    coding: str  # of the body
    is_met: bool = False  # by a call before: what is worked out from it is worth keeping
    firsts: dict[str | None, Any] = field(default_factory=dict)  # by the target's model: where forwarding begins, whoever calls
    is_json: bool = field(init=False)  # the body is JSON of an operation that we know: it is held and read
    surface: tuple[str, ...] = field(init=False)  # where such a body holds text
    max_body: int = field(init=False)  # bytes

    def __post_init__(self) -> None:
        is_known = self.op.name != "other"
        self.is_json = is_known and self.op.body == "json"
        self.max_body = self.generation.rules.server.max_body
        self.surface = (self.dialect.surface(self.op) if is_known else ()) or ANY_TEXT


class Ready(Story):
    """A call on its way: with its story, its body as far as it is held and what that asks for, then its plan. From forward on none of
    these changes: each attempt is shaped from them. No more than 30 fields in all: beyond, each instance has a dict of its own."""

    common: Common
    asked: Asked
    raw: bytes | None = None  # as it travels; None: `upload` streams through
    upload: Peeked | None = None
    plain: bytes | None = None  # the same without its content coding, where that could be read
    is_json: bool = True  # is that JSON?
    is_reworded: bool = False  # by the guard: it goes out without the coding it came in
    vault: Vault | None = None
    plan: Plan
    size: int  # bytes of text for the estimate


ready_of = Ready.of
