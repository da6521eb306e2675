"""One sidecar with one policy before scripted providers, for tests that look at what the policy does. Says nothing about right or wrong.

In the policy text `A_URL`, `B_URL` … stand for the providers' origins and `HASH(name)` for the hash of the Sluice key `slk(name)`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import signal
import textwrap
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from support.caller import Got, ask
from support.echo import echo
from support.provider import Provider, Seen
from support.sluice import Sluice, sidecar

CHAT = "/v1/chat/completions"


def slk(name: str) -> str:
    """A Sluice key of that name: the same in every run."""
    return "slk-" + urlsafe_b64encode(hashlib.sha256(name.encode()).digest()).rstrip(b"=").decode()


def spelt(policy: str, urls: Iterable[str] = ()) -> str:
    """The policy with its stand-ins replaced."""
    for letter, url in zip("ABCDEFGH", urls, strict=False):
        policy = policy.replace(f"{letter}_URL", url)
    policy = textwrap.dedent(policy)
    return re.sub(r"HASH\(([^)]*)\)", lambda found: "sha256:" + hashlib.sha256(slk(found[1]).encode()).hexdigest(), policy)


class World:
    def __init__(self, sluice: Sluice, providers: list[Provider]) -> None:
        self.sluice, self.providers = sluice, providers

    @property
    def provider(self) -> Provider:
        return self.providers[0]

    @property
    def last(self) -> Seen:
        return self.provider.seen[-1]

    def forget(self) -> None:
        """Every provider echoes again and remembers nothing."""
        for provider in self.providers:
            provider.script = echo
            provider.seen.clear()

    async def ask(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        key: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        peer: str | None = None,
    ) -> Got:
        """`key` names a Sluice key; a JWT and what begins with sk- are sent as they are."""
        lines = [] if body is None else [("Content-Type", "application/json")]
        if key is not None:
            lines.append(("Authorization", f"Bearer {key if key.startswith('sk-') or key.count('.') == 2 else slk(key)}"))
        return await ask(self.sluice.port, method, target, [*lines, *headers], body, peer)

    async def chat(
        self,
        key: str | None = None,
        *,
        provider: str = "openai",
        text: str = "hello",
        model: str = "gpt-4o",
        headers: Iterable[tuple[str, str]] = (),
        **more: object,
    ) -> Got:
        """One chat completion."""
        doc = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        return await self.ask("POST", f"/{provider}{CHAT}", json.dumps(doc).encode(), key, headers)

    async def row(self, got: Got) -> dict:
        """The newest ledger row of this answer's call."""
        return (await self.rows(got))[-1]

    async def rows(self, got: Got) -> list[dict]:
        """The ledger rows of this answer's call; they come with its last byte, or a moment after."""
        id = got.header("x-sluice-request-id")
        for _ in range(100):
            if found := [row for row in await self.sluice.rows() if row["request_id"] == id]:
                return found
            await asyncio.sleep(0.02)
        raise AssertionError(f"no row of call {id}")

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of all series of that name (without `sluice_`) that have these labels."""
        total = 0.0
        for line in (await self.sluice.metrics()).splitlines():
            found = re.fullmatch(r"sluice_(\w+)(?:\{(.*)\})? (\S+)", line)
            if found and found[1] == name and all(f'{label}="{value}"' in (found[2] or "") for label, value in labels.items()):
                total += float(found[3])
        return total

    async def reload(self, policy: str) -> None:
        """Another policy, by SIGHUP; back when it is live."""
        before = await self.metric("policy_generation")
        self.sluice.policy.write_text(spelt(policy, [provider.url for provider in self.providers]))
        assert self.sluice.process is not None
        self.sluice.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while await self.metric("policy_generation") == before:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def world(folder: Path, policy: str, env: dict[str, str] | None = None, providers: int = 1) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(Provider(echo)) for _ in range(providers)]
        sluice = await stack.enter_async_context(sidecar(folder, spelt(policy, [one.url for one in running]), env))
        yield World(sluice, running)
