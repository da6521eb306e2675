"""What cannot start says why in one clear line on stderr and exits with 78; what it found is left as it was."""

import asyncio
import ctypes
import os
import socket
import sys

import pytest
from support.ports import free_port
from support.provider import Provider
from support.sluice import ROOT, sidecar

CANNOT_START = 78
GOOD = "version: 1\nproviders: {openai: {url: 'http://127.0.0.1:9'}}\n"


def without_leave_to_all():
    """Root, too, is bound by the modes of files: the new process has neither CAP_DAC_OVERRIDE nor CAP_DAC_READ_SEARCH."""
    prctl, drop_from_bounding_set = ctypes.CDLL(None).prctl, 24
    for capability in (1, 2):
        prctl(drop_from_bounding_set, capability, 0, 0, 0)


async def serve(folder, policy=GOOD, *args, env=None):
    """Exit code, stdout and the lines of stderr of a start that is to fail."""
    if policy is not None:
        (folder / "policy.yaml").write_text(policy)
    options = {"--policy": str(folder / "policy.yaml"), "--listen": f"127.0.0.1:{free_port()}", "--admin": f"127.0.0.1:{free_port()}",
               "--state": f"sqlite:{folder / 'state'}", **dict(zip(args[::2], args[1::2], strict=True))}  # fmt: skip
    command = [sys.executable, "-m", "proxy", "serve", *(word for pair in options.items() for word in pair)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SLUICE_")}
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=ROOT,
        preexec_fn=without_leave_to_all,
        env={**clean, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **(env or {})},
    )  # fmt: skip
    try:
        out, err = await asyncio.wait_for(process.communicate(), 15)
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
        raise AssertionError(f"it started: {err.decode()}") from None
    return process.returncode, out.decode(), err.decode().splitlines()


def check(result, *words):
    code, out, lines = result
    assert code == CANNOT_START, lines
    assert out == "" and len(lines) == 1, lines
    assert lines[0].startswith("sluice: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.mark.parametrize("which", ["--listen", "--admin"])
async def test_a_port_in_use_is_named(tmp_path, which):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        check(await serve(tmp_path, GOOD, which, address), address, "in use", which)


@pytest.mark.parametrize(
    ("address", "word"),
    [("127.0.0.1:http", "HOST:PORT"), ("192.0.2.1:8080", "192.0.2.1"), ("unix:/nowhere/at/all.sock", "/nowhere/at/all.sock")],
)
async def test_an_address_that_cannot_be_had_is_named(tmp_path, address, word):
    check(await serve(tmp_path, GOOD, "--listen", address), word)


async def test_a_policy_that_is_not_there_is_named(tmp_path):
    check(await serve(tmp_path, None), "policy.yaml")


async def test_every_error_of_a_policy_is_a_line_with_its_place(tmp_path):
    code, out, lines = await serve(tmp_path, "version: 1\nprovidrs: {}\nlimits: [{name: a, spend: 5}]\n")
    assert (code, out) == (CANNOT_START, "")
    assert len(lines) == 2 and all(line.startswith("sluice: ") and "policy.yaml:" in line for line in lines), lines
    assert "policy.yaml:2:1: " in lines[0] and "providers" in lines[0]
    assert "policy.yaml:3:" in lines[1]


async def test_a_secret_that_is_not_set_is_named_and_no_other_is_shown(tmp_path):
    policy = GOOD.replace("url:", "keys: [env:SET_ONE, env:NOT_SET_HERE], url:")
    result = await serve(tmp_path, policy, env={"SET_ONE": "sk-value-of-the-set-one"})
    check(result, "NOT_SET_HERE")
    assert "sk-value" not in result[2][0]
    check(await serve(tmp_path, GOOD.replace("url:", "key: 'file:not-there.key', url:")), "not-there.key")


async def test_a_locked_state_is_named_and_the_process_that_has_it_lives_on(tmp_path):
    async def script(seen, reply):
        await reply.json({})

    async with Provider(script) as provider, sidecar(tmp_path, f"version: 1\nproviders: {{openai: {{url: '{provider.url}'}}}}\n") as sluice:
        check(await serve(tmp_path, None), str(sluice.state))
        assert (await sluice.get("/admin/usage?by=model")) == {"rows": []}


@pytest.mark.parametrize("how", ["a file in its place", "a folder without leave to write", "no leave to make it"])
async def test_a_state_that_cannot_be_written_is_named(tmp_path, how):
    state = tmp_path / "state"
    if how == "a file in its place":
        state.write_text("something else")
        check(await serve(tmp_path, GOOD), str(state))
        assert state.read_text() == "something else"
        return
    inside = tmp_path / "inside"
    inside.mkdir()
    where = inside if how == "a folder without leave to write" else inside / "below"
    inside.chmod(0o555)
    check(await serve(tmp_path, GOOD, "--state", f"sqlite:{where}"), str(where))
    assert list(inside.iterdir()) == []


async def test_a_journal_that_is_garbage_is_not_taken_for_an_empty_one(tmp_path):
    async def script(seen, reply):
        await reply.json({})

    async with Provider(script) as provider:
        policy = f"version: 1\nproviders: {{openai: {{url: '{provider.url}'}}}}\n"
        async with sidecar(tmp_path, policy) as sluice:
            ledger = sluice.state / "ledger.sqlite"
    ledger.write_bytes(b"this is no database" * 1000)
    check(await serve(tmp_path, None), str(sluice.state))


@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]", ""])
async def test_a_key_of_ours_on_an_open_address_wants_a_word_about_anonymous_callers(tmp_path, listen):
    policy = GOOD.replace("url:", "key: env:KEY, url:")
    check(await serve(tmp_path, policy, "--listen", f"{listen}:{free_port()}", env={"KEY": "sk-value"}), "anonymous")


async def test_a_wrong_state_url_is_named_without_its_password(tmp_path):
    result = await serve(tmp_path, GOOD, "--state", "redis://user:hunter2secret@127.0.0.1:66000/0")
    check(result)
    assert "hunter2" not in result[2][0]


async def test_the_environment_names_what_the_options_do_not(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (tmp_path / "policy.yaml").write_text(GOOD)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "SLUICE_POLICY": str(tmp_path / "policy.yaml"), "SLUICE_LISTEN": f"127.0.0.1:{port}",
               "SLUICE_ADMIN": f"127.0.0.1:{free_port()}", "SLUICE_STATE": "memory:"}  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "proxy", "serve", env=env, cwd=ROOT, stderr=asyncio.subprocess.PIPE
        )
        _, err = await asyncio.wait_for(process.communicate(), 15)
        assert process.returncode == CANNOT_START and str(port) in err.decode()
