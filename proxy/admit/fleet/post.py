"""What one sidecar of a fleet saw of another's job: left in Redis, where the one that began it looks. Settles nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import islice

from proxy.admit.fleet.errand import Errand
from proxy.admit.fleet.link import Link
from proxy.admit.fleet.ops import Down

EVERY_S = 2.0
MOST = 50  # letters of a round, each way
MOST_WAITING = 1_000
MOST_BYTES = 64 * 1024
KEPT_S = 3 * 86_400  # who began the job looks every few seconds, or after its restart


class Post:
    """`open_jobs` gives the jobs this sidecar began; `on_job` hears what was said of one of them, until it is settled."""

    def __init__(self, link: Link, space: str, open_jobs: Callable[[], Iterable[str]]) -> None:
        self._link, self._space, self._open_jobs = link, space, open_jobs
        self.on_job: Callable[[str, bytes], None] = lambda job, said: None
        self._letters: dict[str, bytes] = {}
        self._looked_at = 0
        self._errand = Errand("shared jobs", EVERY_S, self._once)

    def tell(self, job: str, said: bytes) -> None:
        """For whoever began it. Beyond a bound it is dropped: the next reply that shows the usage tells it again."""
        if len(said) <= MOST_BYTES and len(self._letters) < MOST_WAITING:
            self._letters[job] = said

    def start(self) -> None:
        self._errand.start()

    async def close(self) -> None:
        await self._errand.stop()
        with suppress(Down):
            await self._send()

    async def _once(self) -> None:
        with suppress(Down):
            await self.meet()

    async def meet(self) -> None:
        """Sends and looks, once. Raises Down."""
        await self._send()
        jobs = list(self._open_jobs())
        start = self._looked_at if self._looked_at < len(jobs) else 0
        self._looked_at = start + MOST
        for job in jobs[start : start + MOST]:
            said = await self._link.ask("GET", self._key(job), key=self._key(job))
            if said is not None:
                self.on_job(job, said)

    async def _send(self) -> None:
        for job in list(islice(self._letters, MOST)):
            await self._link.ask("SET", self._key(job), self._letters[job], "EX", KEPT_S, key=self._key(job))
            del self._letters[job]

    def _key(self, job: str) -> str:
        return f"sluice:{{{self._space}}}:j:{job}"
