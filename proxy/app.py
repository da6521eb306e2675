"""The composition root: builds every room and owns every lifetime. Decides nothing about a call."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import platform
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.admin.app import Admin, Probes
from proxy.admin.door import AdminRunner, is_loopback, listening, site
from proxy.bridge import Bridge
from proxy.charging import settle_told
from proxy.forward.attempts import Budgets
from proxy.forward.breaker import Breakers
from proxy.forward.client import Client
from proxy.identify.jwks import Jwks
from proxy.identify.who import Identify
from proxy.listen.edge import Edge, Settings
from proxy.listen.headers import answer_headers
from proxy.listen.watchdog import Watchdog
from proxy.meter.price import Prices, PriceTable
from proxy.pipeline import Pipeline
from proxy.policy.plan import Rulebook
from proxy.policy.problems import Problem
from proxy.policy.watch import Loaded, Watch, removed_limits
from proxy.record.alerts import Alerts
from proxy.record.books import Books
from proxy.record.log import Log, Pipe
from proxy.record.metrics import Metrics
from proxy.record.redact import hidden_by
from proxy.record.stream import LedgerStream, stream_key
from proxy.record.usual import Usual
from proxy.record.webhook import Webhook
from proxy.rooms import Generation, Rooms
from proxy.states import StatePlace, States, open_states
from proxy.under_way import KeyNews

ADMIN_SHUTDOWN_S = 1.0
LAST_WORDS_S = 2.0  # for cancelled calls to say so and settle


class SystemClock:
    """`ports.Clock` of this machine."""

    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


@dataclass(frozen=True, slots=True)
class Places:
    """Where this process listens and keeps its state."""

    policy: Path | None
    listen: str
    admin: str
    state: StatePlace


class App:
    """One running Sluice. `await App.open(…)`, `await serve()`, and it is over when that returns."""

    def __init__(self, places: Places, loaded: Loaded, states: States, clock: SystemClock) -> None:
        self._places, self._states, self._clock = places, states, clock
        state = self._state = states.own
        self._table = PriceTable.read()
        self._generation = self._compiled(loaded.rulebook)
        self._names = self._generation.names(self._table.models())
        self._is_ready = self._is_draining = False
        self._over = asyncio.Event()
        self._hurry = asyncio.Event()
        rules = loaded.rulebook
        self._hidden = hidden_by(state.secret)
        shown = self._shown
        self._pipe = Pipe(sys.stdout.fileno())
        self.log = Log(self._pipe.write, clock, rules.log_level, shown)
        self._metrics = Metrics(self._is_known, clock, shown)
        self._watchdog = Watchdog(lambda lag: self.log.event("warning", "loop lag", seconds=round(lag, 3)), clock.monotonic)
        self._jwks = Jwks(clock, self._jwks_problem)
        self._upstream = Client(clock, answer_headers)
        self._webhook = Webhook(self._metrics, self.log)
        alerts = Alerts(lambda: self._generation.rules, self._webhook.post, self._metrics, self.log, clock, states.folder, platform.node())
        rooms = self._rooms = Rooms(
            generation=self._generation,
            identify=Identify(state.keys.ring, state.secret, clock, self._jwks),
            secret=state.secret,
            store=states.store,
            upstream=self._upstream,
            breakers=Breakers(random.random, self._metrics.breaker),
            budgets=Budgets(),
            books=Books(states.store, self._metrics, self.log, clock, shown, Usual(self._metrics, self.log).told),
            metrics=self._metrics,
            alerts=alerts,
            log=self.log,
            clock=clock,
            dice=random.random,
        )
        states.hear(lambda job, said: settle_told(rooms, self._generation, job, said))
        self._metrics.read_from("in_flight", rooms.under_way.__len__)
        state.keys.on_news = KeyNews(rooms.under_way.revoked, self.log.event, shown)
        self._stream = LedgerStream(state.outgoing, self.log.event)
        self._upkeep = state.upkeep(lambda: self.rules, clock, self.log.event)
        self._bridge = Bridge(rooms)
        self._edge = Edge(Pipeline(rooms).run, self._bridge.run, self._settings(), clock, on_refusal=rooms.books.turned_away)
        rooms.under_way.sinks = self._edge.calls
        self._watch = Watch(places.policy, loaded, environ=os.environ, on_change=self._changed, on_error=self._failed, now_ns=clock.now_ns)
        probes = Probes(live=self._live, ready=self._ready, startup=self._startup, state_mode=lambda: self._states.mode)
        self._admin = AdminRunner(
            Admin(
                lambda: self._generation.rules,
                probes,
                self._metrics.exposition,
                state,
                os.urandom,
                clock.now_ns,
                lambda error: self.log.failure("admin", error),
                is_loopback=is_loopback(places.admin),
                shown=shown,
            ).app(),
            access_log=None,
            shutdown_timeout=ADMIN_SHUTDOWN_S,
        )
        self._figures()

    @classmethod
    async def open(cls, places: Places, loaded: Loaded) -> App:
        """Opens the state and both listeners. Raises StateProblem; OSError and ValueError with the address as `filename`."""
        clock = SystemClock()
        rules = loaded.rulebook
        states = await open_states(places.state, rules, clock)
        try:
            app = cls(places, loaded, states, clock)
            await app._start()
        except BaseException:
            await states.close()
            raise
        return app

    async def _start(self) -> None:
        await self._admin.setup()
        try:
            await listening(self._places.admin, lambda: site(self._admin, self._places.admin).start())
            await listening(self._places.listen, lambda: self._edge.start(self._places.listen))
        except BaseException:
            await self._admin.cleanup()
            raise
        self._watchdog.start()
        self._states.start(self.log.event)
        self._upkeep.start()
        self._stream.point(self.rules.ledger_stream, stream_key(self.rules.namespace))
        self._metrics.policy(self._generation.rules.generation)
        recovery = self._state.recovery
        self._metrics.recovered(recovery.crashed)
        found = {"crashed_attempts": recovery.crashed, "torn_bytes": recovery.torn_bytes, "damaged_bytes": recovery.damaged_bytes}
        if any(found.values()):
            self.log.event("warning", "recovered", **found)
        for warning in self._generation.rules.warnings:
            self.log.event("warning", "policy", warning=warning)
        gc.collect()
        gc.freeze()  # what was built at start lives as long as the process: no collection need look at it
        gc.set_threshold(50_000, 20, 100)
        gc.enable()
        self._is_ready = True

    @property
    def rules(self) -> Rulebook:
        return self._generation.rules

    # --- life ---

    async def serve(self) -> None:
        """Until `stop` was called and everything is drained, settled and closed."""
        watching = asyncio.get_running_loop().create_task(self._watch.run(), name="policy watch") if self._places.policy else None
        try:
            await self._over.wait()
            await self._drain()
        finally:
            if watching is not None:
                watching.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watching
            await self._close()

    def stop(self) -> None:
        """SIGTERM: drain. A second time: at once."""
        if self._over.is_set():
            self._hurry.set()
        self._over.set()

    def reload(self) -> None:
        """SIGHUP."""
        task = asyncio.get_running_loop().create_task(self._watch.reload(), name="policy reload")
        self._reloads = task

    async def _drain(self) -> None:
        """Readiness off, no new call; streams may finish within `server.drain`, then they are told and cut."""
        self._is_ready, self._is_draining = False, True
        self._edge.settings = self._settings()
        self.log.event("info", "draining", calls=self._edge.active, seconds=self.rules.server.drain_s)
        closing = asyncio.ensure_future(self._edge.close(self.rules.server.drain_s))
        hurried = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait({closing, hurried}, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if not closing.done():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._edge.close(0), LAST_WORDS_S)
            closing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await closing

    async def _close(self) -> None:
        self._watchdog.stop()
        await self._bridge.close()
        self._upstream.close()
        await self._jwks.close()
        await self._webhook.close()
        await self._stream.close()
        await self._upkeep.stop()
        await self._states.close()
        await self._admin.cleanup()
        self.log.event("info", "stopped")
        self._pipe.close()

    # --- policy ---

    def _compiled(self, rules: Rulebook) -> Generation:
        return Generation(rules, Prices(self._table, rules.prices, rules.pricing))

    def _shown(self, name: str) -> str:
        return self._hidden(name) if self._generation.rules.identities == "hashed" else name

    def _changed(self, rules: Rulebook, restarts: tuple[str, ...]) -> None:
        """A new generation is live from the next call on; calls under way keep the one they began with."""
        gone = removed_limits(self._generation.rules, rules)
        spent = self._state.held_spend([limit.name for limit in gone])
        self._generation = self._rooms.generation = self._compiled(rules)
        self._edge.settings = self._settings()
        self._names = self._generation.names(self._table.models())
        self._metrics.policy(rules.generation)
        self.log.set_level(rules.log_level)
        self._states.told(rules)
        self._stream.point(rules.ledger_stream, stream_key(rules.namespace))
        self.log.event("info", "policy reloaded", generation=rules.generation)
        for limit, nanousd in spent.items():
            self.log.event("warning", "limit removed that held spend", limit=limit, usd=f"{nanousd / 1e9:.9f}")
        for sentence in (*restarts, *rules.warnings):
            self.log.event("warning", "policy", warning=sentence)

    def _failed(self, problems: tuple[Problem, ...]) -> None:
        self._metrics.reload_failed()
        for problem in problems[:20]:
            self.log.event("error", "policy not reloaded, the last good one serves on", problem=str(problem))

    def _settings(self) -> Settings:
        rules = self._generation.rules
        return Settings(rules.providers, rules.default_provider, rules.server.hosts, rules.server.cors, self._is_draining)

    def _is_known(self, kind: str, name: str) -> bool:
        """May a label hold this name? Those of the policy, the price table, and the keys of the state."""
        return name in self._names[kind] or (kind == "caller" and self._state.has_key_named(name))

    # --- what operators see ---

    def _live(self) -> str | None:
        return None if self._watchdog.is_live else f"the event loop is {self._watchdog.lag_s:.1f} s behind"

    def _startup(self) -> str | None:
        return None if self._is_ready or self._is_draining else "starting"

    def _ready(self) -> str | None:
        if not self._is_ready:
            return "draining" if self._is_draining else "starting"
        if (problem := self._states.problem()) is not None:
            return problem
        return None if self._watchdog.is_ready else f"the event loop is {self._watchdog.lag_s:.1f} s behind"

    def _jwks_problem(self, url: str, why: str) -> None:
        self._metrics.jwks_failed()
        self.log.event("warning", "jwks", url=url, why=why)

    def _figures(self) -> None:
        reads: dict[str, Callable[[], int | float]] = {
            "loop_lag_seconds": lambda: self._watchdog.lag_s,
            "log_lines_dropped_total": lambda: self._pipe.dropped,
            "refusal_rows_dropped_total": lambda: self._state.refusal_rows_dropped,
            "ledger_pending_rows": lambda: self._state.pending_rows,
            "ledger_pruned_rows_total": lambda: self._upkeep.pruned_rows,
            "ledger_prune_failed_total": lambda: self._upkeep.failures,
            "ledger_stream_lag_rows": lambda: self._stream.lag,
        }
        for name, read in (reads | self._states.figures()).items():
            self._metrics.read_from(name, read)
