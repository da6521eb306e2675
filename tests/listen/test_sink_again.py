"""The sink of a connection's next call: what the call before has left in it, none finds."""

import asyncio
import gc
from itertools import product

import pytest

from proxy.listen.straight import Straight
from proxy.refusal import Refusal

FRESH = {
    "is_started": False, "is_ended": False, "finish_anyway": False, "story": None, "last": b"", "_head": b"", "_left": None,
    "_is_chunked": False, "_is_flowing": False, "_keeps": True,
}  # fmt: skip


async def whole(sink):
    sink.whole(b"OK", 2, b"x: 1", b"ab")


async def finished_anyway(sink):
    sink.finish_anyway = True
    sink.whole(b"OK", 2, b"x: 1", b"ab")


async def odd(sink):
    sink.whole(b"Fine", 2, b"x: 1", b"cd")


async def streamed(sink):
    sink.start(200, b"OK", (), None, b"x: 2")
    sink.push(b"one")
    sink.push(b"two")
    sink.finish()


async def refused(sink):
    sink.refuse(Refusal(403, "not_allowed", "no"), "openai", ())


async def shared(sink):
    sink.cors = ((b"vary", b"Origin"),)
    sink.whole(b"OK", 2, b"x: 1", b"ef")


ENDS = {"whole": whole, "finished anyway": finished_anyway, "odd": odd, "streamed": streamed, "refused": refused, "shared": shared}


def get(method=b"GET"):
    return method + b" /openai/v1/models HTTP/1.1\r\nHost: a\r\nx-request-id: same\r\n\r\n"


async def reply_of(reader, is_head):
    head = await reader.readuntil(b"\r\n\r\n")
    if is_head:
        return head
    if b"chunked" in head:
        return head + await reader.readuntil(b"\r\n0\r\n\r\n")
    length = next(int(line[16:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length: "))
    return head + await reader.readexactly(length)


async def answered(open_edge, calls):
    """The replies to these calls, one after the other on one connection; and their sinks."""
    sinks, left = [], [end for _, end in calls]

    async def run(call, body, sink):
        assert {name: getattr(sink, name) for name in FRESH} == FRESH
        assert (sink.cors, sink.request_id, sink._is_silent) == ((), "same", call.method == "HEAD")
        await body.read(0)
        sinks.append(sink)
        await ENDS[left.pop(0)](sink)

    reader, writer = await (await open_edge(run)).connect()
    replies = []
    for method, _ in calls:
        writer.write(get(method))
        replies.append(await reply_of(reader, method == b"HEAD"))
    writer.close()
    return replies, sinks


@pytest.mark.parametrize("last", [*product([b"GET"], ENDS), (b"HEAD", "whole")])
@pytest.mark.parametrize("before", [*product([b"GET"], ENDS), (b"HEAD", "whole")])
async def test_a_reply_is_the_same_whatever_came_before_it(open_edge, before, last):
    alone, _ = await answered(open_edge, [last])
    after, _ = await answered(open_edge, [(b"GET", "whole"), before, (b"GET", "whole"), last, last])
    assert after[3] == after[4] == alone[0]


async def test_calls_that_are_answered_whole_share_one_sink_of_their_connection(open_edge):
    edge = []

    async def opened(run):
        edge.append(await open_edge(run))
        return edge[-1]

    _, first = await answered(opened, [(b"GET", "whole")] * 3)
    _, other = await answered(opened, [(b"GET", "whole")] * 3)
    assert len({*map(id, first)}) == len({*map(id, other)}) == 1
    assert first[0] is not other[0]


async def test_a_sink_that_is_kept_keeps_no_connection(open_edge):
    async def run(call, body, sink):
        await whole(sink)

    world = await open_edge(run)
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(get())
        await reply_of(reader, is_head=False)
    gc.collect()
    gc.disable()
    try:
        assert sum(isinstance(one, Straight) for one in gc.get_objects()) == 1
        writer.close()
        async with asyncio.timeout(20):
            while world.edge._connections():
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
        assert not [one for one in gc.get_objects() if isinstance(one, Straight)]
    finally:
        gc.enable()
