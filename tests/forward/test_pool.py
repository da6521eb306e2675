"""What a pool keeps of connections whose answers are over."""

import contextlib

import pytest

from proxy.refusal import UpstreamCut, UpstreamFailed

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"
CLOSING = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(("answer", "kept"), [(OK, 1), (CLOSING, 0), (OK + b"!", 0), (OK[:-1], 0), (b"?", 0)])
async def test_only_a_connection_that_may_serve_again_is_remembered(answering, client, send, answer, kept):
    async with answering(answer) as provider:
        for _ in range(3):
            with contextlib.suppress(UpstreamFailed, UpstreamCut):
                (await send(provider.ask())).close()
        (pool,) = client._pools.values()
        assert (len(pool.open), len(pool._idle), pool.places) == (kept, kept, pool.size)


async def test_a_connection_that_was_closed_while_idle_is_forgotten_at_the_next_look(answering, client, send, clock):
    async with answering(OK) as provider:
        (await send(provider.ask())).close()
        (pool,) = client._pools.values()
        assert len(pool.open) == 1
        pool._idle[0].abort()
        pool.sweep(clock.monotonic())
        assert (len(pool.open), pool.is_empty) == (0, True)
