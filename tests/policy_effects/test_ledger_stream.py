"""`observe.ledger_stream`: every row of the ledger goes to a Redis stream, by a real sidecar, whatever becomes of Redis."""

from __future__ import annotations

import asyncio
import json
import os
import sys

import pytest
from support.sluice import ROOT
from support.valkey import valkey
from support.world import world

from proxy.record.stream import read_stream, stream_key

POLICY = """
    providers: {openai: {url: A_URL}}
    callers: {keys: [{name: ada, hash: HASH(ada), tier: tight}]}
    tiers: {tight: {requests: 3/day}}
    observe: {ledger_stream: env:LEDGER_REDIS_URL, identities: hashed}
"""
KEY = stream_key("default")
PASSWORD = "hunter2-of-the-test"


async def rows(url: str, count: int) -> list[dict]:
    async with asyncio.timeout(20):
        while len(found := list(read_stream(url, KEY))) < count:
            await asyncio.sleep(0.05)
    return found


def down(here) -> list[dict]:
    return [line for line in here.sluice.log_lines() if line["event"] == "ledger stream down"]


async def test_every_row_goes_to_the_stream_as_the_ledger_shows_it_names_hashed_where_the_policy_says_so(tmp_path):
    with valkey() as redis:
        async with world(tmp_path, POLICY, {"LEDGER_REDIS_URL": redis.url}) as here:
            for _ in range(4):
                await here.chat("ada", headers=[("x-usage", "10,5,0")])
            sent = await rows(redis.url, 4)
            ledger = await here.sluice.rows()
            assert [{k: v for k, v in row.items() if k not in ("id", "day")} for row in sent] == ledger
            assert [row["kind"] for row in sent] == ["first", "first", "first", "refusal"]
            assert {row["caller"] for row in sent} == {ledger[0]["caller"]} and sent[0]["caller"].startswith("id:")
            async with asyncio.timeout(20):
                while await here.metric("ledger_stream_lag_rows"):
                    await asyncio.sleep(0.05)
            await here.reload(POLICY.replace("ledger_stream: env:LEDGER_REDIS_URL, ", ""))
            await here.chat("ada")
            await here.sluice.rows()
        assert len(await rows(redis.url, 4)) == 4, "off is off"


async def test_calls_go_on_while_redis_is_down_and_what_waited_arrives_after_a_restart(tmp_path):
    locked = valkey(f"requirepass {PASSWORD}")
    locked.admin = {"password": PASSWORD}
    with locked as redis:
        url = redis.url.replace("redis://", f"redis://:{PASSWORD}@")
        redis.kill9()
        async with world(tmp_path, POLICY, {"LEDGER_REDIS_URL": url}) as here:
            for _ in range(3):
                assert (await here.chat("ada")).status == 200
            async with asyncio.timeout(20):
                while await here.metric("ledger_stream_lag_rows") != 3 or not down(here):
                    await asyncio.sleep(0.05)
            await here.sluice.kill()
            redis.restart()
            await here.sluice.start()
            assert len(await rows(url, 3)) == 3
            (line,) = down(here)
            assert line["level"] == "warning" and PASSWORD not in here.sluice.logged() and str(redis.port) not in json.dumps(line)


@pytest.mark.parametrize("url", ["http://127.0.0.1:6379", "redis://", "redis+cluster://a:1,b:2", f"redis://:{PASSWORD}@h:port/0", "x"])
async def test_what_is_no_redis_is_refused_at_the_start_at_its_place(tmp_path, url):
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nobserve:\n  ledger_stream: env:LEDGER_REDIS_URL\n")
    serve = [sys.executable, "-m", "proxy", "serve", "--policy", str(policy), "--state", "memory:", "--listen", "127.0.0.1:0"]
    env = {**os.environ, "LEDGER_REDIS_URL": url}
    process = await asyncio.create_subprocess_exec(*serve, stdout=-1, stderr=-1, cwd=ROOT, env=env)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    said = (out + err).decode()
    assert process.returncode not in (0, None) and "policy.yaml:3:" in said and "needs redis://HOST:PORT/DB" in said
    assert PASSWORD not in said
