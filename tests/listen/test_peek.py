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


class Look:
    """Wants so many bytes."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.seen = wanted, b""

    @property
    def is_decided(self) -> bool:
        return len(self.seen) >= self.wanted

    def saw(self, piece: bytes) -> None:
        self.seen += piece


@given(pieces=st.lists(st.binary(min_size=1, max_size=9), max_size=9), looked_at=st.integers(0, 90))
def test_the_body_streams_from_its_first_byte_however_much_was_looked_at(pieces, looked_at):
    async def go():
        body, look = Peeked(Wire(*pieces)), Look(looked_at)
        assert await body.head(look, 1 << 20, 1 << 20, 5)
        assert b"".join(pieces).startswith(look.seen) and (look.is_decided or look.seen == b"".join(pieces))
        return await body.read(1 << 20), look.seen

    assert asyncio.run(go()) == (b"".join(pieces), b"".join(pieces))  # who looks sees all of it, once


async def test_a_client_that_pauses_is_not_waited_for_and_nothing_is_lost():
    wire = Wire(b"one", None, b"two")
    body, look = Peeked(wire), Look(9)
    assert not await body.head(look, 100, 100, 0.01)
    assert look.seen == b"one"
    wire.go_on.set()
    assert await body.read(100) == b"onetwo"


async def test_who_must_know_waits_for_a_client_that_pauses_but_not_for_more_than_may_be_held():
    wire = Wire(b"one", None, b"two", b"three")
    body, look = Peeked(wire), Look(100)
    asyncio.get_running_loop().call_later(0.01, wire.go_on.set)
    assert not await body.head(look, 100, 6, None)
    assert look.seen == b"onetwo"
    assert await body.read(100) == b"onetwothree"


async def test_a_call_that_ends_leaves_no_read_behind():
    body = Peeked(Wire(None, b"late"))
    await body.head(Look(1), 100, 100, 0.0)
    body.close()
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1


async def test_a_body_nobody_looked_at_is_read_as_it_is():
    assert await Peeked(Wire(b"a", b"b")).read(10) == b"ab"
    assert [piece async for piece in Peeked(Wire(b"a", b"b")).stream(10)] == [b"a", b"b"]
