"""What the tests of admission share: a clock that is set by hand, rows, intents and claims."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from proxy.admit.accounts import Moment
from proxy.admit.columns import rows_of
from proxy.admit.counters import Counters
from proxy.admit.periods import Calendar
from proxy.admit.records import encode
from proxy.exchange import Row
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.ports import Intent

NOON = 1_795_262_400 * 10**9  # 2026-11-21T12:00:00Z


class HandClock:
    def __init__(self, ns: int = NOON) -> None:
        self.wall = ns
        self.mono = 1000.0

    def now_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return self.mono

    def monotonic_ns(self) -> int:
        return round(self.mono * 10**9)

    def pass_s(self, seconds: float) -> None:
        self.wall += int(seconds * 10**9)
        self.mono += seconds


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture(scope="session")
def new_clock() -> Callable[..., HandClock]:
    return HandClock


@pytest.fixture(scope="session")
def row() -> Callable[..., Row]:
    def make(id: str = "u/1", **changed: object) -> Row:
        call, _, number = id.partition("/")
        values: dict[str, Any] = {
            "id": id, "request_id": call, "attempt": int(number or 1), "kind": "first", "parent_id": None, "at": NOON,
            "caller": "bob", "team": None, "tier": "free", "provider": "openai", "model": "gpt-4o", "operation": "chat",
            "credential": "OPENAI_API_KEY", "status": 200, "end": "done", "input_tokens": 10, "cached_input_tokens": 2,
            "cache_write_tokens": 0, "output_tokens": 5, "reasoning_tokens": 1, "usage_detail": {"prompt_tokens": 10},
            "usage_source": "provider", "usage_note": "", "cost_nanousd": 700, "held_nanousd": 1000,
            "price_row": {"name": "gpt-4o", "source": "table", "date": "2026-01-01"}, "policy_generation": 1,
            "duration_ms": 12.5, "first_byte_ms": 3.25, "overhead_ms": 0.5, "streamed": True,
        }  # fmt: skip
        return Row(**(values | changed))

    return make


@pytest.fixture(scope="session")
def intent(row: Callable[..., Row]) -> Callable[..., Intent]:
    def make(id: str, claims: tuple[Claim, ...] = (), nanousd: int = 0, tokens: int = 0, **more: int) -> Intent:
        crashed = row(id, end="crashed", status=None, usage_source="estimate", cost_nanousd=nanousd, held_nanousd=nanousd)
        return Intent(id, id.partition("/")[0], claims, tokens, nanousd, crashed, **more)

    return make


@pytest.fixture(scope="session")
def claim() -> Callable[..., Claim]:
    """`claim(spend=("day", 10), requests=2, tokens=100, concurrency=1)`: per minute unless said otherwise."""

    def make(name: str = "tier free", account: str = "caller=bob", *, window_s: int = 60, **of: Any) -> Claim:
        if "spend" in of:
            period, nanousd = of.pop("spend")
            of["spend"] = (Spend(nanousd, period),)
        for kind in ("requests", "tokens"):
            if kind in of:
                of[kind] = (Rate(of[kind], window_s),)
        return Claim(Limit(name, ("caller",), **of), account)

    return make


@pytest.fixture(scope="session")
def told() -> Callable[[Counters], bytes]:
    """All that counters say, as bytes to compare."""

    def say(counters: Counters) -> bytes:
        now = Moment(NOON, Calendar("UTC").at(NOON))
        accounts = [
            sorted([row for columns in counters.told(limit, names, now) for row in rows_of(limit, NOON, columns)])
            for limit, names in counters.accounts()
        ]
        held = [
            [name, [[id, it.held] for id, it in account.spend.items()]]
            for book in counters.books.values()
            for name, account in book.items()
        ]
        return encode([accounts, held, [intent.decode() for *_, intent in counters.holds.values()]])

    return say


@pytest.fixture(scope="session")
def ticks() -> Callable[[], Awaitable[None]]:
    """Lets the event loop write what is pending."""

    async def pass_ticks() -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    return pass_ticks


@pytest.fixture(scope="session")
def no_file_larger_than() -> Callable[[int], AbstractContextManager[None]]:
    """A disk with no room: writes end short, then fail (EFBIG instead of ENOSPC; both are OSError)."""

    @contextmanager
    def limited(size: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return limited
