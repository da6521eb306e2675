"""Jobs of a fleet: what they may cost stays held in Redis until they are settled, across a restart, a kill and an outage."""

import pytest
from support.fleet import budget, row, sidecar_on, until
from support.valkey import valkey

CALL = 1_000_000_000
JOB = "job/openai/resp_1/1"
CLAIMS = [budget(10 * CALL)]


@pytest.fixture(scope="module")
def server():
    with valkey() as one:
        yield one


@pytest.fixture(autouse=True)
def emptied(server):
    server.ask("FLUSHALL")


def counted(server):
    """Settled and held, nano-dollars."""
    return tuple(int(it or 0) for it in server.ask("HMGET", "sluice:{tests}:b:total|budget|total", "settled", "held"))


async def begin(one) -> None:
    assert await one.begin("call", CLAIMS, 4 * CALL) == ""
    one.state.defer("call/1", JOB, row("call/1"), row("call/1", 4 * CALL)._replace(id=JOB, kind="job"))
    one.state.leave("call")


def settle(one) -> None:
    one.state.settle_job(JOB, lambda held: [held._replace(cost_nanousd=CALL)])


async def test_a_job_holds_its_money_until_it_is_settled_once(server, tmp_path):
    async with sidecar_on(server.url, tmp_path) as one:
        await begin(one)
        await one.told()
        assert counted(server) == (0, 4 * CALL)
        settle(one)
        settle(one)
        await one.told()
        assert counted(server) == (CALL, 0)
        assert [it["cost_nanousd"] for it in await one.state.own.rows() if it["kind"] == "job"] == [CALL]


@pytest.mark.parametrize("ends", [True, False], ids=["after a graceful end", "after a kill"])
async def test_the_next_process_settles_the_job_of_the_one_before(server, tmp_path, ends):
    async with sidecar_on(server.url, tmp_path, ends=ends) as one:
        await begin(one)
        await one.told()
    async with sidecar_on(server.url, tmp_path) as one:
        await one.told()
        assert sum(counted(server)) == 4 * CALL
        settle(one)
        await one.told()
        assert counted(server) == (CALL, 0)


async def test_a_redis_that_forgot_is_told_of_the_job(server, tmp_path):
    async with sidecar_on(server.url, tmp_path) as one:
        await begin(one)
        await one.told()
        one.modes.clear()
        server.ask("FLUSHALL")
        await until(lambda: "recovering" in one.modes)
        await one.told()
        assert counted(server) == (0, 4 * CALL)
        settle(one)
        await one.told()
        assert counted(server) == (CALL, 0)
