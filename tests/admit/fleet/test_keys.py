"""The keys of a fleet on a real server: what one sidecar knows all know, and a server that forgot revives nobody."""

import os
import time
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from support.valkey import valkey

from proxy.admit.embedded import EmbeddedState
from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.keys import MOST, KeyBook, SharedKeys
from proxy.admit.fleet.link import open_link
from proxy.admit.fleet.ops import Down
from proxy.admit.fleet.script import load
from proxy.policy.plan_callers import KeyRecord


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


@pytest.fixture(scope="module")
def server():
    with valkey() as server:
        yield server


class Fleet:
    def __init__(self):
        self.keys, self.shared = [], []

    async def meet(self):
        for _ in range(2):
            for one in self.shared:
                await one.meet()

    def revocations(self):
        return [{kept.record.digest: kept.record.is_revoked for kept in keys.all()} for keys in self.keys]


@asynccontextmanager
async def fleet(server, count=3):
    server.ask("FLUSHALL")
    async with AsyncExitStack() as stack:
        link = open_link(read_address(server.url))
        stack.push_async_callback(link.close)
        found = Fleet()
        for _ in range(count):
            state = await EmbeddedState.open(None, clock=Clock(), time_zone="UTC", max_keys=9)
            stack.push_async_callback(state.close)
            found.keys.append(state.keys)
            found.shared.append(SharedKeys(state.keys, KeyBook(link, load("keys"), "prod", os.urandom)))
        yield found


async def test_what_one_mints_rotates_and_revokes_all_know(server):
    async with fleet(server) as all_of:
        one, two, three = all_of.keys
        await one.add(KeyRecord("bob", b"1" * 32, "free"))
        await all_of.meet()
        assert three.ring.find(b"1" * 32).tier == "free"
        await two.rotate("bob", b"2" * 32, 10**9, ())
        await all_of.meet()
        assert one.ring.find(b"2" * 32).name == "bob" and one.ring.find(b"1" * 32).expires_ns is not None
        marks = [keys.ring.mark for keys in all_of.keys]
        await three.revoke((), name="bob")
        await all_of.meet()
        assert not any([keys.ring.mark is mark for keys, mark in zip(all_of.keys, marks, strict=True)]), (
            "who was found good is looked for anew"
        )
        assert all_of.revocations() == [{b"1" * 32: True, b"2" * 32: True}] * 3


async def test_a_server_that_forgot_everything_is_told_again_and_revives_nobody(server):
    async with fleet(server) as all_of:
        one, two, _ = all_of.keys
        await one.add(KeyRecord("bob", b"1" * 32))
        await one.add(KeyRecord("ann", b"2" * 32))
        await two.add(KeyRecord("eve", b"3" * 32))
        await all_of.meet()
        await two.revoke((), name="bob")
        await all_of.meet()
        server.ask("FLUSHALL")
        await one.add(KeyRecord("new", b"4" * 32))
        await all_of.meet()
        assert all_of.revocations() == [{b"1" * 32: True, b"2" * 32: False, b"3" * 32: False, b"4" * 32: False}] * 3
        assert server.ask("HGET", "sluice:{prod}:keys", (b"1" * 32).hex() + ":revoked")


async def test_a_revocation_made_while_the_server_is_away_is_told_when_it_is_back(server):
    async with fleet(server) as all_of:
        one, two, _ = all_of.keys
        await one.add(KeyRecord("bob", b"1" * 32))
        await all_of.meet()
        server.kill9()
        await two.revoke((), name="bob")
        for shared in all_of.shared:
            with pytest.raises(Down):
                await shared.meet()
        assert all_of.revocations() == [{b"1" * 32: False}, {b"1" * 32: True}, {b"1" * 32: False}]
        server.restart()
        await all_of.meet()
        assert all_of.revocations() == [{b"1" * 32: True}] * 3


async def test_many_keys_travel_in_pages(server):
    async with fleet(server, 2) as all_of:
        one, two = all_of.keys
        for number in range(2 * MOST + 1):
            await one.add(KeyRecord(f"bot-{number}", number.to_bytes(32, "big")))
        await all_of.meet()
        assert len(two.all()) == 2 * MOST + 1


class Failing:
    """A link whose calls fail from the `number`th on, once."""

    def __init__(self, link, number):
        self._link, self._left = link, number

    async def call(self, *asked):
        self._left -= 1
        if self._left == 0:
            raise Down("gone")
        return await self._link.call(*asked)


async def test_a_server_that_goes_away_between_two_pages_costs_no_key(server):
    async with fleet(server, 2) as all_of:
        one, two = all_of.keys
        for number in range(MOST + 1):
            await one.add(KeyRecord(f"bot-{number}", number.to_bytes(32, "big")))
        await all_of.shared[0].meet()
        link = open_link(read_address(server.url))
        try:
            late = SharedKeys(two, KeyBook(Failing(link, 2), load("keys"), "prod", os.urandom))
            with pytest.raises(Down):
                await late.meet()
            assert not late.has_met
            await late.meet()
        finally:
            await link.close()
        assert late.has_met and len(two.all()) == MOST + 1


async def test_a_key_that_no_sluice_of_this_version_wrote_hides_no_other(server):
    async with fleet(server, 2) as all_of:
        one, two = all_of.keys
        await one.add(KeyRecord("bob", b"1" * 32))
        await all_of.meet()
        for digest, record in (("zz", "{}"), ("00" * 32, "no json"), ("01" * 32, '{"tier":1}'), ("02" * 32, "[]")):
            server.ask("HSET", "sluice:{prod}:keys", digest, record)
            server.ask("ZADD", "sluice:{prod}:keys_log", server.ask("HINCRBY", "sluice:{prod}:meta", "keys", "1"), digest)
        await one.add(KeyRecord("ann", b"2" * 32))
        await all_of.meet()
        assert {kept.record.name for kept in two.all()} == {"bob", "ann"}


async def test_a_server_of_another_run_is_told_all_again_as_it_may_have_lost_what_was_told_last():
    with valkey(appendonly=True) as server:
        async with fleet(server, 1) as all_of:
            (one,) = all_of.keys
            await one.add(KeyRecord("bob", b"1" * 32))
            await all_of.meet()
            await one.revoke((), name="bob")
            await all_of.meet()
            server.ask("HDEL", "sluice:{prod}:keys", (b"1" * 32).hex() + ":revoked")  # what a failover loses, the version made up for since
            assert server.ask("HLEN", "sluice:{prod}:keys") == 2
            server.kill9()
            server.restart()
            with suppress(Down):  # the connection of before
                await all_of.meet()
            assert server.ask("HEXISTS", "sluice:{prod}:keys", "born"), "it has kept what it had"
            await all_of.meet()
            assert server.ask("HGET", "sluice:{prod}:keys", (b"1" * 32).hex() + ":revoked")
