"""How a caller stands right after an enter or a hold, of what that took alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from proxy.admit.shape import ENTRY
from proxy.policy.plan import Claim
from proxy.ports import Intent
from proxy.standings import Standing


async def entered(state: Any, uid: str, claims: Sequence[Claim]) -> list[Standing]:
    """Requests and slots."""
    await state.enter(uid, claims)
    return [it for it in state.standings(claims) if it.kind in ENTRY]


async def held(state: Any, intent: Intent) -> list[Standing]:
    """Tokens and money."""
    await state.hold(intent)
    return [it for it in state.standings(intent.claims) if it.kind not in ENTRY]
