"""What is no request gets a plain no on the admin port too, and nothing of it comes back or is logged."""

import asyncio
import logging

import pytest
from aiohttp import web

from proxy.admin.door import AdminRunner

SECRET = "adm-secret-of-the-operator"


async def hello(request):
    return web.Response(text="hello " + (await request.text()))


@pytest.fixture
async def port():
    app = web.Application()
    app.add_routes([web.get("/", hello), web.post("/", hello)])
    runner = AdminRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield runner.addresses[0][1]
    await runner.cleanup()


async def answer(port, raw):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(raw)
        async with asyncio.timeout(20):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
            return head + await reader.readexactly(length)
    finally:
        writer.close()


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (f"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {SECRET}\x00\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {SECRET}\r\n\r\n", 400),
        (f"{SECRET} / HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (f"GET /{SECRET * 500} HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (f"GET / HTTP/1.1\r\nHost: a\r\nx: {SECRET * 500}\r\n\r\n", 431),
        (f"GET / HTTP/1.1\r\nHost: a\r\nExpect: {SECRET}\r\n\r\n", 417),
    ],
)
async def test_a_bad_request_is_refused_without_an_echo(port, caplog, raw, status):
    caplog.set_level(logging.DEBUG)
    got = await answer(port, raw.encode("latin-1"))
    assert got.startswith(f"HTTP/1.1 {status} ".encode())
    assert b'"error":{"code":' in got and SECRET[:12].encode() not in got
    assert SECRET[:12] not in caplog.text and "Traceback" not in caplog.text


async def test_a_good_request_is_answered_and_its_body_read(port):
    assert (await answer(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")).endswith(b"hello ")
    assert (await answer(port, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nyou")).endswith(b"hello you")
