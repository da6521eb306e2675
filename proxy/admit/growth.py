"""A hold that grows: an answer under way costs more than was held for it. Takes money only where there is some; counts no tokens."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.admit.accounts import Hold
from proxy.admit.counters import Counters
from proxy.policy.plan import Claim


def has_room(counters: Counters, hold: Hold, claims: Sequence[Claim], nanousd: int) -> bool:
    """Has the money of each of these claims of the hold room for so much more, in the hold's own periods?"""
    charges = {charge.limit: charge for charge in hold.charges}
    for claim in claims:
        charge = charges.get(claim.limit.name)
        account = None if charge is None else counters.find(charge.limit, charge.account)
        if charge is None or account is None:
            return False
        for spend, period in zip(claim.limit.spend, charge.periods, strict=True):
            balance = account.balance(period)
            if balance.settled + balance.held + nanousd > spend.nanousd:
                return False
    return True
