"""How many retries a provider may get, so that they never amplify an outage. Holds numbers, knows no call."""

from __future__ import annotations

FLOOR = 3  # retries that may always be under way (Envoy)
FULL = 500  # tokens (AWS): a retry costs, a success gives one back
COST = 5
COST_AFTER_TIMEOUT = 10


class Budget:
    """Of one provider: retries under way ≤ max(3, share of calls under way), and a bucket of tokens."""

    __slots__ = ("active", "retries", "tokens")

    def __init__(self) -> None:
        self.active = 0
        self.retries = 0
        self.tokens = FULL

    def enter(self) -> None:
        """A call begins to use this provider. It is counted until `leave`, or `gave_up`."""
        self.active += 1

    def leave(self) -> None:
        """The call is over, or left; it did not fail here."""
        self.active -= 1
        if self.tokens < FULL:
            self.tokens += 1

    def gave_up(self) -> None:
        """All attempts that the call had here have failed."""
        self.active -= 1

    def has_room(self, share: float, cost: int) -> bool:
        """`share` of the policy, 0.2 = 20 %; 0 means no retries at all."""
        return share > 0 and self.retries < max(FLOOR, share * self.active) and self.tokens >= cost

    def take(self, cost: int) -> None:
        self.retries += 1
        self.tokens -= cost

    def give_back(self) -> None:
        """A retry is over, whatever its end."""
        self.retries -= 1


class Budgets:
    """By provider name, which only the policy gives."""

    def __init__(self) -> None:
        self._all: dict[str, Budget] = {}

    def of(self, provider: str) -> Budget:
        budget = self._all.get(provider)
        if budget is None:
            budget = self._all[provider] = Budget()
        return budget
