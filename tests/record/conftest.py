"""A clock that is set by hand, and stories of calls."""

import pytest
from support.also import also

from proxy.exchange import Call, Caller, Route, Story, Try, Usage, story_of


class HandClock:
    def __init__(self) -> None:
        self.at_ns, self.at = 1_790_000_000_123_000_000, 1000.0

    def now_ns(self) -> int:
        return self.at_ns

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def tell(clock):
    """A story: by default one good attempt of bot at openai/gpt-4o, 2 s long, of which 1.5 s were the provider's."""

    def make(**changes) -> Story:
        caller = changes.pop("caller", Caller("bot", "key", "premium", "finance", "bot"))
        request_id = changes.pop("request_id", "req-1")
        call = Call(
            "slu-1", request_id, True, "POST", Route("openai", "/v1/x", "", "/v1/x"), (), {}, "127.0.0.1", 1_790_000_000 * 10**9, 998.0
        )
        first = also(
            Try(1, "first", "openai", "gpt-4o", "OPENAI_API_KEY", "slu-1/1"),
            at_ns=1_790_000_000_100_000_000, began=998.25, first_byte=999.0, ended=1000.0, status=200, held_nanousd=900,
            is_held=True, cost_nanousd=500, price_row={"name": "gpt-4o"},
            usage=Usage(input=10, cached_input=4, cache_write=2, output=5, reasoning=3, source="provider", detail={"prompt_tokens": 10}),
        )  # fmt: skip
        story = also(
            story_of(call, 7), caller=caller, operation="chat", model="gpt-4o", streamed=True, status=200, tries=[first], upstream_s=1.5,
            ended=clock.at,
        )  # fmt: skip
        return also(story, **changes)

    return make
