"""The calls under way, so that those that came with a key end when it is revoked. Ends none for any other reason."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from proxy.admit.keyring import Kept
from proxy.exchange import Call, Story
from proxy.identify.keys import credential_of, digest_of
from proxy.policy.plan_callers import KeyRecord
from proxy.ports import Sink
from proxy.record.rows import rfc3339
from proxy.refusal import Refusal

REVOKED = "revoked"


class Run(Protocol):
    """What knows the task that runs a call: its sink, or aiohttp's request."""

    @property
    def task(self) -> asyncio.Task[Any] | None: ...


class UnderWay:
    """All calls of this process: sessions say so here, of the others the edge knows the sinks."""

    def __init__(self) -> None:
        self.sessions: dict[Story, Run] = {}
        self.sinks: Callable[[], Sequence[Sink]] = tuple

    def _all(self) -> list[tuple[Story, Run]]:
        calls: list[tuple[Story, Run]] = [(sink.story, sink) for sink in self.sinks() if sink.story is not None]
        return calls + list(self.sessions.items())

    def __len__(self) -> int:
        return len(self._all())

    def revoked(self, keys: Iterable[KeyRecord]) -> int:
        """Ends what came with these keys, as `stopped:revoked`; how many calls that were."""
        dead = {key.digest: key.name for key in keys}
        names = set(dead.values())
        found = [(story, run) for story, run in self._all() if story.caller is not None and story.caller.key in names]
        ended = [(story, run) for story, run in found if story.stopping != REVOKED and _digest(story.call) in dead]
        for story, run in ended:
            story.stopping = REVOKED
            if (task := run.task) is not None:
                task.cancel()
        return len(ended)


class KeyNews:
    """What the state says of keys that changed, here or in another sidecar: logged, and the calls of revoked ones ended."""

    def __init__(self, end: Callable[[Iterable[KeyRecord]], int], tell: Callable[..., None], shown: Callable[[str], str]) -> None:
        """`end` is `UnderWay.revoked`, `tell` is `Log.event`, `shown` is how a caller's name stands in the log."""
        self._end, self._tell, self._shown = end, tell, shown

    def __call__(self, news: Iterable[Kept]) -> None:
        news = list(news)
        if ended := self._end([kept.record for kept in news if kept.revoked_ns is not None]):
            self._tell("warning", "calls of revoked keys ended", calls=ended)
        for kept in news:
            which = {"caller": self._shown(kept.record.name), "id": kept.id}
            if kept.revoked_ns is not None:
                self._tell("warning", "key revoked", **which)
            elif kept.rotated_ns is not None:
                self._tell("info", "key rotated", **which, until=rfc3339(kept.record.expires_ns or kept.rotated_ns))
            else:
                self._tell("info", "key minted", **which, tier=kept.record.tier, team=kept.record.team)


def _digest(call: Call) -> bytes:
    try:
        return digest_of(credential_of(call) or "")
    except Refusal:
        return b""
