"""A changed policy: live within two seconds, whole, without a failed call; a bad one changes nothing."""

import asyncio
import json
import os
import signal
import time

import pytest
from support import chat
from support.caller import Caller, ask
from support.provider import Provider
from support.sluice import Sluice, sidecar

POLICY = """
version: 1
providers:
  openai: {{url: "{url}"}}
limits:
  - {{name: all, per: total, spend: $50/total}}
"""
LIVE_S = 30.0  # by design 2 s (tests/policy/test_watch.py holds the intervals); a busy machine may take its time


async def answers(seen, reply):
    await reply.json(chat.whole())


async def asked(sluice, *headers):
    return await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY, *headers], chat.asked())


async def generation(sluice):
    line = next(line for line in (await sluice.metrics()).splitlines() if line.startswith("sluice_policy_generation"))
    return int(float(line.rpartition(" ")[2]))


async def failed_reloads(sluice):
    lines = [line for line in (await sluice.metrics()).splitlines() if line.startswith("sluice_policy_reload_failed_total ")]
    return int(float(lines[0].rpartition(" ")[2])) if lines else 0


async def within(seconds, is_so):
    began = time.monotonic()
    while not await is_so():
        assert time.monotonic() - began < seconds, "too late"
        await asyncio.sleep(0.05)


async def is_live(sluice, number, within_s=LIVE_S):
    async def so():
        return await generation(sluice) == number

    await within(within_s, so)


def logged(sluice, event):
    return [line for line in sluice.log_lines() if line["event"] == event]


@pytest.fixture
async def provider():
    async with Provider(answers) as provider:
        yield provider


@pytest.fixture
async def sluice(provider, tmp_path):
    async with sidecar(tmp_path, POLICY.format(url=provider.url)) as sluice:
        yield sluice


async def test_a_changed_file_is_live_within_two_seconds_and_calls_keep_the_policy_they_began_with(sluice, provider):
    go_on = asyncio.Event()

    async def slow(seen, reply):
        await go_on.wait()
        await reply.json(chat.whole())

    provider.script = slow
    began = asyncio.ensure_future(asked(sluice))
    while not provider.seen:
        await asyncio.sleep(0.01)
    sluice.policy.write_text(POLICY.format(url=provider.url) + "rules: [{match: {model: gpt-4o}, allow: {models: [gpt-4.1]}}]\n")
    await is_live(sluice, 2)
    refused = await asked(sluice)
    assert (refused.status, refused.code) == (403, "not_allowed")
    go_on.set()
    assert (await began).status == 200
    generations = {row["policy_generation"]: row["status"] for row in await sluice.rows()}
    assert generations == {1: 200, 2: 403}
    await asyncio.sleep(0.3)  # the log is written ten times a second
    assert logged(sluice, "policy reloaded")[-1]["generation"] == 2


async def test_a_configmap_swap_is_live_within_two_seconds(provider, tmp_path):
    def version(name, text):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "policy.yaml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(name)
        os.rename(tmp_path / "..data_tmp", tmp_path / "..data")

    one = Sluice(tmp_path, "")
    one.policy.unlink()
    text = POLICY.format(url=provider.url)
    version("..2026_1", text)
    one.policy.symlink_to("..data/policy.yaml")
    try:
        await one.start()
        version("..2026_2", text + "rules: [{match: {model: gpt-4o}, allow: {models: [gpt-4.1]}}]\n")
        await is_live(one, 2)
        assert (await asked(one)).status == 403
    finally:
        await one.stop()


async def test_sighup_reads_again_at_once(sluice):
    sluice.process.send_signal(signal.SIGHUP)
    await is_live(sluice, 2, 1.0)


BAD = {
    "unknown key": "version: 1\nnonsense: 1\n",
    "no YAML": "version: [",
    "binary": "\x00",
    "unset secret": "version: 1\nproviders: {openai: {key: env:NOT_SET_ANYWHERE}}\n",
    "deep": "{" * 5000,
    "too large": "version: 1\n#" + "x" * (1 << 20),
}


async def test_a_bad_file_keeps_the_last_good_one_and_is_reported(sluice):
    good = sluice.policy.read_text()
    for number, bad in enumerate(BAD.values()):
        sluice.policy.write_text(bad)

        async def has_failed(number=number):
            return await failed_reloads(sluice) > number

        await within(LIVE_S, has_failed)
        assert await generation(sluice) == 1
        assert (await asked(sluice)).status == 200
    await asyncio.sleep(0.3)
    lines = logged(sluice, "policy not reloaded, the last good one serves on")
    assert len(lines) >= len(BAD) and all(line["level"] == "error" and "policy.yaml" in line["problem"] for line in lines)
    sluice.policy.write_text(good + "default_max_tokens: 100\n")
    await is_live(sluice, 2)
    assert (await asked(sluice)).status == 200


async def is_at_least(sluice, number):
    return await generation(sluice) >= number


async def test_what_needs_a_restart_is_reported_and_the_rest_is_live(sluice, provider):
    text = POLICY.format(url=provider.url) + 'server: {listen: 127.0.0.1:1, drain: 3s}\nstate: "memory:"\ndefault_max_tokens: 77\n'
    sluice.policy.write_text(text)
    await is_live(sluice, 2)
    await asyncio.sleep(0.3)
    warnings = {line["warning"] for line in logged(sluice, "policy")}
    assert {"server.listen changed: needs a restart", "server.drain changed: needs a restart", "state changed: needs a restart"} <= warnings
    got = await asked(sluice)
    assert got.status == 200
    (row,) = await sluice.rows()
    assert row["held_nanousd"] < 2_000_000, "77 tokens of output, no longer 4,096"


async def test_a_secret_file_is_read_again_when_it_changes(provider, tmp_path):
    secret = tmp_path / "key"
    secret.write_text("sk-first-key\n")
    secret.chmod(0o600)
    text = f'version: 1\nproviders: {{openai: {{url: "{provider.url}", key: "file:{secret}"}}}}\n'
    async with sidecar(tmp_path, text) as sluice:
        for key, number in (("sk-first-key", 1), ("sk-second-key", 2)):
            secret.write_text(key)
            await within(LIVE_S, lambda number=number: is_at_least(sluice, number))
            got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON], chat.asked())
            assert (got.status, provider.seen[-1].header("authorization")) == (200, f"Bearer {key}")
        secret.unlink()
        await asyncio.sleep(1.5)
        assert (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON], chat.asked())).status == 200, "the last good one serves on"


async def test_a_limit_that_is_removed_with_spend_on_it_warns_with_the_amount(sluice, provider):
    assert (await asked(sluice)).status == 200
    (row,) = await sluice.rows()
    sluice.policy.write_text(f'version: 1\nproviders: {{openai: {{url: "{provider.url}"}}}}\n')
    await is_live(sluice, 2)
    await asyncio.sleep(0.3)
    (line,) = logged(sluice, "limit removed that held spend")
    assert ("all" in line["limit"], line["usd"]) == (True, f"{chat.COST / 1e9:.9f}")
    short = row["held_nanousd"] + row["cost_nanousd"] - 1
    sluice.policy.write_text(POLICY.format(url=provider.url).replace("$50", f"${short / 1e9:.9f}"))
    await is_live(sluice, 3)
    got = await asked(sluice)
    assert (got.status, got.code) == (402, "budget_exhausted"), "back again, it remembers what was spent"


async def test_a_budget_lowered_below_its_spend_refuses_new_calls_and_lets_running_streams_finish(sluice, provider):
    go_on = asyncio.Event()

    async def script(seen, reply):
        await reply.start()
        await reply.event(chat.delta("a"))
        await go_on.wait()
        await chat.stream_end(reply)

    provider.script = script
    async with Caller(sluice.port) as caller:
        await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked(stream=True))
        await caller.head()
        sluice.policy.write_text(POLICY.format(url=provider.url).replace("$50/total", "$0.001/total"))
        await is_live(sluice, 2)
        got = await asked(sluice)
        assert got.status in (400, 402) and got.code in ("budget_exhausted", "exceeds_limit")
        go_on.set()
        assert (await caller.rest()).endswith(b"[DONE]\n\n")


async def test_30_reloads_under_load_fail_no_call(sluice, provider):
    async def script(seen, reply):
        if not json.loads(seen.body).get("stream"):
            await reply.json(chat.whole())
            return
        await reply.start()
        for _ in range(10):
            await reply.event(chat.delta("word "))
            await asyncio.sleep(0.05)
        await chat.stream_end(reply)

    provider.script = script
    stop, results = asyncio.Event(), []

    async def caller(number):
        async with Caller(sluice.port) as one:
            while not stop.is_set():
                got = await one.ask("POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked(stream=number % 2 == 0))
                results.append((got.status, got.body.endswith(b"[DONE]\n\n") if number % 2 == 0 else got.json == chat.whole()))
                await asyncio.sleep(0.02)

    load = [asyncio.ensure_future(caller(number)) for number in range(8)]
    good = POLICY.format(url=provider.url)
    for number in range(30):
        sluice.policy.write_text(good + (f"default_max_tokens: {100 + number}\n" if number % 3 else "nonsense: 1\n"))
        sluice.process.send_signal(signal.SIGHUP)
        await asyncio.sleep(0.1)
    sluice.policy.write_text(good)
    sluice.process.send_signal(signal.SIGHUP)
    await asyncio.sleep(0.5)
    stop.set()
    await asyncio.gather(*load)
    assert set(results) == {(200, True)} and len(results) > 100
    assert await failed_reloads(sluice) >= 5
    assert await generation(sluice) >= 10
    used = {row["policy_generation"] for row in await sluice.rows()}
    assert len(used) > 5, "the load ran under many generations"
