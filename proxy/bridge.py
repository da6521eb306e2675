"""THE DATA PATH of a WebSocket: the same rooms in the same order, then `turns.Session` carries frames both ways. Meters nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
from aiohttp import web
from yarl import URL

from proxy.dialect import dialect_of, realtime
from proxy.dialect.wire import Asked
from proxy.exchange import Call, Story, story_of
from proxy.forward.credentials import Credentials
from proxy.forward.shape import Shaping
from proxy.guard.mask import inspect_other
from proxy.identify.keys import KEY_PROTOCOL
from proxy.identify.who import end_user
from proxy.listen.headers import forwardable
from proxy.policy.plan import Facts, Plan
from proxy.ports import Outgoing
from proxy.refusal import ClientGone, Refusal
from proxy.rooms import Generation, Rooms
from proxy.trust import authorities
from proxy.turns import Session

GOING_AWAY = 1001  # RFC 6455, 7.4.1
MAX_FRAME = 16 * 1024 * 1024
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol"})


class Bridge:
    """All sessions share it and the errand session it connects with."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._credentials = Credentials()
        self._session: aiohttp.ClientSession | None = None

    async def run(self, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        """One session from its handshake to its close. Raises Refusal before the upgrade."""
        generation = self._rooms.generation
        story = story_of(call, generation.rules.generation)
        story.operation, story.streamed = "realtime", True
        self._rooms.under_way.sessions[story] = request
        try:
            plan, facts = await self._plan(generation, call, story)
            async with self._connected(call, plan, generation) as upstream:
                client = web.WebSocketResponse(
                    autoclose=False, autoping=False, compress=False, max_msg_size=MAX_FRAME,
                    protocols=[upstream.protocol] if upstream.protocol else [],
                )  # fmt: skip
                await client.prepare(request)
                story.started, story.status = self._rooms.clock.monotonic(), 101
                session = Session(self._rooms, generation, plan, facts, story, client, upstream)
                await session.run(lambda: request.transport is None)
                return client
        except Refusal as no:
            story.end, story.limit, story.status = f"refused:{no.code}", no.limit, no.status
            self._rooms.books.refused(story, no)
            raise
        except ClientGone:
            story.end = "client_gone"
            raise
        except asyncio.CancelledError:
            if story.started is None:  # a session says itself how it ended
                story.end = "client_gone" if request.transport is None else f"stopped:{story.stopping}"
            raise
        finally:
            del self._rooms.under_way.sessions[story]
            self._rooms.books.close(story)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _plan(self, generation: Generation, call: Call, story: Story) -> tuple[Plan, Facts]:
        rooms, rules = self._rooms, generation.rules
        caller = story.caller = await rooms.identify.who(call, rules.callers)
        model = realtime.model_of(call.route.path, call.route.query)
        if realtime.names_models(call.route.query) > 1:
            raise Refusal(400, "duplicate_key", "the query names more than one model; name it once", should_retry=False)
        user = end_user(call.fields, None, rules.callers, rooms.secret)
        facts = Facts(
            caller, call.route.provider, "realtime", call.method, call.route.path, call.peer, call.fields, model, user, is_billed=False
        )
        rooms.store.peek(rules.early(facts))
        plan = rules.plan(facts)
        story.model = plan.model
        await rooms.store.enter(call.uid, plan.claims)
        await rooms.store.decide(call.uid)
        story.found.update(inspect_other(("realtime",), plan.guard))
        return plan, facts

    @contextlib.asynccontextmanager
    async def _connected(self, call: Call, plan: Plan, generation: Generation) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        """The provider's side, connected first: its no to the handshake is the caller's answer."""
        target = plan.targets[0]
        provider = target.provider
        credential = self._credentials.order(provider, self._rooms.clock.monotonic())[0]
        dialect = dialect_of(provider.dialect)
        op = replace(dialect.operation(call.method, call.route.path, call.route.query), model=plan.model)
        headers = tuple(line for line in forwardable(call.headers) if line[0].lower() not in _HANDSHAKE)
        shaping = Shaping(call, op, generation.rules.providers[call.route.provider], headers, None)
        form, _, _ = shaping.shape(plan, target, credential, Asked(model=plan.model), None, None)
        request = Outgoing(form.to, form.head.of(call.headers), None)
        origin = provider.origin
        path, _, query = request.to.target.partition("?")
        url = URL.build(
            scheme="wss" if origin.scheme == "https" else "ws",
            host=origin.host,
            port=origin.port,
            path=path,
            query_string=query,
            encoded=True,
        )
        protocols = [p.strip() for p in call.fields.get("sec-websocket-protocol", "").split(",") if p.strip()]
        if not plan.caller.brings_own_key:
            protocols = [p for p in protocols if not p.startswith(KEY_PROTOCOL)]
        try:
            async with asyncio.timeout(provider.timeouts.connect + provider.timeouts.first_byte):
                upstream = await self._errands().ws_connect(
                url, headers=[(n.decode("latin-1"), v.decode("latin-1")) for n, v in request.headers], protocols=protocols,
                autoclose=False, autoping=False, compress=0, max_msg_size=MAX_FRAME, ssl=authorities(),
            )  # fmt: skip
        except aiohttp.WSServerHandshakeError as no:
            raise _refused(no.status, provider.name, is_our_key=not plan.caller.brings_own_key) from None
        except TimeoutError:
            raise Refusal(504, "upstream_first_byte_timeout", f"provider {provider.name} did not answer in time") from None
        except (aiohttp.ClientError, OSError):
            raise Refusal(502, "upstream_connect", f"provider {provider.name} could not be reached") from None
        try:
            yield upstream
        finally:
            await upstream.close(code=GOING_AWAY)

    def _errands(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                connector=aiohttp.TCPConnector(limit=0), skip_auto_headers=("User-Agent",), trace_configs=[_following_nobody()],
            )  # fmt: skip
        return self._session


def _refused(status: int, provider: str, *, is_our_key: bool) -> Refusal:
    """The provider's no to the handshake, as the caller's answer."""
    if status in (401, 403) and is_our_key:
        return Refusal(502, "upstream_auth", f"provider {provider} refused the key that Sluice holds for it", should_retry=False)
    if 300 <= status < 400:
        return Refusal(502, "upstream_redirect", f"provider {provider} redirects, which is not followed", should_retry=False)
    return Refusal(status if 400 <= status < 600 else 502, "upstream_protocol", f"provider {provider} refused the WebSocket")


def _following_nobody() -> aiohttp.TraceConfig:
    """`ws_connect` follows redirects, with the key in its headers, and cannot be told not to."""

    async def stop(_session: object, _context: object, redirected: aiohttp.TraceRequestRedirectParams) -> None:
        answer = redirected.response
        raise aiohttp.WSServerHandshakeError(answer.request_info, answer.history, status=answer.status)

    config = aiohttp.TraceConfig()
    config.on_request_redirect.append(stop)
    return config
