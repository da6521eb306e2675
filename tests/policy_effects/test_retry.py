"""What happens when the provider fails: retries and fallbacks, each key by what arrives where and when."""

import time

import pytest
import pytest_asyncio
from support.chat import delta
from support.echo import echo, failing
from support.world import World, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Every test has a provider name and models of its own: breakers and budgets are kept per provider and model.
NAMES = ("attempts", "budget", "classes", "verbatim", "status", "mix", "once", "event", "after", "stainless", "rule", "calm", "slow")
POLICY = """
providers:
PROVIDERS
retry: {attempts: 4, backoff: 1ms..2ms, budget: 100%, on_errors: [connect, 5xx, 429]}
breaker: off
tiers: {}
callers:
  keys:
    - {name: bot, hash: HASH(bot), allow: {regions: [eu, us]}}
    - {name: eu-bot, hash: HASH(eu-bot), allow: {regions: eu}}
fallback:
  gpt-4o: [second/gpt-4o, second/gpt-4o-mini, moon/gpt-4.1]
  o3: gpt-4.1
  second/gpt-4o: [moon/gpt-4o]
rules:
  - {match: {provider: budget}, retry: {budget: 0%}, fallback: off}
  - {match: {'header:x-case': only-429}, retry: {on_errors: 429}}
  - {match: {'header:x-case': only-connect}, retry: {on_errors: [connect]}}
  - {match: {'header:x-case': two}, retry: {attempts: 2}}
  - {match: {'header:x-case': never}, retry: off}
  - {match: {'header:x-case': patient}, retry: {attempts: 7, backoff: 400ms..400ms}}
  - {match: {'header:x-case': elsewhere}, fallback: {gpt-4o: [moon/gpt-4o-mini]}, retry: off}
  - {match: {'header:x-case': nowhere}, fallback: off}
  - {match: {'header:x-case': sent}, send_to: moon/gpt-4.1-mini}
  - {match: {model: gpt-4o}, retry: {attempts: 1}}
"""
LINES = "".join(f"  {name}: {{dialect: openai, url: A_URL, region: us}}\n" for name in NAMES)
LINES += "  second: {dialect: openai, url: B_URL, region: us}\n  moon: {dialect: openai, url: C_URL, region: eu}\n"
POLICY = POLICY.replace("PROVIDERS\n", LINES)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("faults"), POLICY, providers=3) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


def case(name: str) -> list[tuple[str, str]]:
    return [("x-case", name)]


async def bot(here: World, provider: str, x_case: str = "", model: str = "gpt-4.1", key: str = "bot", **more):
    return await here.chat(key, provider=provider, model=model, headers=case(x_case), **more)


# --- retry ---


async def test_a_failure_is_tried_again_until_attempts_are_used_up_and_then_passes_verbatim(here):
    here.provider.script = failing(503, headers=[("retry-after", "0"), ("x-own", "yes")])
    got = await bot(here, "attempts")
    assert len(here.provider.seen) == 4 and got.header("x-sluice-attempts") == "4"
    assert (got.status, got.json["error"]["message"], got.header("x-own")) == (503, "failure 4", "yes")
    assert got.header("x-should-retry") == "false" and got.code is None
    rows = await here.rows(got)
    assert [(row["attempt"], row["kind"], row["status"]) for row in rows] == [(1, "first", 503), *((n, "retry", 503) for n in (2, 3, 4))]
    assert len({seen.body for seen in here.provider.seen}) == 1


async def test_an_attempt_that_succeeds_ends_it(here):
    here.provider.script = failing(500, 2)
    got = await bot(here, "mix")
    assert (got.status, got.header("x-sluice-attempts"), len(here.provider.seen)) == (200, "3", 3)


async def test_what_the_policy_does_not_name_is_not_retried(here):
    for x_case, status, attempts in (("only-429", 503, 1), ("only-429", 429, 4), ("only-connect", 429, 1), ("", 400, 1), ("", 404, 1)):
        here.forget()
        here.provider.script = failing(status, headers=[("retry-after-ms", "1")])
        got = await bot(here, "classes", x_case)
        assert (got.status, len(here.provider.seen)) == (status, attempts), x_case


async def test_a_broken_connection_is_retried_where_connect_is_named(here):
    async def script(seen, reply):
        if len(here.provider.seen) == 1:
            reply.abort()
        else:
            await echo(seen, reply)

    for provider, x_case, expected in (("once", "only-connect", (200, None)), ("verbatim", "only-429", (502, "upstream_reset"))):
        here.forget()
        here.provider.script = script
        got = await bot(here, provider, x_case)  # on a connection of its own: a pooled one that was stale is no failure
        assert (got.status, got.code) == expected


async def test_a_budget_of_nothing_allows_no_retry(here):
    here.provider.script = failing(503)
    assert (await bot(here, "budget")).status == 503 and len(here.provider.seen) == 1


async def test_the_budget_of_the_policy_bounds_retries(tmp_path):
    policy = "providers: {openai: {url: A_URL}}\nbreaker: off\nretry: {attempts: 3, backoff: 1ms..1ms, budget: SHARE}"
    for share, attempts in (("0%", 1), ("50%", 3)):
        async with world(tmp_path, policy.replace("SHARE", share)) as one:
            one.provider.script = failing(503)
            await one.chat()
            assert len(one.provider.seen) == attempts


async def test_rules_change_attempts_or_switch_retries_off(here):
    for x_case, attempts in (("two", 2), ("never", 1)):
        here.forget()
        here.provider.script = failing(503)
        await bot(here, "rule", x_case)
        assert len(here.provider.seen) == attempts


async def test_backoff_is_waited_between_attempts(here):
    here.provider.script = failing(503)
    began = time.monotonic()
    await bot(here, "calm")
    quick = time.monotonic() - began
    began = time.monotonic()
    await bot(here, "slow", "patient")  # six waits of 0 to 400 ms each
    assert quick < time.monotonic() - began < 20


async def test_a_retry_after_of_the_provider_is_kept(here):
    here.provider.script = failing(429, 1, headers=[("retry-after-ms", "300")])
    began = time.monotonic()
    got = await bot(here, "after")
    assert got.status == 200
    assert 0.3 <= time.monotonic() - began < 15
    first, second = [row for row in await here.sluice.rows() if row["request_id"] == got.header("x-sluice-request-id")]
    assert max(first["duration_ms"], second["duration_ms"]) < 300, "the wait between two attempts belongs to neither"
    assert first["overhead_ms"] + second["overhead_ms"] < 250, "nor is it work of Sluice"


async def test_a_sdk_that_retries_itself_is_not_multiplied(here):
    here.provider.script = failing(503)
    await here.chat("bot", provider="stainless", model="gpt-4.1", headers=[("x-stainless-retry-count", "1")])
    assert len(here.provider.seen) == 1


async def test_an_error_event_before_the_first_content_is_retried(here):
    async def script(seen, reply):
        await reply.start()
        await reply.event(delta(None))
        await reply.event({"error": {"message": "overloaded", "type": "server_error", "code": None}})
        await reply.end()

    here.provider.script = lambda seen, reply: (echo if len(here.provider.seen) > 1 else script)(seen, reply)
    got = await bot(here, "event", stream=True)
    assert got.status == 200 and len(here.provider.seen) == 2 and b"overloaded" not in got.body and b"[DONE]" in got.body


# --- fallback ---


async def test_a_failed_model_falls_back_to_the_targets_of_the_policy_in_their_order(here):
    here.provider.script = here.providers[1].script = failing(503)
    got = await bot(here, "status", model="gpt-4o")
    assert (got.status, got.header("x-sluice-provider"), got.header("x-sluice-model")) == (200, "moon", "gpt-4.1")
    assert [seen.json["model"] for seen in here.providers[1].seen] == ["gpt-4o", "gpt-4o-mini"]
    rows = await here.rows(got)
    assert [(row["kind"], row["provider"], row["model"]) for row in rows] == [
        ("first", "status", "gpt-4o"),
        ("fallback", "second", "gpt-4o"),
        ("fallback", "second", "gpt-4o-mini"),
        ("fallback", "moon", "gpt-4.1"),
    ]
    assert sum(row["cost_nanousd"] > 0 for row in rows) == 1


async def test_a_bare_name_falls_back_within_the_provider_and_an_entry_may_name_one(here):
    here.provider.script = lambda seen, reply: (failing(503) if seen.json["model"] == "o3" else echo)(seen, reply)
    got = await bot(here, "status", model="o3")
    assert (got.status, got.header("x-sluice-provider"), got.header("x-sluice-model")) == (200, "status", "gpt-4.1")
    here.providers[1].script = failing(500)
    assert (await bot(here, "second", model="gpt-4o")).header("x-sluice-provider") == "moon"


async def test_rules_change_fallbacks_or_switch_them_off(here):
    here.provider.script = failing(503)
    assert (await bot(here, "status", "elsewhere", model="gpt-4o")).header("x-sluice-model") == "gpt-4o-mini"
    got = await bot(here, "status", "nowhere", model="gpt-4o")
    assert got.status == 503 and not here.providers[1].seen


async def test_a_fallback_outside_the_allowed_regions_is_left_out(here):
    here.providers[2].script = failing(503)
    got = await bot(here, "moon", model="gpt-4o", key="eu-bot")
    assert got.status == 503 and not here.provider.seen and not here.providers[1].seen
    assert (await bot(here, "moon", model="gpt-4o")).header("x-sluice-provider") == "second"


async def test_a_rule_sends_its_calls_elsewhere(here):
    got = await bot(here, "status", "sent", model="gpt-4o")
    assert (got.header("x-sluice-provider"), got.header("x-sluice-model")) == ("moon", "gpt-4.1-mini")
    assert not here.provider.seen and here.providers[2].seen[-1].json["model"] == "gpt-4.1-mini"
    row = await here.row(got)
    assert (row["provider"], row["model"], row["kind"]) == ("moon", "gpt-4.1-mini", "first")


ON = {  # fallback_on → which failures go to the fallback: a 5xx, a 429, an open breaker
    "[error]": (True, False, False),
    "rate_limit": (False, True, False),
    "[breaker]": (False, False, True),
    "off": (False, False, False),
}


@pytest.mark.parametrize("on", ON)
async def test_fallback_on_says_what_sends_a_call_to_its_fallback(tmp_path, on):
    policy = f"""
    providers: {{one: {{dialect: openai, url: A_URL}}, two: {{dialect: openai, url: B_URL}}}}
    retry: {{attempts: 1}}
    breaker: {{consecutive: 2, min_requests: 100, open: 60s..60s}}
    fallback: {{'*': [two/gpt-4.1]}}
    fallback_on: {on}
    """
    error, rate, breaker = ON[on]
    async with world(tmp_path, policy, providers=2) as one:
        one.provider.script = failing(500)
        assert ((await one.chat(provider="one")).header("x-sluice-provider") == "two") is error
        one.provider.script = failing(429)
        assert ((await one.chat(provider="one")).header("x-sluice-provider") == "two") is rate
        one.provider.script = failing(500)
        for _ in range(3):
            got = await one.chat(provider="one")
        assert len(one.provider.seen) < 5, "the breaker is open by now"
        assert (got.header("x-sluice-provider") == "two") is breaker
        if not breaker:
            assert (got.status, got.code) == (503, "breaker_open")
