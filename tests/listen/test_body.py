import asyncio
import time

import pytest

from proxy.listen.body import Coming, Whole
from proxy.listen.connection import Deadlines
from proxy.refusal import ClientGone, Refusal

QUICK = Deadlines(body_grace=0.3, body_idle=0.2, linger=0.1)


def post(*lines, body=b""):
    return b"\r\n".join([b"POST /openai/v1/x HTTP/1.1", b"Host: a", *lines, b"", body])


class Reader:
    """A pipeline that reads the body up to `limit` and notes what it got."""

    def __init__(self, limit=100_000, streams=False):
        self.limit, self.streams, self.got, self.no = limit, streams, [], None

    async def run(self, call, body, sink):
        self.length = body.length
        try:
            if self.streams:
                async for piece in body.stream(self.limit):
                    self.got.append(piece)
            else:
                self.got.append(await body.read(self.limit))
        except Refusal as no:
            self.no = no
            raise
        sink.start(200, b"OK", (), 0)
        sink.finish()


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize(
    ("sent", "length"),
    [
        (post(b"Content-Length: 6", body=b"abcdef"), 6),
        (post(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n3;x=y\r\ndef\r\n0\r\nX-Trailer: t\r\n\r\n"), None),
        (post(), 0),
    ],
)
async def test_a_body_arrives_whole_however_it_was_framed(open_edge, streams, sent, length):
    reader = Reader(streams=streams)
    world = await open_edge(reader.run)
    for piece in (sent, None):
        reader.got.clear()
        if piece is None:  # byte by byte
            stream, writer = await world.connect()
            for byte in sent:
                writer.write(bytes([byte]))
                await asyncio.sleep(0)
            await stream.readuntil(b"\r\n\r\n")
            writer.close()
        else:
            await world.ask(piece.replace(b"Host: a", b"Host: a\r\nConnection: close"))
        assert (b"".join(reader.got), reader.length) == (b"abcdef" if length != 0 else b"", length)


async def test_a_length_above_the_limit_is_413_at_the_headers_naming_both_sizes(open_edge):
    world = await open_edge(Reader(limit=10).run)
    reply = await world.ask(post(b"Content-Length: 7000000"))
    assert reply.startswith(b"HTTP/1.1 413 ") and b"7000000" in reply and b" 10 " in reply and b"Connection: close" in reply


@pytest.mark.parametrize("streams", [False, True])
async def test_a_chunked_body_is_413_at_the_first_byte_too_many(open_edge, streams):
    reader = Reader(limit=10, streams=streams)
    world = await open_edge(reader.run)
    reply = await world.ask(post(b"Transfer-Encoding: chunked", body=b"b\r\nabcdefghijk\r\n"))
    assert reply.startswith(b"HTTP/1.1 413 ") and sum(map(len, reader.got)) <= 10


@pytest.mark.parametrize("sent", [b"", b"abc"])
async def test_a_silent_body_is_408_and_closed(open_edge, sent):
    world = await open_edge(Reader().run, deadlines=QUICK)
    reply = await world.ask(post(b"Content-Length: 6000", body=sent))
    assert reply.startswith(b"HTTP/1.1 408 ") and b"x-sluice-error: request_timeout" in reply


async def test_a_body_below_a_kibibyte_a_second_is_408_after_the_grace(open_edge):
    world = await open_edge(Reader().run, deadlines=QUICK)
    stream, writer = await world.connect()
    writer.write(post(b"Content-Length: 6000"))
    began = time.monotonic()
    try:
        for _ in range(60):
            if stream.at_eof() or stream._buffer:
                break
            writer.write(b"x")
            await asyncio.sleep(0.05)
        async with asyncio.timeout(20):
            assert (await stream.read()).startswith(b"HTTP/1.1 408 ")
        assert 0.2 < time.monotonic() - began < 15
    finally:
        writer.close()


async def test_time_that_the_pipeline_takes_is_not_held_against_the_client(open_edge):
    class Slow(Reader):
        async def run(self, call, body, sink):
            async for piece in body.stream(self.limit):
                self.got.append(piece)
                await asyncio.sleep(0.5)
            sink.start(200, b"OK", (), 0)
            sink.finish()

    reader = Slow()
    world = await open_edge(reader.run, deadlines=QUICK)
    stream, writer = await world.connect()
    writer.write(post(b"Content-Length: 6", body=b"abc"))
    await asyncio.sleep(0.1)
    writer.write(b"def")
    assert (await stream.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    assert b"".join(reader.got) == b"abcdef"
    writer.close()


@pytest.mark.parametrize("sent", [post(b"Content-Length: 200", body=b"ab"), post(b"Transfer-Encoding: chunked", body=b"5\r\nab")])
async def test_a_body_cut_by_a_half_close_reaches_no_one(open_edge, logged, sent):
    reader = Reader()
    world = await open_edge(reader.run)
    stream, writer = await world.connect()
    writer.write(sent)
    writer.write_eof()
    async with asyncio.timeout(20):
        reply = await stream.read()
    assert reader.got == [] and b"200" not in reply[:20]
    assert "Traceback" not in logged.text
    writer.close()


async def test_bad_chunk_framing_in_the_middle_of_a_body_is_400_at_once(open_edge):
    reader = Reader()
    world = await open_edge(reader.run)
    stream, writer = await world.connect()
    writer.write(post(b"Transfer-Encoding: chunked", body=b"3\r\nabc\r\n"))
    await world.is_busy()
    writer.write(b"zz\r\n")
    async with asyncio.timeout(20):
        reply = await stream.read()
    assert reply.startswith(b"HTTP/1.1 400 ") and reply.count(b"\r\n\r\n") == 1
    assert reader.no.code == "invalid_request"
    writer.close()


async def test_a_hundred_thousand_one_byte_chunks_cost_less_than_a_second(open_edge):
    reader = Reader(limit=1_000_000)
    world = await open_edge(reader.run)
    began = time.process_time()
    reply = await world.ask(post(b"Connection: close", b"Transfer-Encoding: chunked", body=b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"))
    assert reply.startswith(b"HTTP/1.1 200 ") and len(reader.got[0]) == 100_000
    assert time.process_time() - began < 1


class Calm:
    """As much of a connection as a body asks for that is there."""

    is_broken = False


def whole_of(body):
    whole = Whole()
    whole.connection, whole.body, whole.length = Calm(), body, len(body)
    return whole


async def test_what_is_there_is_given_at_once_and_what_is_not_must_be_waited_for():
    whole, coming = whole_of(b"abc"), Coming(Calm(), b"ab", 3)
    for body in (whole, coming):
        if body is coming:
            assert body.at_once(3) is None
            body.feed_data(b"c")
        with pytest.raises(Refusal) as no:
            body.at_once(2)
        assert (no.value.status, no.value.code) == (413, "too_large")
        assert (body.at_once(3), body.at_once(3), await body.read(3)) == (b"abc", b"", b"")


async def test_nothing_is_given_of_what_is_misframed_or_whose_client_has_left():
    misframed, left = whole_of(b"abc"), whole_of(b"abc")
    misframed.connection.is_broken = True
    left.set_exception(ConnectionResetError())
    with pytest.raises(Refusal):
        misframed.at_once(3)
    with pytest.raises(ClientGone):
        left.at_once(3)
