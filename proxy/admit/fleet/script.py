"""The operations of the shared state, one script call each, as Python values. Decides nothing: the scripts under lua/ do."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from proxy.admit.fleet.almanac import Almanac, Around
from proxy.admit.fleet.answer import Told, answer
from proxy.admit.fleet.encode import claims_of, op_of, read_charges, request_of, spans, watch_of
from proxy.admit.fleet.ops import (
    Batch,
    Broken,
    Found,
    Gone,
    Link,
    Lost,
    Pulse,
    Recovering,
    Resumed,
    Script,
    Share,
    Squeezed,
    Take,
    Taken,
    Watch,
)
from proxy.admit.records import encode

LUA = Path(__file__).parent / "lua"
LEASE_MS = 120_000  # a process without a heartbeat for so long is taken for dead
RECOVER_MS = 3_000  # in which all say what they know, after the store forgot something


def load(name: str, clock: str | None = None) -> Script:
    """An operation as shipped: the clock prelude, what all share, its own text. Only tests pass another `clock`."""
    parts = (_text("clock") if clock is None else clock, _text("common"), _text(name))
    text = "\n".join(parts)
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


def _text(name: str) -> str:
    return (LUA / f"{name}.lua").read_text("utf-8")


@dataclass(frozen=True, slots=True)
class Scripts:
    take: Script
    send: Script
    resume: Script
    forgo: Script

    @classmethod
    def load(cls, clock: str | None = None) -> Self:
        return cls(*(load(name, clock) for name in ("take", "send", "resume", "forgo")))


@dataclass(slots=True)
class Acked:
    """What a store has acknowledged to this process; one that knows of less has forgotten."""

    seq: int = 0
    takes: int = 0


class Remote:
    """One store, asked on behalf of one process. `space` is the hash tag: the namespace; on a Cluster with the team or caller.

    Every method raises Down where the store fails, and may then have been carried out all the same.
    """

    def __init__(
        self,
        link: Link,
        *,
        instance: str,
        time_zone: str,
        max_keys: int,
        scripts: Scripts | None = None,
        lease_ms: int = LEASE_MS,
        recover_ms: int = RECOVER_MS,
        comes_new: bool = False,
    ) -> None:
        self.max_keys = max_keys
        self._link, self._scripts, self._almanac = link, scripts or Scripts.load(), Almanac(time_zone)
        self._common: Mapping[str, object] = {"instance": instance, "lease_ms": lease_ms, "recover_ms": recover_ms, "comes_new": comes_new}
        self._acked: dict[str, Acked] = {}

    async def take(self, space: str, take: Take) -> Taken:
        """Entries and a hold, all or nothing, in one trip; idempotent by uid and id.

        Raises Squeezed, Gone, Recovering, Lost, Broken: then nothing was taken.
        """
        acked, around, claims = self._of(space), self._almanac.around(take.now_ns), claims_of(take)
        request = {"seq": acked.seq, "takes": acked.takes, "max_keys": self.max_keys, **spans(around), **request_of(take, claims)}
        status, now_us, live, *rest = await self._call(self._scripts.take, space, request)
        if no := REFUSALS.get(status):
            raise no()
        if status == b"broken":
            raise Broken(", ".join([key.decode("utf-8", "replace") for key in rest[0]]))
        if status == b"lost":
            raise Lost
        if status == b"taken":
            acked.takes += 1
        names, numbers, held = rest
        by_claim = {id(claim): name.decode() for claim, name in zip(claims, names, strict=True)}
        told = Told(now_us * 1000, status == b"denied", by_claim, numbers, read_charges(held), live)
        return answer(take, around, told)

    async def send(self, space: str, batch: Batch, *, asks_run: bool = True) -> Pulse:
        """The heartbeat, and the closes in order and exactly once, however often they are sent. `asks_run`: looks whether it is
        the server process of before, and lets all rebase if not; it may be left out between heartbeats."""
        acked, around = self._of(space), self._almanac.around(batch.now_ns)
        request = {
            "seq": batch.seq,
            "acked": acked.seq,
            "takes": acked.takes,
            "asks_run": asks_run,
            "ops": [op_of(op) for op in batch.ops],
            "watch": [watch_of(it) for it in batch.watch],
            **spans(around),
        }
        reply = await self._call(self._scripts.send, space, request)
        now_us, seq, live, is_lost, is_recovering, shares, expired, freed = reply
        acked.seq = max(acked.seq, batch.seq)
        told = tuple([_share(watch, around, *share) for watch, share in zip(batch.watch, shares, strict=True)])
        is_off = bool(is_lost), bool(is_recovering)
        return Pulse(seq, now_us * 1000, live, *is_off, told, expired.decode(), freed.decode())

    async def resume(self, space: str) -> Resumed:
        """What this process left open there before its restart. Changes nothing."""
        found: dict[str, dict[str, Found]] = {"hold": {}, "charged": {}, "call": {}}  # by id: a scan may show one twice
        seq = 0
        for which in ("o", "x"):
            cursor = "0"
            while True:
                request = {"which": which, "cursor": cursor}
                next_cursor, seq, items = await self._call(self._scripts.resume, space, request)
                for kind, id, *figures in items:
                    found[kind.decode()][id.decode()] = _found(id, *figures)
                cursor = next_cursor.decode()
                if cursor == "0":
                    break
        self._of(space).seq = seq
        return Resumed(seq, tuple(found["hold"].values()), tuple(found["charged"].values()), tuple(found["call"]))

    async def forgo(self, space: str) -> None:
        """Every share told to this process goes back. Only once all that it spent of them is known there."""
        while await self._call(self._scripts.forgo, space, {"is_end": False}):
            pass

    async def goodbye(self, space: str) -> None:
        """The graceful end: shares go back, and this process is out of the fleet; what it left open is swept as of a dead one."""
        while await self._call(self._scripts.forgo, space, {"is_end": True}):
            pass

    def _of(self, space: str) -> Acked:
        return self._acked.setdefault(space, Acked())

    async def _call(self, script: Script, space: str, request: Mapping[str, object]) -> Any:
        return await self._link.call(script, [f"sluice:{{{space}}}:meta"], [encode({**self._common, **request})])


REFUSALS: Mapping[bytes, type[Exception]] = {b"gone": Gone, b"squeezed": Squeezed, b"recovering": Recovering}


def _share(watch: Watch, around: Around, which: int, nanousd: int) -> Share:
    span = around.span(watch.spend.period, which)
    return Share(span.id, nanousd)


def _found(id: bytes, at_us: int = 0, tokens: int = 0, nanousd: int = 0) -> Found:
    return Found(id.decode(), at_us * 1000, tokens, nanousd)
