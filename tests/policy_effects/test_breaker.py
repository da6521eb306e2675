"""When a sick provider is left alone, and when it is asked again: each key of the breaker."""

import asyncio
import contextlib

import pytest
from support.world import world

pytestmark = pytest.mark.asyncio(loop_scope="module")

BREAKER = """
providers: {one: {dialect: openai, url: A_URL}}
retry: {attempts: 1}
breaker: SAID
"""


@contextlib.asynccontextmanager
async def breaking(folder, said: str):
    async with world(folder, BREAKER.replace("SAID", said)) as one:

        async def tell(*statuses: int, model: str = "gpt-4o") -> list[str | None]:
            """The code that Sluice answers with for each call, where the provider would answer so."""
            codes = []
            for status in statuses:
                codes.append(
                    (await one.chat(provider="one", model=model, headers=[("x-status", str(status))] if status != 200 else [])).code
                )
            return codes

        yield one, tell


async def test_the_breaker_opens_after_consecutive_failures_and_a_probe_closes_it(tmp_path):
    async with breaking(tmp_path, "{consecutive: 3, min_requests: 100, open: 500ms..500ms}") as (one, tell):
        assert await tell(500, 500, 200, 500, 500) == [None] * 5  # never three in a row
        assert await tell(500, 200) == [None, "breaker_open"]
        asked = len(one.provider.seen)
        got = await one.chat(provider="one")
        assert (got.status, got.code) == (503, "breaker_open") and len(one.provider.seen) == asked
        assert 1 <= int(got.header("retry-after")) <= 2
        assert await one.metric("breaker_state", provider="one", model="gpt-4o") == 2
        assert await tell(200, model="gpt-4.1") == [None]  # a model that is well stays served
        await asyncio.sleep(0.75)  # 500 ms, and at most 1.4 times that
        assert await tell(200, 200, 200, 500, 200) == [None] * 5  # three good probes close it
        assert await one.metric("breaker_state", provider="one", model="gpt-4o") == 0


async def test_the_breaker_opens_at_the_ratio_of_enough_calls_in_the_window(tmp_path):
    said = "{consecutive: 100, min_requests: 4, failure_ratio: 50%, window: 1s, open: 30s..60s}"
    async with breaking(tmp_path, said) as (_, tell):
        assert await tell(500, 500, 200) == [None] * 3  # two of three: too few to say anything
        assert await tell(500, 200) == [None, "breaker_open"]
        assert await tell(200, 200, 200, 500, 200, model="o3") == [None] * 5  # a quarter
        assert await tell(500, 500, 500, model="gpt-4.1") == [None] * 3
        await asyncio.sleep(1.15)  # they are forgotten
        assert await tell(500, 200, model="gpt-4.1") == [None, None]


async def test_a_probe_that_fails_opens_it_for_longer(tmp_path):
    async with breaking(tmp_path, "{consecutive: 1, open: 200ms..60s}") as (_, tell):
        assert await tell(500, 200) == [None, "breaker_open"]
        await asyncio.sleep(0.3)
        assert await tell(500) == [None]  # the probe
        await asyncio.sleep(0.3)
        assert await tell(200) == ["breaker_open"]  # 400 ms now, times 0.8 at least
        await asyncio.sleep(0.3)
        assert await tell(200) == [None]


async def test_a_breaker_that_is_off_never_opens(tmp_path):
    async with breaking(tmp_path, "off") as (one, tell):
        assert await tell(*[500] * 30) == [None] * 30
        assert len(one.provider.seen) == 30
