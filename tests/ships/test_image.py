"""Dockerfile, .dockerignore and config/compose.yaml. No container engine is needed; what the image would run is run as it stands."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import aiohttp
import pytest
import yaml
from needs import beside_python
from support.ports import free_port
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice, sidecar

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()
STEPS = [
    (word, rest)
    for word, _, rest in (line.partition(" ") for line in re.sub(r"\\\n\s*", " ", TEXT).splitlines())
    if word.isupper() and word.isalpha()
]
COMPOSE = yaml.safe_load((ROOT / "config/compose.yaml").read_text())


def last(word: str) -> str:
    return [rest for name, rest in STEPS if name == word][-1]


def environment() -> dict[str, str]:
    return dict(item.split("=", 1) for item in last("ENV").split())


def test_hadolint_has_nothing_to_say_and_was_told_to_ignore_nothing() -> None:
    done = subprocess.run([beside_python("hadolint"), "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in TEXT and not (ROOT / ".hadolint.yaml").exists()


def test_the_base_is_an_argument_of_the_build_and_matches_the_python_of_the_lock() -> None:
    assert STEPS[0] == ("ARG", "BASE=python:3.11-slim-bookworm")
    assert [rest for word, rest in STEPS if word == "FROM"] == ["${BASE} AS build", "${BASE}"]


def test_the_image_runs_as_nobody_in_particular() -> None:
    user, group = last("USER").split(":")
    assert int(user) >= 10000 and int(group) >= 10000
    assert f"--chown={last('USER')} /var/lib/sluice" in TEXT


def test_every_package_is_locked_and_hashed() -> None:
    installs = [
        part for word, rest in STEPS if word == "RUN" for part in rest.split("&&") if re.search(r"\binstall\b.*(-r|\.whl)|pip wheel", part)
    ]
    assert len(installs) == 4
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)


def test_everything_the_build_copies_is_there_and_not_ignored() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    copied = [source for word, rest in STEPS if word == "COPY" and "--from" not in rest for source in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(one + "/") or fnmatch(source, one) for one in allowed), source


def test_nothing_secret_or_heavy_gets_into_the_build_context() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[1] == "*"
    assert not any(line.lstrip("!").startswith((".git", ".venv", "tests", ".env")) for line in lines if line.startswith("!"))


async def test_what_the_image_runs_starts_without_an_argument_and_its_health_check_sees_it(tmp_path: Path) -> None:
    settings = environment()
    admin = free_port()
    ours = {
        "SLUICE_POLICY": str(ROOT / last("COPY").split()[0]),
        "SLUICE_LISTEN": f"0.0.0.0:{free_port()}",
        "SLUICE_ADMIN": f"0.0.0.0:{admin}",
        "XDG_STATE_HOME": str(tmp_path),
    }
    assert last("COPY").split()[1] == settings["SLUICE_POLICY"]
    assert ours.keys() <= settings.keys()
    environ = {**os.environ, **{name: value for name, value in settings.items() if name != "PATH"}, **ours, "PYTHONPATH": str(ROOT)}
    entry, command = json.loads(last("ENTRYPOINT")), json.loads(last("CMD"))
    assert entry == ["sluice"]
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])

    async def healthy() -> bool:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *check[1:], env={**environ, "HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"},
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        return await process.wait() == 0

    assert not await healthy()
    with (tmp_path / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", *command, env=environ, cwd=tmp_path, stdout=log, stderr=log
        )
    try:
        for _ in range(100):
            if await healthy():
                break
            assert process.returncode is None, (tmp_path / "log").read_text()
        else:
            pytest.fail("never healthy: " + (tmp_path / "log").read_text())
    finally:
        if process.returncode is None:
            process.terminate()
        assert await asyncio.wait_for(process.wait(), 20) == 0


async def test_the_health_check_fails_when_nothing_listens_any_more(tmp_path: Path) -> None:
    check = json.loads(last("HEALTHCHECK").partition("CMD ")[2])
    async with sidecar(tmp_path, "version: 1") as one:
        environ = {**os.environ, "SLUICE_ADMIN": f"0.0.0.0:{one.admin_port}"}
        assert (await asyncio.to_thread(subprocess.run, [sys.executable, *check[1:]], env=environ, check=False)).returncode == 0
    done = await asyncio.to_thread(subprocess.run, [sys.executable, *check[1:]], env=environ, check=False, stderr=subprocess.DEVNULL)
    assert done.returncode != 0


async def test_a_caller_of_the_container_with_a_key_of_his_own_is_let_through_and_one_without_is_not(tmp_path: Path) -> None:
    async def answer(_: Seen, reply: Reply) -> None:
        await reply.json({"object": "list", "data": []})

    async with Provider(answer) as provider:
        policy = (ROOT / "config/examples/container.yaml").read_text() + f'providers: {{openai: {{url: "{provider.url}"}}}}\n'
        one = Sluice(tmp_path, policy)
        one.url = f"http://127.0.0.1:{one.port}"
        try:
            await one.start()
            async with aiohttp.ClientSession() as session:
                async with session.get(one.url + "/openai/v1/models", headers={"authorization": "Bearer sk-mine"}) as reply:
                    assert reply.status == 200
                async with session.get(one.url + "/openai/v1/models") as reply:
                    assert reply.status == 401
        finally:
            await one.stop()


def test_compose_publishes_on_this_machine_alone_and_keeps_the_root_file_system_read_only() -> None:
    service = COMPOSE["services"]["sluice"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert (ROOT / "config" / service["build"]["context"] / "Dockerfile").exists()


def test_compose_mounts_a_policy_that_exists_and_the_state_where_the_image_keeps_it() -> None:
    volumes = COMPOSE["services"]["sluice"]["volumes"]
    default, place = re.match(r"\$\{SLUICE_POLICY_FILE:-(.+)\}:(.+):ro", volumes[0]).groups()
    assert (ROOT / "config" / default).exists()
    assert place == environment()["SLUICE_POLICY"]
    assert volumes[1].partition(":")[2] == environment()["XDG_STATE_HOME"] + "/sluice"
    assert "SLUICE_STATE" not in environment(), "it would take the place of the policy's `state:`"


def test_the_redis_of_compose_is_started_only_where_it_is_asked_for() -> None:
    assert COMPOSE["services"]["redis"]["profiles"] == ["redis"]
