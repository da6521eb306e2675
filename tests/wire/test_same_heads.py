"""The tenth answer with a head like the first is treated as the first was, though its head is known by then."""

import json
from pathlib import Path

import pytest
import pytest_asyncio
from support.caller import Caller
from support.world import CHAT, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = "sk-the-key-that-sluice-holds"
POLICY = """
server: {cors: [https://console.example.com]}
providers: {openai: {url: A_URL, key: env:PROVIDER_KEY}}
prices: {gpt-4o: {input: 1, output: 1}}
"""
ASKED = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}).encode()
SAID = [
    ("X-Request-Id", "provider-1"), ("Set-Cookie", "secret=1"), ("openai-version", "2020-10-01"), ("x-sluice-limit", "forged"),
    ("Access-Control-Expose-Headers", "X-Request-ID"), ("X-RateLimit-Limit", "7"), ("Connection", "keep-alive, x-internal"),
    ("X-Internal", "hop"), ("Date", "Sat, 21 Nov 2026 00:00:00 GMT"),
]  # fmt: skip
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
VARIES = {"server-timing", "x-sluice-request-id"}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    folder: Path = tmp_path_factory.mktemp("heads")
    async with world(folder, POLICY, {"PROVIDER_KEY": KEY}) as it:
        yield it


def shown(got):
    return got.status, [(name, value) for name, value in got.headers if name.lower() not in VARIES], got.body


def answering(here, **more):
    async def script(seen, reply):
        if more.get("stream"):
            await reply.start(headers=SAID)
            await reply.event({"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}], "usage": USAGE})
            await reply.event("[DONE]")
            await reply.end()
        else:
            headers = [*SAID, *more.get("headers", ())]
            await reply.json({"choices": [{"message": {"content": "hi"}}], "usage": USAGE}, more.get("status", 200), headers)

    here.providers[0].script = script


async def ten(here, method="POST", **fields):
    headers = [("Content-Type", "application/json"), *fields.items()]
    async with Caller(here.sluice.port) as caller:
        return [shown(await caller.ask(method, "/openai" + CHAT, headers, ASKED)) for _ in range(10)]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("origin", [{}, {"Origin": "https://console.example.com"}])
async def test_each_of_ten_answers_has_the_same_lines_and_what_must_not_travel_does_not(here, stream, origin):
    answering(here, stream=stream)
    first, *others = await ten(here, **origin)
    assert all(other == first for other in others)
    names = [name.lower() for name, _ in first[1]]
    assert not {"set-cookie", "x-internal", "connection"} & set(names)
    assert ("x-sluice-limit", "forged") not in first[1]
    assert names.count("x-request-id") == names.count("access-control-expose-headers") == 1
    assert ("X-RateLimit-Limit", "7") in first[1] and "x-ratelimit-limit" not in [name for name, _ in first[1]]
    exposed = dict((name.lower(), value) for name, value in first[1])["access-control-expose-headers"]
    assert exposed == ("*" if origin else "X-Request-ID")


async def test_a_key_that_comes_back_in_a_head_that_is_known_is_hidden_as_in_the_first(here):
    answering(here, headers=[("X-Debug", "nothing")])
    await ten(here)
    answering(here, headers=[("X-Debug", f"Bearer {KEY}")])
    assert all(("X-Debug", "Bearer [redacted]") in headers for _, headers, _ in await ten(here))


@pytest.mark.parametrize("status", [201, 404])
async def test_a_location_leads_back_here_and_a_refusal_of_the_providers_is_its_own_each_time(here, status):
    answering(here, status=status, headers=[("Location", f"{here.providers[0].url}/v1/there")])
    first, *others = await ten(here)
    assert all(other == first for other in others)
    where = dict(first[1])["Location"]
    assert (f":{here.sluice.port}/openai/v1/there" in where) == (status == 201)
