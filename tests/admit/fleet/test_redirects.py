"""The link to a Cluster whose slots move: redirections are followed, and nothing runs twice."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator

import pytest

from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.link import ClusterLink
from proxy.admit.fleet.ops import Down, Script
from tests.support.valkey import Nodes, cluster

TEXT = "return redis.call('INCR', KEYS[1])"
COUNT = Script("count", TEXT, hashlib.sha1(TEXT.encode()).hexdigest())
KEY = "sluice:{moving}:n"


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as them:
        yield them


async def test_a_slot_that_moves_is_followed_by_ask_and_moved_and_each_call_runs_once(nodes):
    link = ClusterLink(read_address(nodes.url), 10)
    try:
        old = nodes.owner(KEY)
        new = next(one for one in nodes.masters if one is not old)
        slot, ids = old.ask("CLUSTER", "KEYSLOT", KEY), {one: one.ask("CLUSTER", "MYID") for one in (old, new)}
        assert [await link.call(COUNT, [KEY], []) for _ in range(2)] == [1, 2]
        old.ask("DEL", KEY)
        new.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[old])
        old.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[new])
        assert await asyncio.gather(*(link.call(COUNT, [KEY], []) for _ in range(50))) == list(range(1, 51))  # ASK, each with its ASKING
        for one in (new, old):
            one.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[new])
        assert sorted(await asyncio.gather(*(link.call(COUNT, [KEY], []) for _ in range(50)))) == list(range(51, 101))  # MOVED
        assert nodes.owner(KEY, old) is new
    finally:
        await link.close()


async def test_nodes_that_send_a_call_round_in_circles_are_down_after_three_redirections():
    asked = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        port = writer.get_extra_info("sockname")[1]
        while data := await reader.read(10_000):
            if b"SLOTS" in data:
                writer.write(f"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n".encode())
            else:
                asked += 1
                writer.write(f"-MOVED 1 127.0.0.1:{port}\r\n".encode())
        writer.close()

    talks = set[asyncio.Task[None]]()
    server = await asyncio.start_server(lambda *both: talks.add(asyncio.ensure_future(talk(*both))), "127.0.0.1", 0)
    async with server:
        link = ClusterLink(read_address(f"redis+cluster://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 10)
        with pytest.raises(Down) as down:
            await link.call(COUNT, [KEY], [])
        await link.close()
        await asyncio.gather(*talks)
    assert (down.value.kind, asked) == ("clusterdown", 4)
