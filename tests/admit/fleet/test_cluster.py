"""A fleet on a Cluster: a slot for each team or caller, grants for what crosses it. Real nodes, real sidecars' states."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.admit.fleet.cluster import ClusterState
from proxy.admit.fleet.spaces import parted, tag_of, who
from proxy.policy.limits import ESCAPES
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.ports import Intent
from proxy.refusal import Refusal
from tests.support.fleet import Sidecar, row, sidecar_on, until
from tests.support.valkey import Nodes, cluster

TEAMS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with cluster() as them:
        yield them


@pytest.fixture(autouse=True)
def _empty(nodes: Nodes) -> None:
    for one in nodes.masters:
        one.ask("FLUSHALL")


class Caller:
    """Of one team, through one sidecar."""

    def __init__(self, sidecar: Sidecar, name: str, team: str | None) -> None:
        self.state, self.name, self.team = sidecar.state, name, team

    async def begin(self, uid: str, claims: tuple[Claim, ...], nanousd: int = 0, tokens: int = 1) -> str:
        """ "" or the code of the refusal, after which the call is over."""
        theirs = row(f"{uid}/1", nanousd)._replace(caller=self.name, team=self.team)
        try:
            self.state.peek(claims)
            await self.state.enter(uid, claims)
            await self.state.hold(Intent(f"{uid}/1", uid, claims, tokens, nanousd, theirs))
        except Refusal as no:
            self.state.void(f"{uid}/1", None)
            self.state.uncount(uid)
            self.state.leave(uid)
            return no.code
        return ""

    def end(self, uid: str, nanousd: int, tokens: int = 1) -> None:
        self.state.settle(f"{uid}/1", tokens, nanousd, row(f"{uid}/1", nanousd))
        self.state.leave(uid)

    def claims(self, *more: Claim, team_usd: int = 1000) -> tuple[Claim, ...]:
        of_caller = Claim(Limit("tier free", ("caller",), requests=(Rate(10_000, 60),)), f"caller={self.name}")
        of_team = Claim(Limit(f"team {self.team}", ("team",), spend=(Spend(team_usd, "total"),), is_shared=True), f"team={self.team}")
        return (of_caller, *([of_team] if self.team else []), *more)


def total(nanousd: int, **more: Any) -> Claim:
    return Claim(Limit("limit all", ("total",), spend=(Spend(nanousd, "total"),), is_shared=True, **more), "total")


@asynccontextmanager
async def sidecars(nodes: Nodes, folder: Path, count: int = 3) -> AsyncIterator[list[Sidecar]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(sidecar_on(nodes.url, folder)) for _ in range(count)]


def callers(them: list[Sidecar]) -> list[Caller]:
    """One of each team on each sidecar."""
    return [Caller(one, f"bot-{team}-{n}", team) for n, one in enumerate(them) for team in TEAMS]


@pytest.mark.usefixtures("patient")
async def test_teams_live_in_slots_of_their_own_and_a_limit_of_all_is_kept_to_the_last_nano_dollar(nodes, tmp_path):
    async with sidecars(nodes, tmp_path) as them:
        assert all(isinstance(one.state, ClusterState) for one in them)
        everybody = callers(them)

        async def spend(at: int) -> int:
            taken, me = 0, everybody[at % len(everybody)]
            for n in range(20):
                uid = f"c{at}-{n}"
                if not await me.begin(uid, me.claims(total(300)), nanousd=1):
                    taken += 1
                    await asyncio.sleep(0)
                    me.end(uid, 1)
            return taken

        taken = sum(await asyncio.gather(*(spend(at) for at in range(36))))
        assert taken <= 300
        assert taken >= 300 - 3 * 3  # of what was granted, at most 1 % may lie in each sidecar
        await until(lambda: all(one.state.waiting == 0 for one in them))
    spaces = {(key.decode().split("{")[1].split("}")[0]) for one in nodes.masters for key in one.ask("KEYS", "sluice:*")}
    assert {"tests:team=red", "tests:team=blue", "tests:team=green", "tests:limit=limit all"} <= spaces
    by_team = [int(nodes.owner(key).ask("HGET", key, "settled") or 0) for team in TEAMS for key in [balance_key(team)]]
    assert sum(by_team) == taken
    home = "sluice:{tests:limit=limit all}:b:total|limit all|total"
    assert int(nodes.owner(home).ask("HGET", home, "settled")) == taken  # what was not used went back at the end


def balance_key(team: str) -> str:
    return f"sluice:{{tests:team={team}}}:b:total|team {team}|team={team}"


@pytest.mark.usefixtures("patient")
async def test_a_team_budget_is_decided_in_one_slot_for_all_its_callers_on_all_sidecars(nodes, tmp_path):
    async with sidecars(nodes, tmp_path) as them:
        reds = [Caller(them[n % 3], f"red-{n}", "red") for n in range(9)]
        ends = await asyncio.gather(*(one.begin(f"u{n}-{i}", one.claims(team_usd=10), 1) for n, one in enumerate(reds) for i in range(10)))
        assert Counter(ends) == {"": 10, "budget_exhausted": 80}


@pytest.mark.usefixtures("patient")
async def test_a_caller_without_a_team_has_a_slot_of_its_own(nodes, tmp_path):
    async with sidecars(nodes, tmp_path, 2) as them:
        mine = Claim(Limit("tier free", ("caller",), requests=(Rate(5, 60),)), "caller=zoe")
        ends = [await Caller(them[n % 2], "zoe", None).begin(f"z{n}", (mine,)) for n in range(8)]
        assert Counter(ends) == {"": 5, "rate_limited": 3}
        assert nodes.owner("sluice:{tests:caller=zoe}:meta").ask("EXISTS", "sluice:{tests:caller=zoe}:meta") == 1


@pytest.mark.usefixtures("patient")
async def test_rates_and_slots_that_cross_are_never_exceeded_and_a_refused_call_costs_nothing(nodes, tmp_path):
    everything = Claim(
        Limit("limit all", ("total",), requests=(Rate(40, 60),), tokens=(Rate(10_000, 60),), concurrency=12, is_shared=True), "total"
    )
    async with sidecars(nodes, tmp_path) as them:
        everybody = callers(them)
        ends = await asyncio.gather(*(one.begin(f"s{n}", one.claims(everything)) for n, one in enumerate(everybody * 3)))
        assert Counter(ends) == {"": 12, "too_many_in_flight": 15}
        for n, one in enumerate(everybody * 3):
            if not ends[n]:
                one.end(f"s{n}", 0)
        more = [await one.begin(f"t{n}", one.claims(everything)) for n, one in enumerate(everybody * 5) if not one.end(f"t{n - 1}", 0)]
        assert more.count("") <= 40 - 12
        assert more.count("") >= 40 - 12 - 3 * 4


@pytest.mark.usefixtures("patient")
async def test_a_refusal_by_a_budget_of_the_team_gives_the_grants_of_the_call_back(nodes, tmp_path):
    async with sidecars(nodes, tmp_path, 1) as them:
        red, blue = Caller(them[0], "r", "red"), Caller(them[0], "b", "blue")
        assert await red.begin("one", red.claims(total(100), team_usd=10), 50) == "exceeds_limit"
        assert await blue.begin("two", blue.claims(total(100)), 100) == ""


@pytest.mark.usefixtures("patient")
async def test_callers_of_an_issuer_keep_their_own_account_whatever_team_they_come_with(nodes, tmp_path):
    mine = Claim(Limit("tier free", ("caller",), spend=(Spend(10, "total"),)), "caller=corp:alice")
    async with sidecars(nodes, tmp_path, 2) as them:
        ends = []
        for n, team in enumerate(("red", "blue", None, "red", "blue", None) * 3):
            ends.append(await Caller(them[n % 2], "corp:alice", team).begin(f"a{n}", (mine,), 1))
        assert ends.count("") == 10


@pytest.mark.usefixtures("patient")
async def test_a_restarted_sidecar_tells_what_it_had_spent_of_its_grants(nodes, tmp_path):
    async with sidecar_on(nodes.url, tmp_path, ends=False) as first:
        me = Caller(first, "r", "red")
        assert await me.begin("one", me.claims(total(1000)), 500) == ""
        me.end("one", 400)
        assert await me.begin("two", me.claims(total(1000)), 100) == ""  # open as it dies: charged at its estimate
        await until(lambda: first.state.waiting == 0)
    async with sidecar_on(nodes.url, tmp_path) as again:
        me = Caller(again, "r", "red")
        assert await me.begin("three", me.claims(total(1000)), 501) == "budget_exhausted"
        assert await me.begin("four", me.claims(total(1000)), 500) == ""


async def test_money_that_was_granted_can_be_spent_while_its_home_is_away_and_no_more(nodes, tmp_path):
    async with sidecars(nodes, tmp_path, 1) as them:
        me = Caller(them[0], "r", team_elsewhere(nodes))
        assert await me.begin("one", me.claims(total(10_000)), 1) == ""  # and 100 more are granted
        home = nodes.owner(f"sluice:{{{tag_of('tests', 'limit=limit all')}}}:meta")
        home.freeze()
        try:
            ends = [await me.begin(f"u{n}", me.claims(total(10_000)), 30) for n in range(5)]
        finally:
            home.thaw()
        assert ends == ["", "", "", "state_unavailable", "state_unavailable"]
        await until(lambda: nodes.masters)


def team_elsewhere(nodes: Nodes) -> str:
    """A team whose slot is on another node than the limit of all, and than the fleet's own."""
    home = nodes.owner("sluice:{tests:limit=limit all}:meta")
    return next(f"t{n}" for n in range(100) if nodes.owner(f"sluice:{{tests:team=t{n}}}:meta") is not home)


async def test_a_master_that_dies_costs_no_limit(nodes, tmp_path):
    async with sidecars(nodes, tmp_path) as them:
        everybody = callers(them)
        taken, is_over = 0, False

        async def spend(at: int) -> None:
            nonlocal taken
            me, n = everybody[at], 0
            while not is_over and n < 400:
                n += 1
                uid = f"f{at}-{n}"
                end = await me.begin(uid, me.claims(total(500)), nanousd=1)
                if not end:
                    taken += 1
                    await asyncio.sleep(0.002)
                    me.end(uid, 1)
                elif end == "budget_exhausted" and taken >= 490:
                    return
                else:
                    await asyncio.sleep(0.05)

        async def kill() -> None:
            await until(lambda: taken > 100)
            await asyncio.to_thread(nodes.fail_over, "sluice:{tests:limit=limit all}:meta")

        await asyncio.wait_for(asyncio.gather(kill(), *(spend(at) for at in range(9))), 60)
        is_over = True
        assert 450 <= taken <= 500


def test_an_account_has_one_home_whoever_calls():
    limits = [Limit("a", per) for per in (("caller",), ("key",), ("team",), ("team", "model"), ("caller", "model"), ("total",), ("ip",))]
    red, blue, alone = who("bob", "red"), who("ann", "blue"), who("bob", None)
    claims = [Claim(limit, ",".join(f"{one}=x" for one in limit.per)) for limit in limits]
    inside, crossing = parted(claims, red)
    assert [it.limit.per for it in inside] == [("caller",), ("key",), ("caller", "model")]
    assert {home for home, _ in crossing} == {"team=x", "limit=a"}
    ours = [Claim(limits[2], "team=red"), Claim(limits[3], "team=red,model=gpt")]
    assert parted(ours, red) == (ours, [])
    assert parted(ours, blue) == ([], [("team=red", it) for it in ours])
    assert parted([claims[0]], alone) == ([claims[0]], [])
    assert parted([Claim(limits[0], "caller=corp:al")], who("corp:al", "red"))[1] == [
        ("caller=corp:al", Claim(limits[0], "caller=corp:al"))
    ]


def test_names_are_spelt_in_spaces_as_they_are_in_accounts():
    for name in ("a,b", "100%", "x|y", "\x00", "né", "{tag}"):
        assert who(name, name).space == f"team={name.translate(ESCAPES)}"
    assert tag_of("ns", "team={a}b") == "ns:team=%7Ba%7Db"


async def test_one_node_that_may_drop_keys_is_enough_for_readiness_to_say_so(nodes, tmp_path):
    limits = (total(100).limit,)
    node = nodes.masters[1]
    async with sidecar_on(nodes.url, tmp_path, limits=limits, look_s=0.05) as one:
        await until(lambda: one.state.problem is None)
        node.ask("CONFIG", "SET", "maxmemory", "100mb")
        try:
            node.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-random")
            await until(lambda: "maxmemory-policy allkeys-random" in (one.state.problem or ""))
        finally:
            node.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
            node.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: one.state.problem is None)
