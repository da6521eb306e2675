"""What this sidecar may spend by itself when the shared state is out of reach. Talks to nobody, reads no clock, trusts no share for ever.

A share is money that no other sidecar may touch (`ops.Share`). Every hold of this process counts against it in full, for its settle gives
money back to all; only what was held without Redis and settled without it comes back to the share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from proxy.exchange import value
from proxy.policy.plan import Claim, Limit, OnStateDown, Rate, Spend

KEPT_S = 3600.0  # the state keeps the share of a sidecar that fell silent for this long …
USED_S = 0.9 * KEPT_S  # … and the sidecar stops earlier, counted from before it asked
STEP = 10  # on the disk a share is smaller by a tenth of itself, so that not every hold writes the file anew
WORN = 20  # of which one part is gone
MOST = 2**53


@value(frozen=True, slots=True)
class Key:
    """Money of one account in one period."""

    limit: str
    account: str
    period: str


@dataclass(slots=True)
class Shares:
    """All shares as last told, nano-dollars. Times are monotonic seconds; on the disk, ns since the epoch."""

    live: int = 0  # sidecars that share the state, this one included; 0: nobody told us yet
    until: float = 0.0
    _left: dict[Key, int] = field(default_factory=dict)
    _whole: dict[Key, int] = field(default_factory=dict)  # as they were told
    _since: dict[Key, int] = field(default_factory=dict)  # spent since we asked last
    _asked: int = 0  # how often
    _told: int = 0  # and to which question the shares are the answer
    _disk: dict[Key, int] = field(default_factory=dict)  # what the file says is left: never more than there is

    def left(self, key: Key, now: float) -> int:
        """How much may be spent without Redis; never below 0."""
        return max(0, self._left.get(key, 0)) if now < self.until else 0

    def asks(self) -> None:
        """The question for new shares is sent now."""
        self._since, self._asked = {}, self._asked + 1

    def told_some(self, shares: Mapping[Key, int]) -> None:
        """The answer to it for some; the others stay as they are, and all are good for as long as they were."""
        self._told = self._asked
        self._whole.update(shares)
        self._left.update({key: share - self._since.get(key, 0) for key, share in shares.items()})

    def told(self, shares: Mapping[Key, int], live: int, asked_at: float) -> bool:
        """The answer to it: what is not in it is no share any more. Counted from `asked_at`. True: all of some share goes back."""
        self._told, self._whole = self._asked, dict(shares)
        is_given_back = any(left > 0 and not shares.get(key) for key, left in self._left.items())
        self._left = {key: share - self._since.get(key, 0) for key, share in shares.items()}
        self.live, self.until = max(1, live), asked_at + USED_S
        return is_given_back

    def spent(self, keys: Iterable[Key], nanousd: int) -> int:
        """A hold that Redis is about to be asked for, or that is made without. Gives a mark, for `came_back`."""
        for key in keys:
            if key in self._left:
                self._left[key] -= nanousd
            self._since[key] = self._since.get(key, 0) + nanousd
        return self._asked

    def came_back(self, keys: Iterable[Key], nanousd: int, mark: int) -> None:
        """Of a hold that surely was not made, or that was made without Redis and closed without it."""
        for key in keys:
            if key in self._left and mark >= self._told:  # else the shares of today were told by one who knew of it
                self._left[key] += nanousd
            if mark == self._asked:
                self._since[key] = self._since.get(key, 0) - nanousd

    def is_worn(self, key: Key) -> bool:
        """Was so much of it used up, by estimates most of which came back to all, that it is worth asking anew?"""
        whole = self._whole.get(key, 0)
        return self._left.get(key, 0) * WORN < whole * (WORN - 1)

    def is_known(self, now: float) -> bool:
        """Do we know how many we are, and what our part is?"""
        return self.live > 0 and now < self.until

    # -- on the disk --------------------------------------------------------------------------------------------------

    @property
    def is_overstated(self) -> bool:
        """Does the file say more than there is? Then it is written before anything else happens."""
        return any(it > self._left.get(key, 0) for key, it in self._disk.items())

    def written(self, wall_ns: int, now: float) -> bytes:
        """What to write to the file."""
        self._disk = {key: left - left // STEP for key, left in self._left.items() if left > 0}
        rows = [[key.limit, key.account, key.period, left] for key, left in self._disk.items()]
        return orjson.dumps({"live": self.live, "until": wall_ns + int((self.until - now) * 1e9), "left": rows})

    @classmethod
    def read(cls, data: bytes, wall_ns: int, now: float) -> Shares:
        """What the process before us was told and had left, as far as it still holds. Damaged, or from the future: nothing."""
        try:
            found: dict[str, Any] = orjson.loads(data)
            for_s = (found["until"] - wall_ns) / 1e9
            left = {Key(limit, account, period): int(it) for limit, account, period, it in found["left"]}
            return cls(int(found["live"]), now + for_s, left, _disk=dict(left)) if 0 < for_s <= USED_S else cls()
        except (ValueError, KeyError, TypeError):
            return cls()


# -- claims as they are checked without Redis ----------------------------------------------------------------------------


def is_shared(claim: Claim) -> bool:
    """Is it counted by all sidecars together?"""
    return "instance" not in claim.limit.per


def rates_of(limit: Limit) -> bool:
    return bool(limit.requests or limit.tokens or limit.concurrency is not None)


def is_denied(claims: Sequence[Claim], rules: OnStateDown, *, has_share: bool) -> bool:
    """Does the policy, or the want of any share to go by, refuse calls under these claims while the state is down?"""
    no_money = rules.money == "deny" or (rules.money == "local" and not has_share)
    no_rates = rules.rates == "deny" or (rules.rates == "local" and not has_share)
    return any((no_money and claim.limit.spend) or (no_rates and rates_of(claim.limit)) for claim in claims)


def unbounded(claim: Claim) -> Claim:
    """The claim with money without end: what is not to decide is counted all the same."""
    spend = tuple([Spend(MOST, it.period) for it in claim.limit.spend])
    return Claim(replace(claim.limit, spend=spend), claim.account)


def localised(claim: Claim, rules: OnStateDown, live: int) -> Claim:
    """The claim with this sidecar's part of its rates, at least 1 of what is not 0; with `allow`, with no bound but the same windows.

    Money is left as it is: what a share allows is asked beside it.
    """
    limit = claim.limit
    part: Callable[[int], int] = (
        (lambda count: MOST) if rules.rates == "allow" else (lambda count: max(min(1, count), count // max(1, live)))
    )
    spend = limit.spend
    if rules.money == "allow":
        spend = tuple([Spend(MOST, it.period) for it in spend])
    return Claim(
        replace(
            limit,
            requests=tuple([Rate(part(it.count), it.period_s) for it in limit.requests]),
            tokens=tuple([Rate(part(it.count), it.period_s) for it in limit.tokens]),
            concurrency=None if limit.concurrency is None else part(limit.concurrency),
            spend=spend,
        ),
        claim.account,
    )
