"""What leaves together at the end of a turn of the event loop: all of it, in order, on real sockets, and nothing of it late."""

import asyncio
import socket
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.post import MOST, SMALL, Post, post_of

WAIT_S = 20


class Peer(asyncio.Protocol):
    """Of the end that writes."""

    def __init__(self):
        self.lost = asyncio.Event()

    def connection_lost(self, exc):
        self.lost.set()


@asynccontextmanager
async def pairs_of(count):
    """Transports to write on, each with the other end's socket, which blocks nobody."""
    made = []
    for _ in range(count):
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        theirs.setblocking(False)
        transport, peer = await asyncio.get_running_loop().create_connection(Peer, sock=ours)
        made.append((transport, theirs, peer))
    try:
        yield [(transport, sock) for transport, sock, _ in made]
    finally:
        for transport, sock, peer in made:
            transport.abort()
            await peer.lost.wait()
            sock.close()


@pytest.fixture
async def pairs():
    async with pairs_of(4) as made:
        yield made


def here(sock):
    """What has arrived by now."""
    try:
        return sock.recv(1 << 20)
    except BlockingIOError:
        return b""


async def test_who_is_alone_writes_at_once(pairs):
    post = post_of(asyncio.get_running_loop())
    transport, sock = pairs[0]
    post.due = 1
    post.put(transport, (b"head", b"body"))
    assert (here(sock), post.due, post.box) == (b"headbody", 0, [])


async def test_several_write_with_the_last_of_them(pairs):
    post = post_of(asyncio.get_running_loop())
    post.due = 4
    *first, (last, _) = pairs
    for transport, _ in first:
        post.put(transport, (b"one",))
    assert [here(sock) for _, sock in pairs] == [b""] * 4
    post.put(last, (b"one",))
    assert [here(sock) for _, sock in pairs] == [b"one"] * 4
    assert (post.due, post.box) == (0, [])


async def test_nothing_waits_for_many_or_for_what_is_large(pairs):
    """So that a turn in which much is to be done keeps nobody for long."""
    post = post_of(asyncio.get_running_loop())
    (first, one), (second, other), *_ = pairs
    post.due = 99
    for number in range(MOST):
        assert here(one) == b""
        post.put(first, (b"%02d" % number,))
    post.put(second, (b"more",))
    assert here(one) == b"".join([b"%02d" % number for number in range(MOST)])
    assert (here(other), post.due, post.box) == (b"more", 99 - MOST - 1, [])
    post.put(first, (b"small",))
    post.put(second, (b"head", bytes(SMALL + 1)))
    assert (here(one), len(here(other)), post.due) == (b"small", 4 + SMALL + 1, 99 - MOST - 3)


async def test_what_waits_for_one_who_never_writes_leaves_a_turn_later(pairs):
    post = post_of(asyncio.get_running_loop())
    transport, sock = pairs[0]
    post.due = 7
    post.put(transport, (b"one",))
    assert here(sock) == b""
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (here(sock), post.due) == (b"one", 0)


async def test_a_connection_that_ended_meanwhile_or_fails_takes_nothing_from_the_others(caplog, pairs):
    post = Post(asyncio.get_running_loop())
    post.due = 9
    for transport, _ in pairs:
        post.put(transport, (b"one",))
    post.box[2] = (pairs[2][0], ("no bytes",), None)  # raises where it is written
    pairs[0][0].close()
    post.leave()
    assert [here(sock) for _, sock in pairs] == [b"", b"one", b"", b"one"]
    assert pairs[2][0].is_closing() and "TypeError" in caplog.text and "no bytes" not in caplog.text


async def test_what_the_kernel_does_not_take_is_told(pairs):
    """So a client that reads nothing has a deadline, whether its answer waited or not."""
    post, told = Post(asyncio.get_running_loop()), []
    for due in (1, 2):
        post.due = due
        post.put(pairs[due][0], (b"a", bytes(4 << 20)), lambda: told.append("large"))
        post.leave()
        assert told == ["large"] * due
    post.put(pairs[0][0], (b"small",), lambda: told.append("small"))
    assert told == ["large"] * 2


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("woken"), st.integers(1, 5)),
        st.tuples(st.just("put"), st.integers(0, 3)),
        st.tuples(st.just("write"), st.integers(0, 3)),
        st.tuples(st.just("turn"), st.integers(1, 3)),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=60)
def test_whatever_is_woken_and_written_all_of_it_arrives_in_the_order_it_was_written_in(steps):
    async def run():
        async with pairs_of(4) as pairs:
            await check(Post(asyncio.get_running_loop()), pairs)

    async def check(post, pairs):
        said = [b""] * 4
        for number, (what, which) in enumerate(steps):
            if what == "woken":
                post.due += which
            elif what == "turn":
                for _ in range(which):
                    await asyncio.sleep(0)
            else:
                (transport, _), data = pairs[which], b"%d," % number
                said[which] += data
                if what == "put":
                    post.put(transport, (data, b";"))
                    said[which] += b";"
                else:  # as `ClientSink.start` does
                    if post.holds(transport):
                        post.leave()
                    transport.write(data)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [here(sock) for _, sock in pairs] == said
        assert post.box == []
        for transport, sock in pairs:
            transport.abort()
            sock.close()
        await asyncio.sleep(0)

    asyncio.run(run())


async def test_answers_to_pipelined_requests_come_in_their_order_whatever_else_is_answered_in_that_turn(open_edge):
    """The first is whole and waits for others; the second is written piece by piece, at once."""
    turn = 0

    async def run(call, body, sink):
        nonlocal turn
        turn += 1
        await body.read(0)
        if turn % 3 == 0:
            sink.start(200, b"OK", (), None, b"x: %d" % turn)
            sink.push(b"%d" % turn)
            sink.finish()
        else:
            sink._connection.post.due = 5  # as if others had been woken too
            sink.whole(b"OK", 2, b"x: %d" % turn, b"%02d" % turn)

    world = await open_edge(run)
    reader, writer = await world.connect()
    writer.write(b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\n\r\n" * 12)
    got = b""
    async with asyncio.timeout(WAIT_S):
        while got.count(b"x: ") < 12:
            got += await reader.read(65536)
    assert [int(part.split(b"\r\n", 1)[0]) for part in got.split(b"x: ")[1:]] == list(range(1, 13))
    writer.close()


async def test_an_answer_that_waits_leaves_before_its_connection_is_closed(open_edge):
    async def run(call, body, sink):
        await body.read(0)
        sink._connection.post.due = 5
        sink.whole(b"OK", 2, b"x: 1", b"ab")
        sink._connection.force_close()

    world = await open_edge(run)
    assert (await world.ask(b"GET /openai/v1/models HTTP/1.1\r\nHost: a\r\n\r\n", WAIT_S)).endswith(b"\r\n\r\nab")
