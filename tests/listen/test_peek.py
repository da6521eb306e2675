"""Looking at the beginning of a body leaves the body whole."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from proxy.listen.peek import Peeked
from proxy.refusal import Refusal


class Wire:
    """A body that comes in pieces; None: the client pauses there."""

    def __init__(self, *pieces: bytes | None) -> None:
        self.pieces = pieces
        self.length = None
        self.go_on = asyncio.Event()

    async def read(self, limit: int) -> bytes:
        return b"".join([piece async for piece in self.stream(limit)])

    async def stream(self, limit: int):
        for piece in self.pieces:
            if piece is None:
                await self.go_on.wait()
                continue
            if len(piece) > limit:
                raise Refusal(413, "too_large")
            yield piece


@given(pieces=st.lists(st.binary(min_size=1, max_size=9), max_size=9), looked_at=st.integers(0, 90))
def test_the_body_streams_from_its_first_byte_however_much_was_looked_at(pieces, looked_at):
    async def go():
        body = Peeked(Wire(*pieces))
        head = await body.head(lambda held: len(held) >= looked_at, 1 << 20, 1 << 20, 5)
        assert b"".join(pieces).startswith(head) and (len(head) >= looked_at or head == b"".join(pieces))
        return await body.read(1 << 20)

    assert asyncio.run(go()) == b"".join(pieces)


async def test_a_client_that_pauses_is_not_waited_for_and_nothing_is_lost():
    wire = Wire(b"one", None, b"two")
    body = Peeked(wire)
    assert await body.head(lambda held: False, 100, 100, 0.01) == b"one"
    wire.go_on.set()
    assert await body.read(100) == b"onetwo"


async def test_a_call_that_ends_leaves_no_read_behind():
    body = Peeked(Wire(None, b"late"))
    await body.head(lambda held: False, 100, 100, 0.0)
    body.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_body_nobody_looked_at_is_read_as_it_is():
    assert await Peeked(Wire(b"a", b"b")).read(10) == b"ab"
    assert [piece async for piece in Peeked(Wire(b"a", b"b")).stream(10)] == [b"a", b"b"]
