"""What a sidecar's readiness says of a shared state that may throw away what it counts. A real server, set otherwise while all run."""

import pytest
from support.fleet import budget, rate, sidecar_on, until
from support.valkey import valkey

from proxy.policy.plan import Limit, OnStateDown, Spend
from proxy.states import States

CALL = 1_000_000_000
LOOK_S = 0.05
MONEY = (budget(100 * CALL).limit,)
NOT_YET = "the shared state is not reached yet"
pytestmark = pytest.mark.usefixtures("patient")


def unsafe(policy="allkeys-lru"):
    why = f"the shared state may drop what it counts when its memory is full (maxmemory-policy {policy})"
    return f"{why}, and a spend limit rests on it: set maxmemory-policy noeviction"


def readiness(one):
    """As `/healthz/ready` asks."""
    return States(one.state.own, None, one.state).problem


@pytest.fixture
def server():
    with valkey(maxmemory="100mb") as one:
        yield one


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
async def test_a_server_that_is_set_to_drop_keys_is_said_by_readiness_until_it_is_set_back(server, tmp_path, policy):
    async with sidecar_on(server.url, tmp_path, limits=MONEY, look_s=LOOK_S) as one:
        problem = readiness(one)
        await until(lambda: problem() is None)
        server.ask("CONFIG", "SET", "maxmemory-policy", policy)
        await until(lambda: problem() == unsafe(policy))
        assert await one.begin("call", [budget(100 * CALL)], CALL) == "", "calls that come all the same are decided"
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: problem() is None)


async def test_a_policy_that_drops_keys_matters_where_memory_is_bounded(server, tmp_path):
    server.ask("CONFIG", "SET", "maxmemory", "0")
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    async with sidecar_on(server.url, tmp_path, limits=MONEY, look_s=LOOK_S) as one:
        problem = readiness(one)
        await until(lambda: problem() is None)
        server.ask("CONFIG", "SET", "maxmemory", "100mb")
        await until(lambda: problem() == unsafe())
        server.ask("CONFIG", "SET", "maxmemory", "0")
        await until(lambda: problem() is None)


async def test_a_server_that_was_away_at_the_start_and_comes_back_dropping_keys_makes_nobody_ready(server, tmp_path):
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    server.ask("CONFIG", "REWRITE")
    server.kill9()
    async with sidecar_on(server.url, tmp_path, limits=MONEY, look_s=LOOK_S, waits=False) as one:
        problem, seen = readiness(one), []
        assert problem() == NOT_YET

        def says_so():
            seen.append(problem())
            return seen[-1] == unsafe()

        server.restart()
        await until(says_so)
        await one.in_mode("shared")
        assert problem() == unsafe() and set(seen) == {NOT_YET, unsafe()}, "it was never ready"
        server.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await until(lambda: problem() is None)


async def test_what_was_seen_is_still_said_while_the_server_is_away(server, tmp_path):
    async with sidecar_on(server.url, tmp_path, limits=MONEY, look_s=LOOK_S) as one:
        problem = readiness(one)
        server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        await until(lambda: problem() == unsafe())
        server.kill9()
        await one.in_mode("local")
        assert problem() == unsafe()
        server.restart()  # as its file says: noeviction
        await until(lambda: problem() is None)


async def test_a_reload_that_brings_the_first_spend_limit_is_said_at_once(server, tmp_path):
    server.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    of_one = Limit("here", ("instance",), spend=(Spend(CALL, "total"),))
    async with sidecar_on(server.url, tmp_path, limits=(rate(1).limit, of_one)) as one:
        problem = readiness(one)
        await until(lambda: problem() is None)  # what each sidecar counts alone does not rest on it
        one.state.set_rules(OnStateDown(), MONEY)
        assert problem() == unsafe()
        one.state.set_rules(OnStateDown(), ())
        assert problem() is None
