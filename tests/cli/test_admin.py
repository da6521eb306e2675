"""Where commands ask: what an admin address may look like, and what an answer that is none says."""

from __future__ import annotations

import asyncio
import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web
from support.ports import free_port

from proxy.cli.admin import DEFAULT, Admin, AdminError, NoProcess, read_admin


@pytest.fixture(autouse=True)
def unset(monkeypatch):
    for name in ("SLUICE_ADMIN", "SLUICE_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("given", "host", "port", "is_tls", "is_local"),
    [
        (None, "127.0.0.1", 9090, False, True),
        ("127.0.0.1:9191", "127.0.0.1", 9191, False, True),
        ("0.0.0.0:9191", "127.0.0.1", 9191, False, True),
        ("[::]:9191", "::1", 9191, False, True),
        ("http://localhost:9191/", "localhost", 9191, False, True),
        ("https://sluice.example.com", "sluice.example.com", 443, True, False),
        ("http://10.0.0.7:9090", "10.0.0.7", 9090, False, False),
    ],
)
def test_an_admin_address_is_a_url_or_what_serve_takes(given, host, port, is_tls, is_local):
    found = read_admin(given)
    assert (found.host, found.port, found.is_tls, found.path, found.is_local) == (host, port, is_tls, None, is_local)


@pytest.mark.parametrize("given", ["ftp://h:1", "http://h:1/path", "http://u:p@h:1", "http://h:99999", "http://:1", "h:1?x=1"])
def test_what_is_no_admin_address_is_refused_without_repeating_it(given):
    with pytest.raises(ValueError, match="http://HOST:PORT") as problem:
        read_admin(given)
    assert given not in str(problem.value)


def test_the_environment_names_address_and_token(monkeypatch):
    monkeypatch.setenv("SLUICE_ADMIN", "127.0.0.1:9191")
    monkeypatch.setenv("SLUICE_ADMIN_TOKEN", "the-token")
    found = read_admin(None)
    assert (found.port, found.token) == (9191, "the-token")
    assert "the-token" not in repr(found)
    assert read_admin(DEFAULT).port == 9090


@contextmanager
def answering(status: int, body: bytes) -> Iterator[Admin]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield read_admin(f"http://127.0.0.1:{server.server_port}")
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (404, b"404 page not found", "no Sluice admin API"),
        (200, b"<html>", "no Sluice admin API"),
        (200, b"[]", "no Sluice admin API"),
        (500, b'{"error": "x"}', "no Sluice admin API"),
        (401, b'{"error": {"code": "c", "message": "the token is wrong", "fix": "send it"}}', "SLUICE_ADMIN_TOKEN"),
        (400, b'{"error": {"code": "c", "message": "it is bad", "fix": "mend it"}}', "it is bad; mend it"),
    ],
)
def test_an_answer_that_is_no_answer_is_one_clear_line(status, body, said):
    with answering(status, body) as admin, pytest.raises(AdminError, match=said) as problem:
        admin.get("/admin/usage")
    assert "\n" not in str(problem.value)


def test_nobody_there_is_told_apart_from_somebody_else_there(tmp_path: Path):
    with pytest.raises(NoProcess):
        read_admin(f"127.0.0.1:{free_port()}").get("/")
    with pytest.raises(NoProcess):
        read_admin(f"unix:{tmp_path}/nobody.sock").get("/")


async def test_a_unix_socket_is_asked_too(tmp_path: Path):
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"path": request.path, "host": request.host, "token": request.headers["authorization"]})

    app = web.Application()
    app.router.add_get("/admin/usage", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(tmp_path / "admin.sock")).start()
        admin = Admin("unix:", "localhost", 0, path=str(tmp_path / "admin.sock"), token="t")
        assert await asyncio.to_thread(admin.get, "/admin/usage") == {"path": "/admin/usage", "host": "localhost", "token": "Bearer t"}
    finally:
        await runner.cleanup()
