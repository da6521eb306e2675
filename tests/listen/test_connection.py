import asyncio
import gc
import inspect
import time
from hashlib import sha256

import pytest
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from proxy.listen.connection import CLOSED, KEPT, Deadlines
from proxy.listen.straight import Straight
from proxy.refusal import ClientGone

QUICK = Deadlines(first_byte=0.2, head=0.2, keepalive=0.2, body_grace=0.2, body_idle=0.2, write=0.2, linger=0.2)
GET = b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"


def test_the_names_of_aiohttp_that_we_lean_on_are_there():
    names = {
        "_messages", "_waiter", "_task_handler", "_request_count", "_keepalive_handle", "_upgraded", "_force_close", "_close", "_parser",
        "_buffer_paused", "_reading_paused", "_msg_queue_resume_size", "_lingering_time", "_keepalive_timeout", "_request_factory",
        "_next_keepalive_close_time", "_paused", "_read_bufsize",
    }  # fmt: skip
    assert names <= {slot for kind in (RequestHandler, BaseProtocol) for slot in kind.__slots__}
    assert {"_buffer", "_exception"} <= set(StreamReader.__slots__)
    for method in (
        "_process_keepalive", "_make_error_handler", "handle_error", "log_exception", "force_close", "_drain_helper", "_handle_request",
        "_resume_reading_if_drained", "resume_reading", "close", "pause_reading", "_pause_transport_reading",
    ):  # fmt: skip
        assert callable(getattr(RequestHandler, method))
    assert "resp.keep_alive" in inspect.getsource(RequestHandler.start)


@pytest.mark.parametrize(("reply", "keeps"), [(KEPT, True), (CLOSED, False)])
async def test_the_reply_given_to_aiohttp_writes_nothing(reply, keeps):
    assert isinstance(reply, web.StreamResponse)
    assert (await reply.prepare(None), await reply.write_eof(), reply.keep_alive) == (None, None, keeps)


def test_what_our_loop_over_requests_stands_for_is_still_what_aiohttp_does():
    """A new aiohttp whose loop does more wants `Straight` to do it too."""
    source = inspect.getsource(RequestHandler.start)
    for step in ("message_consumed()", "_resume_reading_if_drained()", "payload.readany()", "_process_keepalive", "self.transport.close()"):
        assert step in source
    assert sha256(source.encode()).hexdigest()[:16] == "2e565fd40c8e04fb"


async def test_hundreds_of_requests_that_come_at_once_are_all_answered_in_turn(open_edge):
    """More than aiohttp lets wait: it stops reading, and goes on as they are answered."""

    async def slowly(call, body, sink):
        await asyncio.sleep(0)
        sink.start(200, b"OK", ((b"which", call.route.path.encode()),), 0)
        sink.finish()

    world = await open_edge(slowly)
    sent = [b"POST /openai/%d HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc" % number for number in range(300)]
    reply, _ = await until_closed(world, b"".join(sent) + GET.replace(b"Host: a", b"Host: a\r\nConnection: close"))
    assert [line for line in reply.split(b"\r\n") if line.startswith(b"which")] == [b"which: /%d" % n for n in range(300)] + [
        b"which: /v1/models"
    ]


async def test_a_declined_upgrade_leaves_the_connection_to_the_next_request(open_edge):
    world = await open_edge()
    asks = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: aaaaaaaaaaaaaaaaaaaaaa==\r\n\r\n"
    reply, _ = await until_closed(world, GET[:-2] + asks + GET[:-2] + b"Connection: close\r\n\r\n")
    assert reply.count(b"HTTP/1.1 200 ") == 2


async def until_closed(world, *sent, every_s=0.0):
    """Sends piece after piece; gives back the reply and the seconds until the server closed."""
    reader, writer = await world.connect()
    began = time.monotonic()

    async def send():
        for piece in sent:
            writer.write(piece)
            await asyncio.sleep(every_s)

    sending = asyncio.ensure_future(send())
    try:
        async with asyncio.timeout(20):
            return await reader.read(), time.monotonic() - began
    finally:
        sending.cancel()
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET /openai", b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\nX-Half: "])
async def test_a_client_that_stops_before_its_head_is_whole_is_told_408_and_closed(open_edge, sent):
    world = await open_edge(deadlines=QUICK)
    reply, took_s = await until_closed(world, sent)
    assert reply.startswith(b"HTTP/1.1 408 ") and b"x-sluice-error: request_timeout" in reply
    assert took_s < 15 and world.calls == []


async def test_a_drip_of_header_bytes_does_not_extend_the_deadline(open_edge):
    world = await open_edge(deadlines=QUICK)
    reply, took_s = await until_closed(world, b"GET /openai/v1/models HTTP/1.1\r\n", *[b"x: 1\r\n"] * 100, every_s=0.02)
    assert reply.startswith(b"HTTP/1.1 408 ") and took_s < 15


async def test_a_second_request_that_stops_half_way_is_408_too(open_edge):
    world = await open_edge(deadlines=Deadlines(head=0.2))
    reader, writer = await world.connect()
    writer.write(GET)
    assert b"200 OK" in await reader.readuntil(b" 0")
    writer.write(GET[:20])
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


async def test_an_idle_connection_is_closed_without_a_word(open_edge):
    world = await open_edge(deadlines=Deadlines(keepalive=0.2))
    reply, took_s = await until_closed(world, GET)
    assert reply.startswith(b"HTTP/1.1 200 ") and reply.count(b"HTTP/1.1 ") == 1
    assert 0.1 < took_s < 15


async def test_a_head_that_has_begun_is_not_cut_by_the_idle_deadline(open_edge):
    world = await open_edge(deadlines=Deadlines(keepalive=0.3, linger=0.1))
    reader, writer = await world.connect()
    writer.write(GET)
    await reader.readuntil(b" 0")
    await asyncio.sleep(0.2)
    writer.write(GET[:20])
    await asyncio.sleep(0.25)
    writer.write(GET[20:])
    async with asyncio.timeout(20):
        assert b"200 OK" in await reader.readuntil(b" 0")
    writer.close()


async def test_endless_headers_are_cut_at_64_kib(open_edge):
    world = await open_edge()
    reply, _ = await until_closed(world, b"GET /openai/v1/models HTTP/1.1\r\n", *[b"x: " + b"a" * 7000 + b"\r\n"] * 12, every_s=0.005)
    assert reply.startswith(b"HTTP/1.1 431 ")


async def test_a_late_answer_of_a_busy_connection_is_not_cut_by_any_of_its_deadlines(open_edge):
    async def slow(call, body, sink):
        await asyncio.sleep(0.6)
        sink.start(200, b"OK", (), 0)
        sink.finish()

    world = await open_edge(slow, deadlines=QUICK)
    reply, _ = await until_closed(world, GET)
    assert reply.startswith(b"HTTP/1.1 200 ")


async def test_garbage_behind_a_request_is_refused_after_the_answer(open_edge):
    gate = asyncio.Event()

    async def held(call, body, sink):
        await gate.wait()
        sink.start(200, b"OK", (), 0)
        sink.finish()

    world = await open_edge(held)
    reader, writer = await world.connect()
    writer.write(GET)
    await world.is_busy()
    writer.write(b"\x00\x01garbage\r\n\r\n")
    await asyncio.sleep(0.05)
    gate.set()
    async with asyncio.timeout(20):
        reply = await reader.read()
    assert [line[:12] for line in reply.split(b"\r\n") if line.startswith(b"HTTP/1.1")] == [b"HTTP/1.1 200", b"HTTP/1.1 400"]
    writer.close()


@pytest.mark.parametrize("how", ["idle", "answered", "in a call"])
async def test_a_connection_that_is_over_is_gone_without_a_search_for_garbage(open_edge, how):
    world = await open_edge(*[Phases("before headers").run] * (how == "in a call"))
    reader, writer = await world.connect()
    if how != "idle":
        writer.write(POST[:-9] + b"5\r\n\r\nhello")
        await (world.is_busy() if how == "in a call" else reader.readuntil(b" 5"))
    await asyncio.sleep(0.05)
    gc.collect()
    assert sum(isinstance(one, Straight) for one in gc.get_objects()) == 1
    gc.disable()
    try:
        writer.close()
        async with asyncio.timeout(20):
            while world.edge._connections():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        assert not [one for one in gc.get_objects() if isinstance(one, Straight)]
    finally:
        gc.enable()


class Phases:
    """Calls that hang in one phase and note how they ended."""

    def __init__(self, phase):
        self.phase, self.ended, self.began = phase, asyncio.get_running_loop().create_future(), asyncio.Event()

    async def run(self, call, body, sink):
        try:
            if self.phase == "in the body":
                self.began.set()
                await body.read(100_000)
            if self.phase == "in a streamed answer":
                sink.start(200, b"OK", (), None)
                sink.push(b"first")
            self.began.set()
            await asyncio.Event().wait()
        except ClientGone:
            self.ended.set_result("gone")
        except asyncio.CancelledError:
            self.ended.set_result("cancelled" if sink.is_gone else "cancelled with the client there")
            raise


@pytest.mark.parametrize("phase", ["before headers", "in the body", "in a streamed answer"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_ends_its_call_at_once_and_leaves_no_traceback(open_edge, logged, phase, how):
    phases = Phases(phase)
    world = await open_edge(phases.run)
    _, writer = await world.connect()
    writer.write(POST + b"x" * 10 if phase == "in the body" else GET)
    async with asyncio.timeout(20):
        await phases.began.wait()
        left = time.monotonic()
        writer.close() if how == "close" else writer.transport.abort()
        assert await phases.ended in ("cancelled", "gone")
    assert time.monotonic() - left < 15
    assert "Traceback" not in logged.text and not [r for r in logged.records if r.levelname in ("ERROR", "WARNING") and r.name != "asyncio"]
    assert world.edge.active == 0


async def test_a_call_that_is_to_finish_anyway_is_not_cancelled_and_its_bytes_go_nowhere(open_edge):
    began, done = asyncio.Event(), asyncio.Event()

    async def stubborn(call, body, sink):
        sink.finish_anyway = True
        sink.start(200, b"OK", (), None)
        began.set()
        while not sink.is_gone:
            await asyncio.sleep(0.01)
        sink.push(b"x" * 1000)
        await sink.drain()
        sink.finish()
        done.set()

    world = await open_edge(stubborn)
    _, writer = await world.connect()
    writer.write(GET)
    async with asyncio.timeout(20):
        await began.wait()
        writer.transport.abort()
        await done.wait()


async def test_a_client_that_reads_nothing_is_dropped_and_memory_stays_bounded(open_edge):
    biggest, ended = [], asyncio.get_running_loop().create_future()

    async def flood(call, body, sink):
        sink.start(200, b"OK", (), None)
        try:
            for _ in range(10_000):
                sink.push(b"x" * 65_536)
                biggest.append(sink._connection.transport.get_write_buffer_size())
                if sink.is_full:
                    await sink.drain()
        except (ClientGone, asyncio.CancelledError) as end:
            ended.set_result(type(end).__name__)
            raise

    world = await open_edge(flood, deadlines=QUICK)
    _, writer = await world.connect()
    writer.transport.pause_reading()
    writer.write(GET)
    async with asyncio.timeout(20):
        await ended
    assert max(biggest) <= 512 * 1024
    writer.close()


async def test_a_whole_answer_that_nobody_reads_does_not_hold_its_connection_for_ever(open_edge):
    async def large(call, body, sink):
        sink.start(200, b"OK", (), 20_000_000)
        sink.push(b"x" * 20_000_000)
        sink.finish()

    world = await open_edge(large, deadlines=QUICK)
    _, writer = await world.connect()
    writer.transport.pause_reading()
    writer.write(GET)
    async with asyncio.timeout(20):
        await world.is_busy()
        while world.edge._connections():
            await asyncio.sleep(0.02)
    writer.close()


async def test_a_slow_reader_that_goes_on_reading_gets_everything(open_edge):
    async def large(call, body, sink):
        sink.start(200, b"OK", (), None)
        for _ in range(100):
            sink.push(b"x" * 65_536)
            if sink.is_full:
                await sink.drain()
        sink.finish()

    world = await open_edge(large, deadlines=Deadlines(write=0.3))
    reader, writer = await world.connect()
    writer.write(GET.replace(b"Host: a", b"Host: a\r\nConnection: close"))
    got = 0
    while piece := await reader.read(400_000):
        got += len(piece)
        await asyncio.sleep(0.02)
    assert got > 6_553_600
    writer.close()


async def test_large_bodies_one_after_the_other_are_no_head_that_is_too_large(open_edge):
    """What ends a body may come in one piece that is larger than all header lines may be."""
    world = await open_edge()
    reader, writer = await world.connect()
    for size in (200_000, 1_000_000, 5_000_000, 300_000, 9_000_000):
        writer.write(b"POST /openai/v1/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size + b"a" * size)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert await reader.readexactly(len(b"/v1/x %d" % size)) == b"/v1/x %d" % size
    writer.close()
    assert world.refusals == []
