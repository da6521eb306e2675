"""The way of attempts with one credential on one target: what is the same of all that take it is told by the first. Decides nothing."""

from __future__ import annotations

from typing import Any

from proxy.dialect.wire import Asked
from proxy.forward.attempts import Step
from proxy.forward.breaker import SPENT, Breakers, Turn
from proxy.forward.shape import Form, Shaping
from proxy.policy.plan import Plan

NO_TARIFF = (0,) * 10  # of no time


class Lane:
    """Of calls with one head and under one policy, which it is kept with at most."""

    __slots__ = (
        "credential", "form", "known", "model", "name", "prices", "provider", "shaping", "step", "target", "tariff", "tier", "turn",
    )  # fmt: skip

    def __init__(self, step: Step) -> None:
        self.step = step
        self.target = target = step.target
        self.provider = target.provider
        self.name, self.model = target.provider.name, target.model
        self.credential = None if step.credential is None else step.credential.name
        self.turn: Turn = SPENT  # while its breaker is closed, that of all who come
        self.form: Form | None = None  # of requests that go out as they came, and stream no answer
        self.shaping: Shaping | None = None  # of whose head that is
        self.known: Any = None  # of the model: lessons.Known, asked for anew once it is forgotten
        self.prices: Any = None  # meter.price.Prices, another where the policy or the table has changed
        self.tier: str | None = None  # of service, as `known` told it
        self.tariff: Any = NO_TARIFF  # meter.price.Tariff, by those prices and of that tier

    def enter(self, breakers: Breakers, plan: Plan, now: float) -> Turn:
        """The leave to attempt, asked for anew."""
        self.turn = turn = breakers.enter(self.name, self.model, plan.breaker, now)
        return turn

    def shape(
        self, shaping: Shaping, plan: Plan, asked: Asked, raw: bytes | None, plain: bytes | None, is_reworded: bool
    ) -> tuple[Form, bytes | None, bool]:
        """See `Shaping.shape`."""
        shaped = shaping.shape(plan, self.target, self.step.credential, asked, raw, plain, is_reworded)
        if not (asked.stream or is_reworded or plan.pricing.inject_max_tokens or shaping.names_model) and asked.model == self.target.theirs:
            self.form, self.shaping = shaped[0], shaping
        return shaped
