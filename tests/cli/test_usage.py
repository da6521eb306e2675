"""`sluice usage`: the sums of the running process, or of its state with the lag stated."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice, sidecar

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
        yield one


async def test_the_running_process_is_asked(sluice, used):
    done = await asyncio.to_thread(sluice, "usage", "--admin", used.admin)
    assert (done.returncode, done.stderr) == (0, "")
    titles, _, *lines = done.stdout.splitlines()
    assert titles.split()[:4] == ["caller", "requests", "attempts", "refusals"]
    assert [(line.split()[0], line.split()[1], line.split()[-2]) for line in lines] == [
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
