"""The decisions and their words, on a state in memory: the algorithm is the same whatever keeps the journal."""

from __future__ import annotations

import asyncio

import pytest
from support.standing import entered, held

from proxy.admit.embedded import EmbeddedState
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.refusal import Refusal

DOLLAR = 10**9


@pytest.fixture
async def state(clock):
    state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=3)
    yield state
    await state.close()


async def no(awaitable) -> Refusal:
    with pytest.raises(Refusal) as caught:
        await awaitable
    return caught.value


async def test_a_request_too_many_is_told_when_to_come_back_and_then_passes(state, clock, claim):
    two = (claim(requests=2),)
    await state.enter("a", two)
    clock.pass_s(10.5)
    await state.enter("b", two)
    refused = await no(state.enter("c", two))
    assert (refused.status, refused.code, refused.retry_after, refused.should_retry, refused.limit) == (
        429, "rate_limited", 50.0, None, "tier free",
    )  # fmt: skip
    assert refused.message == "limit tier free: 2 requests per minute, 0 left, room in 50 s"
    clock.pass_s(refused.retry_after)
    await state.enter("c", two)


async def test_a_wait_of_more_than_a_minute_is_no_advice_to_retry(state, clock, claim):
    hourly = (claim(requests=1, window_s=3600),)
    await state.enter("a", hourly)
    refused = await no(state.enter("b", hourly))
    assert (refused.code, refused.retry_after, refused.should_retry) == ("rate_limited", None, False)
    assert refused.message.endswith("room in 3600 s")


async def test_slots_come_back_when_calls_leave(state, clock, claim):
    one = (claim(concurrency=1),)
    await state.enter("a", one)
    refused = await no(state.enter("b", one))
    assert (refused.status, refused.code, refused.retry_after) == (429, "too_many_in_flight", 1.0)
    assert refused.message == "limit tier free: 1 calls may run at once, and as many do"
    clock.pass_s(20)
    state.leave("a")
    state.leave("a")
    state.leave("never entered")
    await state.enter("b", one)
    assert (await no(state.enter("c", one))).retry_after == 20.0  # as long as the last one took
    state.leave("b")
    (standing,) = await entered(state, "c", one)
    assert (standing.kind, standing.allowed, standing.remaining) == ("concurrency", 1, 0)


async def test_what_is_refused_changes_nothing(state, intent, claim):
    roomy, tight = claim("roomy", requests=5, tokens=50, spend=("day", 50), concurrency=5), claim(
        "tight", requests=1, tokens=10, spend=("day", 10), concurrency=1
    )  # fmt: skip
    await state.enter("a", (roomy, tight))
    before = await entered(state, "a", (roomy, tight)), await held(state, intent("a/1", (roomy, tight), nanousd=10, tokens=10))
    for _ in range(3):
        await no(state.enter("b", (roomy, tight)))
        await no(state.hold(intent("b/1", (roomy, tight), nanousd=1, tokens=1)))
    assert (await entered(state, "a", (roomy, tight)), await held(state, intent("a/1", (roomy, tight)))) == before


async def test_entering_and_holding_twice_counts_once(state, intent, claim):
    it = (claim(requests=2, concurrency=2, spend=("day", 10)),)
    await state.enter("a", it)
    await state.enter("a", it)
    await state.hold(intent("a/1", it, nanousd=6))
    assert (await held(state, intent("a/1", it, nanousd=6)))[0].remaining == 4
    assert [standing.remaining for standing in await entered(state, "b", it)] == [0, 0]


async def test_money_is_refused_with_the_amounts_the_end_and_what_would_fit(state, intent):
    limit = Limit("support-user", ("caller",), spend=(Spend(5 * DOLLAR, "month"),), contact="#finops")
    claims = (Claim(limit, "caller=bob"),)
    await state.hold(intent("a/1", claims, nanousd=45 * DOLLAR // 10))
    refused = await no(
        state.hold(intent("b/1", claims, nanousd=12 * DOLLAR // 10, max_tokens=2000, output_nanousd=DOLLAR)),
    )
    assert (refused.status, refused.code, refused.retry_after, refused.should_retry) == (402, "budget_exhausted", None, False)
    assert refused.message == (
        "limit support-user: this call may cost $1.20, $0.50 left until 2026-12-01T00:00Z; max_tokens ≤ 600 would fit; ask #finops"
    )
    await state.hold(intent("b/1", claims, nanousd=DOLLAR * 2 // 10 + 600 * DOLLAR // 2000))


async def test_a_shared_account_shows_no_amounts(state, intent):
    limit = Limit("team finance", ("team",), spend=(Spend(DOLLAR, "day"),), requests=(Rate(1, 60),), contact="#finops", is_shared=True)
    claims = (Claim(limit, "team=finance"),)
    await state.hold(intent("a/1", claims, nanousd=DOLLAR))
    await state.enter("a", claims)
    refused = await no(state.hold(intent("b/1", claims, nanousd=1, max_tokens=9, output_nanousd=1)))
    assert refused.message == "limit team finance is used up until 2026-11-22T00:00Z; ask #finops"
    refused = await no(state.hold(intent("b/1", claims, nanousd=2 * DOLLAR)))
    assert (refused.status, refused.message) == (
        400, "limit team finance: this call is larger than the whole limit; ask #finops",
    )  # fmt: skip
    refused = await no(state.enter("b", claims))
    assert refused.message == "limit team finance is used up, room in 60 s; ask #finops"
    (standing,) = await entered(state, "a", claims)
    assert standing.is_shared


async def test_money_may_be_refused_as_429_which_sdks_must_not_retry(state, intent, claim):
    claims = (claim(spend=("total", 10), money_status=429),)
    await state.hold(intent("a/1", claims, nanousd=10))
    refused = await no(state.hold(intent("b/1", claims, nanousd=1)))
    assert (refused.status, refused.code, refused.should_retry) == (429, "budget_exhausted", False)
    assert refused.message == "limit tier free: this call may cost $0.000001, $0.00 left"


@pytest.mark.parametrize(
    ("of", "held", "words"),
    [({"spend": ("day", DOLLAR)}, {"nanousd": DOLLAR + 1}, "this call may cost $1.000001, more than the whole $1.00 per day"),
     ({"spend": ("total", DOLLAR)}, {"nanousd": 2 * DOLLAR}, "this call may cost $2.00, more than the whole $1.00 in total"),
     ({"tokens": 10}, {"tokens": 11}, "this call may use 11 tokens, more than the whole 10 per minute")],
)  # fmt: skip
async def test_a_call_larger_than_the_whole_limit_is_told_so_at_once(state, intent, claim, of, held, words):
    claims = (claim(**of),)
    for _ in range(2):  # on an untouched account, and on one in use
        refused = await no(state.hold(intent("a/1", claims, **held)))
        assert (refused.status, refused.code, refused.retry_after, refused.should_retry) == (400, "exceeds_limit", None, False)
        assert refused.message == f"limit tier free: {words}"
        await state.hold(intent("small/1", claims, tokens=1, nanousd=1))


@pytest.mark.parametrize(
    ("of", "status", "code"),
    [({"requests": 0}, 429, "rate_limited"), ({"tokens": 0}, 429, "rate_limited"), ({"concurrency": 0}, 429, "too_many_in_flight"),
     ({"spend": ("day", 0)}, 402, "budget_exhausted")],
)  # fmt: skip
def test_a_limit_of_zero_refuses_before_the_body_is_read(of, status, code, claim, clock):
    async def run() -> Refusal:
        state = await EmbeddedState.open(None, clock=clock, time_zone="UTC", max_keys=3)
        try:
            state.peek((claim(**of),))
        except Refusal as refused:
            return refused
        finally:
            await state.close()
        raise AssertionError("not refused")

    refused = asyncio.run(run())
    assert (refused.status, refused.code, refused.retry_after, refused.should_retry) == (status, code, None, False)
    assert "allows no" in refused.message


async def test_an_exhausted_budget_refuses_before_the_body_is_read(state, intent, claim, row):
    claims = (claim(spend=("day", DOLLAR)),)
    state.peek(claims)
    await state.hold(intent("a/1", claims, nanousd=DOLLAR))
    state.settle("a/1", 0, DOLLAR + 1, row("a/1"))
    with pytest.raises(Refusal) as caught:
        state.peek(claims)
    assert caught.value.message == "limit tier free: $1.00 per day is spent until 2026-11-22T00:00Z"


async def test_the_worst_reason_answers_so_that_waiting_for_it_is_not_in_vain(state, clock, intent, claim):
    minute, hour = claim("minute", requests=1), claim("hour", requests=1, window_s=3600)
    slots = claim("slots", concurrency=1)
    await state.enter("a", (minute, hour, slots))
    for claims, limit in (((slots, minute), "minute"), ((minute, hour), "hour"), ((hour, slots, minute), "hour")):
        assert (await no(state.enter("b", claims))).limit == limit
    broke = claim("broke", spend=("day", 10))
    fast = claim("fast", tokens=10)
    await state.hold(intent("a/1", (broke, fast), nanousd=10, tokens=10))
    assert (await no(state.hold(intent("b/1", (fast, broke), nanousd=1, tokens=1)))).code == "budget_exhausted"
    assert (await no(state.hold(intent("b/1", (broke, fast), nanousd=1, tokens=11)))).code == "exceeds_limit"


async def test_two_hundred_at_once_on_a_budget_for_ten_are_ten(state, intent, claim):
    claims = (claim(spend=("day", 10 * DOLLAR)),)
    answers = await asyncio.gather(
        *(state.hold(intent(f"c{number}/1", claims, nanousd=DOLLAR)) for number in range(200)), return_exceptions=True
    )
    assert sum(not isinstance(answer, Refusal) for answer in answers) == 10
    assert {answer.code for answer in answers if isinstance(answer, Refusal)} == {"budget_exhausted"}


async def test_what_was_held_too_much_comes_back_when_it_settles(state, clock, intent, claim, row):
    claims = (claim(tokens=100, spend=("day", 100)),)
    await state.hold(intent("a/1", claims, nanousd=100, tokens=100))
    clock.pass_s(5)
    state.settle("a/1", 30, 40, row("a/1"))
    state.settle("a/1", 99, 99, row("a/1"))
    state.void("a/1", row("a/1"))
    tokens, spend = await held(state, intent("b/1", claims, nanousd=60, tokens=70))
    assert (tokens.remaining, spend.remaining) == (0, 0)
    state.void("b/1", None)
    tokens, spend = await held(state, intent("c/1", claims))
    assert (tokens.remaining, spend.remaining) == (70, 60)


async def test_a_call_over_midnight_is_charged_to_the_day_it_began(state, clock, intent, claim, row):
    claims = (claim(spend=("day", 100)),)
    clock.pass_s(12 * 3600 - 1)
    await state.hold(intent("a/1", claims, nanousd=80))
    clock.pass_s(2)
    (today,) = await held(state, intent("b/1", claims, nanousd=90))
    assert today.remaining == 10
    state.settle("a/1", 0, 75, row("a/1"))
    (today,) = await held(state, intent("b/1", claims))
    assert today.remaining == 10


async def test_a_clock_put_forward_and_back_gives_no_extra_budget(state, clock, intent, claim, row):
    claims = (claim(spend=("day", 100), requests=1),)
    clock.pass_s(12 * 3600 - 1800)
    await state.hold(intent("a/1", claims, nanousd=100))
    await state.enter("a", claims)
    clock.wall += 3600 * DOLLAR
    await no(state.enter("b", claims))  # the windows do not jump
    await state.hold(intent("b/1", claims, nanousd=100))
    clock.wall -= 3600 * DOLLAR
    assert (await no(state.hold(intent("c/1", claims, nanousd=1)))).code == "budget_exhausted"
    clock.pass_s(60)
    await state.enter("b", claims)


async def test_a_changed_number_applies_at_once_to_what_was_counted(state, intent, claim):
    await state.hold(intent("a/1", (claim(spend=("day", 100)),), nanousd=60))
    assert (await no(state.hold(intent("b/1", (claim(spend=("day", 80)),), nanousd=30)))).code == "budget_exhausted"
    await state.hold(intent("b/1", (claim(spend=("day", 90)),), nanousd=30))
    assert state.held_spend(["tier free", "tier gone"]) == {"tier free": 90}


async def test_standings_say_what_is_left_and_when_it_is_back(state, clock, intent, claim):
    claims = (claim(requests=5, tokens=100, spend=("month", 1000), concurrency=3),)
    requests, slots = await entered(state, "a", claims)
    tokens, spend = await held(state, intent("a/1", claims, nanousd=1, tokens=7))
    now = clock.wall // DOLLAR
    assert (requests.kind, requests.allowed, requests.remaining, requests.resets_at, requests.window_s) == ("requests", 5, 4, now + 60, 60)
    assert (slots.kind, slots.remaining, slots.resets_at, slots.window_s) == ("concurrency", 2, now, 0)
    assert (tokens.kind, tokens.remaining, tokens.window_s) == ("tokens", 93, 60)
    assert (spend.kind, spend.remaining, spend.resets_at, spend.window_s) == ("spend", 999, 1796083200, 30 * 86400)


async def test_identities_beyond_max_keys_share_one_account(state, clock, claim):
    def of(name: str) -> tuple[Claim, ...]:
        return (claim("per header", f"header={name}", requests=1, is_unbounded=True),)

    for name in ("a", "b", "c", "d"):
        await state.enter(f"call {name}", of(name))
    assert (await no(state.enter("call e", of("e")))).code == "rate_limited"
    assert (await no(state.enter("again a", of("a")))).code == "rate_limited"
    for name in ("a", "b", "c", "d"):
        state.leave(f"call {name}")
    clock.pass_s(61)
    for name in ("x", "y", "z"):
        await state.enter(f"call {name}", of(name))  # the idle made room


async def test_an_amount_beyond_all_reason_is_refused_or_cut_never_an_error(state, intent, claim, row):
    await state.hold(intent("free/1", (), nanousd=10**40, tokens=10**40))
    state.settle("free/1", 10**40, 10**40, row("free/1", cost_nanousd=10**40, output_tokens=10**30, usage_detail={"n": 10**40}))
    assert (await no(state.hold(intent("a/1", (claim(spend=("day", 5)),), nanousd=10**40)))).code == "exceeds_limit"
    (found,) = await state.rows()
    assert (found["cost_nanousd"], found["usage_detail"]) == (2**53, {"n": 2**63 - 1})
