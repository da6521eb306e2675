"""Recorded exchanges as both sides of a replay: what a client sends, where it is served, what a provider answers. Opens no socket."""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from contract.wire import Message

OWN = Path(__file__).parent / "fixtures"
SHARED = Path(__file__).parents[2].parent / "shared" / "traffic"
FILES = ("anthropic", "azure-openai", "bedrock", "cohere", "google", "groq", "mistral", "openai", "openrouter", "others")
BUILT_IN = {
    "api.openai.com": "openai",
    "api.anthropic.com": "anthropic",
    "generativelanguage.googleapis.com": "gemini",
    "aiplatform.googleapis.com": "vertex",
    "api.cohere.com": "cohere",
    "api.mistral.ai": "mistral",
    "api.groq.com": "groq",
    "openrouter.ai": "openrouter",
    "example-resource.openai.azure.com": "azure",
}
DIALECTS = {  # of built-in names and of recorded providers; all others are entries of `dialect: openai`
    "anthropic": "anthropic",
    "gemini": "gemini",
    "vertex": "vertex",
    "google-vertex": "vertex",
    "cohere": "cohere",
    "azure": "azure-openai",
}
SENDS_USAGE_UNASKED = ("mistral", "groq", "openrouter")  # the others of the OpenAI family want to be asked
FOREIGN = {  # these speak no dialect of this issue: they pass as unknown paths, and their usage is not counted
    "aws-bedrock": "Bedrock's formats are a later issue",
    "aleph-alpha": "its own format",
    "aws-sagemaker": "whatever its container speaks",
    "replicate": "its own format",
    "watsonx": "its own format",
    "writer": "its own format (/v1/chat)",
}
KEYS = {
    "openai": ("Authorization", "Bearer sk-recorded-openai-key"),
    "anthropic": ("X-Api-Key", "sk-ant-recorded-key"),
    "gemini": ("x-goog-api-key", "AIza-recorded-key"),
    "vertex": ("authorization", "Bearer ya29.recorded-token"),
    "cohere": ("Authorization", "Bearer recorded-cohere-key"),
    "azure-openai": ("api-key", "recorded-azure-key"),
}
ASKED_FOR = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}  # what a provider adds where Sluice asks for usage


@dataclass(frozen=True)
class Entry:
    """One host, and the provider entry of the policy that stands for it."""

    name: str
    dialect: str
    host: str
    is_built_in: bool

    @property
    def wants_asking(self) -> bool:
        return self.dialect in ("openai", "azure-openai") and self.name not in SENDS_USAGE_UNASKED

    def as_yaml(self, url: str) -> str:
        dialect = "" if self.is_built_in else f"dialect: {self.dialect}, "
        return f'  {self.name}: {{{dialect}url: "{url}"}}\n'


def entry_of(row: dict) -> Entry:
    name = BUILT_IN.get(row["host"])
    if name is not None:
        return Entry(name, DIALECTS.get(name, "openai"), row["host"], True)
    return Entry(re.sub(r"[^a-z0-9]+", "-", row["host"].lower()), DIALECTS.get(row["provider"], "openai"), row["host"], False)


@dataclass
class Exchange:
    """One recording on its way through. The four messages in the order in which they are seen on the wire."""

    row: dict
    entry: Entry
    sent: Message = field(init=False)  # by the client
    arrived: Message | None = None  # at the provider
    answered: Message | None = None  # by the provider
    received: Message | None = None  # by the client
    problem: str | None = None

    def __post_init__(self) -> None:
        self.sent = _request(self.row, self.entry)

    @property
    def id(self) -> str:
        return self.row["id"]

    @property
    def asks_in_vain(self) -> bool:
        """A chat or completions stream that would not state its usage, at a provider that wants to be asked."""
        if not (self.entry.wants_asking and re.search(r"/(chat/)?completions(\?|$)", self.row["path"])):
            return False
        body = json.loads(self.sent.body)
        return body.get("stream") is True and not (body.get("stream_options") or {}).get("include_usage")

    @property
    def gains_usage(self) -> bool:
        """Its provider states the usage only because Sluice asks; the recorded one was not asked."""
        return self.asks_in_vain and self.row["status"] == 200 and self.row["expected_usage"] is None

    @property
    def has_no_end(self) -> bool:
        """A stream under an OpenAI path that does not end as OpenAI's do."""
        return self.row["stream_end"] == "none-seen" and self.row["path"] == "/v1/completions"

    def answer_to(self, arrived: Message) -> Message:
        """As recorded; a usage chunk more where it is now asked for, and no compression that the request does not accept."""
        row, body = self.row, body_of(self.row, "response")
        if self.gains_usage and b'"include_usage":true' in arrived.body:
            body = with_usage_chunk(body)
        lines = [f"{name}: {value}".encode("latin-1") for name, value in row["response_headers"].items()]
        wire = row["response_wire_headers"]
        if wire.get("connection"):
            lines.append(b"connection: " + wire["connection"].encode())
        if wire.get("content-encoding") == "gzip" and arrived.get(b"accept-encoding") != b"identity":
            body = gzip.compress(body, mtime=0)
            lines.append(b"content-encoding: gzip")
        if "transfer-encoding" in wire:
            lines.append(b"transfer-encoding: chunked")
        elif "content-length" in wire:
            lines.append(b"content-length: %d" % len(body))
        return Message(b"HTTP/1.1 %d %s" % (row["status"], REASONS[row["status"]]), tuple(lines), body)


REASONS = {200: b"OK", 201: b"Created", 204: b"No Content", 400: b"Bad Request", 401: b"Unauthorized", 404: b"Not Found"}


def usage_chunk() -> bytes:
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": ASKED_FOR}
    return b"data: " + json.dumps(chunk, separators=(",", ":")).encode() + b"\n\n"


def with_usage_chunk(body: bytes) -> bytes:
    before, done, after = body.partition(b"data: [DONE]")
    return before + usage_chunk() + done + after


def body_of(row: dict, side: str) -> bytes:
    body = row[f"{side}_body"]
    if row.get(f"{side}_body_encoding") == "base64":
        return base64.b64decode(body)
    return body.encode()


def _request(row: dict, entry: Entry) -> Message:
    """Recorded header lines, the wire's worked out anew, the credential that the recorder took out, an id of ours."""
    body = body_of(row, "request")
    wire = row["request_wire_headers"]
    key, value = KEYS[entry.dialect]
    headers = {
        "host": "localhost:8080",
        **{name: wire[name] for name in ("accept-encoding", "connection") if name in wire},
        **row["request_headers"],
        key: value,
        "X-Request-Id": row["id"],
    }
    if body or row["method"] == "POST":
        headers["content-length"] = str(len(body))
    lines = tuple(f"{name}: {value}".encode("latin-1") for name, value in headers.items())
    return Message(f"{row['method']} /{entry.name}{row['path']} HTTP/1.1".encode(), lines, body)


def shared_rows() -> Iterator[dict]:
    for name in FILES:
        for line in (SHARED / f"{name}.jsonl").read_text().splitlines():
            yield json.loads(line)


def own_rows() -> Iterator[dict]:
    """Our fixtures: a body may stand as JSON, a stream as the list of its events."""
    for path in sorted(OWN.glob("*.json")):
        for row in json.loads(path.read_text()):
            bodies = {side: _text(row[side]) for side in ("request_body", "response_body")}
            yield {**_DEFAULTS, **row, **bodies, "events": row["response_body"] if row.get("stream_format") else None}


def _text(body: object) -> str:
    if isinstance(body, list):
        return "".join(body)
    return body if isinstance(body, str) else json.dumps(body, ensure_ascii=False)


_DEFAULTS = {
    "method": "POST",
    "status": 200,
    "request_headers": {"content-type": "application/json"},
    "request_wire_headers": {"accept-encoding": "gzip, deflate, br", "connection": "keep-alive"},
    "response_headers": {"content-type": "application/json"},
    "response_wire_headers": {"transfer-encoding": "chunked"},
    "stream_format": None,
    "stream_end": None,
    "expected_usage": None,
}


def exchanges(rows: Iterator[dict]) -> list[Exchange]:
    entries: dict[str, Entry] = {}
    return [Exchange(row, entries.setdefault(row["host"], entry_of(row))) for row in rows]
