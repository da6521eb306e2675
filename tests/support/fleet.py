"""A shared state in this process, over a real server: sidecars without their HTTP. Says nothing about right or wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.cluster import ClusterState
from proxy.admit.fleet.memory import LOOK_S
from proxy.admit.fleet.mode import Health
from proxy.admit.fleet.opening import Asked, open_shared
from proxy.admit.fleet.state import SharedState
from proxy.exchange import Row
from proxy.policy.plan import Claim, Limit, OnStateDown, Rate, Spend
from proxy.ports import Intent
from proxy.refusal import Refusal

PATIENCE_S = 30.0


class SystemClock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


def row(id: str, cost: int = 0) -> Row:
    call, _, number = id.partition("/")
    return Row(
        id, call, int(number or 1), "first", None, time.time_ns(), "bob", None, None, "openai", "m", "chat", "KEY", 200, "done",
        1, 0, 0, 1, 0, {}, "provider", "", cost, cost, None, 1, 1.0, 1.0, 0.1, False,
    )  # fmt: skip


def budget(nanousd: int, name: str = "budget", **more: object) -> Claim:
    return Claim(Limit(name, ("total",), spend=(Spend(nanousd, "total"),), **more), "total")  # type: ignore[arg-type]  # of the test


def rate(count: int, name: str = "rate", per: tuple[str, ...] = ("total",)) -> Claim:
    return Claim(Limit(name, per, requests=(Rate(count, 60),)), "total")


class Sidecar:
    """One process of the fleet, as its rooms see the state. A call is entered, held, settled and left under one name."""

    def __init__(self, state: SharedState | ClusterState, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.modes: list[str] = []

    async def begin(self, name: str, claims: Iterable[Claim], nanousd: int = 0, tokens: int = 1) -> str:
        """Enters and holds; gives "" or the code of the refusal, after which the call is over."""
        claims = tuple(claims)
        try:
            self.state.peek(claims)
            await self.state.enter(name, claims)
            await self.state.hold(Intent(f"{name}/1", name, claims, tokens, nanousd, row(f"{name}/1", nanousd)))
        except Refusal as no:
            self.state.void(f"{name}/1", None)
            self.state.uncount(name)
            self.state.leave(name)
            return no.code
        return ""

    def end(self, name: str, nanousd: int, tokens: int = 1) -> None:
        self.state.settle(f"{name}/1", tokens, nanousd, row(f"{name}/1", nanousd))
        self.state.leave(name)

    async def told(self) -> None:
        """Until Redis knows everything."""
        await until(lambda: self.state.mode == "shared" and self.state.waiting == 0)

    async def in_mode(self, mode: str) -> None:
        await until(lambda: self.state.mode == mode)


async def until(is_so: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
    end = time.monotonic() + patience_s
    while not is_so():
        assert time.monotonic() < end, "it never came to be"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def sidecar_on(
    url: str,
    folder: Path,
    *,
    rules: OnStateDown | None = None,
    limits: tuple[Limit, ...] = (),
    waits: bool = True,
    ends: bool = True,
    recover_ms: int = 300,
    look_s: float = LOOK_S,
) -> AsyncIterator[Sidecar]:
    """`waits`: until the state is shared. `ends` False: it is left as a killed process leaves it."""
    asked = Asked(read_address(url), folder, "tests", "UTC", 1000, "process", "", rules or OnStateDown(), limits, recover_ms, look_s)
    state, own = await open_shared(asked, SystemClock())
    one = Sidecar(state, own)
    state.start(lambda mode, why: one.modes.append(mode.value))
    try:
        if waits:
            await one.in_mode("shared")
        yield one
    finally:
        if not ends:
            for it in [state.base, *(region.state for region in state._regions.all())] if isinstance(state, ClusterState) else [state]:
                it._space.health = Health()  # so it says no goodbye
        await state.close()
        await state.own.close()
