"""Every key of a provider, by what arrives there and what the ledger says of it."""

import asyncio
import json
import sys

import pytest
import pytest_asyncio
from support.echo import echo
from support.sluice import ROOT
from support.world import CHAT, spelt, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers:
  openai:
    url: A_URL
    key: env:OPENAI_KEY
    headers: {set: {OpenAI-Project: env:PROJECT, X-Plain: said}, remove: [X-User-Id]}
  anthropic: {url: A_URL, key: file:anthropic.key}
  gemini: {url: A_URL, key: env:OPENAI_KEY}
  cohere: {url: A_URL, key: env:OPENAI_KEY}
  other-name: {dialect: anthropic, url: B_URL, key: env:OPENAI_KEY}
  azure-eu:
    dialect: azure-openai
    url: B_URL
    region: eu
    api_version: 2025-04-01-preview
    models: {gpt-4o: prod-gpt4o-eu}
    key: env:AZURE_KEY
  us: {dialect: openai, url: A_URL, region: us, models: {house-model: gpt-4o-mini}}
  rotating: {dialect: openai, url: A_URL, keys: [env:KEY_1, env:KEY_2, env:KEY_3]}
  narrow: {dialect: openai, url: A_URL, max_connections: 1}
  wide: {dialect: openai, url: A_URL}
callers:
  keys:
    - {name: bot, hash: HASH(bot)}
    - {name: european, hash: HASH(european), allow: {regions: eu}}
  pass_through: free
tiers: {free: {}}
retry: {attempts: 1}
"""
ENV = {
    "OPENAI_KEY": "sk-of-openai",
    "PROJECT": "proj_7",
    "AZURE_KEY": "key-of-azure",
    "KEY_1": "sk-one",
    "KEY_2": "sk-two",
    "KEY_3": "sk-three",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("providers")
    (folder / "anthropic.key").write_text("sk-ant-from-a-file\n")
    (folder / "anthropic.key").chmod(0o600)
    async with world(folder, POLICY, ENV, providers=2) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


async def test_the_key_of_the_policy_goes_where_each_dialect_wants_it_and_the_sluice_key_stays_here(here):
    message = json.dumps(
        {"model": "m", "max_tokens": 5, "message": "x", "messages": [{"role": "user", "content": "x"}], "contents": []}
    ).encode()
    for target, header, value in (
        (f"/openai{CHAT}", "authorization", "Bearer sk-of-openai"),
        ("/anthropic/v1/messages", "x-api-key", "sk-ant-from-a-file"),
        ("/gemini/v1beta/models/gemini-2.5-flash:generateContent", "x-goog-api-key", "sk-of-openai"),
        ("/cohere/v2/chat", "authorization", "Bearer sk-of-openai"),
    ):
        assert (await here.ask("POST", target, message, "bot")).status == 200
        assert here.last.header(header) == value
        assert "slk-" not in str(here.last.headers) and len([n for n, _ in here.last.headers if n.lower() == header]) == 1


async def test_a_callers_own_key_is_never_swapped(here):
    await here.chat("sk-my-own-key-of-openai")
    assert here.last.header("authorization") == "Bearer sk-my-own-key-of-openai"


async def test_headers_are_set_and_removed(here):
    await here.chat("bot", headers=[("X-User-Id", "u1"), ("x-plain", "mine"), ("X-Kept", "yes")])
    assert [value for name, value in here.last.headers if name.lower() == "openai-project"] == ["proj_7"]
    assert [value for name, value in here.last.headers if name.lower() == "x-plain"] == ["said"]
    assert here.last.header("x-user-id") is None and here.last.header("x-kept") == "yes"
    await here.chat("bot", provider="us", headers=[("X-User-Id", "u1")])
    assert here.last.header("x-user-id") == "u1" and here.last.header("openai-project") is None


async def test_the_url_says_where_and_the_dialect_says_how(here):
    body = b'{"model":"claude-sonnet-4-5","max_tokens":5,"messages":[{"role":"user","content":"x"}]}'
    got = await here.ask("POST", "/other-name/v1/messages", body, "bot")
    there = here.providers[1].seen[-1]
    assert got.json["type"] == "message" and there.target == "/v1/messages" and not here.providers[0].seen
    assert there.header("x-api-key") == "sk-of-openai"
    row = await here.row(got)
    assert (row["provider"], row["operation"], row["input_tokens"], row["usage_source"]) == ("other-name", "messages", 11, "provider")
    refused = await here.ask("POST", "/other-name/v1/messages", b'{"max_tokens":"many"}', "bot")
    assert refused.json["type"] == "error" and refused.json["error"]["type"] == "invalid_request_error"


async def test_model_names_are_ours_here_and_theirs_there(here):
    got = await here.chat("bot", provider="us", model="house-model")
    assert here.last.json["model"] == "gpt-4o-mini"
    assert (await here.row(got))["model"] == "house-model"


async def test_azure_gets_its_deployment_its_version_and_its_key_and_prices_know_our_name(here):
    got = await here.ask("POST", f"/azure-eu/openai/deployments/gpt-4o{CHAT[3:]}", b'{"messages":[{"role":"user","content":"x"}]}', "bot")
    there = here.providers[1].seen[-1]
    assert there.target == "/openai/deployments/prod-gpt4o-eu/chat/completions?api-version=2025-04-01-preview"
    assert there.header("api-key") == "key-of-azure" and there.header("authorization") is None
    row = await here.row(got)
    assert (row["model"], row["cost_nanousd"]) == ("gpt-4o", 11 * 2_500 + 7 * 10_000)
    await here.ask("POST", f"/azure-eu/openai/deployments/gpt-4o{CHAT[3:]}?api-version=mine", b'{"messages":[]}', "bot")
    assert here.providers[1].seen[-1].target.endswith("?api-version=mine")


async def test_the_region_decides_what_a_regional_caller_may_use(here):
    body = b'{"messages":[{"role":"user","content":"x"}]}'
    assert (await here.ask("POST", f"/azure-eu/openai/deployments/gpt-4o{CHAT[3:]}", body, "european")).status == 200
    for provider in ("us", "openai"):  # another region, and none
        got = await here.chat("european", provider=provider)
        assert (got.status, got.code) == (403, "not_allowed") and b"region" in got.body


@pytest.mark.parametrize(("status", "error"), [(401, {"code": "invalid_api_key"}), (403, {}), (429, {"code": "insufficient_quota"})])
async def test_keys_rotate_when_one_is_refused_or_has_no_credit(here, status, error):
    async def script(seen, reply):
        if seen.header("authorization") == "Bearer sk-three":
            await echo(seen, reply)
        else:
            await reply.json({"error": {"message": "no", "type": error.get("code", "x"), "param": None, **error}}, status)

    here.provider.script = script
    got = await here.chat("bot", provider="rotating")
    assert got.status == 200
    tried = [seen.header("authorization") for seen in here.provider.seen]
    assert tried[-1] == "Bearer sk-three" and set(tried) <= {"Bearer sk-one", "Bearer sk-two", "Bearer sk-three"}
    rows = await here.rows(got)
    assert [row["credential"] for row in rows][-1] == "KEY_3" and len(rows) == len(tried) == int(got.header("x-sluice-attempts"))
    assert not any(secret in json.dumps(rows) for secret in ENV.values())


async def test_when_every_key_is_refused_the_caller_hears_that_it_is_not_his_fault(here):
    async def script(seen, reply):
        await reply.json({"error": {"message": "bad key sk-one", "type": "x", "param": None, "code": "invalid_api_key"}}, 401)

    here.provider.script = script
    got = await here.chat("bot", provider="rotating")
    assert (got.status, got.code) == (502, "upstream_auth") and len(here.provider.seen) == 3
    assert b"sk-one" not in got.body


async def test_no_more_than_max_connections_are_open_to_a_provider(here):
    open_now = most = 0

    async def script(seen, reply):
        nonlocal open_now, most
        open_now += 1
        most = max(most, open_now)
        await asyncio.sleep(0.1)
        open_now -= 1
        await echo(seen, reply)

    here.provider.script = script
    answers = await asyncio.gather(*(here.chat("bot", provider="narrow") for _ in range(3)))
    assert [got.status for got in answers] == [200, 200, 200] and most == 1
    await asyncio.gather(*(here.chat("bot", provider="wide") for _ in range(3)))
    assert most == 3


async def test_plain_http_to_a_private_address_wants_leave(tmp_path):
    for url, more, code in (
        ("http://10.0.0.7:8000", "", 1),
        ("http://10.0.0.7:8000", ", allow_private: true", 0),
        ("https://192.168.1.1", "", 1),
        ("http://127.0.0.1:8000", "", 0),
    ):
        said, found = await check(tmp_path, f"providers: {{vllm: {{dialect: openai, url: '{url}'{more}}}}}")
        assert found == code and ("private or link-local" in said or "needs https://" in said) == (code == 1), said


async def check(folder, policy: str) -> tuple[str, int]:
    file = folder / "checked.yaml"
    file.write_text(spelt(policy))
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "proxy", "check", str(file), stdout=-1, stderr=-2, cwd=ROOT)
    said, _ = await process.communicate()
    assert process.returncode is not None
    return said.decode(), process.returncode
