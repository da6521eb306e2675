"""Admission without Redis: by this sidecar's share of the money and its part of the rates, on its own books. Waits for nobody.

Money stays within what no other sidecar may touch, so that the limit holds whoever else is cut off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from proxy.admit.counters import Charge
from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.calls import ALONE, MIRROR, Held, Stay, keys_of
from proxy.admit.fleet.ops import Adopt, Count, Join
from proxy.admit.fleet.shares import Shares, is_denied, localised
from proxy.admit.fleet.space import Space
from proxy.admit.records import MOST
from proxy.admit.shape import charges_of
from proxy.policy.plan import Claim, OnStateDown
from proxy.ports import Clock, Intent
from proxy.refusal import Refusal
from proxy.standings import Standing

AGAIN_S = 5.0


@dataclass(slots=True)
class Alone:
    own: EmbeddedState
    clock: Clock
    rules: OnStateDown

    def check(self, claims: Sequence[Claim], shares: Shares) -> None:
        """Raises Refusal 503 where the policy, or the want of any share to go by, serves no such call."""
        if is_denied(claims, self.rules, has_share=shares.is_known(self.clock.monotonic())):
            raise _out_of_reach("a limit of this call is counted there")

    def is_denied(self, claims: Sequence[Claim]) -> bool:
        """By the policy, share or no share."""
        return is_denied(claims, self.rules, has_share=True)

    async def decide(self, space: Space, stays: Sequence[Stay]) -> None:
        """The entries of a session. Raises Refusal."""
        for stay in stays:
            self.check(stay.claims, space.shares)
            await self._enter(space, stay)

    async def hold(self, space: Space, intent: Intent, mine: Sequence[Claim], shared: Sequence[Claim]) -> None:
        """The attempt, and those entries of its call that nobody has decided yet. Raises Refusal; then nothing is held."""
        shares = space.shares
        self.check(shared, shares)
        claims = [localised(claim, self.rules, shares.live) for claim in shared]
        now = self.own.now()
        charges = charges_of(shared, [claim.account for claim in shared], now, "tokens")
        tokens, nanousd = min(intent.tokens, MOST), min(intent.nanousd, MOST)
        self._check_money(shares, shared, charges, nanousd)
        self._check_tokens(shared, claims, tokens)
        for stay in space.calls.undecided(intent.call_uid):
            await self._enter(space, stay)
        held = Held(intent.id, tuple(shared), charges, now.ns, tokens, nanousd, None, space.spends(shared, charges, nanousd))
        space.calls.held[intent.id] = held
        try:
            await self.own.hold(replace(intent, claims=(*mine, *claims)))
        except BaseException:
            if space.calls.held.pop(intent.id, None) is not None:
                shares.came_back(held.money(), held.nanousd, held.mark)
            raise
        self._tell(space, intent.id, held)
        space.known.told(shared, [self._as_shared(shares, it, charges) for it in self.own.standings(claims)])

    def extends(self, space: Space, held: Held, nanousd: int) -> bool:
        """More money for an attempt under way, out of the share."""
        now = self.clock.monotonic()
        if self.rules.money == "deny" or (self.rules.money == "local" and any(nanousd > space.shares.left(it, now) for it in held.money())):
            return False
        space.spends(held.claims, held.charges, nanousd)
        more = f"{held.id}{ALONE}+{len(held.more) + 1}"
        held.more.append((more, nanousd))
        if space.is_telling:
            space.put(Adopt(more, held.at_ns + space.skew_ns, 0, nanousd, held.charges))
        return True

    async def _enter(self, space: Space, stay: Stay) -> None:
        """Decides what was noted: it is taken out of the books once and put in again where it fits."""
        mirror = stay.uid + MIRROR
        self.own.uncount(mirror)
        self.own.leave(mirror)
        await self.own.enter(mirror, [localised(claim, self.rules, space.shares.live) for claim in stay.claims])
        stay.is_decided = True
        if not space.is_telling:
            return space.calls.counted("requests", stay.charges(), stay.at_ns, 1)
        stay.remote, at_ns = stay.uid + ALONE, stay.at_ns + space.skew_ns
        space.put(Join(stay.remote, at_ns, stay.charges()))
        space.put(Count("requests", at_ns, 1, stay.charges()))

    def _tell(self, space: Space, id: str, held: Held) -> None:
        if id not in space.calls.held:  # closed while the journal wrote
            return
        if not space.is_telling:
            return space.calls.counted("tokens", held.charges, held.at_ns, held.tokens)
        space.put(Count("tokens", held.at_ns + space.skew_ns, held.tokens, held.charges))
        if held.remote is None:  # else all was told together meanwhile
            held.remote = id + ALONE
            for op in held.adopted(space.skew_ns):
                space.put(op)

    def _check_money(self, shares: Shares, claims: Sequence[Claim], charges: Sequence[Charge], want: int) -> None:
        """What is larger than the whole limit, the books refuse."""
        now = self.clock.monotonic()
        for claim, charge in zip(claims, charges, strict=True):
            for spend, key in zip(claim.limit.spend, keys_of((charge,)), strict=True):
                if self.rules.money == "local" and shares.left(key, now) < want <= spend.nanousd:
                    raise _out_of_reach(f"this sidecar's share of limit {claim.limit.name} is used up", claim.limit.name)

    def _check_tokens(self, claims: Sequence[Claim], parts: Sequence[Claim], want: int) -> None:
        for claim, part in zip(claims, parts, strict=True):
            for whole, ours in zip(claim.limit.tokens, part.limit.tokens, strict=True):
                if ours.count < want <= whole.count:
                    raise _out_of_reach(f"this call is larger than this sidecar's part of limit {claim.limit.name}", claim.limit.name)

    def _as_shared(self, shares: Shares, it: Standing, charges: Sequence[Charge]) -> Standing:
        """Of money, what is left of our share: the books know only what we ourselves spent."""
        if it.kind != "spend" or self.rules.money != "local":
            return it
        now = self.clock.monotonic()
        keys = keys_of([charge for charge in charges if charge.limit == it.limit])
        return replace(it, remaining=min([it.remaining, *(shares.left(key, now) for key in keys)]))


def _out_of_reach(why: str, limit: str | None = None) -> Refusal:
    text = f"the shared state is out of reach, and {why}"
    return Refusal(503, "state_unavailable", text, retry_after=AGAIN_S, limit=limit)
