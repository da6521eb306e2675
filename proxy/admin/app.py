"""The admin listener: health, metrics, ledger, keys, on a port of its own. Forwards nothing to any provider."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

import orjson
from aiohttp import web

from proxy.admin.asked import Grouping, read_key_asked, read_rows_asked, read_usage_asked, rfc3339, shown_row
from proxy.admin.say import SAFE, AdminProblem, json_reply, problem_reply, text_reply
from proxy.identify.keys import KEY_BYTES, mint
from proxy.policy.plan import Rulebook
from proxy.policy.plan_callers import KeyRecord
from proxy.record.redact import plain
from proxy.refusal import Refusal

MAX_BODY = 16 * 1024
ROWS_A_WRITE = 500
FRONT = """Sluice, admin listener.

GET  /healthz/live  /healthz/ready  /healthz/startup
GET  /metrics                                 Prometheus
GET  /admin/ledger?limit=&since=&caller=      the newest rows (since: RFC 3339 or Unix seconds)
GET  /admin/usage?by=caller|model|team|day&since=
POST /admin/keys  {"name": "...", "tier": "...", "team": "...", "expires": "YYYY-MM-DD"}

/admin/* wants `Authorization: Bearer <server.admin_token>`; without a configured token it answers on loopback only."""


class Ledger(Protocol):
    """What the admin API asks of the state."""

    async def rows(self, limit: int, since_ns: int | None, caller: str | None) -> Sequence[Mapping[str, object]]: ...
    async def usage(self, by: Grouping, since_ns: int | None) -> Sequence[Mapping[str, object]]: ...
    async def add_key(self, record: KeyRecord) -> None: ...


@dataclass(frozen=True, slots=True)
class Probes:
    """Each gives None where all is well, else the reason in a few words of ours."""

    live: Callable[[], str | None]
    ready: Callable[[], str | None]
    startup: Callable[[], str | None]


class Admin:
    """`rulebook` gives the live policy; `is_loopback` says whether the listener is bound to loopback alone; `dice` gives random bytes,
    `on_failure` hears of errors that nobody foresaw.
    """

    def __init__(
        self,
        rulebook: Callable[[], Rulebook],
        probes: Probes,
        exposition: Callable[[], bytes],
        ledger: Ledger,
        dice: Callable[[int], bytes],
        on_failure: Callable[[Exception], None],
        *,
        is_loopback: bool,
        shown: Callable[[str], str] = plain,
    ) -> None:
        self._rulebook, self._probes, self._exposition = rulebook, probes, exposition
        self._ledger, self._dice, self._on_failure = ledger, dice, on_failure
        self._is_loopback, self._shown = is_loopback, shown

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/", self._front),
                web.get("/healthz/live", _health(self._probes.live)),
                web.get("/healthz/ready", _health(self._probes.ready)),
                web.get("/healthz/startup", _health(self._probes.startup)),
                web.get("/metrics", self._metrics),
                web.get("/admin/ledger", self._rows),
                web.get("/admin/usage", self._usage),
                web.post("/admin/keys", self._new_key),
            ]
        )
        return app

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.StreamResponse:
        """The one door: who may come in, and no answer but our own."""
        try:
            if request.path == "/admin" or request.path.startswith("/admin/"):
                self._check(request)
            return await handler(request)
        except AdminProblem as problem:
            return problem_reply(problem)
        except web.HTTPNotFound:
            return problem_reply(AdminProblem(404, "not_found", "there is nothing here", "GET / lists what there is"))
        except web.HTTPMethodNotAllowed as no:
            reply = problem_reply(AdminProblem(405, "method_not_allowed", "this method is not for this path", "GET / lists what there is"))
            reply.headers["allow"] = ", ".join(sorted(no.allowed_methods))
            return reply
        except web.HTTPRequestEntityTooLarge:
            return problem_reply(AdminProblem(413, "too_large", f"the body is larger than {MAX_BODY} bytes", "send less"))
        except Refusal as no:
            return problem_reply(
                AdminProblem(no.status, no.code, no.message or no.code, "see what the code means in the docs, and the log")
            )
        except Exception as error:
            self._on_failure(error)
            return problem_reply(AdminProblem(500, "internal", "an error inside Sluice", "its log names it; report it"))

    def _check(self, request: web.Request) -> None:
        """With a token configured the token decides; without one, only this machine, asked for by a name of this machine."""
        token = self._rulebook().server.admin_token
        if token is not None:
            scheme, _, given = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), token.encode()):
                raise AdminProblem(
                    401, "invalid_credentials", "the admin token is missing or wrong", "send `Authorization: Bearer <server.admin_token>`"
                )
            return
        if not self._is_loopback or not _is_local(request.remote or ""):
            raise AdminProblem(
                403, "not_allowed", "without server.admin_token /admin answers on loopback only", "set server.admin_token in the policy"
            )
        if not _is_local(_host(request.headers.get("host", ""))) or "origin" in request.headers:
            raise AdminProblem(
                403,
                "wrong_host",
                "without server.admin_token /admin takes no requests of web pages or under foreign names",
                "ask 127.0.0.1 or localhost, or set server.admin_token in the policy",
            )

    async def _front(self, _: web.Request) -> web.Response:
        return text_reply(200, FRONT)

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._exposition(), headers={**SAFE, "content-type": "text/plain; version=0.0.4; charset=utf-8"})

    async def _rows(self, request: web.Request) -> web.StreamResponse:
        asked = read_rows_asked(request.query)
        caller = None if asked.caller is None else self._shown(asked.caller)
        rows = await self._ledger.rows(asked.limit, asked.since_ns, caller)
        reply = web.StreamResponse(headers={**SAFE, "content-type": "application/json"})
        await reply.prepare(request)
        await reply.write(b'{"rows":[')
        for start in range(0, len(rows), ROWS_A_WRITE):  # the loop is shared with the data path: never many rows at once
            some = orjson.dumps([shown_row(row) for row in rows[start : start + ROWS_A_WRITE]])[1:-1]
            await reply.write(some if start == 0 else b"," + some)
        await reply.write_eof(b"]}")
        return reply

    async def _usage(self, request: web.Request) -> web.Response:
        by, since_ns = read_usage_asked(request.query)
        return json_reply(200, {"rows": [dict(row) for row in await self._ledger.usage(by, since_ns)]})

    async def _new_key(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":  # a form of a web page cannot send this
            raise AdminProblem(400, "invalid_request", "the body is not declared as JSON", "send `Content-Type: application/json`")
        key, digest = mint(self._dice(KEY_BYTES))
        rulebook = self._rulebook()
        record = read_key_asked(await request.read(), digest, rulebook.callers, rulebook.time_zone)
        await self._ledger.add_key(record)
        expires = None if record.expires_ns is None else rfc3339(record.expires_ns)
        return json_reply(201, {"key": key, "name": record.name, "tier": record.tier, "team": record.team, "expires": expires})


def _health(probe: Callable[[], str | None]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        reason = probe()
        return text_reply(200, "ok") if reason is None else text_reply(503, reason)

    return answer


def _host(field: str) -> str:
    """The name or address of a Host header, without its port; empty for what is none."""
    try:
        return urlsplit("//" + field).hostname or ""
    except ValueError:
        return ""


def _is_local(host: str) -> bool:
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return host.lower() == "localhost"
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
