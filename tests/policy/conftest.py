"""Fixtures of the policy room: a policy text → its problems, its document, its rulebook; a call's facts."""

from pathlib import Path

import pytest

from proxy.exchange import Caller
from proxy.policy.build import compile_policy
from proxy.policy.plan import Facts
from proxy.policy.problems import PolicyErrors
from proxy.policy.read import read_policy

ENVIRON = {"K": "provider-key", "A": "token-a", "B": "token-b", "LONG": "x" * 40, "ADMIN": "admin-token"}


@pytest.fixture
def problems():
    """text → ["3:5 path: message", …]; [] for a good policy."""

    def read(text):
        try:
            read_policy(Path("p.yaml"), text)
        except PolicyErrors as error:
            return [f"{one.line}:{one.col} {one.path}: {one.message}" for one in error.problems]
        return []

    return read


@pytest.fixture
def rulebook(tmp_path):
    """text → Rulebook; keyword arguments go to `compile_policy`."""

    def build(text="", environ=ENVIRON, base=tmp_path, generation=1, **more):
        return compile_policy(read_policy(Path("p.yaml"), text), environ=environ, base=base, generation=generation, **more)

    return build


@pytest.fixture
def facts():
    """A plain call; a caller is given by name, kind and the rest of its fields."""

    def make(caller="anonymous", model="gpt-4o", provider="openai", *, kind="key", headers=None, call=None, **fields):
        who = Caller(caller, kind, key=fields.pop("key", caller), **fields)
        more = {"operation": "chat", "method": "POST", "path": "/v1/chat/completions", "ip": "127.0.0.1"} | (call or {})
        return Facts(who, provider, headers=headers or {}, model=model, **more)

    return make
