"""What of a call crosses its space on a Cluster: taken from grants, or done without where the policy lets it. Keeps nothing itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from proxy.admit.fleet.granter import Granter, Took
from proxy.admit.fleet.grants import Wish
from proxy.admit.fleet.ops import Down
from proxy.admit.fleet.regions import Region, Regions
from proxy.admit.fleet.shares import localised, rates_of, unbounded
from proxy.admit.fleet.state import SharedState
from proxy.admit.limits import worst
from proxy.admit.records import MOST
from proxy.admit.wording import refusal
from proxy.policy.plan import Claim, OnStateDown
from proxy.ports import Intent
from proxy.refusal import Refusal

GRANTED = "/granted"  # behind the uid of a call, in our own books, of what grants decide
AGAIN_S = 5.0


@dataclass(slots=True)
class Under:
    """A call under way (`claims` as it began), or an attempt."""

    claims: tuple[Claim, ...] = ()
    region: Region | None = None  # None: nothing of it is decided yet
    crossing: tuple[tuple[str, Claim], ...] = ()  # with the hash tags of their homes
    took: list[Took] = field(default_factory=list)
    is_granted: bool = False
    is_uncounted: bool = False

    def undo(self) -> None:
        for took in self.took:
            took.undo()
        self.took, self.is_granted = [], False


Begins = Sequence[tuple[str, Under]]  # with their uids


@dataclass(frozen=True, slots=True)
class Crossing:
    granter: Granter
    regions: Regions
    base: SharedState

    async def take(self, intent: Intent | None, begins: Begins, attempt: Under | None) -> bool:
        """Takes from grants all that crosses; True: a home did not answer, and the policy lets us do without. Raises Refusal."""
        wishes = [(under, [(home, Wish(claim, requests=1, slots=1)) for home, claim in under.crossing]) for _, under in begins]
        if attempt is not None and intent is not None:
            tokens, nanousd = min(intent.tokens, MOST), min(intent.nanousd, MOST)
            of_attempt = [(home, Wish(claim, tokens=tokens, nanousd=nanousd, is_hold=True)) for home, claim in attempt.crossing]
            wishes.append((attempt, of_attempt))
        is_local = False
        try:
            for under, wanted in wishes:
                took = await self.granter.take(wanted)
                if no := worst(took.denied):
                    raise refusal(no, intent)
                under.took, under.is_granted = [took], True
        except Down:
            for under, _ in wishes:
                under.undo()
            self._do_without([under for under, _ in wishes], attempt, 0 if intent is None else min(intent.nanousd, MOST))
            is_local = True
        for uid, under in begins:
            under.is_granted = True
            await self.base.own.enter(uid + GRANTED, [self.mirrored(claim, is_local) for _, claim in under.crossing])
        return is_local

    def _do_without(self, all: Sequence[Under], attempt: Under | None, nanousd: int) -> None:
        """A home is out of reach. Money that was granted may be spent; for the rest the policy says. Raises Refusal 503."""
        rules, crossing = self.regions.rules, () if attempt is None else attempt.crossing
        money = [(home, Wish(claim, nanousd=nanousd, is_hold=True)) for home, claim in crossing if claim.limit.spend]
        is_denied = rules.rates == "deny" and any(rates_of(claim.limit) for under in all for _, claim in under.crossing)
        if is_denied or (rules.money != "allow" and not self.granter.has(money)):
            text = "the shared state is out of reach, and a limit of this call is counted there"
            raise Refusal(503, "state_unavailable", text, retry_after=AGAIN_S)
        if attempt is not None:
            attempt.took = [self.granter.force(money)]

    def mirrored(self, claim: Claim, is_local: bool) -> Claim:
        """As our own books count what grants decide: without a bound, or with our part of the rates while the home is away."""
        rules = self.regions.rules if is_local else OnStateDown(money="allow", rates="allow")
        its = unbounded(localised(claim, rules, self.base.live))
        return Claim(replace(its.limit, per=("instance",)), its.account)
