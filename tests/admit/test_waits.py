"""What a refused caller is told about time is true: who comes back as told, and nobody else came, is admitted."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.admit.embedded import EmbeddedState
from proxy.policy.plan import Claim, Limit, Rate
from proxy.refusal import Refusal

S = 10**9
MINUTE = Claim(Limit("minute", ("caller",), requests=(Rate(4, 60),), tokens=(Rate(100, 60),)), "caller=bob")
HOUR = Claim(Limit("hour", ("total",), requests=(Rate(30, 3600),), tokens=(Rate(900, 3600),)), "total")
GAPS = st.integers(0, 90 * S) | st.sampled_from([0, 1, S, S - 1, 60 * S, 60 * S - 1])
STEPS = st.lists(
    st.tuples(st.just("enter"), GAPS, st.just(0), st.just(0))
    | st.tuples(st.just("hold"), GAPS, st.integers(0, 130), st.integers(-1, 150))  # tokens, settled later at (-1: void)
    | st.tuples(st.just("peek"), GAPS, st.integers(1, 100), st.just(0)),
    max_size=40,
)


class Clock:
    """To the nanosecond."""

    def __init__(self) -> None:
        self.wall = 1_795_262_400 * S + 123_456_789

    def now_ns(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return (self.wall - 1_795_262_000 * S) / S

    def monotonic_ns(self) -> int:
        return self.wall - 1_795_262_000 * S

    def pass_ns(self, ns: int) -> None:
        self.wall += ns


class Run:
    def __init__(self, state: EmbeddedState, clock, intent, row) -> None:
        self.state, self.clock, self.intent, self.row = state, clock, intent, row
        self.number = 0
        self.open: list[tuple[str, int]] = []

    async def call(self, kind: str, tokens: int, settled: int) -> None:
        self.number += 1
        claims = (MINUTE, HOUR)
        if kind == "enter":
            await self.state.enter(f"u{self.number}", claims)
            self.state.leave(f"u{self.number}")
        elif kind == "hold":
            await self.state.hold(self.intent(f"c{self.number}/1", claims, tokens=tokens))
            self.open.append((f"c{self.number}/1", settled))
        else:
            self.state.peek(claims)

    def settle_one(self) -> None:
        if len(self.open) > 3:
            id, tokens = self.open.pop(0)
            if tokens < 0:
                self.state.void(id, None)
            else:
                self.state.settle(id, tokens, 0, self.row(id))

    async def step(self, kind: str, tokens: int, settled: int) -> None:
        try:
            await self.call(kind, tokens, settled)
        except Refusal as no:
            if no.code == "exceeds_limit":
                assert (no.status, no.retry_after, tokens > 100) == (400, None, True)
                return
            assert no.code == "rate_limited"
            if no.retry_after is None:
                assert no.limit == "hour"
                return
            assert no.retry_after == int(no.retry_after) >= 1, "whole seconds: what the header says is what we mean"
            self.clock.pass_ns(int(no.retry_after) * S)
            await self.call(kind, tokens, settled)  # nobody came meanwhile: no Refusal
            if kind == "peek":
                await self.call("enter", 0, 0)
                if no.kind == "tokens":  # a refusal of requests, before the body was read, cannot know how many tokens the call wants
                    await self.call("hold", tokens, settled)

    async def check_resets(self) -> None:
        for standing in self.state.standings((MINUTE, HOUR)):
            self.clock.pass_ns(max(0, standing.resets_at * S - self.clock.wall))
            (then,) = [it for it in self.state.standings((MINUTE, HOUR)) if (it.limit, it.kind) == (standing.limit, standing.kind)]
            assert then.remaining == then.allowed


@settings(max_examples=300)
@given(steps=STEPS)
def test_a_call_made_when_retry_after_says_passes(steps, intent, row):
    async def run() -> None:
        clock = Clock()
        state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=3)
        try:
            one = Run(state, clock, intent, row)
            for kind, gap, tokens, settled in steps:
                clock.pass_ns(gap)
                await one.step(kind, tokens, settled)
                one.settle_one()
            await one.check_resets()
        finally:
            await state.close()

    asyncio.run(run())


async def test_a_limit_that_is_lowered_below_what_is_used_still_tells_the_truth(clock, claim, intent):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=3)
    for number in range(5):
        await state.enter(f"u{number}", (claim(requests=5, tokens=100),))
        await state.hold(intent(f"u{number}/1", (claim(requests=5, tokens=100),), tokens=20))
        clock.pass_s(3)
    lowered = (claim(requests=2, tokens=30),)
    for _ in range(2):
        with pytest.raises(Refusal) as caught:
            state.peek(lowered)
        wait_s = caught.value.retry_after
    clock.pass_s(wait_s)
    state.peek(lowered)
    await state.enter("v", lowered)
    await state.hold(intent("v/1", lowered, tokens=30))
    await state.close()
