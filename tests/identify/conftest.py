"""A clock that is set by hand, and calls made of headers."""

from collections.abc import Callable

import pytest

from proxy.exchange import Call, Route

NOON = 1_790_000_000 * 10**9


class HandClock:
    def __init__(self) -> None:
        self.at_ns, self.at = NOON, 1000.0

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic(self) -> float:
        return self.at

    def forward(self, seconds: float) -> None:
        self.at += seconds
        self.at_ns += int(seconds * 1e9)


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def call() -> Callable[..., Call]:
    def make(*lines: tuple[str, str], query: str = "", provider: str = "openai") -> Call:
        fields: dict[str, str] = {}
        for name, value in lines:
            name = name.lower()
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        raw = tuple((name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in lines)
        target = "/v1/x" + (f"?{query}" if query else "")
        return Call("slu-1", "slu-1", False, "POST", Route(provider, "/v1/x", query, target), raw, fields, "127.0.0.1", NOON, 1000.0)

    return make
