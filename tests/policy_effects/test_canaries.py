"""Personal data end to end, for each dialect: a canary in each text field of each operation never arrives, and comes back to the caller."""

import base64
import contextlib
import gzip
import itertools
import json
import re
from collections.abc import Iterator

import pytest
import pytest_asyncio
from support.caller import ask
from support.text_fields import CANARY, CHAT, COHERE_1, COHERE_2, GENERATE, MESSAGES, OTHERS, RESPONSES, TABLE, messages
from support.world import world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers:
  openai: {url: A_URL}
  anthropic: {url: A_URL}
  gemini: {url: A_URL}
  cohere: {url: A_URL}
  mistral: {url: A_URL}
  azure: {url: A_URL}
  vertex: {url: A_URL}
guard: {pii: mask, restore: true, uninspected: pass}
"""

CASES = [(target, place) for target, places in TABLE.items() for place in places]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("canaries"), POLICY) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


def _escaped(found: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(found[0])


def disguises(doc: dict) -> dict[str, bytes]:
    """The same document in the ways JSON can spell it."""
    plain = json.dumps(doc).encode()
    inner = "\\\\" if f'\\"{CANARY}\\"' in plain.decode() else "\\"  # the backslash of the JSON that the canary stands in
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in CANARY)
    canary = CANARY.encode()
    return {
        "plain": plain,
        "behind a line break": plain.replace(canary, f"{inner}n{CANARY}".encode()),
        "behind a tab": plain.replace(canary, f"Mail:{inner}t{CANARY}".encode()),
        "escaped letters": plain.replace(canary, escaped.encode()),
        "an escaped at": plain.replace(b"@corp", b"\\u0040corp"),
        "escaped keys": re.sub(rb'(?<=[{,] ")([A-Za-z])(?=\w*":)|(?<=\{")([A-Za-z])(?=\w*":)', _escaped, plain),
        "with blanks": json.dumps(doc, indent=1).encode(),
    }


def strings(value: object) -> Iterator[str]:
    """Every string of a document, keys and JSON inside strings too."""
    if isinstance(value, str):
        yield value
        if value.lstrip()[:1] in ("{", "["):
            with contextlib.suppress(json.JSONDecodeError):
                yield from strings(json.loads(value))
    elif isinstance(value, dict):
        yield from itertools.chain(*(strings(one) for pair in value.items() for one in pair))
    elif isinstance(value, list):
        yield from itertools.chain(*map(strings, value))


@pytest.mark.parametrize(("target", "place"), CASES, ids=[f"{target.rpartition('/')[2]} {place}" for target, place in CASES])
async def test_no_text_field_lets_personal_data_out_however_it_is_spelt(here, target, place):
    for how, body in disguises(TABLE[target][place]).items():
        got = await here.ask("POST", target, body)
        assert got.status == 200, (how, got.body)
        assert "masked email=" in (got.header("x-sluice-guard") or ""), (how, here.last.body)
        arrived = list(strings(json.loads(here.last.body)))
        assert not [one for one in arrived if "canary" in one], (how, here.last.body)
        assert any("[EMAIL_1]" in one for one in arrived), how
        if target not in OTHERS or "generate" in target or "completions" in target:
            assert CANARY in got.body.decode(), (how, got.body)  # the echo says the placeholder, the caller reads the value


# --- streams ---


def events(body: bytes) -> list[dict]:
    """Of SSE, of lines of JSON, or of a JSON array."""
    text = body.decode()
    if text.startswith("["):
        return json.loads(text)
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith(("data:", "{"))]
    return [json.loads(line) for line in lines if line and line != "[DONE]"]


def openai_chat(found: list[dict]) -> tuple[str, str]:
    deltas = [choice["delta"] for event in found for choice in event["choices"]]
    calls = [call["function"].get("arguments", "") for delta in deltas for call in delta.get("tool_calls") or ()]
    return "".join(delta.get("content") or "" for delta in deltas), "".join(calls)


def openai_responses(found: list[dict]) -> tuple[str, str]:
    said = {
        kind: "".join(e["delta"] for e in found if e["type"] == f"response.{kind}.delta")
        for kind in ("output_text", "function_call_arguments")
    }
    whole = next(e["response"]["output"] for e in found if e["type"] == "response.completed")
    done = next(e["text"] for e in found if e["type"] == "response.output_text.done")
    assert whole[0]["content"][0]["text"] == done == said["output_text"], "the events that repeat all say the same"
    assert whole[1]["arguments"] == said["function_call_arguments"]
    return said["output_text"], said["function_call_arguments"]


def anthropic(found: list[dict]) -> tuple[str, str]:
    deltas = [event["delta"] for event in found if event["type"] == "content_block_delta"]
    return "".join(d.get("text", "") for d in deltas), "".join(d.get("partial_json", "") for d in deltas)


def gemini(found: list[dict]) -> tuple[str, str]:
    parts = [part for event in found for part in event["candidates"][0]["content"]["parts"]]
    calls = [part["functionCall"]["args"] for part in parts if "functionCall" in part]
    return "".join(part.get("text", "") for part in parts), json.dumps(calls[0]) if calls else ""


def cohere_v2(found: list[dict]) -> tuple[str, str]:
    said = [e["delta"]["message"]["content"]["text"] for e in found if e["type"] == "content-delta"]
    calls = [e["delta"]["message"]["tool_calls"]["function"]["arguments"] for e in found if e["type"] == "tool-call-delta"]
    return "".join(said), "".join(calls)


def cohere_v1(found: list[dict]) -> tuple[str, str]:
    said = "".join(e["text"] for e in found if e["event_type"] == "text-generation")
    assert found[-1]["response"]["text"] == said
    return said, json.dumps(found[-1]["response"]["tool_calls"][0]["parameters"])


STREAMS = {
    "openai chat": ("/openai/v1/chat/completions", CHAT["user message"], openai_chat),
    "mistral chat": ("/mistral/v1/chat/completions", CHAT["user message"], openai_chat),
    "azure chat": ("/azure/openai/deployments/gpt-4o/chat/completions", CHAT["user message"], openai_chat),
    "openai responses": ("/openai/v1/responses", RESPONSES["input"], openai_responses),
    "anthropic messages": ("/anthropic/v1/messages", MESSAGES["user message"], anthropic),
    "gemini events": ("/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse", GENERATE["text"], gemini),
    "gemini array": ("/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent", GENERATE["text"], gemini),
    "cohere v2": ("/cohere/v2/chat", COHERE_2["user message"], cohere_v2),
    "cohere v1": ("/cohere/v1/chat", COHERE_1["message"], cohere_v1),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_the_caller_gets_its_values_back_in_streams_at_any_split_and_in_tool_arguments(here, name):
    target, doc, read = STREAMS[name]
    body = json.dumps(doc if "gemini" in name else {**doc, "stream": True}).encode()
    for split in range(1, 15):
        got = await here.ask("POST", target, body, headers=[("x-split", str(split)), ("x-args", "yes")])
        text, arguments = read(events(got.body))
        assert text == f"heard {CANARY}", (split, got.body)
        assert json.loads(arguments) == {"q": CANARY}, (split, got.body)
        assert b"canary" not in here.last.body and b"EMAIL_" not in got.body


@pytest.mark.parametrize("name", STREAMS)
async def test_without_a_finding_a_stream_passes_byte_for_byte(here, name):
    target, doc, _ = STREAMS[name]
    clean = json.loads(json.dumps(doc).replace(CANARY, "nobody"))
    options = (
        {} if "gemini" in name else {"stream": True, "stream_options": {"include_usage": True}} if "chat" in name else {"stream": True}
    )
    body = json.dumps({**clean, **options}).encode()
    headers = [("x-say", "call [EMAIL_1] or x@y.test"), ("x-split", "4")]
    got = await here.ask("POST", target, body, headers=headers)
    assert got.status == 200 and here.last.body == body and got.header("x-sluice-guard") is None
    straight = await ask(here.provider.port, "POST", here.last.target, headers, body)
    assert got.body == straight.body


async def test_a_compressed_request_hides_nothing_and_a_compressed_answer_is_restored(here):
    body = json.dumps(CHAT["user message"]).encode()

    async def script(seen, reply):
        answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "to [EMAIL_1]"}, "finish_reason": "stop"}]}
        await reply.whole(200, gzip.compress(json.dumps(answer).encode()), headers=[("content-encoding", "gzip")])

    here.provider.script = script
    headers = [("content-encoding", "gzip"), ("accept-encoding", "gzip, br")]
    got = await here.ask("POST", "/openai/v1/chat/completions", gzip.compress(body), headers=headers)
    assert here.last.header("content-encoding") is None and here.last.body == body.replace(CANARY.encode(), b"[EMAIL_1]")
    assert here.last.header("accept-encoding") == "gzip"
    assert got.json["choices"][0]["message"]["content"] == f"to {CANARY}" and got.header("content-encoding") is None
    refused = await here.ask("POST", "/openai/v1/chat/completions", b"(\xb5/\xfd", headers=[("content-encoding", "zstd")])
    assert (refused.status, refused.code) == (415, "unsupported_encoding")


async def test_base64_is_left_alone_where_text_may_stand(here):
    data = base64.b64encode(bytes(range(256)) * 4 + b"DE89370400440532013000 4111111111111111").decode()
    for kind, media_type in (("image", "image/png"), ("document", "application/pdf")):
        block = {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}
        body = json.dumps(messages({"role": "user", "content": [block]})).encode()
        assert (await here.ask("POST", "/anthropic/v1/messages", body)).status == 200
        assert here.last.body == body


async def test_a_placeholder_that_we_never_gave_out_stays_what_it_is(here):
    got = await here.chat(text=CANARY, headers=[("x-say", "[EMAIL_1] [EMAIL_2] [EMAIL_ [PHONE_1] EMAIL_1")])
    assert got.json["choices"][0]["message"]["content"] == f"{CANARY} [EMAIL_2] [EMAIL_ [PHONE_1] EMAIL_1"


WHOLE = {  # where a whole answer holds the arguments of a tool call
    "openai chat": ("choices", 0, "message", "tool_calls", 0, "function", "arguments"),
    "openai responses": ("output", 1, "arguments"),
    "anthropic messages": ("content", 1, "input"),
    "cohere v2": ("message", "tool_calls", 0, "function", "arguments"),
    "cohere v1": ("tool_calls", 0, "parameters"),
}


async def test_whole_answers_give_values_back_in_tool_arguments_too(here):
    for name, path in WHOLE.items():
        target, doc, _ = STREAMS[name]
        value = (await here.ask("POST", target, json.dumps(doc).encode(), headers=[("x-args", "yes")])).json
        for step in path:
            value = value[step]
        assert (json.loads(value) if isinstance(value, str) else value) == {"q": CANARY}, name
