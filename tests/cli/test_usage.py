"""`sluice usage`: the sums of the running process, or of its state with the lag stated."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

import aiohttp
import pytest
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice, sidecar
from support.valkey import valkey

from proxy.record.stream import read_stream, stream_key

POLICY = """\
    providers: {{openai: {{url: "{url}", key: env:PROVIDER_KEY}}}}
    callers:
      keys:
        - {{name: ada, key: env:ADA, team: finance}}
        - {{name: bob, key: env:BOB}}
    teams: {{finance: {{}}}}
"""
ENV = {"PROVIDER_KEY": "the-provider-key", "ADA": "ada-token-0123456789", "BOB": "bob-token-0123456789"}


async def answer(seen: Seen, reply: Reply) -> None:
    message = {"role": "assistant", "content": "hello"}
    usage = {"prompt_tokens": 1000, "completion_tokens": 2000, "total_tokens": 3000}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    await reply.json({"model": seen.json["model"], "choices": choices, "usage": usage})


async def call(one: Sluice, who: str, model: str) -> None:
    headers = {"authorization": f"Bearer {ENV[who]}"}
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}]}
    url = one.url + "/openai/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=body, headers=headers) as reply:
        assert reply.status == 200, await reply.text()


@pytest.fixture
async def used(tmp_path):
    """A sidecar after two calls of ada's and one of bob's; gpt-4o costs $2.50 and $10 per million tokens."""
    async with Provider(answer) as provider, sidecar(tmp_path, POLICY.format(url=provider.url), ENV) as one:
        for who, model in (("ADA", "gpt-4o"), ("ADA", "gpt-4o"), ("BOB", "gpt-4o-mini")):
            await call(one, who, model)
            await asyncio.sleep(0.002)  # rows tell when they began to the millisecond
        yield one


async def test_the_running_process_is_asked(sluice, used):
    done = await asyncio.to_thread(sluice, "usage", "--admin", used.admin)
    assert (done.returncode, done.stderr) == (0, "")
    titles, _, *lines = done.stdout.splitlines()
    assert titles.split()[:4] == ["caller", "requests", "attempts", "refusals"]
    assert [(line.split()[0], line.split()[1], line.split()[-3]) for line in lines] == [
        ("ada", "2", "$0.045"),
        ("bob", "1", "$0.00135"),
        ("total", "3", "$0.04635"),
    ]


async def test_json_is_what_the_admin_api_says(sluice, used):
    for by, groups in (("caller", {"ada", "bob"}), ("model", {"gpt-4o", "gpt-4o-mini"}), ("team", {"finance", None}), ("day", None)):
        done = await asyncio.to_thread(sluice, "usage", "--by", by, "--json", "--admin", used.admin)
        said = json.loads(done.stdout)
        assert said == await used.get(f"/admin/usage?by={by}")
        assert sum(row["cost_nanousd"] for row in said["rows"]) == 46_350_000
        assert groups is None or {row[by] for row in said["rows"]} == groups


async def test_the_state_is_read_beside_the_running_process_with_the_lag_stated(sluice, used):
    state = f"sqlite:{used.state}"
    for _ in range(100):  # the index follows the journal within a moment
        done = await asyncio.to_thread(sluice, "usage", "--json", "--state", state)
        if "all of its journal" in done.stderr:
            break
        assert "of its journal are not in these sums yet" in done.stderr
    assert done.returncode == 0
    assert json.loads(done.stdout) == await used.get("/admin/usage?by=caller")
    assert f"read from the state {used.state}: all of its journal is in these sums" in done.stderr


async def test_the_state_of_a_stopped_process_is_read(sluice, used):
    await used.stop()
    done = await asyncio.to_thread(sluice, "usage", "--by", "model", env={"SLUICE_STATE": f"sqlite:{used.state}"})
    assert done.returncode == 0
    assert "no process asked" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == ["gpt-4o", "gpt-4o-mini", "total"]


@pytest.mark.parametrize(("state", "said"), [("sqlite:nowhere", "there is no ledger in nowhere"), ("memory:", "through the process alone")])
def test_a_state_that_has_no_ledger_is_one_clear_line(sluice, state, said):
    done = sluice("usage", "--state", state)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_nothing_used_yet_says_so(sluice, tmp_path):
    assert sluice("keys", "new", "bob", "--state", f"sqlite:{tmp_path}").returncode == 0
    done = sluice("usage", "--state", f"sqlite:{tmp_path}")
    assert (done.returncode, done.stdout) == (0, "nothing was used yet\n")


async def test_sums_are_of_the_span_that_is_asked_for(sluice, used):
    row = (await used.rows())[-1]
    for words, requests in ((("--since", "2020-01-01"), 3), (("--until", "2020-01-01"), 0), (("--since", row["at"]), 1)):
        done = await asyncio.to_thread(sluice, "usage", "--by", "provider", "--json", "--admin", used.admin, *words)
        assert sum(it["requests"] for it in json.loads(done.stdout)["rows"]) == requests, done.stderr


async def test_the_dearest_calls_and_what_failures_cost(sluice, used):
    top, state = ("usage", "--top", "2"), ("--state", f"sqlite:{used.state}")
    done = await asyncio.to_thread(sluice, *top, "--json", "--admin", used.admin)
    assert [(it["caller"], it["cost_nanousd"]) for it in json.loads(done.stdout)["rows"]] == [("ada", 22_500_000)] * 2
    table = await asyncio.to_thread(sluice, *top, "--admin", used.admin)
    assert [line.split()[-1] for line in table.stdout.splitlines()[2:]] == ["$0.0225", "$0.0225"]
    failed = await asyncio.to_thread(sluice, "usage", "--failed", "--admin", used.admin)
    assert (failed.returncode, failed.stdout) == (0, "no attempt failed\n")
    await used.stop()
    assert json.loads((await asyncio.to_thread(sluice, *top, "--json", *state)).stdout) == json.loads(done.stdout)


async def test_csv_is_what_the_admin_api_gives(sluice, used):
    for words, path in (
        (("--by", "model"), "usage?by=model"),
        (("--top", "5"), "usage/dearest?limit=5"),
        (("--failed",), "usage/failed?"),
    ):
        done = await asyncio.to_thread(sluice, "usage", *words, "--csv", "--admin", used.admin)
        async with aiohttp.ClientSession() as session, session.get(f"{used.admin}/admin/{path}&format=csv") as reply:
            assert done.stdout.replace("\r\n", "\n") == (await reply.text()).replace("\r\n", "\n")
        assert done.stdout.splitlines()[0].endswith(("cost_nanousd", "estimated_cost_nanousd"))


async def test_a_fleet_is_summed_from_its_stream_each_attempt_once(sluice, tmp_path):
    with valkey() as redis:
        async with Provider(answer) as provider, AsyncExitStack() as stack:
            policy = POLICY.format(url=provider.url) + "    observe: {ledger_stream: env:LEDGER_REDIS_URL}\n    namespace: prod\n"
            fleet = []
            for name in ("one", "two"):
                (tmp_path / name).mkdir()
                fleet.append(await stack.enter_async_context(sidecar(tmp_path / name, policy, {**ENV, "LEDGER_REDIS_URL": redis.url})))
            for who, model, one in (("ADA", "gpt-4o", fleet[0]), ("ADA", "gpt-4o", fleet[1]), ("BOB", "gpt-4o-mini", fleet[1])):
                await call(one, who, model)
            async with asyncio.timeout(20):
                while redis.ask("XLEN", "sluice:{prod}:ledger") < 3:
                    await asyncio.sleep(0.05)
            alone = [await one.get("/admin/usage?by=caller") for one in fleet]
        first = redis.ask("XRANGE", "sluice:{prod}:ledger", "-", "+", "COUNT", 1)[0][1]
        redis.ask("XADD", "sluice:{prod}:ledger", "*", *first)  # sent again, as after a crash
        where = ("--stream", "env:FLEET", "--namespace", "prod")
        env = {"FLEET": redis.url}
        said = {
            words: json.loads((await asyncio.to_thread(sluice, "usage", *words, "--json", *where, env=env)).stdout)["rows"]
            for words in ((), ("--top", "1"), ("--failed",))
        }
        plain = await asyncio.to_thread(sluice, "usage", "--stream", redis.url, "--namespace", "prod")
        bill, day = tmp_path / "bill.csv", (await asyncio.to_thread(lambda: next(read_stream(redis.url, stream_key("prod")))))["at"][:10]
        bill.write_text(f"date,model,cost_usd\n{day},gpt-4o,0.045\n{day},gpt-4o-mini,0.00135\n")
        agreed = await asyncio.to_thread(sluice, "reconcile", bill, "--json", *where, env=env)
    assert [(it["caller"], it["requests"], it["cost_nanousd"]) for it in said[()]] == [("ada", 2, 45_000_000), ("bob", 1, 1_350_000)]
    assert sum(it["cost_nanousd"] for it in said[()]) == sum(it["cost_nanousd"] for one in alone for it in one["rows"])
    assert said[()][0].keys() == alone[0]["rows"][0].keys()
    assert [it["cost_nanousd"] for it in said[("--top", "1")]] == [22_500_000] and said[("--failed",)] == []
    assert [line.split()[0] for line in plain.stdout.splitlines()[2:]] == ["ada", "bob", "total"]
    assert agreed.returncode == 0 and [it["difference_nanousd"] for it in json.loads(agreed.stdout)["lines"]] == [0, 0]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("redis://user:hunter2@127.0.0.1/0", "does not belong on a command line"),
        ("env:NOT_SET", "env:NOT_SET is empty"),
        ("env:BAD", "needs redis://"),
        ("file:/nowhere/at-all", "cannot be read"),
        ("http://127.0.0.1", "needs redis://"),
        ("redis://127.0.0.1:1/0", "the stream cannot be read (ConnectionError"),
    ],
)
def test_a_stream_that_cannot_be_asked_is_one_clear_line_without_a_secret(sluice, given, said):
    done = sluice("usage", "--stream", given, env={"BAD": "redis+nonsense://:hunter2@h"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr and "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "words", [("--top", "0"), ("--top", "many"), ("--since", "yesterday"), ("--top", "1", "--failed"), ("--json", "--csv")]
)
def test_a_question_that_makes_no_sense_is_refused(sluice, words):
    done = sluice("usage", *words)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
