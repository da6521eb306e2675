"""Keys through real sidecars: counters follow the name, a revocation wins over the policy file and reaches the whole fleet."""

import asyncio
import hashlib
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
        old = hashlib.sha256(KEY.encode()).hexdigest()[:8]
        assert len((await asked(one, "DELETE", f"/admin/keys/id/{old}"))["revoked"]) == 1
        assert [await called(one, key) for key in (KEY, fresh)] == [401, 429]
        await one.stop()
        await one.start()
        assert [await called(one, key) for key in (KEY, fresh)] == [401, 429], "it is remembered, and the file lists it still"


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
