"""One sidecar before one scripted provider, with an entry of the policy for each test: no breaker, budget or key is shared by two."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass

import pytest
import pytest_asyncio
from support import chat
from support.caller import Got, ask
from support.ports import free_port
from support.provider import Provider, Script, Seen
from support.sluice import Sluice, sidecar

ENTRIES = 60
POLICY = """
version: 1
server: {{drain: 2s}}
timeouts: {{connect: 1s, first_byte: 1s, idle: 1s, total: 20s}}
retry: {{attempts: 3, backoff: 0.01s..0.05s}}
breaker: {{consecutive: 5, open: 1s..2s}}
callers: {{anonymous: known, pass_through: known, keys: [{{name: eu-caller, key: env:EU_CALLER, tier: known, team: eu}}]}}
tiers: {{known: {{spend: $1000/day}}}}
unmetered: flag
unknown_price: flag
teams: {{eu: {{allow: {{regions: [eu]}}}}}}
fallback:
  gpt-4.1: [azure/gpt-4.1]
  gpt-4o-mini: [elsewhere/gpt-4o-mini, azure/gpt-4o-mini]
providers:
  closed: {{dialect: openai, url: "http://127.0.0.1:{closed}"}}
  anthropic: {{url: "{url}", key: env:KEY_1}}
  azure:
    dialect: azure-openai
    url: "{url}"
    region: eu
    api_version: 2025-04-01-preview
    key: env:KEY_AZURE
    models: {{gpt-4.1: prod-gpt41-eu, gpt-4o-mini: prod-mini-eu}}
    headers: {{set: {{x-entry: azure}}}}
  elsewhere: {{dialect: openai, url: "{url}", region: us, key: env:KEY_1, headers: {{set: {{x-entry: elsewhere}}}}}}
{entries}
"""
ENTRY = '  entry{n}: {{dialect: openai, url: "{url}", region: eu, keys: [env:KEY_1, env:KEY_2], headers: {{set: {{x-entry: entry{n}}}}}}}'
ENVIRONMENT = {
    "KEY_1": "sk-provider-key-one-1111",
    "KEY_2": "sk-provider-key-two-2222",
    "KEY_AZURE": "azure-key-3333",
    "EU_CALLER": "eu" * 20,
}


@dataclass
class Case:
    """One test's own provider entry."""

    name: str
    world: World

    @property
    def sluice(self) -> Sluice:
        return self.world.sluice

    @property
    def target(self) -> str:
        return f"/{self.name}/v1/chat/completions"

    def answers(self, script: Script, entry: str | None = None) -> None:
        self.world.scripts[entry or self.name] = script

    def seen(self, entry: str | None = None) -> list[Seen]:
        return [seen for seen in self.world.provider.seen if seen.header("x-entry") == (entry or self.name)]

    async def ask(self, body: bytes | None = None, *headers: tuple[str, str], key: tuple[str, str] | None = chat.KEY) -> Got:
        own = [key] if key else []
        return await ask(self.sluice.port, "POST", self.target, [chat.JSON, *own, *headers], chat.asked() if body is None else body)

    async def rows(self, got: Got) -> list[dict]:
        """Those of one call."""
        return [row for row in await self.sluice.rows() if row["request_id"] == got.header("x-sluice-request-id")]


class World:
    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}
        self.numbers = itertools.count()
        self.sluice: Sluice
        self.provider = Provider(self._script)

    async def _script(self, seen: Seen, reply: object) -> None:
        await self.scripts[seen.header("x-entry") or "anthropic"](seen, reply)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory):
    world = World()
    async with world.provider:
        entries = "\n".join(ENTRY.format(n=n, url=world.provider.url) for n in range(ENTRIES))
        policy = POLICY.format(closed=free_port(), url=world.provider.url, entries=entries)
        async with sidecar(tmp_path_factory.mktemp("world"), policy, ENVIRONMENT) as world.sluice:
            yield world


@pytest.fixture
def case(world):
    return Case(f"entry{next(world.numbers)}", world)


@pytest.fixture
def in_turn():
    """`in_turn(one, two)`: a script that answers the first request by `one`, all later ones by `two`, and so on."""

    def make(*scripts: Script) -> Script:
        waiting = list(scripts)

        async def script(seen: Seen, reply: object) -> None:
            await (waiting.pop(0) if len(waiting) > 1 else waiting[0])(seen, reply)

        return script

    return make


@pytest.fixture
def row_soon():
    """`await row_soon(sluice, request_id)`: the one row of that call, as soon as it is written."""

    async def find(sluice: Sluice, request_id: str) -> dict:
        async with asyncio.timeout(20):
            while not (rows := [row for row in await sluice.rows() if row["request_id"] == request_id]):
                await asyncio.sleep(0.02)
        assert len(rows) == 1, rows
        return rows[0]

    return find
