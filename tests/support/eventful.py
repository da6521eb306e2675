"""A sidecar to which everything happens that a dashboard or an alert can show. Asserts each status: nothing happens by halves."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
from support.provider import Provider, Reply, Script, Seen
from support.sluice import Sluice, sidecar

KEYS = {"alice": "slk-" + "a" * 43, "bob": "slk-" + "b" * 43}
POLICY = """\
providers:
  openai: {{url: "{first}", key: env:EVENTFUL_KEY}}
  backup: {{dialect: openai, url: "{second}", allow_private: true, key: env:EVENTFUL_KEY}}
callers:
  keys:
    - {{name: alice, hash: "sha256:{alice}", tier: premium, team: finance}}
    - {{name: bob, hash: "sha256:{bob}", tier: free}}
tiers:
  premium: {{requests: 1000/min, spend: $5/day, concurrency: 50}}
  free: {{spend: $0.011/day}}
teams: {{finance: {{spend: $100/month}}}}
guard: {{pii: {{default: mask, credit_card: block}}}}
unknown_price: flag
retry: {{attempts: 2, backoff: 5ms..10ms, budget: 100%}}
breaker: {{consecutive: 4, open: 60s..90s}}
fallback: {{gpt-4.1: [backup/gpt-4.1]}}
"""


@asynccontextmanager
async def eventful(folder: Path) -> AsyncIterator[tuple[Sluice, Events]]:
    """The sidecar, and what makes things happen to it."""
    async with Provider(_first()) as first, Provider(_answers) as second:
        digests = {name: hashlib.sha256(key.encode()).hexdigest() for name, key in KEYS.items()}
        policy = POLICY.format(first=first.url, second=second.url, **digests)
        async with sidecar(folder, policy, env={"EVENTFUL_KEY": "sk-of-the-policy"}) as sluice, aiohttp.ClientSession() as session:
            yield sluice, Events(sluice, session)


class Events:
    """Each method is one kind of event; `all` is every one of them, and may be repeated."""

    def __init__(self, sluice: Sluice, session: aiohttp.ClientSession) -> None:
        self._sluice, self._session = sluice, session

    async def all(self) -> None:
        await self.answered()
        await self.retried()
        await self.fallen_back()
        await self.masked_and_blocked()
        await self.uncertain()
        await self.cut_off()
        await self.over_budget()
        await self.reloaded()

    async def answered(self) -> None:
        for streamed in (False, True):
            assert await self._call("alice", "gpt-4o", stream=streamed) == 200

    async def retried(self) -> None:
        assert await self._call("alice", "gpt-4o-mini") == 200

    async def fallen_back(self) -> None:
        """The first provider never answers for this model, so that its breaker opens."""
        for _ in range(4):
            assert await self._call("alice", "gpt-4.1") == 200

    async def masked_and_blocked(self) -> None:
        assert await self._call("alice", "gpt-4o", says="mail ada@example.org") == 200
        assert await self._call("alice", "gpt-4o", says="charge 4111 1111 1111 1111") == 400

    async def uncertain(self) -> None:
        """No usage, no price."""
        assert await self._call("alice", "o3-silent") == 200
        assert await self._call("alice", "model-that-nobody-priced") == 200

    async def cut_off(self) -> None:
        with contextlib.suppress(aiohttp.ClientPayloadError):
            await self._call("alice", "gpt-4o", says="break off", stream=True)
            raise AssertionError("a broken answer ended cleanly")

    async def over_budget(self) -> None:
        """The first takes nearly all there is, however little was asked for."""
        status = await self._call("bob", "gpt-4o", says="a lot", max_tokens=10)
        assert status in (200, 402)
        assert await self._call("bob", "gpt-4o", max_tokens=400) == 402

    async def reloaded(self) -> None:
        """A bad file, then the good one again."""
        good = self._sluice.policy.read_text()
        for text, metric in (
            ("tiers: {free: {spend: 5}}\n", "sluice_policy_reload_failed_total"),
            (good + "\n", "sluice_policy_generation"),
        ):
            before = await self._value(metric)
            self._sluice.policy.write_text(text)
            self._sluice.process.send_signal(signal.SIGHUP)
            for _ in range(200):
                if await self._value(metric) > before:
                    break
                await asyncio.sleep(0.05)
            else:
                raise AssertionError(f"{metric} stays at {before}:\n{self._sluice.logged()}")

    async def _value(self, metric: str) -> float:
        return float(next(line.split()[-1] for line in (await self._sluice.metrics()).splitlines() if line.startswith(metric + " ")))

    async def _call(self, caller: str, model: str, *, says: str = "hello", stream: bool = False, max_tokens: int = 50) -> int:
        body = {"model": model, "stream": stream, "max_tokens": max_tokens, "messages": [{"role": "user", "content": says}]}
        headers = {"authorization": f"Bearer {KEYS[caller]}"}
        async with self._session.post(self._sluice.url + "/openai/v1/chat/completions", json=body, headers=headers) as reply:
            await reply.read()
            return reply.status


def _first() -> Script:
    turn = 0

    async def script(seen: Seen, reply: Reply) -> None:
        nonlocal turn
        model = seen.json["model"]
        if model == "gpt-4o-mini":
            turn += 1
        if model == "gpt-4.1" or (model == "gpt-4o-mini" and turn % 2):
            await reply.json({"error": {"message": "try later", "type": "server_error"}}, status=503)
        else:
            await _answers(seen, reply)

    return script


async def _answers(seen: Seen, reply: Reply) -> None:
    asked = seen.json
    words = 1000 if asked["messages"][0]["content"] == "a lot" else 7
    details = {"prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}
    usage = {"prompt_tokens": 12, "completion_tokens": words, "total_tokens": 12 + words, **details}
    usage = {} if asked["model"] == "o3-silent" else {"usage": usage}
    head = {"id": "chatcmpl-1", "created": 1, "model": asked["model"]}
    if not asked["stream"]:
        message = {"index": 0, "message": {"role": "assistant", "content": "hello"}, "finish_reason": "stop"}
        await reply.json({**head, "object": "chat.completion", "choices": [message], **usage})
        return
    await reply.start()
    await reply.event({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "hello"}}]})
    if asked["messages"][0]["content"] == "break off":
        reply.abort()
        return
    await reply.event({**head, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    await reply.event({**head, "object": "chat.completion.chunk", "choices": [], **usage})
    await reply.event("[DONE]")
    await reply.end()
