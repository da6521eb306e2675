"""When the shared state fails, in each of the ways it can: nobody spends too much, nothing is charged twice, it all adds up."""

import asyncio
import contextlib
import shutil
import time

import pytest
import redis
from support.fleet import budget, rate, sidecar_on, until
from support.valkey import between, eventually, sentinel, valkey

from proxy.admit.place import StateProblem
from proxy.policy.plan import Claim, Limit, OnStateDown

CALL = 1_000_000
TOLD_MS = 3000  # as shipped: in which every sidecar says what it knows


@pytest.fixture(scope="module")
def server():
    with valkey() as one:
        yield one


@pytest.fixture(autouse=True)
def emptied(request):
    if "server" in request.fixturenames:
        request.getfixturevalue("server").ask("FLUSHALL")


def settled(server, name="budget"):
    found = server.ask("HMGET", f"sluice:{{tests}}:b:total|{name}|total", "settled", "held")
    return tuple(int(it or 0) for it in found)


class Load:
    """Callers on each sidecar, one call after the other. `spent` is what a provider would have billed."""

    def __init__(self, sidecars, claims, cost=CALL, pause_s=0.002):
        self.sidecars, self.claims, self.cost, self.pause_s = sidecars, claims, cost, pause_s
        self.done, self.refused, self.waits = 0, [], []
        self._is_over = False

    @property
    def spent(self):
        return self.done * self.cost

    async def _caller(self, number, one):
        turn = 0
        while not self._is_over:
            turn += 1
            name = f"{one.folder.name}.{number}.{turn}"
            began = time.monotonic()
            code = await one.begin(name, self.claims, self.cost)
            self.waits.append(time.monotonic() - began)
            if code:
                self.refused.append(code)
                await asyncio.sleep(0.02)
                continue
            self.done += 1
            await asyncio.sleep(self.pause_s)
            one.end(name, self.cost)

    async def __aenter__(self):
        self._tasks = [asyncio.ensure_future(self._caller(n, one)) for one in self.sidecars for n in range(3)]
        await until(lambda: self.done > 20)
        return self

    async def __aexit__(self, *_):
        self._is_over = True
        await asyncio.gather(*self._tasks)


async def adds_up(server, load, *sidecars):
    """Once all is told, Redis knows exactly what was spent."""
    for one in sidecars:
        await one.told()
    assert settled(server) == (load.spent, 0)


async def shared_out(*sidecars):
    await until(lambda: all(one.state._space.shares._left for one in sidecars))


async def used_up(load):
    """To the last nano-dollar, and not beyond."""
    limit = load.claims[0].limit.spend[0].nanousd
    await until(lambda: load.spent >= limit)
    await asyncio.sleep(0.3)
    assert load.spent == limit


async def recovering(*sidecars):
    await until(lambda: all("recovering" in one.modes for one in sidecars))


async def test_a_frozen_redis_stops_nobody_and_no_budget_is_passed(server, tmp_path):
    claims = [budget(600 * CALL)]
    async with sidecar_on(server.url, tmp_path) as a, sidecar_on(server.url, tmp_path) as b:
        async with Load((a, b), claims) as load:
            await shared_out(a, b)
            server.freeze()
            try:
                left = 600 * CALL - load.spent
                await until(lambda: a.state.mode == b.state.mode == "local")
                await until(lambda: "state_unavailable" in load.refused[-50:] and load.spent >= 600 * CALL - left // 5)
                assert load.spent <= 600 * CALL
            finally:
                server.thaw()
            await a.in_mode("shared")
            await b.in_mode("shared")
            await used_up(load)
        await adds_up(server, load, a, b)
        assert load.spent == 600 * CALL, "what one could not spend alone was spent together"


async def test_a_redis_that_refuses_connections_is_missed_at_once_and_used_again_when_it_is_back(tmp_path):
    with valkey(appendonly=True) as server:
        claims = [budget(100_000 * CALL)]
        async with sidecar_on(server.url, tmp_path) as one:
            async with Load((one,), claims) as load:
                await shared_out(one)
                server.kill9()
                await one.in_mode("local")
                before = load.done
                await until(lambda: load.done > before + 50)
                server.restart()
                await one.in_mode("shared")
                assert not load.refused
            await adds_up(server, load, one)
            assert one.modes[-1] == "shared" and "local" in one.modes


@pytest.mark.parametrize("delay_s", [0.09, 1.0])
async def test_a_slow_redis_is_worked_without_until_it_is_quick_again(server, tmp_path, delay_s):
    claims = [budget(100_000 * CALL)]
    async with between(server.port) as line, sidecar_on(line.url, tmp_path) as one:
        async with Load((one,), claims) as load:
            await shared_out(one)
            line.delay_s = delay_s
            await one.in_mode("local")
            before = load.done
            await until(lambda: load.done > before + 50)
            line.delay_s = 0.0
            await one.in_mode("shared")
            assert not load.refused
        await adds_up(server, load, one)


async def test_a_reply_that_is_lost_after_the_script_ran_charges_nothing_twice(server, tmp_path):
    claims = [budget(100_000 * CALL)]
    async with between(server.port) as line, sidecar_on(line.url, tmp_path) as one:
        async with Load((one,), claims) as load:
            await shared_out(one)
            for _ in range(2):
                line.cuts_replies = 1
                await until(lambda: line.cuts_replies == 0)
                await until(lambda: one.state.mode == "local")
                await one.in_mode("shared")
            assert not load.refused
        await adds_up(server, load, one)


async def test_forgotten_scripts_are_sent_again(server, tmp_path):
    claims = [budget(100_000 * CALL)]
    async with sidecar_on(server.url, tmp_path) as one:
        async with Load((one,), claims) as load:
            for _ in range(5):
                server.ask("SCRIPT", "FLUSH")
                before = load.done
                await until(lambda before=before: load.done > before + 20)
            assert one.state.mode == "shared" and not load.refused
        await adds_up(server, load, one)


async def test_a_busy_redis_is_worked_without(server, tmp_path):
    claims = [budget(100_000 * CALL)]
    server.ask("CONFIG", "SET", "busy-reply-threshold", "50")
    async with sidecar_on(server.url, tmp_path) as one:
        async with Load((one,), claims) as load:
            await shared_out(one)
            blocking = asyncio.ensure_future(asyncio.to_thread(block, server))
            await one.in_mode("local")
            before = load.done
            await until(lambda: load.done > before + 50)
            await blocking
            await one.in_mode("shared")
            assert not load.refused
        await adds_up(server, load, one)


def block(server):
    """A script of somebody else that runs until it is killed."""
    with redis.Redis(port=server.port, socket_timeout=10) as client:
        try:
            client.eval("while true do end", 0)
        except redis.RedisError:
            return


@pytest.fixture(autouse=True)
def unblocked(request):
    """Ends the endless script two seconds after the test began it."""
    if request.node.name != "test_a_busy_redis_is_worked_without":
        yield
        return
    import threading

    server = request.getfixturevalue("server")

    def end():
        server.ask("SCRIPT", "KILL")

    timer = threading.Timer(5.0, lambda: eventually(lambda: _tried(end)))
    timer.start()
    yield
    timer.join()


def _tried(do):
    try:
        do()
    except redis.RedisError as error:
        return "NOTBUSY" in str(error) and time.monotonic() % 1 > 0.9
    return True


async def test_a_full_redis_is_worked_without(tmp_path):
    with valkey(maxmemory="4mb") as server:
        claims = [budget(100_000 * CALL)]
        async with sidecar_on(server.url, tmp_path) as one:
            async with Load((one,), claims) as load:
                await shared_out(one)
                server.ask("CONFIG", "SET", "maxmemory", "1")
                await one.in_mode("local")
                before = load.done
                await until(lambda: load.done > before + 50)
                server.ask("CONFIG", "SET", "maxmemory", "0")
                await one.in_mode("shared")
                assert not load.refused
            await adds_up(server, load, one)


@pytest.mark.parametrize("damage", [("SET", "x"), ("HSET", "settled", "a lot"), ("HSET", "held", "")])
async def test_what_cannot_be_read_stops_its_own_account_alone_and_can_be_repaired(server, tmp_path, caplog, damage):
    """faults.md S12."""
    key = "sluice:{tests}:b:total|hurt|total"
    hurt, well, (command, *value) = [budget(100 * CALL, "hurt")], [budget(1000 * CALL, "budget")], damage
    async with sidecar_on(server.url, tmp_path) as one:
        for name in ("before", "open"):
            assert await one.begin(name, hurt, CALL) == ""
        one.end("before", CALL)
        await one.told()
        if command == "SET":
            server.ask("DEL", key)
        server.ask(command, key, *value)
        one.modes.clear()
        assert [await one.begin(f"hurt{n}", hurt, CALL) for n in range(3)] == ["state_unavailable"] * 3
        one.end("open", CALL)
        assert [await one.begin(f"well{n}", well, CALL) for n in range(20)] == [""] * 20
        await one.told()
        assert not one.modes and settled(server) == (0, 20 * CALL), "nobody else notices"
        said = [it.getMessage() for it in caplog.records if it.name == "sluice.state"]
        assert said == [f"what the shared state keeps of an account cannot be read: {key}"]
        server.ask("DEL", key)
        server.ask("HDEL", "sluice:{tests}:meta", "run")
        await recovering(one)
        await one.told()
        assert settled(server, "hurt") == (2 * CALL, 0), "by its journal"
        assert [await one.begin(f"again{n}", hurt, 49 * CALL) for n in range(3)] == ["", "", "budget_exhausted"]


async def test_a_redis_that_became_a_replica_is_worked_without(server, tmp_path):
    claims = [budget(100_000 * CALL)]
    async with sidecar_on(server.url, tmp_path) as one:
        async with Load((one,), claims) as load:
            await shared_out(one)
            server.ask("REPLICAOF", "127.0.0.1", "1")
            await one.in_mode("local")
            before = load.done
            await until(lambda: load.done > before + 50)
            server.ask("REPLICAOF", "NO", "ONE")
            await one.in_mode("shared")
            assert not load.refused
        await adds_up(server, load, one)


async def test_after_flushall_every_sidecar_says_what_it_spent(server, tmp_path):
    claims = [budget(2000 * CALL)]
    async with sidecar_on(server.url, tmp_path, recover_ms=TOLD_MS) as a, sidecar_on(server.url, tmp_path, recover_ms=TOLD_MS) as b:
        async with Load((a, b), claims) as load:
            await shared_out(a, b)
            for one in (a, b):
                one.modes.clear()
            server.ask("FLUSHALL")
            await recovering(a, b)
            await a.in_mode("shared")
            await b.in_mode("shared")
            await used_up(load)
        await adds_up(server, load, a, b)
        assert load.spent == 2000 * CALL


async def test_a_redis_restored_from_an_old_snapshot_is_told_what_it_forgot(tmp_path):
    with valkey() as server:
        claims = [budget(2000 * CALL)]
        async with sidecar_on(server.url, tmp_path, recover_ms=TOLD_MS) as a, sidecar_on(server.url, tmp_path, recover_ms=TOLD_MS) as b:
            async with Load((a, b), claims) as load:
                await shared_out(a, b)
                server.ask("SAVE")
                old = server.folder / "old.rdb"
                shutil.copy(server.folder / "dump.rdb", old)
                before = load.done
                await until(lambda: load.done > before + 100)
                for one in (a, b):
                    one.modes.clear()
                server.kill9()
                shutil.copy(old, server.folder / "dump.rdb")
                server.restart()
                await recovering(a, b)
                await a.in_mode("shared")
                await b.in_mode("shared")
                await used_up(load)
            await adds_up(server, load, a, b)
            assert load.spent == 2000 * CALL


def is_master(server):
    with contextlib.suppress(redis.RedisError):
        return server.ask("ROLE")[0] == b"master"


async def test_a_failover_that_loses_acknowledged_writes_loses_no_money(tmp_path):
    with sentinel() as them:
        claims = [budget(3000 * CALL)]
        async with sidecar_on(them.url, tmp_path, recover_ms=TOLD_MS) as a, sidecar_on(them.url, tmp_path, recover_ms=TOLD_MS) as b:
            async with Load((a, b), claims) as load:
                await shared_out(a, b)
                them.replica.freeze()  # it hears of nothing any more
                before = load.done
                await until(lambda: load.done > before + 100)
                replica = them.replica
                await asyncio.to_thread(lambda: (them.master.kill9(), replica.thaw()))
                await asyncio.to_thread(eventually, lambda: is_master(replica))
                await a.in_mode("shared")
                await b.in_mode("shared")
                await used_up(load)
            await adds_up(replica, load, a, b)
            assert load.spent == 3000 * CALL


@pytest.mark.parametrize(
    ("rules", "money", "rates"),
    [
        (OnStateDown("deny", "allow"), "state_unavailable", ""),
        (OnStateDown("allow", "deny"), "", "state_unavailable"),
        (OnStateDown("local", "local"), "", ""),
        (OnStateDown("deny", "deny"), "state_unavailable", "state_unavailable"),
    ],
)
async def test_on_state_down_says_what_a_call_meets(server, tmp_path, rules, money, rates):
    async with between(server.port) as line, sidecar_on(line.url, tmp_path, rules=rules) as one:
        for n in range(2):
            assert await one.begin(f"warm{n}", [budget(100 * CALL), rate(100)], CALL) == ""
        await shared_out(one)
        line.is_refusing = True
        line.cut()
        await one.in_mode("local")
        assert await one.begin("money", [budget(100 * CALL)], CALL) == money
        assert await one.begin("rates", [rate(100)]) == rates
        assert await one.begin("free", []) == ""
        over = await one.begin("over", [budget(100 * CALL)], 99 * CALL)
        assert over == ("" if rules.money == "allow" else "state_unavailable")
        line.is_refusing = False
        await one.told()
        spent = sum(CALL for code in (money,) if not code) + (99 * CALL if not over else 0) + 2 * CALL
        assert settled(server) == (0, spent), "what was held without Redis is held there now"


async def test_rates_are_divided_by_the_sidecars_while_redis_is_away(server, tmp_path):
    claims, slots = [rate(100)], [Claim(Limit("slots", ("total",), concurrency=4), "total")]
    async with between(server.port) as line, sidecar_on(line.url, tmp_path) as a, sidecar_on(line.url, tmp_path) as b:
        await until(lambda: a.state.live == b.state.live == 2)
        line.is_refusing = True
        line.cut()
        for one in (a, b):
            await one.in_mode("local")
        got = [await a.begin(f"a{n}", claims) for n in range(60)]
        assert got.count("") == 50 and got[-1] == "rate_limited"
        assert [await b.begin(f"b{n}", slots) for n in range(3)] == ["", "", "too_many_in_flight"]
        line.is_refusing = False
        await a.told()
        await b.told()
        assert [await b.begin(f"more{n}", claims) for n in range(51)].count("") == 50, "what was counted alone is counted together now"


async def test_a_sidecar_that_starts_without_redis_spends_what_its_journal_says_is_its_share(tmp_path):
    with valkey(appendonly=True) as server:
        claims = [budget(100 * CALL)]
        async with sidecar_on(server.url, tmp_path, ends=False) as one:
            assert await one.begin("first", claims, 10 * CALL) == ""
            one.end("first", 10 * CALL)
            await shared_out(one)
            await until(lambda: (one.folder / "shares.json").exists())
        server.kill9()
        async with sidecar_on(server.url, tmp_path, waits=False) as again:
            assert again.state.problem == "the shared state is not reached yet"
            got = [await again.begin(f"alone{n}", claims, 10 * CALL) for n in range(10)]
            assert got[:8] == [""] * 8 and got[-1] == "state_unavailable", "a tenth of the share is left alone"
            server.restart()
            await again.told()
            await until(lambda: again.state.problem is None)
            assert settled(server) == (10 * CALL, got.count("") * 10 * CALL)


async def test_a_sidecar_that_never_saw_redis_does_as_the_policy_says(tmp_path):
    with valkey() as server:
        url = server.url
    for rules, money, rates in ((OnStateDown(), "state_unavailable", "state_unavailable"), (OnStateDown("allow", "allow"), "", "")):
        async with sidecar_on(url, tmp_path / rules.money, rules=rules, waits=False) as one:
            assert one.state.problem == "the shared state is not reached yet"
            one.state.duties.began -= 31
            assert one.state.problem is None, "it was waited for long enough"
            assert await one.begin("money", [budget(CALL)], CALL) == money
            assert await one.begin("rates", [rate(1)]) == rates
            assert await one.begin("free", [Claim(Limit("here", ("instance",), concurrency=9), "instance")]) == ""


async def test_a_server_that_may_drop_keys_is_refused_where_money_rests_on_it(tmp_path):
    with valkey(maxmemory="100mb", policy="allkeys-lru") as server:
        with pytest.raises(StateProblem, match="set maxmemory-policy noeviction"):
            async with sidecar_on(server.url, tmp_path, limits=(budget(CALL).limit,)):
                pass
        async with sidecar_on(server.url, tmp_path, limits=(rate(1).limit,)) as one:
            assert one.state.mode == "shared"
