"""Bodies that nothing needs to hold stream through, whatever their size; what is compressed stays so; targets pass byte for byte."""

import asyncio
import gzip
import json

import pytest
import pytest_asyncio
from support import chat
from support.caller import Caller, ask
from support.provider import Provider
from support.sluice import sidecar

pytestmark = pytest.mark.asyncio(loop_scope="module")

MAX_UPLOAD = 1_000_000
POLICY = """
version: 1
server: {{max_upload: 1MB, max_body: 100KB}}
providers:
  openai: {{url: "{url}"}}
  anthropic: {{url: "{url}"}}
  gemini: {{url: "{url}"}}
limits:
  - {{name: slots, per: total, concurrency: 1}}
"""
FORM = ("Content-Type", "multipart/form-data; boundary=frontier")
PART = b'--frontier\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--frontier\r\n'
AUDIO = b'Content-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
TRANSCRIBE = "/openai/v1/audio/transcriptions"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def provider():
    async with Provider(None, reads_body=False) as provider:
        yield provider


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sluice(provider, tmp_path_factory):
    async with sidecar(tmp_path_factory.mktemp("uploads"), POLICY.format(url=provider.url)) as sluice:
        yield sluice


def framed(length):
    return [("Transfer-Encoding", "chunked")] if length is None else [("Content-Length", str(length))]


def as_chunk(data, is_chunked):
    return b"%x\r\n%b\r\n" % (len(data), data) if is_chunked else data


async def row_called(sluice, name):
    async with asyncio.timeout(20):
        while not (rows := [row for row in await sluice.rows() if row["request_id"] == name]):
            await asyncio.sleep(0.02)
    assert len(rows) == 1
    return rows[0]


@pytest.mark.parametrize("is_chunked", [False, True], ids=["Content-Length", "chunked"])
@pytest.mark.parametrize("target", [TRANSCRIBE, "/openai/v1/files", "/gemini/upload/v1beta/files", "/anthropic/v1/files"])
async def test_the_provider_has_the_first_bytes_before_the_client_has_sent_the_last(sluice, provider, target, is_chunked):
    first, last = asyncio.Event(), b"\x00\xff tail \r\n--frontier--\r\n"
    arrived = []

    async def script(seen, reply):
        async for piece in seen.pieces:
            arrived.append(piece)
            first.set()
        await reply.json({"text": "hi"})

    provider.script = script
    async with Caller(sluice.port) as caller:
        length = None if is_chunked else len(PART + AUDIO) + 64 * 1024 + len(last)
        await caller.send("POST", target, [FORM, chat.KEY, *framed(length)])
        await caller.raw(as_chunk(PART + AUDIO, is_chunked))
        await asyncio.wait_for(first.wait(), 20)
        await caller.raw(as_chunk(b"\x80" * 64 * 1024, is_chunked))
        await caller.raw(as_chunk(last, is_chunked) + (b"0\r\n\r\n" if is_chunked else b""))
        got = await caller.answer()
    assert (got.status, got.json) == (200, {"text": "hi"})
    assert b"".join(arrived) == PART + AUDIO + b"\x80" * 64 * 1024 + last
    seen = provider.seen[-1]
    assert seen.target == target[target.index("/", 1) :]
    assert seen.header("content-type") == FORM[1]
    assert (seen.header("transfer-encoding"), seen.header("content-length")) == (("chunked", None) if is_chunked else (None, str(length)))


async def read_all(seen, reply):
    seen.body = b"".join([piece async for piece in seen.pieces])
    await reply.json(chat.whole())


async def test_an_upload_that_says_it_is_too_large_never_leaves_and_is_told_both_sizes(sluice, provider):
    before = len(provider.seen)
    async with Caller(sluice.port) as caller:
        await caller.send("POST", TRANSCRIBE, [FORM, chat.KEY, *framed(MAX_UPLOAD + 1)])
        got = await caller.answer()
    assert (got.status, got.code, got.header("x-should-retry")) == (413, "too_large", "false")
    assert str(MAX_UPLOAD + 1) in got.json["error"]["message"] and str(MAX_UPLOAD) in got.json["error"]["message"]
    assert len(provider.seen) == before


async def test_an_upload_that_turns_out_too_large_is_cut_at_the_first_byte_too_many_and_costs_nothing(sluice, provider):
    ended = asyncio.Event()

    async def script(seen, reply):
        try:
            async for _ in seen.pieces:
                pass
        finally:
            ended.set()
        raise AssertionError("the provider got a whole request")

    provider.script = script
    async with Caller(sluice.port) as caller:
        await caller.send("POST", TRANSCRIBE, [FORM, chat.KEY, ("X-Request-Id", "grew"), *framed(None)])
        for _ in range(16):
            await caller.raw(as_chunk(b"\x80" * 64 * 1024, True))
        got = await caller.answer()
        assert (got.status, got.code, got.header("connection")) == (413, "too_large", "close")
    await asyncio.wait_for(ended.wait(), 20)
    provider.problems.clear()
    row = await row_called(sluice, "grew")
    assert (row["end"], row["cost_nanousd"]) == ("refused:too_large", 0)


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_in_its_upload_ends_it_at_the_provider_within_a_second(sluice, provider, how):
    first, ended = asyncio.Event(), asyncio.Event()

    async def script(seen, reply):
        try:
            async for _ in seen.pieces:
                first.set()
        finally:
            ended.set()

    provider.script = script
    async with Caller(sluice.port) as caller:
        await caller.send("POST", TRANSCRIBE, [FORM, chat.KEY, ("X-Request-Id", f"left-{how}"), *framed(100_000)])
        await caller.raw(PART)
        await asyncio.wait_for(first.wait(), 20)
        caller.leave(how)
        await asyncio.wait_for(ended.wait(), 20)
    assert (await row_called(sluice, f"left-{how}"))["end"] == "client_gone"
    provider.script = read_all
    assert (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked())).status == 200, "the slot is free again"


async def test_a_body_that_must_be_read_is_held_up_to_max_body_alone(sluice, provider):
    provider.script = read_all
    assert (await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked("x" * 90_000))).status == 200
    before = len(provider.seen)
    got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY], chat.asked("x" * 100_000))
    assert (got.status, got.code) == (413, "too_large")
    bomb = gzip.compress(chat.asked("x" * 5_000_000))
    assert len(bomb) < 10_000
    got = await ask(sluice.port, "POST", chat.TARGET, [chat.JSON, chat.KEY, ("Content-Encoding", "gzip")], bomb)
    assert (got.status, got.code) == (413, "too_large")
    assert len(provider.seen) == before


async def test_compressed_bodies_stay_compressed_both_ways_and_are_metered_all_the_same(sluice, provider):
    answer = gzip.compress(json.dumps(chat.whole()).encode())

    async def script(seen, reply):
        seen.body = b"".join([piece async for piece in seen.pieces])
        await reply.whole(200, answer, headers=[("Content-Encoding", "gzip"), ("Vary", "accept-encoding")])

    provider.script = script
    sent = gzip.compress(chat.asked("hello"), mtime=7)
    headers = [chat.JSON, chat.KEY, ("Content-Encoding", "gzip"), ("Accept-Encoding", "br, gzip;q=0.5, zstd"), ("X-Request-Id", "gz")]
    got = await ask(sluice.port, "POST", chat.TARGET, headers, sent)
    seen = provider.seen[-1]
    assert (seen.body, seen.header("content-encoding")) == (sent, "gzip")
    assert seen.header("accept-encoding").replace(" ", "") in ("gzip;q=0.5", "gzip;q=0.5,identity")
    assert (got.body, got.header("content-encoding"), got.header("content-length")) == (answer, "gzip", str(len(answer)))
    row = await row_called(sluice, "gz")
    assert (row["usage_source"], row["cost_nanousd"], row["model"]) == ("provider", chat.COST, "gpt-4o")


async def test_a_compressed_stream_stays_compressed_and_is_metered_all_the_same(sluice, provider):
    packer = __import__("zlib").compressobj(wbits=31)

    async def script(seen, reply):
        seen.body = b"".join([piece async for piece in seen.pieces])
        await reply.start(headers=[("Content-Encoding", "gzip")])
        usage = {**chat.delta(""), "choices": [], "usage": chat.usage()}
        for doc in (chat.delta(None), chat.delta("hi"), chat.delta("", "stop"), usage, "[DONE]"):
            text = doc if isinstance(doc, str) else json.dumps(doc)
            await reply.chunk(packer.compress(f"data: {text}\n\n".encode()) + packer.flush(2))
        await reply.chunk(packer.flush())
        await reply.end()

    provider.script = script
    body = chat.asked(stream=True, stream_options={"include_usage": True})
    headers = [chat.JSON, chat.KEY, ("Accept-Encoding", "gzip"), ("X-Request-Id", "gz-stream")]
    got = await ask(sluice.port, "POST", chat.TARGET, headers, body)
    assert got.header("content-encoding") == "gzip"
    assert gzip.decompress(got.body).endswith(b"data: [DONE]\n\n")
    row = await row_called(sluice, "gz-stream")
    assert (row["usage_source"], row["cost_nanousd"], row["end"]) == ("provider", chat.COST, "done")


async def test_100_continue_comes_when_the_body_is_wanted_and_not_for_a_refusal(sluice, provider):
    provider.script = read_all
    body = chat.asked()
    async with Caller(sluice.port) as caller:
        await caller.send("POST", chat.TARGET, [chat.JSON, chat.KEY, ("Expect", "100-continue"), *framed(len(body))])
        assert (await caller.head()).status == 100
        await caller.raw(body)
        assert (await caller.answer()).status == 200
    assert provider.seen[-1].header("expect") is None
    before = len(provider.seen)
    async with Caller(sluice.port) as caller:
        await caller.send("POST", TRANSCRIBE, [FORM, chat.KEY, ("Expect", "100-continue"), *framed(MAX_UPLOAD + 1)])
        assert (await caller.head()).status == 413
    async with Caller(sluice.port) as caller:
        await caller.send("POST", TRANSCRIBE, [FORM, chat.KEY, ("Expect", "200-ok"), *framed(10)])
        got = await caller.answer()
        assert (got.status, got.code) == (417, "expectation_failed")
    assert len(provider.seen) == before


TARGETS = [
    "/v1/files?purpose=a%20b&order=&after",
    "/v1/files?q=a+b&q=%2B&empty=&=x&&",
    "/v1/files/file-%C3%A9%7e~!$'()*;=:@,",
    "/v1/new_things?limit=2&metadata%5Bkey%5D=va%26lue",
    "/v1/unknown/new_endpoint?x=%E2%82%AC#"[:-1],
    "/v1/files?",
    "/v1/files?a=/b?c=d",
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("method", ["GET", "DELETE", "HEAD", "POST", "PUT", "PATCH"])
async def test_the_target_and_the_body_reach_the_provider_byte_for_byte(sluice, provider, method, target):
    body = None if method in ("GET", "HEAD") else b"\x00\x01 not json, not touched \xff"

    async def script(seen, reply):
        seen.body = b"".join([piece async for piece in seen.pieces])
        if method == "HEAD":
            await reply.raw(b"HTTP/1.1 200 Fine By Me\r\nX-Odd-CASE: a\r\nContent-Type: text/plain\r\nContent-Length: 7\r\n\r\n")
        else:
            await reply.whole(200, b"\xfe\x00answer", "application/octet-stream", [("X-Odd-CASE", "a"), ("X-Twice", "1"), ("x-twice", "2")])

    provider.script = script
    headers = [chat.KEY, ("X-Odd-Header", "  kept  as is"), ("x-twice", "1"), ("X-Twice", "2")]
    if body:
        headers.append(("Content-Type", "application/octet-stream"))
    got = await ask(sluice.port, method, "/openai" + target, headers, body)
    assert got.status == 200, got
    seen = provider.seen[-1]
    assert (seen.method, seen.target, seen.body) == (method, target, body or b"")
    sent = [line for line in seen.headers if line[0].lower() not in ("host", "content-length")]
    assert sent == [(n, v.strip()) for n, v in headers]
    assert (got.status, got.header("x-odd-case")) == (200, "a")
    assert ("X-Odd-CASE", "a") in got.headers
    if method == "HEAD":
        assert (got.header("content-length"), got.body) == ("7", b"")
    else:
        assert got.body == b"\xfe\x00answer"
        assert [line for line in got.headers if line[0].lower() == "x-twice"] == [("X-Twice", "1"), ("x-twice", "2")]


async def test_a_delete_without_a_body_has_none_at_the_provider_and_204_has_none_at_the_client(sluice, provider):
    async def script(seen, reply):
        await reply.raw(b"HTTP/1.1 204 No Content\r\nx-gone: yes\r\n\r\n")

    provider.script = script
    async with Caller(sluice.port) as caller:
        for _ in range(2):  # on one connection: no byte too many of the first
            got = await caller.ask("DELETE", "/openai/v1/files/file-1", [chat.KEY])
            assert (got.status, got.header("x-gone"), got.header("content-length")) == (204, "yes", None)
    seen = provider.seen[-1]
    assert (seen.header("content-length"), seen.header("transfer-encoding")) == (None, None)
