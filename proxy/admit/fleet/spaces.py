"""On a Cluster: which slot an account is counted in, and which slot a call is decided in. Talks to nobody and knows no policy.

An account has one home, whoever calls. Those of a team, and of the callers that belong to it, live in the space of the team, so that
one script decides a call; what else a call is counted on crosses that space and is served by grants (grants.py).
"""

from __future__ import annotations

from collections.abc import Iterable

from proxy.exchange import value
from proxy.policy.plan import Claim

WITHIN_CALLER = frozenset({"caller", "key"})
AS_ACCOUNT = str.maketrans(
    {",": "%2C", "|": "%7C", "%": "%25", **{chr(code): f"%{code:02X}" for code in range(32)}}
)  # as accounts are spelt
IN_TAG = str.maketrans({"{": "%7B", "}": "%7D"})  # the first } ends a hash tag


@value(frozen=True, slots=True)
class Who:
    """Who calls, as accounts spell it."""

    caller: str
    team: str | None

    @property
    def space(self) -> str:
        """Where its calls are decided."""
        return f"team={self.team}" if self.team else f"caller={self.caller}"

    @property
    def own_space(self) -> str:
        """Where its own accounts are. A caller of an issuer ("corp:alice") may come with another team tomorrow: they stay its own."""
        return f"caller={self.caller}" if ":" in self.caller else self.space


def who(caller: str, team: str | None) -> Who:
    return Who(caller.translate(AS_ACCOUNT), team.translate(AS_ACCOUNT) if team else None)


def home_of(claim: Claim, who: Who) -> str:
    """The space where the claim's account is counted."""
    per = claim.limit.per
    if "team" in per:
        return claim.account.split(",")[per.index("team")]
    return who.own_space if WITHIN_CALLER & set(per) else f"limit={claim.limit.name}"


def parted(claims: Iterable[Claim], who: Who) -> tuple[list[Claim], list[tuple[str, Claim]]]:
    """The claims that live in the caller's space, and those that cross it, each with its home."""
    inside, crossing, space = [], [], who.space
    for claim in claims:
        home = home_of(claim, who)
        if home == space:
            inside.append(claim)
        else:
            crossing.append((home, claim))
    return inside, crossing


def tag_of(namespace: str, space: str) -> str:
    """The hash tag of a space."""
    return f"{namespace}:{space}".translate(IN_TAG)
