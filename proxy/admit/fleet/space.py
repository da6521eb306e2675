"""One process's dealings with one shared store: what is open there, what it is still to be told, and whether it is to be trusted now.

The background call goes on for ever: a heartbeat each second, closes some milliseconds after they happen, probes while the store is away.
Decides about no call.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from proxy.admit.counters import Charge
from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.calls import Calls, Remembered, Spender, keys_of
from proxy.admit.fleet.catchup import catch_up
from proxy.admit.fleet.mode import Health, Mode
from proxy.admit.fleet.ops import Batch, Down, Lost, Op, Pulse, Recovering, Resumed, Take, Taken, Watch
from proxy.admit.fleet.outbox import Outbox
from proxy.admit.fleet.script import Remote
from proxy.admit.fleet.shares import Key, Shares
from proxy.policy.plan import Claim, Spend
from proxy.ports import Clock

log = logging.getLogger("sluice.state")

BEAT_S = 1.0
GATHER_S = 0.005  # closes wait this long for company
WATCHED_S = 60.0  # an account not used for so long gives its share back
MOST_WATCHED = 200
HURRY_S = 0.1  # between heartbeats while a caller waits for others to give their shares back
HASTE_S = 0.05  # between two questions for shares
LAST_S = 2.0  # for the last closes at the end


class Forgot(Exception):
    """The store has lost what it knew, and is being told. Nothing was taken."""


@dataclass(slots=True)
class Pending:
    """How far Redis is told what happened without it: `mark`, the last operation of that telling; None: nothing is told yet."""

    mark: int | None = None


class Space:
    def __init__(self, tag: str, remote: Remote, own: EmbeddedState, clock: Clock, file: Path) -> None:
        self._tag, self._remote, self._own, self._clock, self._file = tag, remote, own, clock, file
        self.on_mode: Callable[[Mode, str], None] = lambda mode, why: None
        self.health = Health(since=clock.monotonic())
        self.calls = Calls()
        self.known = Remembered()
        self.outbox: Outbox[Op] = Outbox()
        self.shares = self._read_shares()
        self._has_old_shares = True
        self.skew_ns = 0  # of Redis's clock over ours
        self.is_shared_limit: Callable[[str], bool] = lambda name: True
        self.counts_here: Callable[[str, str], bool] = lambda limit, account: True
        self._spenders: dict[tuple[str, Spend], Spender] = {}
        self._taking: set[str] = set()  # takes on the way
        self._pending = Pending()
        self._wake = asyncio.Event()
        self._watched_at = -BEAT_S
        self._asked_at = 0.0
        self._squeezed_until = 0.0
        self._running: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._running = asyncio.get_running_loop().create_task(self._run(), name="shared state")

    async def close(self) -> None:
        """Tells Redis what it does not know yet, if it is there, and leaves the fleet."""
        if self._running is not None:
            self._running.cancel()
            with suppress(asyncio.CancelledError):
                await self._running
        if self.health.is_shared:
            with suppress(Down, TimeoutError):
                async with asyncio.timeout(LAST_S):
                    while not self.outbox.is_empty:
                        await self._send()
                    await self._remote.goodbye(self._tag)
                self._file.unlink(missing_ok=True)  # what was given back is nobody's share

    # -- in the request path ------------------------------------------------------------------------------------------

    async def take(self, take: Take) -> Taken:
        """Raises Squeezed, Gone, Forgot, Broken: then nothing was taken. Raises Down."""
        names = [it.uid for it in take.entries] + ([take.hold.id] if take.hold else [])
        self._taking.update(names)
        try:
            taken = await self._remote.take(self._tag, take)
        except Down as problem:
            self._failed(problem.kind)
            raise
        except (Lost, Recovering):
            self._become(self.health.forgot(self._clock.monotonic()))
            raise Forgot from None
        finally:
            self._taking.difference_update(names)
        self.skew_ns = taken.at_ns - self._own.now().ns
        return taken

    def put(self, op: Op) -> None:
        self.outbox.put(op)
        self._wake.set()

    def squeezed(self) -> None:
        """Somebody waits for the others to give their shares back."""
        self._squeezed_until = self._clock.monotonic() + 1.0
        self._wake.set()

    @property
    def is_telling(self) -> bool:
        """Does Redis hear at once of what is decided here? Before that, all of it is told together."""
        return self.health.is_shared or self._pending.mark is not None

    # -- money --------------------------------------------------------------------------------------------------------

    def spends(self, claims: Sequence[Claim], charges: Sequence[Charge], nanousd: int) -> int:
        """A hold on these claims uses their shares up; what the file says of them stays true. Gives the mark of `Shares.spent`."""
        now = self._clock.monotonic()
        for claim, charge in zip(claims, charges, strict=True):
            for spend, key in zip(claim.limit.spend, keys_of((charge,)), strict=True):
                self._spenders[claim.key, spend] = Spender(claim, spend, key, now)
        mark = self.shares.spent(keys_of(charges), nanousd)
        if self.shares.is_overstated:
            self._keep_shares()
        return mark

    def _read_shares(self) -> Shares:
        with suppress(OSError):
            return Shares.read(self._file.read_bytes(), self._clock.now_ns(), self._clock.monotonic())
        return Shares()

    def _keep_shares(self) -> None:
        fresh = self._file.with_suffix(".new")
        try:
            fresh.write_bytes(self.shares.written(self._clock.now_ns(), self._clock.monotonic()))
            fresh.rename(self._file)
        except OSError:  # a full disk: the journal stops the calls; a file that says too much must not outlive this process
            with suppress(OSError):
                self._file.unlink(missing_ok=True)

    # -- the background call ------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            await self._until_due()
            began = self._clock.monotonic()
            try:
                if self.is_telling:
                    await self._beat()
                else:
                    self._tell_all(await self._resumed())
                    self._answered(began)
            except Down as problem:
                self._failed(problem.kind)
            except Exception as error:  # a reply nobody foresaw: the task must live on, and calls must not rest on it
                self._failed(f"internal: {type(error).__name__}")

    async def _until_due(self) -> None:
        if not self.health.is_shared:
            await asyncio.sleep(0.01 if self._pending.mark is not None and len(self.outbox) else self.health.probe_after_s())
            return
        hurry = self._clock.monotonic() < self._squeezed_until
        with suppress(TimeoutError):
            async with asyncio.timeout(HURRY_S if hurry else BEAT_S):
                await self._wake.wait()
                await asyncio.sleep(GATHER_S)
        self._wake.clear()

    async def _beat(self) -> None:
        began = self._clock.monotonic()
        hurry = began < self._squeezed_until
        is_due = began - self._watched_at >= (HURRY_S if hurry else BEAT_S)
        is_worn = began - self._asked_at >= HASTE_S and any(self.shares.is_worn(it.key) for it in self._spenders.values())
        pulse = await self._send(is_beat=is_due, is_worn=is_worn)
        self._answered(began)
        if pulse.is_recovering or (pulse.is_lost and self.health.is_shared):
            self._become(self.health.forgot(began))
        elif self._pending.mark is not None and self.outbox.acked_count >= self._pending.mark:
            if self._has_old_shares:
                await self._give_back_old_shares(began, pulse.live)
            self._become(self.health.caught_up())

    async def _give_back_old_shares(self, began: float, live: int) -> None:
        """Of the process before us: once all that it spent is known, they are nobody's."""
        self.shares.asks()
        await self._remote.forgo(self._tag)
        self.shares.told({}, live, began)
        self._has_old_shares = False

    async def _send(self, *, is_beat: bool = False, is_worn: bool = False) -> Pulse:
        """A heartbeat also asks for all shares, another call for those that are worn: once Redis knows all that was spent of them."""
        seq, ops = self.outbox.batch()
        asks = (is_beat or is_worn) and len(self.outbox) == len(ops)
        began = self._clock.monotonic()
        watch = self._watches(began, is_worn=not is_beat) if asks else ()
        if asks:
            self.shares.asks()
            self._asked_at = began
        pulse = await self._remote.send(self._tag, Batch(seq, ops, watch, self._clock.now_ns()), asks_run=is_beat)
        self.outbox.is_acked(seq)
        if pulse.expired:
            log.warning("sidecar %s gives no sign of life: what it had open is charged at its estimate, its slots are free", pulse.expired)
        if pulse.freed:
            log.warning("sidecar %s is silent for an hour: the share of the money that was kept for it is free", pulse.freed)
        self.skew_ns = pulse.at_ns - self._own.now().ns
        if asks and not (pulse.is_lost or pulse.is_recovering):
            self._told_shares(watch, pulse, began if is_beat else None)
        return pulse

    def _told_shares(self, watch: tuple[Watch, ...], pulse: Pulse, beat_at: float | None) -> None:
        told = {
            Key(it.claim.limit.name, it.claim.account, share.period): share.nanousd
            for it, share in zip(watch, pulse.shares, strict=True)
            if it.is_wanted
        }
        if beat_at is None:
            self.shares.told_some(told)
            return self._keep_shares() if self.shares.is_overstated else None
        self._watched_at = beat_at
        for it in watch:
            if not it.is_wanted:
                self._spenders.pop((it.claim.key, it.spend), None)
        if self.shares.told(told, pulse.live, beat_at):
            self.squeezed()  # others wait for what we gave back: it is theirs once we confirm
        self._keep_shares()

    def _watches(self, now: float, *, is_worn: bool) -> tuple[Watch, ...]:
        """The accounts used of late, and those whose share goes back; or those of them whose share is worn."""
        if is_worn:
            worn = [it for it in self._spenders.values() if self.shares.is_worn(it.key)]
            return tuple([Watch(it.claim, it.spend, self.shares.left(it.key, now)) for it in worn[:MOST_WATCHED]])
        fresh = sorted(self._spenders.items(), key=lambda it: -it[1].used_at)
        wanted = {key for key, it in fresh[:MOST_WATCHED] if now - it.used_at < WATCHED_S}
        return tuple([Watch(it.claim, it.spend, self.shares.left(it.key, now), key in wanted) for key, it in fresh])

    def _answered(self, began: float) -> None:
        now = self._clock.monotonic()
        self._become(self.health.answered(now, now - began))

    def _failed(self, why: str) -> None:
        self._become(self.health.failed(self._clock.monotonic(), why))

    def _become(self, health: Health) -> None:
        before, self.health = self.health, health
        if health.is_shared:
            return self._told(before)
        if health.mode is not before.mode or health.bad > before.bad:
            self._pending = Pending()
        self._told(before)

    def _told(self, before: Health) -> None:
        if before.mode is not self.health.mode:
            self.on_mode(self.health.mode, self.health.why)

    # -- what happened without Redis ----------------------------------------------------------------------------------

    async def _resumed(self) -> tuple[Resumed, dict[str, tuple[int, int]]]:
        """What Redis thinks is open here, and the figures of what it charged by itself."""
        resumed = await self._remote.resume(self._tag)
        open_here = self.calls.names()
        ids = [it.id for it in resumed.charged if it.id not in open_here]
        return resumed, await self._own.figures_of(ids) if ids else {}

    def _tell_all(self, found: tuple[Resumed, dict[str, tuple[int, int]]]) -> None:
        """In one step, so that whatever happens from now on is told in order behind it."""
        resumed, figures = found
        if not self.outbox.seq:
            self.outbox.begin_after(resumed.seq)
        sums = [(Key(limit, account, period), settled) for limit, account, period, settled, _ in self._own.contributions()
                if settled and self.is_shared_limit(limit) and self.counts_here(limit, account)]  # fmt: skip
        ours = self._taking | set(self._own.jobs.open())  # on a Cluster nobody else takes a job of before up: it stays held there
        for op in catch_up(resumed, figures, self.calls, ours, sums, self.skew_ns):
            self.outbox.put(op)
        self._pending = Pending(self.outbox.put_count)
