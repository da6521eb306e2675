"""What a refusal tells of time is true on the wire: a call made `retry-after` later passes, for every kind of limit."""

import asyncio
import calendar
import json
import re
import time

import pytest
from support.inside import chat, completion, error, inside

NS = 10**9


class LaterClock:
    """This machine's, put forward by hand."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def now_ns(self) -> int:
        return time.time_ns() + int(self.by_s * NS)

    def monotonic(self) -> float:
        return time.monotonic() + self.by_s

    def monotonic_ns(self) -> int:
        return time.monotonic_ns() + int(self.by_s * NS)


@pytest.fixture
def clock():
    return LaterClock()


def limit(of: str) -> str:
    return f"limits: [{{name: few, match: {{caller: ann}}, per: caller, {of}}}]"


async def until_refused(path, most: int = 50):
    for _ in range(most):
        sink = await path.run(chat(), completion())
        if sink.status != 200:
            return sink
    raise AssertionError("never refused")


def effective(sink, name: str) -> tuple[int, int]:
    """`r` and `t` of one policy in `ratelimit`."""
    found = re.search(rf'"{name}";r=(\d+);t=(\d+)', sink.headers["ratelimit"])
    assert found, sink.headers["ratelimit"]
    return int(found[1]), int(found[2])


RATES = {"requests": "requests: 3/min", "tokens": "tokens: 400/min", "both windows": "requests: [3/min, 4/hour]"}


@pytest.mark.parametrize("kind", RATES)
async def test_a_call_made_after_the_wait_passes(tmp_path, clock, kind):
    async with inside(tmp_path, limit(RATES[kind]), clock=clock) as path:
        for _ in range(1 if kind == "both windows" else 5):
            sink = await until_refused(path)
            assert (sink.status, sink.headers["x-sluice-error"], sink.headers["x-sluice-limit"]) == (429, "rate_limited", "limit few")
            wait = int(sink.headers["retry-after"])
            assert 1 <= wait <= 60 and int(sink.headers["retry-after-ms"]) <= wait * 1000
            name = {"requests": "limit few requests", "tokens": "limit few tokens", "both windows": "limit few requests 60s"}[kind]
            left, until = effective(sink, name)
            assert until <= wait, "a retry-after does not stand before the end of the window that is told"
            assert left == int(sink.headers["x-ratelimit-remaining"])
            again = await path.run(chat(), completion())
            assert again.status == 429, "no sooner"
            clock.by_s += wait
            assert (await path.run(chat(), completion())).status == 200


async def test_at_x_ratelimit_reset_the_whole_limit_is_there_again(tmp_path, clock):
    async with inside(tmp_path, limit("requests: 3/min"), clock=clock) as path:
        sink = await until_refused(path)
        clock.by_s += int(sink.headers["x-ratelimit-reset"]) - clock.now_ns() / NS
        for left in ("2", "1", "0"):
            got = await path.run(chat(), completion())
            assert (got.status, got.headers["x-ratelimit-remaining"]) == (200, left)
        assert (await path.run(chat())).status == 429


async def test_what_is_left_may_be_used_within_the_window(tmp_path, clock):
    async with inside(tmp_path, limit("requests: 10/min"), clock=clock) as path:
        got = await path.run(chat(), completion())
        left, _ = effective(got, "limit few requests")
        for _ in range(left):
            assert (await path.run(chat(), completion())).status == 200
        assert (await path.run(chat())).status == 429


async def test_a_wait_of_more_than_a_minute_is_no_advice_and_the_reset_is_told(tmp_path, clock):
    async with inside(tmp_path, limit("requests: 2/hour"), clock=clock) as path:
        sink = await until_refused(path)
        assert (sink.status, sink.headers["x-should-retry"], "retry-after" in sink.headers) == (429, "false", False)
        clock.by_s += effective(sink, "limit few requests")[1] + 1
        assert (await path.run(chat(), completion())).status == 200


@pytest.mark.parametrize("status", [402, 429])
async def test_money_that_is_spent_names_its_end_and_no_wait(tmp_path, clock, status):
    async with inside(tmp_path, limit(f"spend: $0.001/day, at_limit: {{status: {status}}}"), clock=clock) as path:
        sink = await until_refused(path)
        assert (sink.status, sink.no.code) == (status, "budget_exhausted")
        assert (sink.headers["x-should-retry"], "retry-after" in sink.headers) == ("false", False)
        end = re.search(r"until (\d{4}-\d\d-\d\dT\d\d:\d\dZ)", sink.no.message)
        assert end
        at = time.strptime(end[1], "%Y-%m-%dT%H:%MZ")
        clock.by_s += calendar.timegm(at) - clock.now_ns() / NS + 0.001
        assert (await path.run(chat(), completion())).status == 200


async def test_slots_tell_an_estimate_and_a_call_after_one_is_free_passes(tmp_path, clock):
    async with inside(tmp_path, limit("concurrency: 1"), clock=clock) as path:
        answer, go = completion(), asyncio.Event()
        answer.after = lambda passed: go.wait()
        running = asyncio.ensure_future(path.run(chat(), answer))
        while not answer.passed:
            await asyncio.sleep(0)
        sink = await path.run(chat())
        assert (sink.status, sink.headers["x-sluice-error"]) == (429, "too_many_in_flight")
        assert 1 <= int(sink.headers["retry-after"]) <= 60
        assert '"limit few concurrency";r=0' in sink.headers["ratelimit"]
        go.set()
        await running
        assert (await path.run(chat(), completion())).status == 200


@pytest.mark.parametrize("of", ["tokens: 20/min", "spend: $0.0001/day"])
async def test_what_is_larger_than_the_whole_limit_is_told_so_at_once(tmp_path, clock, of):
    async with inside(tmp_path, limit(of), clock=clock) as path:
        sink = await path.run(chat())
        assert (sink.status, sink.no.code, sink.headers["x-should-retry"]) == (400, "exceeds_limit", "false")
        assert "retry-after" not in sink.headers


async def test_a_failed_call_that_cost_nothing_gives_its_tokens_back_at_once(tmp_path, clock):
    async with inside(tmp_path, limit("tokens: 400/min"), clock=clock) as path:
        for _ in range(20):
            assert (await path.run(json.dumps({**json.loads(chat()), "max_tokens": 200}).encode(), error(400))).status == 400
        assert (await path.run(chat(), completion())).status == 200
