"""What a pool keeps of connections whose answers are over."""

import asyncio
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
        assert (len(pool.open), len(pool._idle), pool.places, pool.is_busy) == (kept, kept, pool.size - kept, False)


async def test_a_connection_that_was_closed_while_idle_is_forgotten_at_the_next_look(answering, client, send, clock):
    async with answering(OK) as provider:
        (await send(provider.ask())).close()
        (pool,) = client._pools.values()
        assert len(pool.open) == 1
        pool._idle[0].abort()
        pool.sweep(clock.monotonic())
        assert (len(pool.open), pool.is_empty) == (0, True)


async def test_who_waits_gets_the_connection_that_comes_free_and_nobody_opens_one_more(answering, client, send):
    async with answering(OK) as provider:
        held = await send(provider.ask(max_connections=1))
        waiting = [asyncio.ensure_future(send(provider.ask(max_connections=1))) for _ in range(2)]
        await asyncio.sleep(0)
        (pool,) = client._pools.values()
        held.close()
        waiting.append(asyncio.ensure_future(send(provider.ask(max_connections=1))))  # is there before the first of them has woken
        for one in waiting:
            held = await one
            assert (len(pool.open), pool.places) == (1, 0)
            held.close()
        assert (provider.connections, len(pool._idle), pool.is_busy) == (1, 1, False)


@pytest.mark.parametrize("spoil", [lambda it: setattr(it, "born", it.born - 400), lambda it: it.abort()])
async def test_who_waits_opens_a_connection_where_the_one_that_comes_free_has_aged_or_is_gone(answering, client, send, spoil):
    async with answering(OK) as provider:
        held = await send(provider.ask(max_connections=1))
        (pool,) = client._pools.values()
        waiting = asyncio.ensure_future(send(provider.ask(max_connections=1)))
        await asyncio.sleep(0)
        spoil(*pool.open)
        held.close()
        (await waiting).close()
        assert (provider.connections, len(pool.open), pool.places) == (2, 1, 0)
