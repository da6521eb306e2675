"""What happens at a limit of money: a cheaper model from a share on, and running streams that end well; wherever the policy says so."""

import asyncio
import json
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio
from support.sluice import sidecar
from support.valkey import valkey
from support.world import World, spelt, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

# a token of `dear` costs a cent, one of `cheap` a tenth of it; each limit is of one dollar, so that 1 token is 1 % of it
POLICY = """
default_max_tokens: 5
providers: {openai: {url: A_URL}, other: {dialect: openai, url: B_URL}}
prices: {dear: {input: 0, output: 10000}, cheap: {input: 0, output: 1000}, unlisted: {input: 0, output: 10000}}
at_limit: {degrade: {from: 50%, models: {dear: cheap}}, stop_streams: true}
tiers: {small: {spend: $1/total}, none: {}}
teams:
  crew: {spend: $1/total, at_limit: {degrade: {from: 80%, models: {dear: cheap}}}}
  calm: {spend: $1/total, at_limit: {degrade: off, stop_streams: false}}
  calm-2: {spend: $1/total, at_limit: {degrade: off, stop_streams: false}}
limits:
  - {name: own, match: {'header:x-case': own}, per: caller, spend: $1/total, at_limit: {degrade: {from: 80%, models: {dear: other/cheap}}}}
  - {name: running, match: {'header:x-case': running}, per: caller, spend: $1/total, at_limit: {stop_streams: true}}
  - {name: few, match: {model: cheap, caller: counted}, per: caller, requests: 1/day}
callers:
  default_tier: none
  keys:
    - {name: tiered, hash: HASH(tiered), tier: small}
    - {name: member, hash: HASH(member), team: crew}
    - {name: limited, hash: HASH(limited)}
    - {name: ruled, hash: HASH(ruled), tier: small}
    - {name: calm, hash: HASH(calm), team: calm}
    - {name: strict, hash: HASH(strict), tier: small, allow: {models: [dear]}}
    - {name: counted, hash: HASH(counted), tier: small}
    - {name: large, hash: HASH(large), tier: small}
    - {name: empty, hash: HASH(empty), tier: small}
    - {name: stream-tiered, hash: HASH(stream-tiered), tier: small}
    - {name: stream-limited, hash: HASH(stream-limited)}
    - {name: stream-calm, hash: HASH(stream-calm), team: calm-2}
    - {name: stream-ruled, hash: HASH(stream-ruled), tier: small}
rules:
  - {match: {caller: ruled}, at_limit: {degrade: {from: 90%, models: {dear: cheap}}}}
  - {match: {caller: stream-ruled}, at_limit: {stop_streams: false}}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("at-limit"), POLICY, providers=2) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


async def spent(here: World, key: str, tokens: int, model: str = "dear", **how):
    """One call that uses so many tokens of what it asked for."""
    headers = [("x-usage", f"0,{tokens}"), *how.pop("headers", [])]
    return await here.chat(key, model=model, max_tokens=tokens, headers=headers, **how)


SCOPES = {  # caller: from which share on, and where the cheaper model is
    "tiered": (50, "openai", []),
    "member": (80, "openai", []),
    "limited": (80, "other", [("x-case", "own")]),
    "ruled": (90, "openai", []),
}


@pytest.mark.parametrize("caller", SCOPES)
async def test_from_its_share_on_a_listed_model_is_answered_by_the_cheaper_one(here, caller):
    share, where, headers = SCOPES[caller]
    got = await spent(here, caller, share - 1, headers=headers)
    assert (got.status, got.header("x-sluice-model")) == (200, None)
    got = await spent(here, caller, 1, headers=headers)
    assert got.header("x-sluice-model") is None, "the share is reached with this call, not before"
    assert (await here.row(got))["model"] == "dear"
    got = await spent(here, caller, 2, headers=headers)
    assert (got.status, got.header("x-sluice-model"), got.header("x-sluice-provider")) == (200, "cheap", where)
    seen = here.providers[0 if where == "openai" else 1].seen[-1]
    assert seen.json["model"] == "cheap"
    row = await here.row(got)
    assert (row["model"], row["provider"], row["cost_nanousd"]) == ("cheap", where, 2 * 1_000_000)
    got = await spent(here, caller, 1, "dear-2026-01-01", headers=headers)
    assert got.header("x-sluice-model") == "cheap", "a name covers its snapshots"
    got = await spent(here, caller, 1, "unlisted", headers=headers)
    assert (got.status, got.header("x-sluice-model")) == (200, None)


async def test_off_switches_off_what_the_policy_says_for_all(here):
    await spent(here, "calm", 95)
    assert (await spent(here, "calm", 1)).header("x-sluice-model") is None


async def test_where_even_the_cheaper_one_does_not_fit_the_call_is_refused(here):
    await spent(here, "empty", 99)
    refused = await spent(here, "empty", 20)
    assert (refused.status, refused.code) == (402, "budget_exhausted")
    assert (await spent(here, "empty", 5)).header("x-sluice-model") == "cheap"


async def test_a_call_that_does_not_fit_any_more_is_degraded_below_the_share_too(here):
    """Else the share would never be reached, and every call refused."""
    await spent(here, "large", 40)
    got = await spent(here, "large", 70)
    assert (got.status, got.header("x-sluice-model")) == (200, "cheap")
    assert (await spent(here, "large", 2)).header("x-sluice-model") is None


async def test_who_may_not_use_the_cheaper_model_keeps_the_dear_one(here):
    await spent(here, "strict", 60)
    got = await spent(here, "strict", 5)
    assert (got.status, got.header("x-sluice-model"), here.last.json["model"]) == (200, None, "dear")


async def test_limits_by_model_see_the_one_that_answers(here):
    for _ in range(2):
        assert (await spent(here, "counted", 25)).status == 200, "of the dear model any number"
    assert (await spent(here, "counted", 1)).header("x-sluice-model") == "cheap"
    refused = await spent(here, "counted", 1)
    assert (refused.status, refused.header("x-sluice-limit")) == (429, "limit few")


STREAMS = {  # caller: does its stream end when its money does?
    "stream-tiered": (True, []),
    "stream-limited": (True, [("x-case", "running")]),
    "stream-calm": (False, []),
    "stream-ruled": (False, []),
}


@pytest.mark.parametrize("caller", STREAMS)
async def test_a_running_stream_ends_well_where_the_money_ends(here, caller):
    is_ended, headers = STREAMS[caller]
    cut = asyncio.Event()

    async def endless(seen, reply):
        await reply.start()
        try:
            for number in range(6000 if is_ended else 300):
                choice = {"index": 0, "delta": {"content": f"word {number} "}, "finish_reason": None}
                await reply.event({"id": "c", "object": "chat.completion.chunk", "model": "dear", "choices": [choice]})
            await reply.event("[DONE]")
            await reply.end()
        except ConnectionError:
            cut.set()
            raise

    here.provider.script = endless
    got = await here.chat(caller, model="dear", stream=True, headers=headers)
    lines = [line[6:] for line in got.body.decode().splitlines() if line.startswith("data: ")]
    row = await here.row(got)
    assert lines[-1] == "[DONE]" and row["end"] == ("stopped:money" if is_ended else "done")
    last = json.loads(lines[-2])["choices"][0]
    assert last["finish_reason"] == ("length" if is_ended else None)
    assert row["output_tokens"] >= len(lines) - 2
    if is_ended:
        async with asyncio.timeout(20):
            await cut.wait()
        assert len(lines) < 3000
        limits = {"stream-tiered": "tier small", "stream-limited": "limit running"}
        said = {"code": "stopped_money", "limit": limits[caller], "request_id": row["request_id"]}
        async with asyncio.timeout(20):
            while not any(said.items() <= line.items() for line in here.sluice.log_lines()):
                await asyncio.sleep(0.02)
        assert (await here.chat(caller, model="dear", headers=headers)).status == 402


async def test_a_shared_state_ends_streams_and_degrades_too(here, tmp_path):
    """Two sidecars on one budget: what the one has used ends the other's answer, and makes it answer with the cheaper model."""
    cut = asyncio.Event()

    async def endless(seen, reply):
        await reply.start()
        try:
            for number in range(6000):
                choice = {"index": 0, "delta": {"content": f"word {number} "}, "finish_reason": None}
                await reply.event({"id": "c", "model": "dear", "choices": [choice]})
        except ConnectionError:
            cut.set()
            raise

    async with AsyncExitStack() as stack:
        server = stack.enter_context(valkey())
        policy = spelt(POLICY, [one.url for one in here.providers])
        both = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            args = ("--state", f"{server.url}?journal={tmp_path / name / 'journal'}")
            both.append(World(await stack.enter_async_context(sidecar(tmp_path / name, policy, args=args)), here.providers))
        one, two = both
        assert (await spent(one, "tiered", 60)).header("x-sluice-model") is None
        async with asyncio.timeout(30):  # the other hears of it with its next hold
            while (await spent(two, "tiered", 1)).header("x-sluice-model") != "cheap":
                await asyncio.sleep(0.1)
        assert (await spent(one, "stream-tiered", 90)).status == 200
        here.provider.script = endless
        got = await two.chat("stream-tiered", model="unlisted", stream=True)
        lines = [line[6:] for line in got.body.decode().splitlines() if line.startswith("data: ")]
        assert lines[-1] == "[DONE]" and json.loads(lines[-2])["choices"][0]["finish_reason"] == "length"
        assert (await two.row(got))["end"] == "stopped:money"
        await asyncio.wait_for(cut.wait(), 20)
        here.forget()
        async with asyncio.timeout(30):  # settles are off the request path
            while (refused := await one.chat("stream-tiered", model="unlisted", headers=[("x-usage", "0,0")])).status == 200:
                await asyncio.sleep(0.1)
        assert (refused.status, refused.code) == (402, "budget_exhausted")


async def test_images_are_held_as_the_model_counts_them_that_answers(tmp_path):
    """gpt-4o-mini bills an image at 33 times the tokens that gpt-4o does."""
    policy = """
    providers: {openai: {url: A_URL}}
    limits: [{name: purse, spend: $1000/total, at_limit: {degrade: {from: 0.1%, models: {gpt-4o: gpt-4o-mini}}}}]
    callers: {anonymous: none, default_tier: none}
    tiers: {none: {}}
    """
    parts = [{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}] * 2
    ask = {"max_tokens": 10, "messages": [{"role": "user", "content": parts}]}
    async with world(tmp_path, policy) as one:
        direct = await one.chat(model="gpt-4o-mini", **ask)
        await one.chat(model="o1-pro", max_tokens=10, headers=[("x-usage", "20000,0")])  # 0.3% of the purse
        degraded = await one.chat(model="gpt-4o", **ask)
        assert degraded.header("x-sluice-model") == "gpt-4o-mini"
        held = [float(got.header("x-sluice-reserved-usd")) for got in (direct, degraded)]
        assert held[0] == pytest.approx(held[1], rel=0.01) and held[0] > 2 * 33 * 1_445 * 0.15e-6
