"""Jobs of one sidecar of a fleet: what they hold stays held in Redis too, under the job's own name. Reads no reply.

The sidecar that began a job settles it; any other that sees it read back leaves a letter for that one (`post`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.calls import Held
from proxy.admit.fleet.duties import Duties
from proxy.admit.fleet.ops import Adopt, Count, Void
from proxy.admit.fleet.space import Space
from proxy.admit.jobs import is_job
from proxy.exchange import Row


class SharedJobs:
    """The part of `SharedState` that jobs are."""

    own: EmbeddedState
    duties: Duties | None
    _space: Space

    def defer(self, id: str, job: str, row: Row, later: Row) -> None:
        """See `ports.Store`."""
        self.own.defer(id, job, row, later)
        space, held = self._space, self._space.calls.held.pop(id, None)
        if held is None:
            return
        before = [name for name in (held.remote, *(more for more, _ in held.more)) if name is not None]
        if job not in space.calls.held:
            nanousd = held.nanousd + sum(more for _, more in held.more)
            remote = None if held.remote is None else job
            space.calls.held[job] = Held(job, held.claims, held.charges, held.at_ns, held.tokens, nanousd, remote, held.mark)
            if remote is not None:  # held twice for a moment, never not at all
                at_ns = held.at_ns + space.skew_ns
                space.put(Adopt(job, at_ns, held.tokens, nanousd, held.charges))
                space.put(Count("tokens", at_ns, held.tokens, held.charges))
        for name in before:
            space.put(Void(name))

    def settle_job(self, job: str, true: Callable[[Row], Sequence[Row]], said: bytes = b"") -> bool:
        """See `ports.Store`."""
        is_ours = self.own.settle_job(job, true)
        if said and not is_ours and self.duties is not None:
            self.duties.post.tell(job, said)
        return is_ours

    def hear(self, on_job: Callable[[str, bytes], None]) -> None:
        """What other sidecars saw of the jobs that began here."""
        if self.duties is not None:
            self.duties.post.on_job = on_job

    def take_up_jobs(self) -> None:
        """Those that the process before left are ours again; Redis hears of them with all that is open here."""
        for id, hold in self.own.open_holds().items():
            charges = tuple([charge for charge in hold.charges if self._space.is_shared_limit(charge.limit)])
            if is_job(id) and charges:
                self._space.calls.held[id] = Held(id, (), charges, hold.at, hold.tokens, hold.nanousd, id, 0)
