"""`sluice serve` says where it is, and in one line why it is not."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import openai
import pytest
from support.ports import free_port
from support.sluice import ROOT

from proxy.app import Places
from proxy.cli.serve import ON_A_SOCKET, SDKS, banner
from proxy.policy.build import compile_policy
from proxy.policy.read import read_policy

RULES = compile_policy(read_policy(None), environ={}, base=Path(), generation=1)


def at(listen: str, admin: str = "127.0.0.1:9090") -> str:
    return banner(Places(None, listen, admin, None), RULES)


@pytest.mark.parametrize(
    ("listen", "origin"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("0.0.0.0:81", "http://127.0.0.1:81"),
        ("[::]:81", "http://[::1]:81"),
        ("[::1]:81", "http://[::1]:81"),
    ],
)
def test_the_lines_to_copy_name_an_address_that_can_be_reached(listen, origin):
    said = at(listen)
    assert f"export OPENAI_BASE_URL={origin}/openai/v1 " in said and f"export ANTHROPIC_BASE_URL={origin}/anthropic " in said


def test_every_line_to_copy_stands_in_the_readme_too():
    readme = (ROOT / "README.md").read_text()
    for line in SDKS.values():
        setting = line.format("http://127.0.0.1:8080").split("#")[0].strip().removeprefix("export ")
        assert f"`{setting}`" in readme


async def test_on_a_unix_socket_the_line_to_copy_works(tmp_path):
    """No URL holds a socket: what is printed is code, and is run here."""
    socket = tmp_path / "s.sock"
    said = at(f"unix:{socket}", "unix:/a.sock")
    assert "BASE_URL" not in said and "admin unix:/a.sock" in said
    line = next(one.strip() for one in said.splitlines() if "OpenAI(" in one)
    assert line == ON_A_SOCKET[0].format(socket)

    async def models(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        body = b'{"object": "list", "data": [{"id": "%s", "object": "model", "created": 1, "owned_by": "x"}]}' % target
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        writer.close()

    async with await asyncio.start_unix_server(models, socket):
        names = {"OpenAI": lambda **more: openai.OpenAI(api_key="x", **more), "httpx": httpx}
        with eval(line, names) as client:
            found = await asyncio.to_thread(lambda: [one.id for one in client.models.list()])
    assert found == ["/openai/v1/models"]


@pytest.mark.parametrize(
    ("policy", "state", "said"),
    [
        ("tiers: {free: {request: 10/min}}", "memory:", "p.yaml:1:16: tiers.free.request: unknown key; did you mean `requests`?"),
        ("providers: {openai: {key: env:NOT_HERE}}", "memory:", "p.yaml:1:27: providers.openai.key: env:NOT_HERE is not set"),
        ("providers: {openai: {key: file:nope}}", "memory:", "p.yaml:1:27: providers.openai.key: file:nope cannot be read"),
        ("", "sqlite:/dev/null/state", "the state /dev/null/state cannot be written"),
        ("", "sqlite:/proc/no-state-here", "the state /proc/no-state-here cannot be written"),
        ("", "redis://u:hunter2@h/zero", "the database of a shared state is a number"),
        ("", "redis://h/0?jurnal=x", "the URL of a shared state has a parameter that is not known; did you mean `journal`?"),
        ("state: rediss://h/0?ca=/nowhere", "", "`ca=` of the shared state is no readable certificate: /nowhere"),
        ("", "sqlite:~no-such-user/x", "the state 'sqlite:~no-such-user/x' has no home directory to stand in"),
        ("", "ftp:x", "the state 'ftp:' is not supported: use sqlite:PATH, redis://… or memory:"),
    ],
)
def test_what_keeps_it_from_starting_is_one_clear_line_and_exit_code_78(sluice, tmp_path, policy, state, said):
    (tmp_path / "p.yaml").write_text(policy)
    places = ["--listen", f"127.0.0.1:{free_port()}", "--admin", f"127.0.0.1:{free_port()}", "--state", state]
    done = sluice("serve", "--policy", tmp_path / "p.yaml", *places)
    assert (done.returncode, done.stdout) == (78, "")
    assert len(done.stderr.splitlines()) == 1 and said in done.stderr and "hunter2" not in done.stderr
