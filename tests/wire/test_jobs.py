"""A job of a fleet: begun through one sidecar, read back through another, settled once, by whoever began it."""

import asyncio
import json
import textwrap
import time

from support import chat
from support.caller import ask
from support.provider import Provider
from support.sluice import sidecar
from support.valkey import valkey

WAIT_S = 40.0
USAGE = {"input_tokens": 500, "output_tokens": 200, "total_tokens": 700}
COST = 500 * 1_000 + 200 * 10_000
POLICY = textwrap.dedent("""\
    state: env:STATE
    providers: {{openai: {{url: "{url}", key: env:PROVIDER_KEY}}}}
    limits: [{{name: all, per: total, spend: $1/day}}]
    prices: {{gpt-4o: {{input: 1, cached_input: 1, cache_write: 1, output: 10}}}}
""")


def response(status: str, usage: object = None) -> dict[str, object]:
    return {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-4o", "status": status, "background": True,
            "output": [], "usage": usage}  # fmt: skip


async def jobs(one):
    return [row for row in await one.rows() if row["kind"] == "job"]


async def until(is_so):
    end = time.monotonic() + WAIT_S
    while not (found := await is_so()):
        assert time.monotonic() < end, "too late"
        await asyncio.sleep(0.1)
    return found


def held_and_settled(server):
    (key,) = server.ask("KEYS", "sluice:{default}:b:*")
    return tuple(int(it or 0) for it in server.ask("HMGET", key, "held", "settled"))


async def test_a_job_is_settled_by_whoever_began_it_whichever_sidecar_reads_it_back(tmp_path):
    state = {"said": response("queued")}

    async def script(seen, reply):
        await reply.json(state["said"])

    with valkey() as server:
        env = {"PROVIDER_KEY": "sk-provider", "STATE": server.url}
        args = ("--state", server.url)
        async with Provider(script) as provider:
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
            policy = POLICY.format(url=provider.url)
            async with (
                sidecar(tmp_path / "one", policy, env, args) as one,
                sidecar(tmp_path / "two", policy, env, args) as two,
            ):
                body = json.dumps({"model": "gpt-4o", "input": "x", "background": True, "max_output_tokens": 1000}).encode()
                got = await ask(one.port, "POST", "/openai/v1/responses", [chat.JSON], body)
                assert got.status == 200
                await until(lambda: asyncio.sleep(0, held_and_settled(server)[0] > 0))
                state["said"] = response("completed", USAGE)
                for _ in range(2):
                    assert (await ask(two.port, "GET", "/openai/v1/responses/resp_1", [], b"")).status == 200
                (job,) = await until(lambda: jobs(one))
                assert (job["cost_nanousd"], job["usage_source"], job["input_tokens"]) == (COST, "provider", 500)
                await until(lambda: asyncio.sleep(0, held_and_settled(server) == (0, COST)))
                assert (await ask(one.port, "GET", "/openai/v1/responses/resp_1", [], b"")).status == 200
                assert (await jobs(one), await jobs(two)) == ([job], [])
