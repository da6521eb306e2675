"""`sluice keys new`: a key that works, shown once, in the running process or in the state of a stopped one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from pathlib import Path

import aiohttp
import pytest
import yaml
from support.ports import free_port
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice, sidecar
from support.valkey import valkey

KEY = re.compile(r"slk-[A-Za-z0-9_-]{43}\n")
POLICY = """\
    server: {{admin_token: env:ADMIN_TOKEN}}
    providers: {{openai: {{url: "{url}", key: env:PROVIDER_KEY}}}}
    callers: {{anonymous: deny, pass_through: deny}}
    tiers: {{free: {{requests: 5/min}}}}
    teams: {{finance: {{}}}}
"""
ENV = {"PROVIDER_KEY": "the-provider-key", "ADMIN_TOKEN": "the-admin-token"}
TOKEN = {"SLUICE_ADMIN_TOKEN": "the-admin-token"}
BODY = {"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}]}


async def answer(_: Seen, reply: Reply) -> None:
    message = {"role": "assistant", "content": "hello"}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    await reply.json({"model": "gpt-4o", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage})


async def called(one: Sluice, key: str) -> int:
    headers = {"authorization": f"Bearer {key}"}
    url = one.url + "/openai/v1/chat/completions"
    async with aiohttp.ClientSession() as session, session.post(url, json=BODY, headers=headers) as reply:
        return reply.status


async def rows(one: Sluice) -> list[dict]:
    headers = {"authorization": "Bearer the-admin-token"}
    async with aiohttp.ClientSession() as session, session.get(one.admin + "/admin/ledger", headers=headers) as reply:
        return (await reply.json())["rows"]


async def test_a_key_minted_into_the_running_process_works_at_once(sluice, tmp_path):
    async with Provider(answer) as provider, sidecar(tmp_path, POLICY.format(url=provider.url), ENV) as one:
        words = ("keys", "new", "bob", "--tier", "free", "--team", "finance", "--admin", one.admin)
        done = await asyncio.to_thread(sluice, *words, env=TOKEN)
        assert done.returncode == 0
        assert KEY.fullmatch(done.stdout)
        key = done.stdout.strip()
        assert key not in done.stderr and "the-admin-token" not in done.stderr
        assert await called(one, key) == 200
        assert [(row["caller"], row["tier"], row["team"]) for row in await rows(one)] == [("bob", "free", "finance")]
        assert key not in one.logged()


async def test_what_the_running_process_refuses_is_one_clear_line(sluice, tmp_path):
    async with sidecar(tmp_path, POLICY.format(url="http://127.0.0.1:1"), ENV) as one:
        for words, env, said in (
            (("bob",), {}, "SLUICE_ADMIN_TOKEN"),
            (("bob",), {"SLUICE_ADMIN_TOKEN": "wrong"}, "SLUICE_ADMIN_TOKEN"),
            (("bob", "--tier", "fre"), TOKEN, "declare it under tiers:"),
            (("bob", "--team", "finanze"), TOKEN, "declare it under teams:"),
        ):
            done = await asyncio.to_thread(sluice, "keys", "new", *words, "--admin", one.admin, env=env)
            assert (done.returncode, done.stdout) == (1, "")
            assert done.stderr.count("\n") == 1 and said in done.stderr


async def test_a_key_minted_into_the_state_of_a_stopped_process_works_when_it_starts(sluice, tmp_path):
    state = tmp_path / "state"
    done = await asyncio.to_thread(sluice, "keys", "new", "bob", "--tier", "free", env={"SLUICE_STATE": f"sqlite:{state}"})
    assert (done.returncode, bool(KEY.fullmatch(done.stdout))) == (0, True)
    assert str(state) in done.stderr and done.stdout.strip() not in done.stderr
    async with Provider(answer) as provider, sidecar(tmp_path, POLICY.format(url=provider.url), ENV) as one:
        assert one.state == state
        assert await called(one, done.stdout.strip()) == 200
        assert [row["caller"] for row in await rows(one)] == ["bob"]


async def test_the_state_of_a_running_process_is_left_alone(sluice, tmp_path):
    async with sidecar(tmp_path, POLICY.format(url="http://127.0.0.1:1"), ENV) as one:
        assert one.process is not None
        done = await asyncio.to_thread(sluice, "keys", "new", "bob", "--state", f"sqlite:{one.state}")
        assert (done.returncode, done.stdout) == (1, "")
        assert f"locked by process {one.process.pid}" in done.stderr and "--admin" in done.stderr


def test_the_default_state_is_the_users_own(sluice, alone):
    assert sluice("keys", "new", "bob").returncode == 0
    assert (Path(alone["HOME"]) / ".local/state/sluice/ledger.sqlite").exists()


def test_print_gives_the_line_for_the_policy_and_the_key_and_touches_nothing(sluice, alone, tmp_path):
    done = sluice("keys", "new", "bob", "--print", "--tier", "free", "--team", "true")
    line, key = done.stdout.splitlines()
    digest = hashlib.sha256(key.encode()).hexdigest()
    assert yaml.safe_load(line) == [{"name": "bob", "hash": f"sha256:{digest}", "tier": "free", "team": "true"}]
    assert key not in done.stderr
    assert not list(Path(alone["HOME"]).iterdir())
    policy = tmp_path / "policy.yaml"
    policy.write_text(f'tiers: {{free: {{}}}}\nteams: {{"true": {{}}}}\ncallers:\n  keys:\n    {line}\n')
    assert sluice("check", policy).returncode == 0


@pytest.mark.parametrize("name", ["", "two words", "a\nb", "-x"])
def test_what_is_no_name_mints_nothing(sluice, alone, name):
    done = sluice("keys", "new", "--", name)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and "name" in done.stderr
    assert not list(Path(alone["HOME"]).iterdir())


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("memory:", "memory: keeps no key"),
        ("redis://127.0.0.1:1/0", "does not answer"),
        ("sqlite:/dev/null", "is a file: give a directory"),
    ],
)
def test_a_state_that_takes_no_key_is_one_clear_line(sluice, state, said):
    done = sluice("keys", "new", "bob", "--state", state)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1 and said in done.stderr


def test_a_listener_of_this_machine_that_is_not_there_means_its_state(sluice, alone, tmp_path):
    here = sluice("keys", "new", "bob", "--admin", f"127.0.0.1:{free_port()}", "--state", f"sqlite:{tmp_path / 'state'}")
    assert here.returncode == 0
    assert (tmp_path / "state" / "ledger.sqlite").exists()


async def test_a_key_is_listed_rotated_and_revoked_in_the_running_process(sluice, tmp_path):
    async with Provider(answer) as provider, sidecar(tmp_path, POLICY.format(url=provider.url), ENV) as one:

        async def run(*words):
            return await asyncio.to_thread(sluice, "keys", *words, "--admin", one.admin, env=TOKEN)

        first = (await run("new", "bob", "--requests", "2/min", "--allow-model", "gpt-4o*")).stdout.strip()
        assert [await called(one, first) for _ in range(3)] == [200, 200, 429], "a limit of its own"
        rotated = await run("rotate", "bob", "--overlap", "1h")
        second = rotated.stdout.strip()
        assert KEY.fullmatch(rotated.stdout) and second != first
        assert [await called(one, key) for key in (first, second)] == [429, 429], "both are bob, whose counters go on"
        listed = json.loads((await run("list", "--json")).stdout)["keys"]
        assert [(key["name"], key["state"], key["own_limits"]) for key in listed] == [
            ("bob", "rotated", ["requests"]), ("bob", "active", ["requests"]),
        ]  # fmt: skip
        assert all(secret not in json.dumps(listed) for secret in (first, second, hashlib.sha256(first.encode()).hexdigest()))
        old = next(key["id"] for key in listed if key["state"] == "rotated")
        assert old in (await run("list")).stdout
        assert (await run("revoke", "--id", old)).stdout == f"revoked: bob {old}\n"
        assert [await called(one, key) for key in (first, second)] == [401, 429]
        assert (await run("revoke", "bob")).returncode == 0
        assert await called(one, second) == 401
        gone = await run("rotate", "bob")
        assert (gone.returncode, gone.stdout) == (1, "") and gone.stderr.count("\n") == 1


def test_a_key_in_the_state_of_a_stopped_process_is_listed_rotated_and_revoked(sluice, tmp_path):
    env = {"SLUICE_STATE": f"sqlite:{tmp_path / 'state'}"}
    first = sluice("keys", "new", "bob", "--spend", "$5/day", env=env).stdout.strip()
    rotated = sluice("keys", "rotate", "bob", "--overlap", "0s", env=env)
    assert KEY.fullmatch(rotated.stdout) and rotated.stdout.strip() != first
    listed = json.loads(sluice("keys", "list", "--json", env=env).stdout)["keys"]
    assert [(key["state"], key["own_limits"]) for key in listed] == [("expired", ["spend"]), ("active", ["spend"])]
    assert sluice("keys", "revoke", "bob", env=env).stdout.count("revoked: bob") == 2
    assert "there are no keys yet" in sluice("keys", "list", env={"SLUICE_STATE": f"sqlite:{tmp_path / 'other'}"}).stdout
    free = sluice("keys", "new", "ann", "--requests", "off", "--tokens", "5k/min", "--tokens", "1M/day", "--concurrency", "off", env=env)
    assert KEY.fullmatch(free.stdout)
    listed = json.loads(sluice("keys", "list", "--json", env=env).stdout)["keys"]
    assert listed[0]["own_limits"] == ["concurrency", "requests", "tokens"]
    both = ("revoke", "ann", "--id", listed[0]["id"])
    for words in (("rotate", "eve"), ("revoke", "eve"), ("revoke",), both, ("rotate", "bob", "--overlap", "soon")):
        done = sluice("keys", *words, env=env)
        assert (done.returncode, done.stdout) == (1, "") and done.stderr.count("\n") == 1
    for bad in (("--requests", "5"), ("--spend", "5/day"), ("--expires", "soon"), ("--expires", "2020-01-01"), ("--concurrency", "-1")):
        assert sluice("keys", "new", "eve", *bad, env=env).returncode == 1


def test_the_keys_of_a_fleet_are_written_into_its_redis(sluice):
    with valkey() as server:
        env = {"SLUICE_STATE": server.url}
        assert KEY.fullmatch(sluice("keys", "new", "bob", "--tier", "free", "--namespace", "prod", env=env).stdout)
        assert KEY.fullmatch(sluice("keys", "rotate", "bob", "--overlap", "0s", "--namespace", "prod", env=env).stdout)
        assert sluice("keys", "revoke", "bob", "--namespace", "prod", env=env).stdout.count("revoked: bob") == 2
        listed = json.loads(sluice("keys", "list", "--json", "--namespace", "prod", env=env).stdout)["keys"]
        assert [(key["name"], key["state"], key["tier"]) for key in listed] == [("bob", "revoked", "free")] * 2
        assert json.loads(sluice("keys", "list", "--json", env=env).stdout) == {"keys": []}, "another namespace, other keys"
