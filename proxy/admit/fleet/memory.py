"""Whether the shared state may throw away what it counts when its memory is full. Changes nothing there."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from proxy.admit.fleet.errand import Errand
from proxy.admit.fleet.link import Link
from proxy.admit.fleet.ops import Down
from proxy.policy.plan import Limit

LOOK_S = 30.0  # between two looks: somebody may change it while all run
AGAIN_S = 1.0  # … while nobody could be asked, or whoever repairs it waits to see that it is good again


class Memory:
    """`limits`: those of the policy that is live now."""

    def __init__(self, link: Link, limits: Sequence[Limit], look_s: float = LOOK_S) -> None:
        self.limits = limits
        self.has_looked = False  # at least once
        self._evicting: str | None = None  # the maxmemory-policy, as last seen, where it drops keys
        self._link, self._again_s = link, min(look_s, AGAIN_S)
        self._errand = Errand("shared memory", look_s, self._once)

    @property
    def problem(self) -> str | None:
        """Why no budget is safe there, and what to do; None: it is, or nobody could be asked yet."""
        if self._evicting is None or not any(limit.spend and "instance" not in limit.per for limit in self.limits):
            return None
        text = f"the shared state may drop what it counts when its memory is full (maxmemory-policy {self._evicting})"
        return f"{text}, and a spend limit rests on it: set maxmemory-policy noeviction"

    def start(self) -> None:
        self._errand.start()

    async def close(self) -> None:
        await self._errand.stop()

    async def look(self) -> None:
        """Raises Down."""
        policies = [_evicting(reply) for reply in await self._link.ask_each("INFO", "memory")]
        self._evicting = next((it for it in policies if it is not None), None)
        self.has_looked = True

    async def _once(self) -> None:
        """Until it is known to be safe."""
        while True:
            with suppress(Down):
                await self.look()
                if self.problem is None:
                    return
            await asyncio.sleep(self._again_s)


def _evicting(reply: bytes) -> str | None:
    """The policy of this server, where it may drop keys. A server that does not say is taken for a safe one."""
    lines = dict(line.split(":", 1) for line in reply.decode("utf-8", "replace").splitlines() if ":" in line)
    policy = lines.get("maxmemory_policy", "noeviction")
    return policy if lines.get("maxmemory", "0") != "0" and policy != "noeviction" else None
