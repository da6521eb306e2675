"""What a sidecar owes its fleet beside the calls: keys, letters about jobs, a look at the memory. Says if calls may come; decides none."""

from __future__ import annotations

from proxy.admit.fleet.keys import SharedKeys
from proxy.admit.fleet.memory import Memory
from proxy.admit.fleet.mode import Mode
from proxy.admit.fleet.post import Post

READY_AFTER_S = 30.0  # faults.md S1


class Duties:
    """`began`: monotonic seconds, when the state was opened."""

    def __init__(self, keys: SharedKeys, post: Post, memory: Memory, began: float) -> None:
        self.keys, self.post, self.memory, self.began = keys, post, memory, began
        self._was_reached = False

    def start(self) -> None:
        for errand in (self.keys, self.post, self.memory):
            errand.start()

    async def close(self) -> None:
        for errand in (self.keys, self.post, self.memory):
            await errand.close()

    def problem(self, mode: Mode, now: float) -> str | None:
        """Why no calls should come; None: Redis was reached and is safe, or it was waited for long enough."""
        if self.memory.problem is not None:
            return self.memory.problem
        is_reached = mode is Mode.SHARED and self.keys.has_met and self.memory.has_looked
        self._was_reached = self._was_reached or is_reached
        return None if self._was_reached or now - self.began > READY_AFTER_S else "the shared state is not reached yet"
