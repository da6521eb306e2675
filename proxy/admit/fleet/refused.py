"""What Redis refused of late, so that a flood of refused calls asks it once; and the words of refusals that only a fleet knows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.admit.fleet.ops import Broken
from proxy.admit.limits import Denied, Why
from proxy.admit.windows import NS
from proxy.admit.wording import refusal
from proxy.policy.plan import Claim, Rate
from proxy.refusal import Refusal

log = logging.getLogger("sluice.state")

SURE_NS = 1_000_000_000  # a refusal is repeated unasked for so long at most: a request that goes back makes room
MOST_FULL = 10_000
QUIET_S = 10.0  # between two lines of the log on what cannot be read


@dataclass(frozen=True, slots=True)
class Full:
    """A window of requests without room, and until when (monotonic seconds) nobody need ask again."""

    no: Denied
    until: float


class Refused:
    def __init__(self) -> None:
        self._full: dict[tuple[str, str], Full] = {}
        self._quiet_until = 0.0

    def saw(self, no: Denied, now: float) -> None:
        if no.why is Why.RATE and no.kind == "requests" and isinstance(no.bound, Rate):
            if len(self._full) >= MOST_FULL:
                self._full.clear()
            self._full[no.claim.limit.name, no.claim.account] = Full(no, now + min(no.wait_ns, SURE_NS) / NS)

    def unreadable(self, problem: Broken, now: float) -> Refusal:
        """Somebody must look at it (docs/shared-state.md): until then no call that counts there is served."""
        if now >= self._quiet_until:
            self._quiet_until = now + QUIET_S
            keys = "".join(char if char.isprintable() else "?" for char in str(problem))[:300]
            log.error("what the shared state keeps of an account cannot be read: %s", keys)
        return Refusal(503, "state_unavailable", "what the shared state keeps of a limit of this call cannot be read", should_retry=False)

    def check(self, claims: Sequence[Claim], now: float) -> None:
        """Raises the Refusal that Redis would repeat."""
        for claim in claims:
            full = self._full.get((claim.limit.name, claim.account))
            if full is not None and full.no.bound in claim.limit.requests and now < full.until:
                raise refusal(replace(full.no, claim=claim, wait_ns=int((full.until - now) * NS)))


def kept_by_others(claims: Sequence[Claim]) -> Refusal:
    """There is money, and no sidecar that it is kept for gives it back: those do not answer."""
    limit = next(claim.limit for claim in claims if claim.limit.spend)
    text = f"limit {limit.name}: what is left of it is kept for sidecars that do not answer, for up to an hour"
    return Refusal(limit.money_status, "budget_exhausted", text, should_retry=False, limit=limit.name, kind="spend")
