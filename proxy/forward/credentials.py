"""Which of a provider's keys is tried first: those that were refused lately rest. Never holds or shows a secret of its own."""

from __future__ import annotations

from proxy.forward.failure import Outcome
from proxy.policy.plan import Credential, Provider

REST_S = 60.0
STRIKES = 3  # refusals (401, 403) in a row; no credit rests at once


class Credentials:
    """Keyed by (provider, name of the credential): both are names of the policy, so this is bounded."""

    def __init__(self) -> None:
        self.strikes: dict[tuple[str, str], tuple[int, float]] = {}  # refusals in a row, resting until; empty: nothing is to be chosen

    def order(self, provider: Provider, now: float) -> tuple[Credential | None, ...]:
        """All of them, rested ones last; (None,) where there are none. None is ever left out: the last one's answer tells what is wrong."""
        mine = provider.credentials
        if len(mine) < 2 or not self.strikes:
            return mine or (None,)
        return tuple(sorted(mine, key=lambda one: max(0.0, self._until(provider, one) - now)))

    def saw(self, provider: Provider, credential: Credential | None, outcome: Outcome, now: float) -> None:
        """How an attempt with it ended."""
        if credential is None or not (self.strikes or outcome.credential_fault):
            return
        key = (provider.name, credential.name)
        if outcome.credential_fault:
            strikes = self.strikes.get(key, (0, 0.0))[0] + 1
            is_resting = outcome.kind == "credit" or strikes >= STRIKES
            self.strikes[key] = (strikes, now + REST_S if is_resting else 0.0)
        elif outcome.is_failure_for_breaker is False:
            self.strikes.pop(key, None)

    def _until(self, provider: Provider, credential: Credential) -> float:
        return self.strikes.get((provider.name, credential.name), (0, 0.0))[1]
