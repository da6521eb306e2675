"""What stays held for work that is billed later, in memory and in files: settled once, in the periods in which it was held."""

import pytest

from proxy.admit import EmbeddedState
from proxy.admit.jobs import KEPT_NS, job_id
from proxy.refusal import Refusal

JOB = job_id("openai", "resp_1")
DAY_S = 86_400


@pytest.fixture(params=["memory", "files"])
async def state(request, tmp_path, clock):
    path = tmp_path / "state" if request.param == "files" else None
    state = await EmbeddedState.open(path, clock=clock, time_zone="UTC", max_keys=9)
    yield state
    await state.close()


@pytest.fixture
def begin(state, claim, intent, row):
    """One call that holds $0.000004 of $0.00001 a day for its job."""

    async def begin(id: str = "u/1", job: str = JOB) -> None:
        await state.hold(intent(id, (claim(spend=("day", 10_000), tokens=1_000),), 4_000, tokens=100))
        later = row(id)._replace(id=job, kind="job", parent_id=id, cost_nanousd=4_000, usage_source="estimate")
        state.defer(id, job, row(id, cost_nanousd=0, usage_note="job"), later)

    return begin


def costing(nanousd: int):
    return lambda row: [row._replace(cost_nanousd=nanousd, usage_source="provider")]


def left(state, claim) -> int:
    [spend] = [it for it in state.standings((claim(spend=("day", 10_000), tokens=1_000),)) if it.kind == "spend"]
    return spend.remaining


async def jobs(state):
    return [row for row in await state.rows() if row["kind"] == "job"]


async def test_what_a_job_may_cost_stays_held_when_its_call_is_over_and_is_settled_once(state, begin, claim):
    await begin()
    assert left(state, claim) == 6_000 and await jobs(state) == []
    for nanousd in (700, 900):
        state.settle_job(JOB, costing(nanousd))
    [job] = await jobs(state)
    assert (job["cost_nanousd"], job["parent_id"], left(state, claim)) == (700, "u/1", 9_300)
    state.void("u/1", None)
    assert left(state, claim) == 9_300, "its call holds nothing any more"


async def test_nobody_is_asked_about_a_job_that_is_not_known(state, begin):
    def asked(row):
        raise AssertionError(row)

    await begin()
    state.settle_job(job_id("openai", "resp_2"), asked)
    state.settle_job(job_id("azure", "resp_1"), asked)
    assert await jobs(state) == []


async def test_a_job_that_two_calls_began_is_held_once(state, begin, claim):
    await begin("u/1")
    await begin("w/1")
    assert left(state, claim) == 6_000
    state.settle_job(JOB, costing(700))
    assert [job["request_id"] for job in await jobs(state)] == ["u"] and left(state, claim) == 9_300


async def test_a_job_of_two_models_costs_the_sum_of_its_rows(state, begin, claim):
    await begin()
    state.settle_job(
        JOB, lambda row: [row._replace(cost_nanousd=700), row._replace(id=row.id[:-1] + "2", attempt=2, model="o3", cost_nanousd=300)]
    )
    assert [(job["model"], job["cost_nanousd"]) for job in await jobs(state)] == [("gpt-4o", 700), ("o3", 300)]
    assert left(state, claim) == 9_000
    [dearest] = await state.dearest(1, None, None)
    assert (dearest["request_id"], dearest["cost_nanousd"], dearest["attempts"]) == ("u", 1_000, 2)


async def test_a_job_is_charged_to_the_day_it_was_held_on(state, begin, claim, clock):
    await begin()
    clock.pass_s(DAY_S)
    state.settle_job(JOB, costing(4_000))
    assert left(state, claim) == 10_000, "of the new day nothing is used"
    await begin("w/1", job_id("openai", "resp_2"))
    assert left(state, claim) == 6_000


async def test_a_job_that_nobody_reads_back_is_charged_its_estimate_after_a_month(state, begin, clock):
    await begin()
    clock.pass_s(KEPT_NS / 10**9 - 1)
    state.jobs.look()
    assert await jobs(state) == []
    clock.pass_s(2)
    state.jobs.look()
    assert [job["cost_nanousd"] for job in await jobs(state)] == [4_000]


async def test_what_jobs_hold_is_not_there_to_be_held_again(state, begin, claim, intent):
    await begin("u/1")
    await begin("w/1", job_id("openai", "resp_2"))
    with pytest.raises(Refusal):
        await state.hold(intent("x/1", (claim(spend=("day", 10_000), tokens=1_000),), 4_000))
