"""The operations of the shared state on each topology, and a failover while calls come in: no double charge, and never beyond the limit."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.admit import EmbeddedState
from proxy.admit.fleet.address import read_address
from proxy.admit.fleet.link import open_link
from proxy.admit.fleet.ops import Batch, Down, Entry, Leave, Recovering, Settle, Take, Want
from proxy.admit.fleet.script import Remote
from proxy.admit.fleet.space import Space
from proxy.admit.fleet.state import SharedState
from proxy.policy.plan import Claim, Limit, OnStateDown, Rate, Spend
from proxy.refusal import Refusal
from tests.support.fleet import budget, rate, sidecar_on
from tests.support.valkey import Nodes, Server, Watched, behind_tls, cluster, sentinel, valkey

PATIENCE_S = 40
TEAM = Claim(Limit("team red", ("team",), spend=(Spend(10, "day"),), requests=(Rate(1000, 60),), concurrency=1000), "team=red")
ROOT = Path(__file__).resolve().parents[3]
DOCUMENTED = re.search(r"^ACL SETUSER sluice on >PASSWORD (.*)$", (ROOT / "docs/shared-state.md").read_text(), re.MULTILINE)
assert DOCUMENTED is not None
WALLS = ("user default off", "user admin on >admin ~* &* +@all", f"user sluice on >secret {DOCUMENTED[1]}")


class Clock:
    now_ns = staticmethod(time.time_ns)
    monotonic = staticmethod(time.monotonic)
    monotonic_ns = staticmethod(time.monotonic_ns)


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    with valkey() as one:
        yield one


@pytest.fixture(scope="module")
def walled() -> Iterator[Server]:
    one = valkey(*WALLS)
    one.admin = {"username": "admin", "password": "admin"}
    with one:
        yield one


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with sentinel() as them:
        yield them


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as them:
        yield them


@pytest.fixture(params=["single", "a database", "TLS", "ACL user", "Sentinel", "Cluster"])
async def url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    match request.param:
        case "TLS":
            async with behind_tls(request.getfixturevalue("plain").port) as front:
                yield f"{front.url}?ca={front.ca}"
        case "ACL user":
            yield f"redis://sluice:secret@127.0.0.1:{request.getfixturevalue('walled').port}"
        case "Sentinel":
            yield request.getfixturevalue("watched").url
        case "Cluster":
            yield request.getfixturevalue("nodes").url
        case _:
            yield request.getfixturevalue("plain").url[:-1] + ("5" if request.param == "a database" else "0")


async def patiently(do):
    """What it gives, once the server has time for us: machines that test are slow, and a link is not patient."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await do()
            except (Down, Recovering):
                await asyncio.sleep(0.1)


async def test_200_takes_of_four_sidecars_on_a_budget_for_10_get_exactly_10_on_any_topology(url):
    space = f"race-{os.urandom(4).hex()}:team=red"
    links = [open_link(read_address(url)) for _ in range(4)]
    remotes = [Remote(link, instance=f"i{n}", time_zone="UTC", max_keys=100, recover_ms=200) for n, link in enumerate(links)]

    async def one(n: int) -> bool:
        take = Take((Entry(f"u{n}", (TEAM,)),), Want(f"u{n}/1", (TEAM,), 1, 1), time.time_ns())
        return not (await patiently(lambda: remotes[n % 4].take(space, take))).denied  # idempotent by uid and id

    try:
        taken = await asyncio.gather(*(one(n) for n in range(200)))
        assert sum(taken) == 10
        for at, remote in enumerate(remotes):
            ids = [n for n, is_taken in enumerate(taken) if is_taken and n % 4 == at]
            ops = tuple(op for n in ids for op in (Settle(f"u{n}/1", 1, 0), Leave(f"u{n}")))
            batch = Batch(1, ops, (), time.time_ns())
            pulse = await patiently(lambda remote=remote, batch=batch: remote.send(space, batch))
            assert pulse.seq == 1
            resumed = await patiently(lambda remote=remote: remote.resume(space))
            assert not (resumed.holds or resumed.calls)
        taken = await asyncio.gather(*(one(n) for n in range(200, 220)))
        assert sum(taken) == 10
        for remote in remotes:
            await patiently(lambda remote=remote: remote.goodbye(space))
    finally:
        for link in links:
            await link.close()


async def test_the_acl_user_of_the_documentation_may_do_nothing_else(walled):
    link = open_link(read_address(f"redis://sluice:secret@127.0.0.1:{walled.port}"))
    try:
        for forbidden in (("KEYS", "*"), ("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "1"), ("GET", "other"), ("ACL", "LIST")):
            with pytest.raises(Down) as down:
                await patiently_unless("noperm", link, forbidden)
            assert down.value.kind == "noperm", forbidden
    finally:
        await link.close()


def test_the_documented_permissions_are_those_that_the_scripts_and_the_start_need():
    scripts = "".join(path.read_text() for path in (ROOT / "proxy/admit/fleet/lua").glob("*.lua"))
    used = {command.lower() for command in re.findall(r"redis\.p?call\('(\w+)'", scripts)} | {"evalsha", "eval", "info", "set", "get"}
    assert DOCUMENTED is not None
    assert {one[1:] for one in DOCUMENTED[1].split() if one.startswith("+")} == used


async def test_a_sidecar_works_whole_under_the_documented_permissions(walled, tmp_path):
    async with sidecar_on(f"redis://sluice:secret@127.0.0.1:{walled.port}", tmp_path) as one:
        money, requests = budget(100), rate(50)
        assert [await one.begin(f"c{n}", (money, requests), 30) for n in range(5)] == ["", "", "", "budget_exhausted", "budget_exhausted"]
        one.end("c0", 10)
        await one.told()
        assert await one.begin("again", (money, requests), 30) == ""
        for n in (1, 2):
            one.end(f"c{n}", 30)
        one.end("again", 30)
        await one.told()


async def patiently_unless(kind, link, command):
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await link.ask(*command)
            except Down as problem:
                if problem.kind == kind:
                    raise
                await asyncio.sleep(0.1)


# -- failover ------------------------------------------------------------------------------------------------------------

LIMIT = 400
BUDGET = Claim(Limit("team red", ("team",), spend=(Spend(LIMIT, "total"),)), "team=red")


@asynccontextmanager
async def sidecars(url: str, space: str, folder: Path, count: int = 4) -> AsyncIterator[list[SharedState]]:
    """Each with a journal of its own, in this process."""
    async with asyncio.timeout(PATIENCE_S * 2):
        opened, links, spaces = [], [], []
        for n in range(count):
            link = open_link(read_address(url))
            own = await EmbeddedState.open(folder / str(n), clock=Clock(), time_zone="UTC", max_keys=100)
            remote = Remote(link, instance=f"i{n}", time_zone="UTC", max_keys=100)
            one = Space(space, remote, own, Clock(), folder / f"{n}.shares")
            opened.append(SharedState(own, one, link, Clock(), OnStateDown()))
            links.append(link)
            spaces.append(one)
            one.start()
        try:
            yield opened
        finally:
            for one, state, link in zip(spaces, opened, links, strict=True):
                await one.close()
                await state.own.close()
                await link.close()


async def spend_through(states: list[SharedState], intent, row, fail_over, unit: int = 1) -> int:
    """Calls one after the other on each sidecar until all are refused for want of money; the master dies on the way. What was spent."""
    spent, refused = 0, set[int]()

    async def caller(at: int) -> None:
        nonlocal spent
        for n in range(LIMIT * 2):
            id = f"s{at}-{n}/1"
            try:
                await states[at].hold(intent(id, (BUDGET,), unit, 0))
            except Refusal as no:
                if no.code == "budget_exhausted":
                    refused.add(at)
                    return
                await asyncio.sleep(0.05)
                continue
            spent += unit
            await asyncio.sleep(0.005)
            states[at].settle(id, 0, unit, row(id, cost_nanousd=unit))

    async def failing() -> None:
        while spent < LIMIT // 4:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(fail_over)

    await asyncio.gather(failing(), *(caller(at) for at in range(len(states))))
    assert refused == set(range(len(states)))
    return spent


async def all_shared(states: list[SharedState]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not all(state.mode == "shared" and not state.waiting for state in states):
            await asyncio.sleep(0.05)


async def settled_of(url: str, space: str) -> int:
    link = open_link(read_address(url))
    key = f"sluice:{{{space}}}:b:total|team red|team=red"
    try:
        settled, held = await patiently(lambda: link.ask("HMGET", key, "settled", "held", key=key))
        assert int(held) == 0
        return int(settled)
    finally:
        await link.close()


async def test_a_sentinel_failover_under_traffic_charges_nothing_twice_and_keeps_the_limit(watched, tmp_path, intent, row):
    await _failover_keeps_the_limit(watched.url, watched.fail_over, tmp_path, intent, row)


async def test_a_cluster_failover_under_traffic_charges_nothing_twice_and_keeps_the_limit(nodes, tmp_path, intent, row):
    await _failover_keeps_the_limit(nodes.url, lambda: nodes.fail_over("sluice:{failover:team=red}:meta"), tmp_path, intent, row)


async def _failover_keeps_the_limit(url, fail_over, folder, intent, row):
    space = "failover:team=red"
    async with sidecars(url, space, folder) as states:
        await all_shared(states)
        spent = await spend_through(states, intent, row, fail_over)
        await all_shared(states)
        assert spent <= LIMIT
        assert spent >= LIMIT * 0.8
        async with asyncio.timeout(PATIENCE_S):
            while (settled := await settled_of(url, space)) != spent:
                assert settled <= LIMIT, settled
                await asyncio.sleep(0.1)
