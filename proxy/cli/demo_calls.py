"""The calls of `sluice demo`, and how one is made. Knows nothing of processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import aiohttp

from proxy.cli.fake_provider import FAIL, PACE, WORDS, Seen

TIMEOUT_S = 10.0
OURS = "x-sluice-"
CHAT, MESSAGES = "/openai/v1/chat/completions", "/anthropic/v1/messages"
PERSONAL = "Write to Ada at ada@example.org or call +1 415 555 2671."


@dataclass(frozen=True, slots=True)
class DemoCall:
    """One call to make; `expected` is the status of a Sluice that works."""

    title: str
    key: str  # alice, bob, nobody
    path: str
    says: str
    expected: int
    streamed: bool = False
    max_tokens: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    hangs_up: bool = False

    @property
    def body(self) -> bytes:
        model = "gpt-4o" if self.path == CHAT else "claude-sonnet-4-5"
        message = {"role": "user", "content": self.says}
        return json.dumps({"model": model, "max_tokens": self.max_tokens, "stream": self.streamed, "messages": [message]}).encode()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back, and what the provider had seen."""

    call: DemoCall
    id: str
    status: int
    text: str  # of the answer, or of the error
    told: dict[str, str]  # Sluice's reply headers, without their x-sluice-
    saw: str | None  # None: it never got there

    @property
    def did(self) -> str:
        """What Sluice did, in its own words."""
        parts = [f"refused: {self.told['error']}"] if "error" in self.told else []
        parts += [self.told["guard"]] if "guard" in self.told else []
        parts += [f"{self.told['attempts']} attempts"] if int(self.told.get("attempts", 1)) > 1 else []
        parts += [f"by {self.told['limit']}"] if "error" in self.told and "limit" in self.told else []
        return "; ".join(parts) or "let it through"


CALLS = (
    DemoCall("a plain chat call", "alice", CHAT, "Say hello.", 200),
    DemoCall("the same, streamed", "alice", CHAT, "Say hello.", 200, streamed=True),
    DemoCall("personal data in a chat", "alice", CHAT, PERSONAL, 200),
    DemoCall("personal data in a stream", "alice", CHAT, PERSONAL, 200, streamed=True),
    DemoCall("personal data to Anthropic", "alice", MESSAGES, PERSONAL, 200),
    DemoCall("and streamed from Anthropic", "alice", MESSAGES, PERSONAL, 200, streamed=True),
    DemoCall("a card number", "alice", CHAT, "Charge 4111 1111 1111 1111.", 400),
    DemoCall("a provider that fails twice", "alice", CHAT, "Try hard.", 200, headers={FAIL: "2"}),
    DemoCall("a client that hangs up", "alice", CHAT, "Talk on.", 200, streamed=True, headers={WORDS: "500", PACE: "0.02"}, hangs_up=True),
    DemoCall("a key that nobody minted", "nobody", CHAT, "Let me in.", 401),
    DemoCall("a small call on a small tier", "bob", CHAT, "Say hello.", 200),
    DemoCall("a long answer that eats the budget", "bob", CHAT, "Write a lot.", 200, max_tokens=4000, headers={WORDS: "2400"}),
    DemoCall("once more: over the budget", "bob", CHAT, "Write a lot.", 402, max_tokens=4000, headers={WORDS: "2400"}),
    DemoCall("a small call, which still fits", "bob", CHAT, "Say hello.", 200),
    DemoCall("one call too many this minute", "bob", CHAT, "Say hello.", 429),
)


async def make(session: aiohttp.ClientSession, base: str, call: DemoCall, key: str, number: int, seen: list[Seen]) -> Outcome:
    """One call through Sluice at `base`. Raises aiohttp.ClientError and TimeoutError where there is no answer."""
    id = f"demo-{number:02d}"
    place = {"authorization": f"Bearer {key}"} if call.path == CHAT else {"x-api-key": key, "anthropic-version": "2023-06-01"}
    headers = {**place, **call.headers, "content-type": "application/json", "x-request-id": id}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with session.post(base + call.path, data=call.body, headers=headers, timeout=timeout) as reply:
        raw = await (reply.content.read(600) if call.hangs_up else reply.read())
        if call.hangs_up:
            reply.close()
    told = {name.lower().removeprefix(OURS): value for name, value in reply.headers.items() if name.lower().startswith(OURS)}
    text = "".join(_streamed(raw)) if reply.status == 200 and call.streamed else _whole(raw)
    saw = next((one.text for one in seen if one.id == id), None)
    return Outcome(call, id, reply.status, text, told, saw)


def _whole(raw: bytes) -> str:
    """The text of an OpenAI or Anthropic answer, or of an error; of anything else, itself."""
    try:
        doc = json.loads(raw)
        if "error" in doc:
            return str(doc["error"]["message"])
        return str(doc["choices"][0]["message"]["content"] if "choices" in doc else doc["content"][0]["text"])
    except (ValueError, LookupError, TypeError):
        return raw.decode("utf-8", "replace")


def _streamed(raw: bytes) -> Iterator[str]:
    """The text of each whole event."""
    for block in raw.decode("utf-8", "replace").split("\n\n")[:-1]:
        data = block.rpartition("data: ")[2]
        if data == "[DONE]":
            continue
        doc = json.loads(data)
        for choice in doc.get("choices") or []:
            yield choice["delta"].get("content") or ""
        if doc.get("type") == "content_block_delta":
            yield doc["delta"]["text"]
