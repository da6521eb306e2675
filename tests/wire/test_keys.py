"""Keys through real sidecars: counters follow the name, a revocation wins over the policy file and reaches the whole fleet."""

import asyncio
import hashlib
import signal
import textwrap
import time

import aiohttp
import openai
import pytest
from support import chat
from support.provider import Provider
from support.sluice import sidecar
from support.valkey import valkey

WAIT_S = 30.0
KEY = "slk-" + "k" * 43
POLICY = textwrap.dedent("""\
    providers: {{openai: {{url: "{url}", key: env:PROVIDER_KEY}}}}
    callers:
      anonymous: deny
      pass_through: deny
      keys: [{{name: bob, hash: "sha256:{digest}", tier: free}}]
    tiers: {{free: {{requests: 5/hour}}}}
    {more}
""")
ENV = {"PROVIDER_KEY": "sk-provider"}


def policy(provider, more=""):
    return POLICY.format(url=provider.url, digest=hashlib.sha256(KEY.encode()).hexdigest(), more=more)


async def asked(one, method, path, doc=None):
    async with aiohttp.ClientSession() as session, session.request(method, one.admin + path, json=doc) as reply:
        return await reply.json()


async def called(one, key):
    async with openai.AsyncOpenAI(base_url=one.url + "/openai/v1", api_key=key, max_retries=0) as client:
        try:
            await client.chat.completions.create(model="gpt-4o", messages=[{"role": "user", "content": "hi"}])
        except openai.APIStatusError as no:
            return no.status_code
        except openai.APIConnectionError:
            return None
    return 200


async def soon(one, key, status):
    until = time.monotonic() + WAIT_S
    while (got := await called(one, key)) != status:
        assert time.monotonic() < until, got
        await asyncio.sleep(0.05)


async def good(seen, reply):
    await reply.json(chat.whole())


async def test_a_rotated_key_goes_on_where_the_old_one_stopped_and_a_revocation_wins_over_the_policy_file(tmp_path):
    async with Provider(good) as provider, sidecar(tmp_path, policy(provider), ENV) as one:
        assert [await called(one, KEY) for _ in range(3)] == [200, 200, 200]
        fresh = (await asked(one, "POST", "/admin/keys/bob/rotate", {"overlap": "1h"}))["key"]
        assert [await called(one, key) for key in (fresh, KEY, fresh)] == [200, 200, 429], "five an hour are bob's, whatever his key"
        old = hashlib.sha256(KEY.encode()).hexdigest()[:12]
        assert len((await asked(one, "DELETE", f"/admin/keys/id/{old}"))["revoked"]) == 1
        assert [await called(one, key) for key in (KEY, fresh)] == [401, 429]
        one.policy.write_text(one.policy.read_text() + "# the same\n")
        one.process.send_signal(signal.SIGHUP)
        until = time.monotonic() + WAIT_S
        while not any(line["event"] == "policy reloaded" for line in one.log_lines()):
            assert time.monotonic() < until
            await asyncio.sleep(0.05)
        assert [await called(one, key) for key in (KEY, fresh)] == [401, 429], "the file lists it still"
        await one.stop()
        await one.start()
        assert [await called(one, key) for key in (KEY, fresh)] == [401, 429], "and it is remembered"


async def test_an_overlap_that_is_over_ends_the_old_key(tmp_path):
    async with Provider(good) as provider, sidecar(tmp_path, policy(provider).replace("5/hour", "5000/hour"), ENV) as one:
        fresh = (await asked(one, "POST", "/admin/keys/bob/rotate", {"overlap": "1s"}))["key"]
        await soon(one, KEY, 401)
        assert await called(one, fresh) == 200


async def test_an_sdk_sees_a_revoked_key_as_an_authentication_error(tmp_path):
    async with Provider(good) as provider, sidecar(tmp_path, policy(provider), ENV) as one:
        await asked(one, "DELETE", "/admin/keys/bob")
        async with openai.AsyncOpenAI(base_url=one.url + "/openai/v1", api_key=KEY) as client:
            with pytest.raises(openai.AuthenticationError, match="revoked"):
                await client.chat.completions.create(model="gpt-4o", messages=[])
        assert not provider.seen


async def test_keys_are_those_of_the_whole_fleet(tmp_path):
    with valkey() as server:
        env = {**ENV, "STATE": server.url}
        more = "state: env:STATE"
        async with Provider(good) as provider:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
            args = ("--state", server.url)
            async with (
                sidecar(tmp_path / "one", policy(provider, more), env, args) as one,
                sidecar(tmp_path / "two", policy(provider, more), env, args) as two,
            ):
                minted = (await asked(one, "POST", "/admin/keys", {"name": "ann", "overrides": {"requests": "100/min"}}))["key"]
                await soon(two, minted, 200)
                await asked(two, "DELETE", "/admin/keys/ann")
                await soon(one, minted, 401)
                await asked(two, "DELETE", "/admin/keys/bob")
                await soon(one, KEY, 401)


class Slow:
    """A provider that begins its streams, and answers nothing else, until the caller is gone."""

    def __init__(self):
        self.waiting = 0

    async def __call__(self, seen, reply):
        if seen.json.get("stream"):
            await reply.start()
            await reply.event(chat.delta(None))
            await reply.event(chat.delta("one"))
        self.waiting += 1
        await asyncio.wait_for(seen.gone.wait(), WAIT_S)


async def rows(one):
    return (await asked(one, "GET", "/admin/ledger"))["rows"]


async def streamed(one, key, **more):
    """What a stream says, up to its error, which is raised."""
    async with openai.AsyncOpenAI(base_url=one.url + "/openai/v1", api_key=key, max_retries=0) as client:
        async for _ in await client.chat.completions.create(model="gpt-4o", messages=[], stream=True, **more):
            pass


async def begun(slow, count):
    until = time.monotonic() + WAIT_S
    while slow.waiting < count:
        assert time.monotonic() < until
        await asyncio.sleep(0.01)


async def test_what_runs_on_a_revoked_key_ends_and_what_runs_on_another_of_the_same_name_goes_on(tmp_path):
    slow = Slow()
    async with Provider(slow) as provider, sidecar(tmp_path, policy(provider), ENV) as one:
        fresh = (await asked(one, "POST", "/admin/keys/bob/rotate", {}))["key"]
        old, other = (asyncio.ensure_future(streamed(one, key)) for key in (KEY, fresh))
        waiting = asyncio.ensure_future(called(one, KEY))
        await begun(slow, 3)
        await asked(one, "DELETE", f"/admin/keys/id/{hashlib.sha256(KEY.encode()).hexdigest()[:12]}")
        with pytest.raises(openai.APIError) as no:
            await asyncio.wait_for(old, WAIT_S)
        assert no.value.code == "stopped_revoked"
        assert await asyncio.wait_for(waiting, WAIT_S) == 401
        assert not other.done()
        ended = {row["end"]: row for row in await rows(one)}
        assert set(ended) == {"stopped:revoked", "refused:invalid_credentials"}
        assert ended["stopped:revoked"]["usage_source"] == "counted"
        assert [await called(one, key) for key in (KEY, KEY)] == [401, 401]
        other.cancel()


async def test_each_change_of_a_key_is_a_line_of_the_log_without_the_key(tmp_path):
    async with Provider(good) as provider, sidecar(tmp_path, policy(provider), ENV) as one:
        minted = await asked(one, "POST", "/admin/keys", {"name": "ann", "tier": "free"})
        rotated = await asked(one, "POST", "/admin/keys/ann/rotate", {"overlap": "1h"})
        await asked(one, "DELETE", f"/admin/keys/id/{minted['id']}")
        await one.stop()
        told = [(line["event"], line["caller"], line["id"]) for line in one.log_lines() if line["event"].startswith("key ")]
        first, second = minted["id"], rotated["id"]
        whats = [("minted", first), ("minted", second), ("rotated", first), ("revoked", first)]
        assert told == [(f"key {what}", "ann", id) for what, id in whats]
        for secret in (minted["key"], rotated["key"], hashlib.sha256(minted["key"].encode()).hexdigest()):
            assert secret not in one.logged()


async def test_a_stream_of_one_sidecar_ends_where_another_revokes_its_key_and_so_it_stays_while_redis_is_away(tmp_path):
    slow = Slow()
    with valkey() as server:
        env, args = {**ENV, "STATE": server.url}, ("--state", server.url)
        async with Provider(slow) as provider:
            text = policy(provider, "state: env:STATE\non_state_down: {rates: local, money: local}")
            for name in ("one", "two", "new"):
                (tmp_path / name).mkdir()
            async with sidecar(tmp_path / "one", text, env, args) as one, sidecar(tmp_path / "two", text, env, args) as two:
                stream = asyncio.ensure_future(streamed(one, KEY))
                await begun(slow, 1)
                await asked(two, "DELETE", "/admin/keys/bob")
                with pytest.raises(openai.APIError) as no:
                    await asyncio.wait_for(stream, WAIT_S)
                assert no.value.code == "stopped_revoked"
                await two.stop()
                async with sidecar(tmp_path / "new", text, env, args) as new:
                    assert await called(new, KEY) == 401, "its first call: it asks before it serves"
                await one.stop()
                server.kill9()
                starting = asyncio.ensure_future(one.start())  # not ready for 30 s, and answering
                await soon(one, KEY, 401)
                starting.cancel()
