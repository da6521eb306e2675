"""config/policy.yaml and config/examples/: what `make run` and a reader start from."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest
from pydantic import BaseModel
from support.provider import Provider, Reply, Seen
from support.sluice import Sluice, sidecar

from proxy.policy.build import compile_policy
from proxy.policy.model import PolicyModel
from proxy.policy.model_callers import Kubernetes, Networks, Signatures
from proxy.policy.model_limits import Alerts, Degrade, Ledger
from proxy.policy.model_rules import Cache, CustomEntity, Hedge, Injection, Inputs, Optimize, OutputGuard, VirtualModel
from proxy.policy.read import read_policy
from proxy.policy.tree import read_tree
from proxy.policy.unsupported import ROWS

ROOT = Path(__file__).resolve().parents[2]
DEFAULT = ROOT / "config/policy.yaml"
EXAMPLES = sorted((ROOT / "config/examples").glob("*.yaml"))
LINES = DEFAULT.read_text().splitlines()
SETTING = re.compile(r"^(?P<indent> *)#(?P<setting>- \{name: (?P<item>[\w-]+).*|- \{.*|(?P<key>[\w-]+):.*)$")
NEEDS = re.compile(r"# needs ([\w, -]+?)(?:;|$)")
OFF = {number: found for number, line in enumerate(LINES) if (found := SETTING.match(line))}
BY_NAME = {found["key"] or found["item"]: number for number, found in OFF.items() if found["key"] or found["item"]}


def with_settings(numbers: set[int]) -> str:
    """The policy with these lines un-commented."""
    return "\n".join(re.sub(r"^( *)#", r"\1", line) if number in numbers else line for number, line in enumerate(LINES)) + "\n"


def needed(number: int) -> set[int]:
    """The line, and those that it says it needs, and those that these need."""
    found = {number}
    if (said := NEEDS.search(LINES[number])) is not None:
        for name in said[1].split(","):
            found |= needed(BY_NAME[name.strip()])
    return found


def checked(file: Path) -> str:
    """What `sluice check` prints of a file that is right."""
    done = subprocess.run(
        [sys.executable, "-m", "proxy", "check", str(file)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_default_policy_passes_check() -> None:
    assert "personal data is masked" not in checked(DEFAULT)


def test_the_default_policy_limits_nothing_and_flags_personal_data() -> None:
    document = read_policy(DEFAULT)
    rulebook = compile_policy(document, environ={}, base=DEFAULT.parent, generation=1)
    assert rulebook.limits == ()
    assert not rulebook.callers.keys and not rulebook.callers.issuers
    assert rulebook.callers.pass_through is not None
    assert document.model.guard is not None and document.model.guard.pii == {"default": "flag"}
    assert document.model.retry == PolicyModel().retry and document.model.breaker == PolicyModel().breaker


async def test_the_default_policy_serves_flags_personal_data_and_leaves_every_byte_as_it_is(tmp_path: Path) -> None:
    async def answer(_: Seen, reply: Reply) -> None:
        await reply.json(
            {"choices": [{"message": {"role": "assistant", "content": "hi"}}], "usage": {"prompt_tokens": 5, "completion_tokens": 1}}
        )

    body = b'{"model": "gpt-4o",  "messages": [{"role":"user","content":"mail ada@ada-lovelace.net"}]}'
    headers = {"authorization": "Bearer sk-mine", "content-type": "application/json"}
    async with Provider(answer) as provider:
        policy, found = re.subn(r"(?m)^providers: .*$", f'providers: {{openai: {{url: "{provider.url}"}}}}', "\n".join(LINES))
        assert found == 1
        async with sidecar(tmp_path, policy) as one, aiohttp.ClientSession() as session:
            async with session.post(one.url + "/openai/v1/chat/completions", data=body, headers=headers) as reply:
                assert reply.status == 200
                assert reply.headers["x-sluice-guard"] == "flagged email=1"
            (row,) = await one.rows()
    assert provider.seen[0].body == body
    assert provider.seen[0].header("authorization") == "Bearer sk-mine"
    assert row["cost_nanousd"] > 0 and row["caller"].startswith("pass-through:")


@pytest.mark.parametrize("number", OFF, ids=[OFF[number]["item"] or OFF[number]["key"] or f"line-{number + 1}" for number in OFF])
def test_each_commented_line_works_once_its_comment_is_taken_away(number: int) -> None:
    text = with_settings(needed(number))
    document = read_policy(DEFAULT, text)
    compile_policy(document, environ={}, base=DEFAULT.parent, generation=1, resolve=False)
    assert read_tree(text.encode()).data != read_tree(DEFAULT.read_bytes()).data


def test_all_commented_lines_work_together_by_the_command(tmp_path: Path) -> None:
    everything = tmp_path / "policy.yaml"
    everything.write_text(with_settings(set(OFF)))
    assert "billing-bot" in checked(everything)


def test_the_default_policy_shows_every_key_that_is_supported() -> None:
    shown = set(keys_in(read_tree(with_settings(set(OFF)).encode()).data, ()))
    unsupported = {tuple(row.path.split(".")) for row in ROWS if not row.accepts}
    missing = [path for path in keys_of(PolicyModel, ()) if not any(is_under(path, one) for one in unsupported) and path not in shown]
    assert not missing, f"not in config/policy.yaml: {missing}"


LATER = (
    Kubernetes,
    Signatures,
    Networks,
    Alerts,
    Degrade,
    Ledger,
    Cache,
    Hedge,
    Inputs,
    Optimize,
    Injection,
    OutputGuard,
    CustomEntity,
    VirtualModel,
)
ACCEPTED_AT_THEIR_DEFAULT_ALONE = {("on_state_down",), ("ledger",)}
ONE_PLACE_IS_ENOUGH = {"overrides", "allow", "at_limit", "guard", "retry", "timeouts", "match", "not", "fallback"}


def keys_of(model: type[BaseModel], at: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Paths of the language; `*` for the names and indexes of a map or list. What repeats another part is named, not walked."""
    found: list[tuple[str, ...]] = []
    for name, info in model.model_fields.items():
        path = (*at, info.alias or name)
        if path in ACCEPTED_AT_THEIR_DEFAULT_ALONE:
            continue
        found.append(path)
        if at and path[-1] in ONE_PLACE_IS_ENOUGH:
            continue
        for part, star in parts_of(info.annotation):
            if not issubclass(part, LATER):
                found += keys_of(part, (*path, *star))
    return found


def parts_of(annotation: object) -> list[tuple[type[BaseModel], tuple[str, ...]]]:
    """The models within a type, with `*` where they stand in a map or a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, ())]
    star = ("*",) if getattr(annotation, "__origin__", None) is tuple or "Mapping" in str(annotation)[:40] else ()
    return [(part, (*star, *inner)) for one in getattr(annotation, "__args__", ()) for part, inner in parts_of(one)]


def keys_in(data: object, at: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every path of a document, as it stands and with each name in turn replaced by `*`."""
    if isinstance(data, dict):
        items = [(key, value) for key, value in data.items()]
    else:
        items = [("*", value) for value in data] if isinstance(data, tuple) else []
    found: list[tuple[str, ...]] = []
    for key, value in items:
        for step in {key, "*"}:
            found += [(*at, step), *keys_in(value, (*at, step))]
    return found


def is_under(path: tuple[str, ...], row: tuple[str, ...]) -> bool:
    return len(path) >= len(row) and all(one in ("*", other) or other == "*" for one, other in zip(row, path, strict=False))


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_passes_check_without_a_warning(file: Path) -> None:
    checked(file)
    assert [str(one) for one in read_policy(file).warnings] == []


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_each_example_says_what_it_does_and_how_to_try_it(file: Path) -> None:
    head = [line for line in file.read_text().splitlines() if line.startswith("#")]
    assert not head[0].startswith("# Try:")
    assert len([line for line in head if line.startswith("# Try:  ")]) == 1


def tried(file: Path) -> tuple[dict[str, str], list[str]]:
    """The `Try:` line of an example → the variables it sets and its words."""
    line = next(line for line in file.read_text().splitlines() if line.startswith("# Try:"))
    words = shlex.split(line.removeprefix("# Try:"))
    settings = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_0-9]+=", word) and not word.startswith("ARGS="))
    return settings, words


@pytest.mark.parametrize("file", [file for file in EXAMPLES if "make" in tried(file)[1]], ids=lambda file: file.stem)
async def test_each_example_starts_with_the_variables_its_command_sets(file: Path, tmp_path: Path) -> None:
    settings, words = tried(file)
    assert f"ARGS=--policy {file.relative_to(ROOT)}" in words
    one = Sluice(tmp_path, file.read_text(), env=settings)  # noqa: ASYNC240  # a local disk, in a test
    try:
        await one.start()
    finally:
        assert await one.stop() == 0, one.logged()


async def test_an_example_without_its_variable_says_which_one_is_missing(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "SLUICE"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "proxy", "serve", "--policy", "config/examples/tiers.yaml", "--state", f"sqlite:{tmp_path / 'state'}",
        "--listen", "127.0.0.1:0", cwd=ROOT, env=environ, stderr=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 78
    assert "OPENAI_API_KEY" in said.decode()
