"""The admin listener's connections: those of the edge, with its deadlines and without aiohttp's error pages, which quote what was sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

from proxy.admin.say import AdminProblem, problem_reply
from proxy.listen.address import read_listen
from proxy.listen.connection import Connection, Deadlines
from proxy.refusal import Refusal

_DEADLINES = Deadlines()


def site(runner: web.AppRunner, address: str) -> web.BaseSite:
    """Where to listen: HOST:PORT or unix:/path. Raises ValueError."""
    where = read_listen(address)
    return web.UnixSite(runner, where) if isinstance(where, str) else web.TCPSite(runner, *where)


async def listening(address: str, start: Callable[[], Awaitable[None]]) -> None:
    """Names the address in what goes wrong. Raises OSError."""
    try:
        await start()
    except OSError as problem:
        raise OSError(problem.errno, problem.strerror, address) from problem


def is_loopback(address: str) -> bool:
    """Can this machine alone reach it?"""
    where = read_listen(address)
    return isinstance(where, str) or where[0] in ("localhost", "::1") or where[0].startswith("127.")


class AdminRunner(web.AppRunner):
    """aiohttp's runner of an application, with our protocol under it."""

    async def _make_server(self) -> web.Server:
        return _Door(await super()._make_server())


class _Door(web.Server):
    def __init__(self, behind: web.Server) -> None:
        super().__init__(self._enter, request_factory=behind.request_factory)
        self._behind = behind

    def __call__(self) -> Connection:
        return Connection(self, self._loop, _DEADLINES, _turn_away)

    async def _enter(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("expect", "100-continue").lower() != "100-continue":
            return problem_reply(AdminProblem(417, "expectation_failed", "this expectation cannot be met", "leave the Expect header out"))
        return await self._behind.request_handler(request)


def _turn_away(connection: Connection, no: Refusal) -> None:
    """Answers what never became a request."""
    transport = connection.transport
    if transport is None or transport.is_closing():
        return
    reply = problem_reply(AdminProblem(no.status, no.code, no.message or no.code, "send valid HTTP/1.1, in time"))
    body = cast(bytes, reply.body)
    head = "".join(f"{name}: {value}\r\n" for name, value in reply.headers.items() if name.lower() not in ("content-length", "connection"))
    transport.write(b"HTTP/1.1 %d \r\n%bContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (no.status, head.encode(), len(body), body))
