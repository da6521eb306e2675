"""The admin listener: health, metrics, ledger, keys, on a port of its own. Forwards nothing to any provider."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol
from urllib.parse import urlsplit

from aiohttp import web

from proxy.admin import ledger
from proxy.admin.keys import KeyPages, Keys
from proxy.admin.say import SAFE, AdminProblem, problem_reply, text_reply
from proxy.policy.plan import Rulebook
from proxy.record.redact import plain
from proxy.refusal import Refusal

MAX_BODY = 16 * 1024
FRONT = """Sluice, admin listener.

GET  /healthz/live  /healthz/ready  /healthz/startup
GET  /metrics                                           Prometheus
GET  /admin/ledger?limit=&since=&caller=                the newest rows (since: RFC 3339 or Unix seconds)
GET  /admin/ledger/<request id>                         why it cost what it cost: every attempt, the source of each number
GET  /admin/usage?by=caller|team|model|provider|tier|day&since=&until=
GET  /admin/usage/dearest?limit=   /admin/usage/failed  the dearest calls; what failed attempts cost (since, until)
GET  /admin/usage/billed?provider=                      what a provider's bill should say, by UTC day and model
     all but <request id>: format=json|csv
GET  /admin/keys                                        who has a key, and whether it is alive
POST /admin/keys  {"name": "...", "tier": "...", "team": "...", "expires": "YYYY-MM-DD", "overrides": {...}, "allow": {...}}
POST /admin/keys/<name>/rotate  {"overlap": "24h"}      a new key for it; the old ones end then
DELETE /admin/keys/<name>  /admin/keys/id/<id>          dead for good

/admin/* wants `Authorization: Bearer <server.admin_token>`; without a configured token it answers on loopback only."""


class State(ledger.Ledger, Protocol):
    """What the admin API asks of the state."""

    @property
    def keys(self) -> Keys: ...


@dataclass(frozen=True, slots=True)
class Probes:
    """Each gives None where all is well, else the reason in a few words of ours."""

    live: Callable[[], str | None]
    ready: Callable[[], str | None]
    startup: Callable[[], str | None]
    state_mode: Callable[[], str | None] = lambda: None  # of a shared state


class Admin:
    """`rulebook` gives the live policy, `exposition` the metrics in slices; `is_loopback` says whether the listener is bound to
    loopback alone; `dice` gives random bytes, `now_ns` the wall clock, `on_failure` hears of errors that nobody foresaw.
    """

    def __init__(
        self,
        rulebook: Callable[[], Rulebook],
        probes: Probes,
        exposition: Callable[[], Iterable[bytes]],
        state: State,
        dice: Callable[[int], bytes],
        now_ns: Callable[[], int],
        on_failure: Callable[[Exception], None],
        *,
        is_loopback: bool,
        shown: Callable[[str], str] = plain,
    ) -> None:
        self._rulebook, self._probes, self._exposition = rulebook, probes, exposition
        self._on_failure = on_failure
        self._key_pages = KeyPages(state.keys, rulebook, dice, now_ns)
        self._is_loopback, self._pages = is_loopback, ledger.LedgerPages(state, shown)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._guarded], client_max_size=MAX_BODY)
        app.add_routes(
            [
                web.get("/", self._front),
                web.get("/healthz/live", _health(self._probes.live)),
                web.get("/healthz/ready", _health(self._probes.ready, self._probes.state_mode)),
                web.get("/healthz/startup", _health(self._probes.startup)),
                web.get("/metrics", self._metrics),
                *self._pages.routes(),
                *self._key_pages.routes(),
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
        slices = []
        for one in self._exposition():
            slices.append(one)
            await asyncio.sleep(0)  # calls go on meanwhile
        return web.Response(body=b"".join(slices), headers={**SAFE, "content-type": "text/plain; version=0.0.4; charset=utf-8"})


def _health(
    probe: Callable[[], str | None], mode: Callable[[], str | None] = lambda: None
) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        reason, shared = probe(), mode()
        more = "" if shared is None else f"\nstate: {shared}"
        return text_reply(200, "ok" + more) if reason is None else text_reply(503, reason + more)

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
