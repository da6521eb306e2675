"""A policy read apart says what one read here says; who serves needs neither pydantic nor YAML for it."""

import dataclasses
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.policy import apart
from proxy.policy.build import compile_policy
from proxy.policy.exceptions import GUARD_KEYS, GUARD_OFF, RETRY_KEYS
from proxy.policy.limits import AT_LIMIT_KEYS
from proxy.policy.model_limits import AtLimit
from proxy.policy.model_rules import Guard, Retry
from proxy.policy.problems import PolicyErrors
from proxy.policy.read import read_policy

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = [ROOT / "config/policy.yaml", *sorted((ROOT / "config/examples").glob("*.yaml"))]


def plain(value):
    """A rulebook without its closures, which are never equal."""
    return {field.name: found for field in dataclasses.fields(value) if not callable(found := getattr(value, field.name))}


@pytest.fixture
def forked(monkeypatch):
    """Children are made, as `serve` makes them; what is read in this process is counted."""
    here = []
    read = apart._read
    monkeypatch.setattr(apart, "_read", lambda path: here.append(os.getpid()) or read(path))
    return here


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_what_is_compiled_from_it_is_the_same(path):
    whole, said = read_policy(path), apart.read_here(path)
    books = [
        compile_policy(document, environ={}, base=path.parent, generation=1, resolve=False, listen="127.0.0.1:8080")
        for document in (whole, said)
    ]
    assert plain(books[0]) == plain(books[1])
    assert (whole.references, whole.warnings) == (said.references, said.warnings)


def test_a_part_without_its_model_knows_what_was_named_and_what_its_properties_say():
    whole = read_policy(Path("p.yaml"), "limits: [{name: l, requests: 5/min, match: {'header:x-a': b, path: t}}]").model
    said = pickle.loads(pickle.dumps(whole))
    assert said.model_fields_set == {"limits"} and said.limits[0].model_fields_set == {"name", "requests", "match"}
    assert said.limits[0].given == whole.limits[0].given and said.limits[0].match.fields_asked == {"path": ("t",), "header:x-a": ("b",)}
    assert said == pickle.loads(pickle.dumps(whole)) and said != whole


def test_a_child_reads_it_and_its_problems_are_raised_here(tmp_path, forked):
    path = tmp_path / "policy.yaml"
    path.write_text("limits: [{name: l, requests: 5/min}]")
    assert apart.reading_apart(path)().model.limits[0].name == "l"
    path.write_text("limts: []")
    with pytest.raises(PolicyErrors, match="did you mean `limits`"):
        apart.reading_apart(path)()
    assert forked == []


def test_what_a_child_could_not_read_is_read_here(forked, monkeypatch):
    monkeypatch.setattr(apart, "_say", lambda pipe, path: os._exit(1))
    assert apart.reading_apart(None)().model.model_fields_set == set()
    assert forked == [os.getpid()]


def test_where_no_process_more_is_allowed_it_is_read_here(forked, monkeypatch):
    def fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    assert apart.reading_apart(None)().model.model_fields_set == set()
    assert forked == [os.getpid()]


def test_who_serves_a_policy_imports_neither_pydantic_nor_yaml():
    code = """if 1:
        import os, sys
        from pathlib import Path
        from proxy.policy.apart import reading_apart
        read = reading_apart(Path(sys.argv[1]))
        import proxy.app, proxy.cli.serve
        from proxy.policy.watch import load
        assert load(Path(sys.argv[1]), environ={"OPENAI_API_KEY": "k"}, generation=1, read=read).rulebook.providers
        print(*{name.partition(".")[0] for name in sys.modules})"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "config/examples/container.yaml")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not {"pydantic", "pydantic_core", "yaml"} & set(done.stdout.split())


def test_the_names_that_the_compiler_goes_through_are_those_of_the_model():
    assert set(RETRY_KEYS) == set(Retry.model_fields) and set(AT_LIMIT_KEYS) == set(AtLimit.model_fields)
    assert {key: getattr(Guard(), key) for key in (*GUARD_KEYS, "pii")} == dict(GUARD_OFF)
