"""Recorded provider replies give the usage that `expected_usage` states: the oracle of every dialect. Reads, never copies, shared data."""

import base64
import json
from decimal import Decimal
from pathlib import Path

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import stream_format_of
from proxy.exchange import NANO

TRAFFIC = Path(__file__).parents[2].parent / "shared" / "traffic"
DIALECTS = {
    "openai": "openai",
    "azure-openai": "azure-openai",
    "anthropic": "anthropic",
    "google-gemini": "gemini",
    "google-vertex": "vertex",
    "cohere": "cohere",
    "mistral": "openai",
    "groq": "openai",
    "openrouter": "openai",
    "local-openai-compatible": "openai",
    "ollama": "openai",
}
FILES = ("bedrock", "openai", "azure-openai", "anthropic", "google", "cohere", "mistral", "groq", "openrouter", "others")
NOTED = {"028c3ea91e2cb0d0": "usage_decreased"}  # Gemini took its prompt count back from 169 to 79 within the stream
NOT_COUNTED = {  # by provider or path: these speak no dialect of ours
    "aws-bedrock": "Bedrock's formats are a later issue",
    "aleph-alpha": "its own format",
    "aws-sagemaker": "whatever its container speaks",
    "replicate": "its own format",
    "watsonx": "its own format",
    "writer": "its own format (/v1/chat)",
    "ollama /api/": "ollama's native format; its /v1 is counted",
}
FIELDS = {
    "input_tokens": lambda usage: usage.input,
    "output_tokens": lambda usage: usage.output,
    "cached_input_tokens": lambda usage: usage.cached_input,
    "cache_write_tokens": lambda usage: usage.cache_write,
    "cache_write_1h_tokens": lambda usage: usage.cache_write_1h,
    "reasoning_tokens": lambda usage: usage.reasoning,
    "service_tier": lambda usage: usage.tier,
    "uncached_input_tokens": lambda usage: usage.input - usage.cached_input - usage.cache_write,
    "billed_input_tokens": lambda usage: usage.units.get("billed_input", 0),
    "billed_output_tokens": lambda usage: usage.units.get("billed_output", 0),
    "tool_use_prompt_tokens": lambda usage: usage.detail["toolUsePromptTokenCount"],
    "cost_reported_usd": lambda usage: float(Decimal(usage.cost_nanousd) / NANO),
    "total_tokens_reported": lambda usage: usage.detail.get("total_tokens", usage.detail.get("totalTokenCount")),
    "web_search_requests": lambda usage: usage.units.get("searches", 0),
    "search_units": lambda usage: usage.units.get("searches", 0),
    **{f"{side}_{kind}_tokens": lambda usage, unit=f"{side}_{kind}": usage.units.get(unit, 0)
       for side in ("input", "output") for kind in ("audio", "image", "video")},
}  # fmt: skip


def rows():
    for name in FILES if TRAFFIC.is_dir() else ():
        for line in (TRAFFIC / f"{name}.jsonl").read_text().splitlines():
            yield json.loads(line)


def reason_not_counted(row):
    return NOT_COUNTED.get(row["provider"]) or (
        NOT_COUNTED["ollama /api/"] if row["path"].startswith("/api/") and row["provider"] == "ollama" else None
    )


def events(text, form):
    """The reference splitter: a whole stream in memory, no cleverness."""
    if form == "json-array":
        return json.loads(text)
    if form == "ndjson":
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    found = []
    for block in text.replace("\r\n", "\n").replace("\r", "\n").split("\n\n"):
        data = "\n".join(line[5:].removeprefix(" ") for line in block.split("\n") if line.startswith("data:"))
        if data and data != "[DONE]":
            found.append(json.loads(data))
    return found


def usage_of(row):
    dialect = dialect_of(DIALECTS[row["provider"]])
    path, _, query = row["path"].partition("?")
    op = dialect.operation(row["method"], path, query)
    if op.body == "json" and row["request_body"]:
        asked = dialect.read_asked(op, json.loads(row["request_body"]))
        assert asked.stream == bool(row["stream_requested"]), row["id"]
        assert asked.model == (op.model or row["model_request"]), row["id"]
    text = row["response_body"]
    if row["response_body_encoding"] == "base64":
        text = base64.b64decode(text).decode()
    form = stream_format_of(op.variant, row["response_headers"].get("content-type", ""))
    assert form == row["stream_format"], row["id"]
    if form is None:
        doc = json.loads(text) if text.strip() else {}
        return op, dialect.usage(op, doc) if row["status"] < 400 else None
    usage = None
    for event in events(text, form):
        usage = dialect.fold(op, usage, event)
    return op, usage


@pytest.mark.skipif(not TRAFFIC.is_dir(), reason="recorded traffic skipped LOUDLY: shared/ is not here")
def test_every_recorded_reply_is_read_as_its_expected_usage():
    skipped, differences, counted = {}, [], 0
    for row in rows():
        if reason := reason_not_counted(row):
            skipped.setdefault(reason, []).append(row["id"])
            continue
        counted += 1
        op, usage = usage_of(row)
        differences += [f"{row['id']} {row['provider']} {row['path']}: {line}" for line in differing(op, row, usage)]
    for reason, ids in skipped.items():
        print(f"not counted ({reason}): {', '.join(ids)}")
    assert not differences, "\n".join(differences)
    assert counted + sum(map(len, skipped.values())) == 678, "every recording is counted or listed"


def differing(op, row, usage):
    expected = row["expected_usage"]
    if expected is None or expected.get("billable") is False:
        if usage is not None and (usage.input or usage.output):
            yield f"expected none, got {usage}"
        if expected is not None and op.is_billed:
            yield "a count-only call is not billed"
        return
    if usage is None or usage.source != "provider":
        yield f"expected {expected}, got {usage}"
        return
    yield from (f"{field}: {value} != {FIELDS[field](usage)}" for field, value in expected.items() if FIELDS[field](usage) != value)
    if usage.note != NOTED.get(row["id"], ""):
        yield f"noted as {usage.note}"
    if row["model_response"] and usage.model != row["model_response"]:
        yield f"model {usage.model} != {row['model_response']}"


@pytest.mark.skipif(not TRAFFIC.is_dir(), reason="recorded traffic skipped LOUDLY: shared/ is not here")
def test_every_recorded_stream_ends_where_its_dialect_says():
    """Exactly the recordings that end with a terminal event are seen to end; the others are listed."""
    unended = []
    for row in rows():
        if row["stream_format"] is None or reason_not_counted(row):
            continue
        dialect = dialect_of(DIALECTS[row["provider"]])
        path, _, query = row["path"].partition("?")
        op = dialect.operation(row["method"], path, query)
        body = row["response_body"].replace("\r\n", "\n")
        pieces = [line.removeprefix("data:").encode() for line in body.split("\n") if line.startswith(("data:", "{"))]
        if not any(dialect.is_terminal(op, piece) for piece in pieces):
            unended.append((row["id"], row["stream_end"]))
    assert [entry for entry in unended if entry[1] != "none-seen"] == []
