"""The upstream client before real sockets: the U rows of faults.md 2.1 that are its own, and isolation under load."""

import asyncio
import random
import socket
import ssl
import struct
import time
from contextlib import nullcontext

import pytest
from support.certificate import self_signed, serving

from proxy.forward.head import Head
from proxy.policy.plan import Origin, Timeouts
from proxy.ports import Address, Outgoing
from proxy.refusal import ClientGone, Refusal, UpstreamCut, UpstreamFailed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


def get(origin):
    to = Address(origin, "GET", "/")
    return Outgoing(to, Head(to, ()).of(()), None)


async def whole(reply, limit=1 << 20):
    try:
        return await reply.read(limit)
    finally:
        reply.close()


# --- what goes out and comes back ---


async def test_the_request_reaches_the_provider_exactly_as_given(answering, send):
    async with answering(OK) as provider:
        headers = ((b"X-Case", b"A  b"), (b"x-case", b"again"), (b"Accept", b"*/*"))
        reply = await send(provider.ask(target="/v1/a%2Fb?q=%7e&q", headers=headers, body=b'{"a": 1}'))
        assert await whole(reply) == b"hi"
    head = b"POST /v1/a%2Fb?q=%7e&q HTTP/1.1\r\nHost: provider.example\r\nX-Case: A  b\r\nx-case: again\r\nAccept: */*\r\n"
    head += b"Content-Length: 8\r\n\r\n"
    assert (provider.requests, provider.bodies) == ([head], [b'{"a": 1}'])


async def test_the_answer_comes_back_exactly_as_sent(answering, send):
    answer = b"HTTP/1.1 418 I'm a  pot\r\nX-A:  b \r\nx-a: c\r\nSet-Cookie: z\r\nX-Bytes: \xff\r\nContent-Length: 0\r\n\r\n"
    async with answering(answer) as provider:
        reply = await send(provider.ask())
        reply.close()
    assert (reply.status, reply.reason, reply.length) == (418, b"I'm a  pot", 0)
    assert reply.headers == ((b"X-A", b"b"), (b"x-a", b"c"), (b"Set-Cookie", b"z"), (b"X-Bytes", b"\xff"), (b"Content-Length", b"0"))


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"),
        ("DELETE", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n"),
        ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
    ],
)
async def test_an_answer_without_a_body_frees_its_connection_at_once(answering, send, method, answer):
    async with answering(answer) as provider:
        for _ in range(2):
            reply = await send(provider.ask(method=method, body=None))
            assert (await whole(reply), reply.length) == (b"", 0)
    assert provider.connections == 1
    assert b"content-length" not in provider.requests[0].lower()


async def test_a_redirect_is_an_answer_like_any_other(answering, send):
    async with answering(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n") as provider:
        reply = await send(provider.ask())
        reply.close()
    assert (reply.status, len(provider.requests)) == (302, 1)


async def test_a_line_break_never_leaves(answering, send):
    async with answering(OK) as provider:
        for changes in ({"headers": ((b"a", b"b\r\nX-Evil: 1"),)}, {"target": "/a b"}, {"target": "/a\nb"}, {"headers": ((b"a\0", b""),)}):
            with pytest.raises(Refusal) as no:
                await send(provider.ask(**changes))
            assert no.value.status == 400
    assert provider.requests == []


@pytest.mark.parametrize("pieces", [(b"abc",), (b"ab", b"c")])
async def test_a_body_that_is_here_is_taken_at_once_and_only_once(provider, send, pieces):
    async def script(reader, writer, self):
        for _ in range(2):
            await self.read(reader)
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(it), it) for it in pieces)
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")

    async with provider(script) as there:
        for _ in range(2):  # on one connection
            reply = await send(there.ask())
            assert reply.at_once(b"b") is None  # it is to be relayed
            assert (reply.at_once(b"d"), reply.at_once()) == (b"abc", None)
            reply.close()


async def test_a_body_that_is_still_to_come_or_broken_is_not_taken(provider, send, got, as_is):
    gate = asyncio.Event()

    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab")
        await gate.wait()

    async with provider(script) as there:
        reply = await send(there.ask())
        assert reply.at_once() is None
        gate.set()
        with pytest.raises(UpstreamCut):
            await reply.relay(got(), as_is)
        assert reply.at_once() is None
        reply.close()


# --- streams ---


async def test_each_piece_passes_before_the_next_is_sent(provider, send, got, as_is):
    seen = asyncio.Queue()

    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for number in range(5):
            writer.write(b"3\r\n%03d\r\n" % number)
            assert await seen.get() == b"%03d" % number
        writer.write(b"0\r\n\r\n")
        await reader.read()

    class Telling(got):
        def push(self, data, framed=b""):
            is_full = super().push(data, framed)
            if data:  # nothing: the head alone
                seen.put_nowait(data)
            return is_full

    async with provider(script) as there:
        sink = Telling()
        reply = await send(there.ask())
        await reply.relay(sink, as_is)
        reply.close()
    assert (sink.data, sink.pushes) == (b"000001002003004", 5)


class Late:
    """A line that changes nothing, and may hear late of what has passed."""

    lag = 10

    def __init__(self):
        self.heard = []

    def feed(self, data):
        self.heard.append(data)
        return data

    def hear(self, pieces):
        self.heard.append(b"".join(pieces))


@pytest.mark.parametrize("is_cut", [False, True])
async def test_a_line_that_may_hear_late_hears_all_in_order_before_the_relay_ends(provider, send, got, is_cut):
    seen, line = asyncio.Queue(), Late()

    class Telling(got):
        def push(self, data, framed=b""):
            is_full = super().push(data, framed)
            seen.put_nowait(data)
            return is_full

    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert await seen.get() == b""
        for number in range(7):
            writer.write(b"3\r\n%03d\r\n" % number)
            assert await seen.get() == b"%03d" % number
            assert sum(map(len, line.heard)) >= 3 * number - line.lag
        if not is_cut:
            writer.write(b"0\r\n\r\n")
            await reader.read()

    async with provider(script) as there:
        sink = Telling()
        reply = await send(there.ask())
        with pytest.raises(UpstreamCut) if is_cut else nullcontext():
            await reply.relay(sink, line)
        reply.close()
    assert b"".join(line.heard) == sink.data == b"000001002003004005006"
    assert len(line.heard) == 2


async def test_all_pieces_of_one_read_leave_in_one_write(answering, send, got, as_is):
    async with answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 500 + b"0\r\n\r\n") as provider:
        sink, reply = got(), await send(provider.ask())
        await reply.relay(sink, as_is)
        reply.close()
    assert sink.data == b"x" * 500
    assert sink.pushes <= 3


async def test_a_slow_client_pauses_the_provider(provider, send, got, as_is):
    wrote = 0

    async def script(reader, writer, self):
        nonlocal wrote
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(bytes(100_000))
            await writer.drain()
            wrote += 100_000

    class Stuck(got):
        async def drain(self):
            await asyncio.sleep(0.4)
            raise ClientGone

    async with provider(script) as there:
        sink, reply = Stuck(slow=True), await send(there.ask(), idle=0.1)  # the idle time is not the provider's while we pause it
        with pytest.raises(ClientGone):
            await reply.relay(sink, as_is)
        reply.close()
        await asyncio.wait_for(there.closed.wait(), 20)
    assert len(sink.data) < 1_000_000
    assert wrote < 20_000_000  # what fits into the kernel's buffers


async def test_a_slow_but_steady_client_gets_everything(answering, send, got, as_is):
    body = random.Random(1).randbytes(3_000_000)
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n" + body) as provider:
        sink, reply = got(slow=True), await send(provider.ask())
        await asyncio.sleep(0.05)  # nobody reads yet: the provider is paused
        await reply.relay(sink, as_is)
        reply.close()
    assert sink.data == body
    assert sink.drains > 1


async def test_the_preamble_is_relayed_all_the_same(provider, send, got, as_is):
    go_on = asyncio.Event()

    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")
        await go_on.wait()
        writer.write(b"4\r\ntext\r\n0\r\n\r\n")
        await reader.read()

    async with provider(script) as there:
        reply = await send(there.ask())
        assert await reply.preamble(lambda data: b"text" in data, 65536, 0.05) == b"ping"
        go_on.set()
        assert await reply.preamble(lambda data: b"text" in data, 65536, 5) == b"pingtext"
        sink = got()
        await reply.relay(sink, as_is)
        reply.close()
    assert sink.data == b"pingtext"


async def test_a_provider_that_dies_in_its_preamble_is_known_before_anything_was_relayed(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nping\r\n")

    async with provider(script) as there:
        reply = await send(there.ask())
        with pytest.raises(UpstreamCut):
            await reply.preamble(lambda data: b"text" in data, 65536, 5)
        reply.close()


async def test_reading_stops_at_its_limit(answering, send):
    async with answering(b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n" + bytes(500_000)) as provider:
        with pytest.raises(ValueError, match="larger than 1000"):
            await whole(await send(provider.ask()), 1000)
        assert len(await whole(await send(provider.ask()))) == 500_000


async def test_what_the_line_raises_reaches_the_relay(answering, send, got):
    class Broken:
        lag = 0

        def feed(self, data):
            raise UpstreamCut("upstream_cut", "line too long")

    async with answering(OK) as provider:
        reply = await send(provider.ask())
        with pytest.raises(UpstreamCut, match="line too long"):
            await reply.relay(got(), Broken())
        reply.close()
        assert await whole(await send(provider.ask())) == b"hi"
    assert provider.connections == 2


# --- faults ---


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 200 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 4000,
        b"HTTP/1.1 200 OK\r\nBad Name: a\r\n\r\n",
        b"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
    ],
    ids=lambda answer: answer[:60].decode(),
)
async def test_an_answer_that_is_no_clear_http_is_a_protocol_error(answering, send, answer):
    async with answering(answer, close=True) as provider:
        with pytest.raises(UpstreamFailed) as failed:
            (await send(provider.ask())).close()
        assert (failed.value.code, failed.value.sent, failed.value.status) == ("upstream_protocol", True, 502)
    assert len(provider.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n0\r\nT: " + b"x" * 200_000,
    ],
)
async def test_a_truncated_answer_is_a_cut_and_what_came_is_delivered(answering, send, got, as_is, answer):
    async with answering(answer, close=True) as provider:
        sink, reply = got(), await send(provider.ask())
        with pytest.raises(UpstreamCut) as cut:
            await reply.relay(sink, as_is)
        reply.close()
    assert (cut.value.code, sink.data) == ("upstream_cut", b"short")


async def test_a_close_delimited_answer_ends_cleanly(answering, send, got, as_is):
    async with answering(b"HTTP/1.1 200 OK\r\n\r\ndata: x\n\n", close=True) as provider:
        sink, reply = got(), await send(provider.ask())
        await reply.relay(sink, as_is)
        reply.close()
    assert (sink.data, reply.length) == (b"data: x\n\n", None)


async def test_a_reset_before_the_head_may_have_been_billed(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with provider(script) as there:
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask())
    assert (failed.value.code, failed.value.kind, failed.value.sent, len(there.requests)) == ("upstream_reset", "reset", True, 1)


async def test_nobody_listens(provider, send):
    async with provider(None) as there:
        request = there.ask()
    with pytest.raises(UpstreamFailed) as failed:
        await send(request)
    assert (failed.value.code, failed.value.sent) == ("upstream_connect", False)


async def test_an_unknown_host_name(send):
    origin = Origin("http", "no-such-host.invalid", 80, b"x")
    with pytest.raises(UpstreamFailed) as failed:
        await send(get(origin))
    assert (failed.value.code, failed.value.sent) == ("upstream_dns", False)


async def test_a_connection_that_never_opens(send):
    full = socket.socket()
    full.bind(("127.0.0.1", 0))
    full.listen(0)
    stuffing = []
    for _ in range(3):  # the accept queue is full: further SYNs are dropped
        one = socket.socket()
        one.setblocking(False)
        one.connect_ex(full.getsockname())
        stuffing.append(one)
    origin = Origin("http", "127.0.0.1", full.getsockname()[1], b"x")
    began = time.monotonic()
    with pytest.raises(UpstreamFailed) as failed:
        await send(get(origin), connect=0.2)
    assert (failed.value.code, failed.value.status, failed.value.sent) == ("upstream_connect_timeout", 504, False)
    assert time.monotonic() - began < 15
    for one in (*stuffing, full):
        one.close()


async def test_a_head_that_drips_does_not_extend_its_deadline(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X: a\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)

    async with provider(script) as there:
        began = time.monotonic()
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask(), first_byte=0.4)
        assert (failed.value.code, failed.value.kind, failed.value.status) == ("upstream_first_byte_timeout", "first_byte_timeout", 504)
        assert 0.3 < time.monotonic() - began < 15
        await asyncio.wait_for(there.closed.wait(), 20)


@pytest.mark.parametrize(
    ("timeouts", "total", "code"), [({"idle": 0.3}, 10, "upstream_idle_timeout"), ({"idle": 30}, 0.4, "upstream_timeout")]
)
@pytest.mark.parametrize("noise", [b"", b"1;x=y"], ids=["silence", "bytes that are no body"])
async def test_a_stream_that_stalls_is_cut(provider, send, got, as_is, timeouts, total, code, noise):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n1")
        while True:
            writer.write(b";x" if noise else b"")
            await asyncio.sleep(0.05)

    async with provider(script) as there:
        sink, reply = got(), await send(there.ask(), total=total, **timeouts)
        with pytest.raises(UpstreamCut) as cut:
            await reply.relay(sink, as_is)
        reply.close()
    assert (cut.value.code, sink.data) == (code, b"x")


async def test_the_total_time_ends_a_call_without_an_answer(provider, send):
    async def script(reader, writer, self):
        await reader.read()

    async with provider(script) as there:
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask(), total=0.3)
    assert (failed.value.code, failed.value.kind, failed.value.status) == ("upstream_timeout", "timeout", 504)


# --- connections are kept, and never mix ---


async def test_a_connection_is_used_again_the_last_one_first(answering, send):
    async with answering(OK) as provider:
        for _ in range(3):
            assert await whole(await send(provider.ask())) == b"hi"
        first, second = await send(provider.ask()), await send(provider.ask())
        assert (await whole(first), await whole(second)) == (b"hi", b"hi")
        await whole(await send(provider.ask(pool="another")))
    assert provider.connections == 3


@pytest.mark.parametrize("ahead", [61, 301])
async def test_a_connection_that_was_idle_or_lived_too_long_is_closed_by_itself(answering, send, clock, ahead):
    async with answering(OK) as provider:
        assert await whole(await send(provider.ask())) == b"hi"
        clock.ahead += ahead
        await asyncio.wait_for(provider.closed.wait(), 20)


async def test_a_connection_that_was_idle_or_lived_too_long_is_not_used_again(answering, client, clock):
    async with answering(OK) as provider:
        for _ in range(7):
            assert await whole(await client.send(provider.ask(), Timeouts(), clock.monotonic(), clock.monotonic() + 10)) == b"hi"
            clock.ahead += 50  # never idle for a minute, but after five minutes too old
    assert provider.connections == 2


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x", b"HTTP"])
async def test_bytes_after_an_answer_never_become_the_next_answer(answering, send, tail):
    async with answering(OK + tail) as provider:
        for _ in range(3):
            assert await whole(await send(provider.ask())) == b"hi"
    assert provider.connections == 3


async def test_bytes_on_an_idle_connection_end_it(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await asyncio.sleep(0.05)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        await self.read(reader)

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        await asyncio.sleep(0.1)
        assert await whole(await send(there.ask())) == b"hi"
    assert there.connections == 2


async def test_unasked_bytes_that_the_loop_has_not_read_yet_are_seen_before_the_next_request(send):
    listener = socket.create_server(("127.0.0.1", 0))
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(send(get(Origin("http", *listener.getsockname(), b"x"))))
    there, _ = await loop.run_in_executor(None, listener.accept)
    there.sendall(OK)
    assert await whole(await sending) == b"hi"
    there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")  # no turn of the loop between this and the next request
    sending = asyncio.ensure_future(send(get(Origin("http", *listener.getsockname(), b"x"))))
    other, _ = await loop.run_in_executor(None, listener.accept)
    other.sendall(OK)
    assert await whole(await sending) == b"hi"
    for one in (there, other, listener):
        one.close()


async def test_a_kept_connection_closed_before_it_is_used_is_replaced_without_the_caller_noticing(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        if self.connections > 1:
            await self.read(reader)

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        await asyncio.sleep(0.05)  # its end arrives
        assert await whole(await send(there.ask(body=b"again"))) == b"hi"
    assert (there.connections, there.bodies) == (2, [b"{}", b"again"])


async def test_a_kept_connection_that_dies_under_a_request_is_stale_and_the_request_not_sent_again(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await self.read(reader)  # and closes: no byte of an answer

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask(body=b"again"))
    assert (failed.value.code, failed.value.kind, failed.value.sent, there.connections) == ("upstream_reset", "stale", True, 1)


async def test_an_upload_on_a_stale_connection_is_not_repeated(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await reader.readuntil(b"\r\n\r\n")

    async def pieces():
        yield b"abc"

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask(body=None, upload=pieces, upload_length=3))
    assert (failed.value.code, failed.value.sent, there.connections) == ("upstream_reset", True, 1)


async def test_a_fresh_connection_that_dies_is_not_repeated(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)

    async with provider(script) as there:
        with pytest.raises(UpstreamFailed):
            await send(there.ask(method="GET", body=None))
    assert len(there.requests) == 1


async def test_a_full_pool_says_so_after_a_second(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        await reader.read()

    async with provider(script) as there:
        waiting = asyncio.ensure_future(send(there.ask(max_connections=1)))
        await asyncio.sleep(0.05)
        began = time.monotonic()
        with pytest.raises(UpstreamFailed) as failed:
            await send(there.ask(max_connections=1))
        assert (failed.value.code, failed.value.kind, failed.value.status, failed.value.sent) == (
            "upstream_pool_exhausted",
            "pool",
            503,
            False,
        )
        assert 0.9 < time.monotonic() - began < 15
        waiting.cancel()
        await asyncio.wait([waiting])


async def test_a_place_in_the_pool_is_free_again_after_every_end(answering, send, got, as_is):
    async with answering(OK) as provider:
        for _ in range(3):
            (await send(provider.ask(max_connections=1))).close()  # answered, never read
            reply = await send(provider.ask(max_connections=1))
            await reply.relay(got(), as_is)
            reply.close()
            reply.close()
            with pytest.raises(UpstreamFailed):
                await send(provider.ask(max_connections=1, origin=Origin("http", "127.0.0.1", 1, b"x")))
            cancelled = asyncio.ensure_future(send(provider.ask(max_connections=1)))
            await asyncio.sleep(0)
            cancelled.cancel()
            await asyncio.wait([cancelled])
        assert await whole(await send(provider.ask(max_connections=1))) == b"hi"


async def test_a_place_that_comes_free_goes_on_to_whoever_still_waits(provider, send):
    async def script(reader, writer, self):
        while True:
            await self.read(reader)
            writer.write(OK)

    async with provider(script) as there:
        for turns in (0, 1):  # called off before the place comes free, and in the same turn of the loop
            held = await send(there.ask(max_connections=1))
            waiting = [asyncio.ensure_future(send(there.ask(max_connections=1))) for _ in range(3)]
            await asyncio.sleep(0)
            if turns:
                held.close()
            waiting[0].cancel()
            if not turns:
                held.close()
            for one in waiting[1:]:
                assert await whole(await one) == b"hi"
            assert waiting[0].cancelled()
        assert await whole(await send(there.ask(max_connections=1))) == b"hi"


async def test_one_name_never_leads_to_anothers_connections(answering, send):
    """A reload may move a provider: calls under way still go where they were shaped for."""
    other = OK.replace(b"hi", b"ho")
    async with answering(OK) as here, answering(other) as there:
        for _ in range(3):
            assert await whole(await send(here.ask())) == b"hi"
            assert await whole(await send(there.ask())) == b"ho"
            assert await whole(await send(there.ask(max_connections=3))) == b"ho"
    assert (here.connections, there.connections) == (1, 2)


@pytest.mark.parametrize("phase", ["before the head", "in the body"])
async def test_a_cancelled_call_closes_its_provider_at_once(provider, send, got, as_is, phase):
    async def script(reader, writer, self):
        await self.read(reader)
        if phase == "in the body":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await reader.read()

    async def call(there):
        reply = await send(there.ask())
        await reply.relay(got(), as_is)

    async with provider(script) as there:
        task = asyncio.ensure_future(call(there))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait_for(there.closed.wait(), 20)
        assert (await asyncio.gather(task, return_exceptions=True))[0].__class__ is asyncio.CancelledError


async def test_a_call_that_is_cancelled_on_a_kept_connection_closes_it_at_once(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await self.read(reader)
        await reader.read()

    async with provider(script) as there:
        assert await whole(await send(there.ask(max_connections=1))) == b"hi"
        request = there.ask(max_connections=1)
        task = asyncio.ensure_future(send(request))
        await asyncio.sleep(0.05)
        assert (len(there.requests), request.is_sent, task.done()) == (2, True, False)
        task.cancel()
        await asyncio.wait_for(there.closed.wait(), 20)
        await asyncio.wait({task})
        again = asyncio.ensure_future(send(there.ask(max_connections=1)))  # its place is free
        assert await whole(await again) == b"hi"
    assert there.connections == 2


async def test_a_head_in_pieces_is_waited_for_on_a_kept_connection_too(provider, send):
    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await self.read(reader)
        for piece in (b"HTTP/1.1 103 Early Hints\r\n\r\n", OK[:9], OK[9:25], OK[25:-1], OK[-1:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0.02)
        await reader.read()

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        reply = await send(there.ask())
        assert (reply.status, await whole(reply)) == (200, b"hi")


@pytest.mark.parametrize("is_here", [True, False])
async def test_a_fault_behind_a_head_is_the_bodys_and_the_head_is_given(provider, send, is_here):
    head, rest = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"2\r\nhi\r\nzz\r\n"

    async def script(reader, writer, self):
        await self.read(reader)
        writer.write(OK)
        await self.read(reader)
        writer.write(head + (rest if is_here else b""))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.write(b"" if is_here else rest)
        await reader.read()

    async with provider(script) as there:
        assert await whole(await send(there.ask())) == b"hi"
        reply = await send(there.ask())
        assert reply.status == 200
        with pytest.raises(UpstreamCut):
            await reply.read(100)
        reply.close()


async def varied(reader, writer, self):
    """Each answer is the one that its request's number stands for: by length, chunked or as events, cut anywhere."""
    mine = random.Random(self.connections)
    while True:
        number, size, form = (await self.read(reader)).split()
        raw = expected(int(number), int(size))
        if form == b"length":
            raw = b"HTTP/1.1 200 OK\r\nX-Number: %b\r\nContent-Length: %d\r\n\r\n" % (number, len(raw)) + raw
        else:
            step = 60 if form == b"events" and len(raw) < 6000 else mine.randint(1 + len(raw) // 40, 1 + len(raw) // 2)
            pieces = [raw[at : at + step] for at in range(0, len(raw), step)]
            chunks = b"".join(b"%x\r\n" % len(piece) + piece + b"\r\n" for piece in pieces)
            last = b"0\r\nX-Trailer: %b\r\n\r\n" % number if form == b"events" else b"0\r\n\r\n"
            raw = b"HTTP/1.1 200 OK\r\nX-Number: %b\r\nTransfer-Encoding: chunked\r\n\r\n" % number + chunks + last
        if mine.random() < 0.1:
            raw = b"HTTP/1.1 103 Early Hints\r\nX-Number: none\r\n\r\n" + raw
        cuts = sorted(mine.randrange(len(raw)) for _ in range(mine.choice((0, 1, 3))))
        for begin, end in zip((0, *cuts), (*cuts, len(raw)), strict=True):
            writer.write(raw[begin:end])
            await asyncio.sleep(0)
        await writer.drain()


def expected(number, size):
    return random.Random(number).randbytes(size)


async def test_an_answer_never_reaches_another_request_under_load(provider, send, got, as_is):
    """Distinct bodies of 1 B to 300 kB over few shared connections, some called off on their way: each compared byte for byte."""
    dice = random.Random(7)
    places = asyncio.Semaphore(24)
    ends = []

    async def call(there, number):
        size = 300_000 if number % 40 == 0 else dice.choice((0, 1, 10, 100, 1000, 5000, 20_000))
        request = there.ask(body=b"%d %d %b" % (number, size, dice.choice((b"length", b"chunked", b"events"))))
        is_called_off, is_read = number % 5 == 0, number % 9 == 0
        sink, reply = got(slow=number % 7 == 0), None
        async with places:
            try:
                async with asyncio.timeout(dice.random() * 0.02 if is_called_off else 60):
                    reply = await send(request)
                    assert dict(reply.headers)[b"X-Number"] == b"%d" % number
                    assert b"X-Trailer" not in dict(reply.headers)
                    if is_read:
                        sink.data = await reply.read(1 << 20)
                    else:
                        await reply.relay(sink, as_is)
                assert sink.data == expected(number, size)
                ends.append("done")
            except TimeoutError:
                assert is_called_off
                assert expected(number, size).startswith(sink.data)
                ends.append("called off")
            finally:
                if reply is not None:
                    reply.close()

    async with provider(varied) as there:
        await asyncio.gather(*(call(there, number) for number in range(2000)))
    assert len(ends) == 2000
    assert ends.count("done") >= 1600
    assert "called off" in ends
    assert there.connections < 450  # the others were shared


# --- uploads ---


@pytest.mark.parametrize("length", [None, 9])
async def test_an_upload_streams_piece_by_piece(answering, send, length):
    async def pieces():
        for piece in (b"abc", b"", b"def", b"ghi"):
            await asyncio.sleep(0)
            yield piece

    async with answering(OK) as provider:
        for _ in range(2):
            assert await whole(await send(provider.ask(body=None, upload=pieces, upload_length=length))) == b"hi"
    assert (provider.bodies, provider.connections) == ([b"abcdefghi"] * 2, 1)


async def test_an_early_answer_ends_the_upload(provider, send):
    async def script(reader, writer, self):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    stopped = asyncio.Event()

    async def pieces():
        try:
            while True:
                yield bytes(1000)
                await asyncio.sleep(0.01)
        finally:
            stopped.set()

    async with provider(script) as there:
        reply = await send(there.ask(body=None, upload=pieces, upload_length=None))
        assert (reply.status, await whole(reply)) == (413, b"no")
        await asyncio.wait_for(stopped.wait(), 20)
        await asyncio.wait_for(there.closed.wait(), 20)  # a half-sent request: not fit for another


@pytest.mark.parametrize("error", [ClientGone(), Refusal(413, "too_large")])
async def test_a_client_that_fails_in_its_upload_ends_the_attempt(answering, send, error):
    async def pieces():
        yield b"abc"
        raise error

    async with answering(OK) as provider:
        with pytest.raises(type(error)):
            await send(provider.ask(body=None, upload=pieces, upload_length=None))
        await asyncio.wait_for(provider.closed.wait(), 20)


@pytest.mark.parametrize("length", [2, 4])
async def test_an_upload_of_another_length_than_announced_never_reaches_the_provider_as_a_request(answering, send, length):
    async def pieces():
        yield b"abc"

    async with answering(OK) as provider:
        with pytest.raises(Refusal):
            await send(provider.ask(body=None, upload=pieces, upload_length=length))
        await asyncio.wait_for(provider.closed.wait(), 20)
    assert provider.bodies == []


async def test_a_provider_that_takes_a_large_body_slowly_is_not_late(provider, send):
    async def script(reader, writer, self):
        left = 16_000_000
        while left > 0:
            left -= len(await reader.read(1 << 18))
            await asyncio.sleep(0.01)
        writer.write(OK)

    async with provider(script) as there:
        began = time.monotonic()
        reply = await send(there.ask(body=bytes(16_000_000)), first_byte=0.6)
        assert time.monotonic() - began > 0.6
        assert reply.status == 200
        reply.close()


async def test_a_client_that_uploads_slowly_is_not_the_providers_fault(answering, send):
    async def pieces():
        yield b"a"
        await asyncio.sleep(0.8)
        yield b"b"

    async with answering(OK) as provider:
        assert await whole(await send(provider.ask(body=None, upload=pieces), first_byte=0.3)) == b"hi"


# --- TLS ---


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """The contexts of a server on 127.0.0.1 and of a client that trusts it."""
    path = self_signed(tmp_path_factory.mktemp("tls"))
    server, trusting = serving(path), ssl.create_default_context(cafile=str(path))
    trusting.set_alpn_protocols(["http/1.1"])
    return server, trusting


async def test_tls_with_a_trusted_certificate_is_kept_alive(answering, send, certificate):
    server, trusting = certificate
    async with answering(OK, ssl=server) as provider:
        for _ in range(3):
            assert await whole(await send(provider.ask(tls=trusting))) == b"hi"
    assert provider.connections == 1


async def test_an_untrusted_certificate_is_never_talked_to(answering, send, certificate):
    async with answering(OK, ssl=certificate[0]) as provider:
        with pytest.raises(UpstreamFailed) as failed:
            await send(provider.ask())
    assert (failed.value.code, failed.value.kind, failed.value.sent, provider.requests) == ("upstream_tls", "tls", False, [])


async def test_a_provider_that_settles_on_another_protocol_is_never_talked_to(answering, send, certificate):
    server, trusting = certificate
    for context in certificate:
        context.set_alpn_protocols(["h2"])
    async with answering(OK, ssl=server) as provider:
        with pytest.raises(UpstreamFailed) as failed:
            await send(provider.ask(tls=trusting))
    for context in certificate:
        context.set_alpn_protocols(["http/1.1"])
    assert (failed.value.code, failed.value.sent, provider.requests) == ("upstream_tls", False, [])


async def test_closing_the_client_ends_idle_connections(answering, client):
    async with answering(OK) as provider:
        await whole(await client.send(provider.ask(), Timeouts(), time.monotonic(), time.monotonic() + 5))
        client.close()
        await asyncio.wait_for(provider.closed.wait(), 20)
