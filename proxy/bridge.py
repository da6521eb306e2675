"""THE DATA PATH of a WebSocket: the same rooms, then frames both ways as they come. Each response is an attempt of its own.

A turn is held when it begins (`response.create`, or the server's own start), metered by its `response.done` usage and settled then.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import aiohttp
import orjson
from aiohttp import web
from yarl import URL

from proxy.admit.estimate import bound
from proxy.dialect import dialect_of, realtime
from proxy.dialect.wire import Asked
from proxy.exchange import Call, Story, Try, Usage
from proxy.forward.credentials import Credentials
from proxy.forward.shape import shape
from proxy.guard.mask import inspect_other
from proxy.identify.who import end_user
from proxy.listen.headers import forwardable
from proxy.meter.price import Quote, bound_cost
from proxy.policy.plan import Facts, Plan
from proxy.ports import Intent
from proxy.refusal import ClientGone, Refusal
from proxy.rooms import Generation, Rooms

POLICY_VIOLATION = 1008  # RFC 6455, 7.4.1
GOING_AWAY, SERVER_ERROR = 1001, 1011
MAX_FRAME = 16 * 1024 * 1024
MAX_INPUT = 128_000  # tokens of a realtime session's context: no turn reads more
CLOSE_S = 1.0  # both sides close within so long of each other
TEXT, BINARY = aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY
PING, PONG = aiohttp.WSMsgType.PING, aiohttp.WSMsgType.PONG
_TURNS = (
    b"response.create", b"response.done", b"session", b"setup", b"clientContent", b"client_content", b"serverContent",
    b"usageMetadata", b"transcription.completed",
)  # fmt: skip
_HANDSHAKE = frozenset({b"sec-websocket-key", b"sec-websocket-version", b"sec-websocket-extensions", b"sec-websocket-protocol"})
_AUTH_PROTOCOL = "openai-insecure-api-key."

Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class Bridge:
    """All sessions share it and the errand session it connects with."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._credentials = Credentials()
        self._session: aiohttp.ClientSession | None = None

    async def run(self, call: Call, request: web.BaseRequest) -> web.StreamResponse:
        """One session from its handshake to its close. Raises Refusal before the upgrade."""
        generation = self._rooms.current()
        story = Story(call, generation=generation.rules.generation, operation="realtime", streamed=True)
        self._rooms.metrics.in_flight(1)
        try:
            plan = await self._plan(generation, call, story)
            async with self._connected(call, plan, generation) as upstream:
                client = web.WebSocketResponse(
                    autoclose=False, autoping=False, compress=False, max_msg_size=MAX_FRAME,
                    protocols=[upstream.protocol] if upstream.protocol else [],
                )  # fmt: skip
                await client.prepare(request)
                story.started, story.status = self._rooms.clock.monotonic(), 101
                await _Session(self._rooms, generation, plan, story, client, upstream).run()
                return client
        except Refusal as no:
            story.end, story.limit = f"refused:{no.code}", no.limit
            self._rooms.books.refused(story, no)
            raise
        except ClientGone:
            story.end = "client_gone"
            raise
        except asyncio.CancelledError:
            story.end = "client_gone" if request.transport is None else "stopped:drain"
            raise
        finally:
            for try_ in story.tries:
                if try_.row is None:
                    try_.end = story.end
            self._rooms.books.close(story)
            self._rooms.metrics.in_flight(-1)

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def _plan(self, generation: Generation, call: Call, story: Story) -> Plan:
        rooms, rules = self._rooms, generation.rules
        caller = story.caller = await rooms.identify.who(call, rules.callers)
        model = realtime.model_of(call.route.path, call.route.query)
        user = end_user(call.fields, None, rules.callers, rooms.secret)
        facts = Facts(caller, call.route.provider, "realtime", call.method, call.route.path, call.peer, call.fields, model, user)
        rooms.store.peek(rules.early(facts))
        plan = rules.plan(facts)
        story.model = plan.model
        await rooms.store.enter(call.uid, plan.claims)
        story.found.update(inspect_other(("realtime",), plan.guard))
        return plan

    @contextlib.asynccontextmanager
    async def _connected(self, call: Call, plan: Plan, generation: Generation):  # type: ignore[no-untyped-def]  # contextlib types it
        """The provider's side, connected first: its no to the handshake is the caller's answer."""
        target = plan.targets[0]
        provider = target.provider
        credential = self._credentials.order(provider, self._rooms.clock.monotonic())[0]
        dialect = dialect_of(provider.dialect)
        op = replace(dialect.operation(call.method, call.route.path, call.route.query), model=plan.model)
        headers = tuple(line for line in forwardable(call.headers) if line[0].lower() not in _HANDSHAKE)
        request = shape(
            call, plan, target, credential, None, op, Asked(model=plan.model), dialect=dialect,
            source=generation.rules.providers[call.route.provider], headers=headers,
        ).request  # fmt: skip
        origin = provider.origin
        path, _, query = request.target.partition("?")
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
            protocols = [p for p in protocols if not p.startswith(_AUTH_PROTOCOL)]
        try:
            upstream = await self._errands().ws_connect(
                url, headers=[(n.decode("latin-1"), v.decode("latin-1")) for n, v in request.headers], protocols=protocols,
                autoclose=False, autoping=False, compress=0, max_msg_size=MAX_FRAME, ssl=provider.ssl or True,
            )  # fmt: skip
        except aiohttp.WSServerHandshakeError as no:
            raise Refusal(
                no.status if 400 <= no.status < 600 else 502, "upstream_protocol", f"provider {provider.name} refused the WebSocket"
            ) from None
        except (aiohttp.ClientError, OSError, TimeoutError):
            raise Refusal(502, "upstream_connect", f"provider {provider.name} could not be reached") from None
        try:
            yield upstream
        finally:
            await upstream.close(code=GOING_AWAY)

    def _errands(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
                connector=aiohttp.TCPConnector(limit=0), skip_auto_headers=("User-Agent",),
            )  # fmt: skip
        return self._session


class _Session:
    """One bridged WebSocket: its turns, and who closed."""

    def __init__(
        self,
        rooms: Rooms,
        generation: Generation,
        plan: Plan,
        story: Story,
        client: web.WebSocketResponse,
        upstream: aiohttp.ClientWebSocketResponse,
    ) -> None:
        self._rooms, self._generation, self._plan, self._story = rooms, generation, plan, story
        self._client, self._upstream = client, upstream
        self._model = plan.model
        self._sent = 0  # bytes of text the client has sent: what a turn may read, at most
        self._turn: tuple[Try, Quote] | None = None

    async def run(self) -> None:
        """Frames both ways until one side closes; then the other is closed with the same code within a second."""
        pumps = [
            asyncio.create_task(self._pump(self._client, self._upstream, self._from_client), name="realtime client"),
            asyncio.create_task(self._pump(self._upstream, self._client, self._from_provider), name="realtime provider"),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            code, message = self._verdict(done)
            async with asyncio.timeout(CLOSE_S):
                await asyncio.gather(self._client.close(code=code, message=message), self._upstream.close(code=code, message=message))
        except TimeoutError:
            pass
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._end_turn(None)

    def _verdict(self, done: set[asyncio.Task[tuple[int, bytes]]]) -> tuple[int, bytes]:
        first = done.pop()
        error = first.exception()
        if error is None:
            if first.get_name() == "realtime client":
                self._story.end = "client_gone" if self._turn is not None else "done"
            elif self._turn is not None:
                self._story.end = "upstream_cut"
            return first.result()
        if isinstance(error, Refusal):
            self._story.end, self._story.limit = f"refused:{error.code}", error.limit
            self._rooms.books.refused(self._story, error)
            return POLICY_VIOLATION, error.code.encode()
        self._rooms.log.failure(self._story.call.id, error)
        return SERVER_ERROR, b"internal"

    async def _pump(self, source: Side, sink: Side, saw) -> tuple[int, bytes]:  # type: ignore[no-untyped-def]  # a method below
        async for message in _frames(source):
            match message.type:
                case aiohttp.WSMsgType.TEXT:
                    await saw(message.data)
                    await sink.send_str(message.data)
                case aiohttp.WSMsgType.BINARY:
                    await saw(message.data)
                    await sink.send_bytes(message.data)
                case aiohttp.WSMsgType.PING:
                    await sink.ping(message.data)
                case aiohttp.WSMsgType.PONG:
                    await sink.pong(message.data)
        return source.close_code or GOING_AWAY, b""

    # --- turns ---

    async def _from_client(self, data: str | bytes) -> None:
        self._sent += len(data)
        event = _event(data)
        if event is None:
            return
        self._model = self._model or realtime.model_of("", "", event)
        if realtime.starts_response(event):
            await self._begin_turn()

    async def _from_provider(self, data: str | bytes) -> None:
        event = _event(data)
        if event is None:
            return
        self._model = self._model or realtime.model_of("", "", event)
        usage = realtime.usage_of(event)
        is_done = realtime.is_done(event)
        if not is_done and realtime.starts_response(event):
            await self._begin_turn()
        if usage is not None and self._turn is None:  # billed apart: a transcription
            await self._begin_turn()
            self._end_turn(usage)
        elif is_done or (usage is not None and usage.source == "provider" and event.get("type") == "response.done"):
            self._end_turn(usage)
        elif usage is not None and self._turn is not None:
            self._turn[0].usage = usage

    async def _begin_turn(self) -> None:
        """Holds what the turn may cost; a refusal ends the session with close 1008."""
        if self._turn is not None:
            return
        rooms, plan, story = self._rooms, self._plan, self._story
        target = replace(plan.targets[0], model=self._model)
        number = len(story.tries) + 1
        try_ = Try(number, "turn", target.provider.name, self._model, None, id=f"{story.call.uid}/{number}")
        credential = self._generation.rules.providers[target.provider.name].credentials
        try_.credential = credential[0].name if credential and not plan.caller.brings_own_key else None
        try_.at_ns, try_.began = rooms.clock.now_ns(), rooms.clock.monotonic()
        story.tries.append(try_)
        quote = self._generation.prices.quote(
            plan.pricing, plan.is_under_spend_limit, target.provider, self._model, realtime.REALTIME, try_.at_ns
        )
        most = bound(realtime.REALTIME, Asked(), min(self._sent, MAX_INPUT), quote.row.window, plan.pricing.default_max_tokens)
        nanousd = bound_cost(quote.row, input_tokens=most.input_tokens, output_tokens=most.output_tokens, files=1)
        try_.held_tokens, try_.held_nanousd = most.tokens, nanousd
        try_.usage = Usage(most.input_tokens, output=most.output_tokens, source="estimate", note="unconfirmed")
        priced = self._generation.prices.priced(quote, try_.usage, nanousd)
        try_.cost_nanousd, try_.price_row, try_.end = priced.cost_nanousd, priced.price_row, "crashed"
        row = rooms.books.row_of(story, try_)
        try_.end = "done"
        await rooms.store.hold(Intent(try_.id, story.call.uid, plan.claims, most.tokens, nanousd, row))
        try_.is_held, try_.status = True, 101
        self._turn = (try_, quote)

    def _end_turn(self, usage: Usage | None) -> None:
        """Settles the turn under way; without a usage it is charged at its estimate."""
        if self._turn is None:
            return
        (try_, quote), self._turn = self._turn, None
        usage = usage or try_.usage
        priced = self._generation.prices.priced(quote, usage, try_.held_nanousd)
        try_.ended = self._rooms.clock.monotonic()
        try_.usage = replace(usage, note=priced.note)
        try_.cost_nanousd, try_.price_row = priced.cost_nanousd, priced.price_row
        if usage.source == "estimate":
            try_.end = self._story.end
        if not priced.is_known:
            self._rooms.metrics.unpriced(try_.provider, try_.model)
        self._rooms.books.settle(self._story, try_)


async def _frames(source: Side):  # type: ignore[no-untyped-def]  # an async generator of WSMessage
    """Until the side closes or dies."""
    while True:
        message = await source.receive()
        if message.type in (TEXT, BINARY, PING, PONG):
            yield message
        else:
            return


def _event(data: str | bytes) -> dict[str, object] | None:
    """The frame's JSON, where a byte search says that it may matter."""
    raw = data.encode() if isinstance(data, str) else data
    if not any(word in raw for word in _TURNS):
        return None
    try:
        doc = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return doc if isinstance(doc, dict) else None
