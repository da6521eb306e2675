"""One bridged WebSocket: frames both ways as they come, and its turns. Each response is an attempt of its own.

A turn is held when it begins (`response.create`, or the server's own start), metered by its `response.done` usage and settled then.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import replace

import aiohttp
import orjson
from aiohttp import web

from proxy.charging import hold, learn, settle
from proxy.dialect import realtime
from proxy.dialect.wire import Asked
from proxy.exchange import Story, Try, Usage
from proxy.meter.price import Quote
from proxy.policy.plan import Facts, Plan
from proxy.refusal import Refusal
from proxy.rooms import Generation, Rooms
from proxy.under_way import REVOKED

POLICY_VIOLATION, GOING_AWAY, SERVER_ERROR = 1008, 1001, 1011  # RFC 6455, 7.4.1
MAX_INPUT = 128_000  # tokens of a realtime session's context: no turn reads more
NOTHING_NAMED = Asked()  # a turn names no max_tokens
CLOSE_S = 1.0  # both sides close within so long of each other
_TURNS = (
    b"response.create", b"response.done", b"session", b"setup", b"clientContent", b"client_content", b"serverContent",
    b"usageMetadata", b"transcription.completed", b'"error"',
)  # fmt: skip

Turn = tuple[Try, Quote]
Side = web.WebSocketResponse | aiohttp.ClientWebSocketResponse


class Session:
    """One bridged WebSocket: its turns, and who closed."""

    def __init__(
        self,
        rooms: Rooms,
        generation: Generation,
        plan: Plan,
        facts: Facts,
        story: Story,
        client: web.WebSocketResponse,
        upstream: aiohttp.ClientWebSocketResponse,
    ) -> None:
        self._rooms, self._generation, self._plan, self._facts, self._story = rooms, generation, plan, facts, story
        self._client, self._upstream = client, upstream
        self._model = plan.model
        self._sent = 0  # bytes the client has sent, and tokens it was answered with: what a turn may read, at most
        self._transcriber: str | None = None  # the model that writes down what is heard
        self._asked: deque[Turn] = deque()  # held, and not yet begun by the provider
        self._live: dict[str, Turn] = {}  # begun, by the response's id: several may be under way at once

    async def run(self, is_client_gone: Callable[[], bool]) -> None:
        """Frames both ways until one side closes; then the other is closed with the same code within a second."""
        is_told = False
        pumps = [
            asyncio.create_task(self._pump(self._client, self._upstream, self._from_client), name="realtime client"),
            asyncio.create_task(self._pump(self._upstream, self._client, self._from_provider), name="realtime provider"),
        ]
        try:
            done, left = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            code, message = self._verdict(done)
            is_told = True
            for pump in left:  # who waits for a frame would be told before the other side is
                pump.cancel()
            await asyncio.wait(pumps)
            await self._close(code, message)
        except asyncio.CancelledError:
            if not is_told:
                self._story.end = "client_gone" if is_client_gone() else f"stopped:{self._story.stopping}"
            for pump in pumps:
                pump.cancel()
            await asyncio.wait(pumps)
            await self._close(*((POLICY_VIOLATION, b"stopped_revoked") if self._story.stopping == REVOKED else (GOING_AWAY, b"")))
            raise
        finally:
            for pump in pumps:
                pump.cancel()
            for turn in (*self._asked, *self._live.values()):
                self._settle(turn, turn[0].usage)
            self._rooms.store.leave(self._stay)

    async def _close(self, code: int, message: bytes) -> None:
        """Both sides, within a second. The provider first: a client that is answered may leave, and that cancels us."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                closing = self._upstream.close(code=code, message=message), self._client.close(code=code, message=message)
                await asyncio.gather(*closing, return_exceptions=True)

    @property
    def _stay(self) -> str:
        return f"{self._story.call.uid}/model"

    @property
    def _is_in_turn(self) -> bool:
        return bool(self._asked or self._live)

    def _verdict(self, done: set[asyncio.Task[tuple[int, bytes]]]) -> tuple[int, bytes]:
        first = done.pop()
        error = first.exception()
        if error is None:
            if first.get_name() == "realtime client":
                self._story.end = "client_gone" if self._is_in_turn else "done"
            elif self._is_in_turn:
                self._story.end = "upstream_cut"
            return first.result()
        if isinstance(error, ConnectionError):  # what one side said the other was no longer there to hear
            is_clients = first.get_name() == "realtime provider"
            self._story.end = "client_gone" if is_clients else "upstream_cut"
            return GOING_AWAY, b""
        if isinstance(error, Refusal):
            self._story.end, self._story.limit = f"refused:{error.code}", error.limit
            self._rooms.books.refused(self._story, error)
            return POLICY_VIOLATION, error.code.encode()
        self._rooms.log.failure(self._story.call.id, error)
        return SERVER_ERROR, b"internal"

    async def _pump(self, source: Side, sink: Side, saw: Callable[[str | bytes], Awaitable[None]]) -> tuple[int, bytes]:
        """Until the side closes or dies: with which code and reason."""
        while True:
            message = await source.receive()
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
                case aiohttp.WSMsgType.CLOSE:
                    return _sendable(message.data), (message.extra or "").encode()
                case _:
                    return _sendable(source.close_code), b""

    # --- turns ---

    async def _learn(self, event: dict[str, object]) -> None:
        """Which models are at work, from the frames that name them. What the policy says of the session's own holds from here on."""
        model = realtime.model_of("", "", event) if self._model is None else None
        if model is not None:
            plan = self._generation.rules.plan(replace(self._facts, model=model))
            more = tuple(claim for claim in plan.claims if claim not in self._plan.claims)
            await self._rooms.store.enter(self._stay, more)
            self._plan, self._model = plan, plan.model
        self._transcriber = realtime.transcriber_of(event) or self._transcriber

    async def _from_client(self, data: str | bytes) -> None:
        self._sent += len(data)
        event = _event(data, is_callers=True)
        if event is None:
            return
        await self._learn(event)
        if realtime.asks_response(event) or (realtime.starts_response(event) and not self._is_in_turn):
            self._asked.append(await self._begun())

    async def _from_provider(self, data: str | bytes) -> None:
        event = _event(data)
        if event is None:
            return
        await self._learn(event)
        if realtime.is_refused(event):
            if self._asked:  # should it answer another frame, the response is held anew when it begins
                self._settle(self._asked.popleft(), Usage())
            return
        usage = realtime.usage_of(event)
        if usage is not None and realtime.is_transcribed(event):  # billed apart, by its own model, also in the middle of a turn
            await self._book(self._transcriber or self._model, usage)
            return
        is_done, key = realtime.is_done(event), realtime.response_id(event) or ""
        if not is_done and realtime.starts_response(event) and key not in self._live:
            self._live[key] = self._asked.popleft() if self._asked else await self._begun()
        turn = self._live.get(key)
        if is_done:
            await self._done(key, usage)
        elif usage is not None and turn is not None:
            turn[0].usage = usage
        elif usage is not None:
            await self._book(self._model, usage)

    async def _done(self, key: str, usage: Usage | None) -> None:
        """Settles the response that is over; without a usage it is charged at its estimate."""
        turn = self._live.pop(key, None) or (self._asked.popleft() if self._asked else None)
        if turn is not None:
            self._settle(turn, usage or turn[0].usage)
        elif usage is not None:
            await self._book(self._model, usage)

    async def _begun(self) -> Turn:
        if self._model is None:  # may a session that names no model work?
            self._generation.rules.plan(replace(self._facts, is_billed=True))
        return await self._held(self._model)

    async def _book(self, model: str | None, usage: Usage) -> None:
        """What was used already is in the ledger, also where the budget has no room left for it; then the session ends."""
        try:
            turn = await self._held(model)
        except Refusal:
            try_, plan, prices = self._story.tries[-1], self._plan, self._generation.prices
            pricing = replace(plan.pricing, unknown_price="flag", unmetered="flag")
            quote = prices.quote(pricing, False, plan.targets[0].provider, model, realtime.REALTIME, try_.at_ns)
            self._settle((try_, quote), usage)
            raise
        self._settle(turn, usage)

    async def _held(self, model: str | None) -> Turn:
        """Takes what a turn may cost; a refusal ends the session with close 1008."""
        rooms, plan, story = self._rooms, self._plan, self._story
        target = replace(plan.targets[0], model=model)
        number = len(story.tries) + 1
        try_ = Try(number, "turn", target.provider.name, model, None, id=f"{story.call.uid}/{number}")
        credential = self._generation.rules.providers[target.provider.name].credentials
        try_.credential = credential[0].name if credential and not plan.caller.brings_own_key else None
        try_.at_ns, try_.began = rooms.clock.now_ns(), rooms.clock.monotonic()
        story.tries.append(try_)
        quote = await hold(
            rooms, self._generation, plan, story, try_, target.provider, realtime.REALTIME, NOTHING_NAMED, min(self._sent, MAX_INPUT)
        )
        try_.status, try_.is_sent = 101, True
        return try_, quote

    def _settle(self, turn: Turn, usage: Usage) -> None:
        try_, quote = turn
        self._sent += usage.output  # later turns read it
        if try_.is_held:
            learn(self._rooms, try_, usage, NOTHING_NAMED)
        if usage.source == "estimate":
            try_.end = self._story.end
        settle(self._rooms, self._generation.prices, self._story, try_, quote, usage, realtime.REALTIME)


def _sendable(code: int | None) -> int:
    """The close code as it may stand in a frame (RFC 6455, 7.4): those that only say how a connection was lost may not."""
    if code is not None and (code in range(1000, 1004) or code in range(1007, 1015) or code in range(3000, 5000)):
        return code
    return GOING_AWAY


def _event(data: str | bytes, *, is_callers: bool = False) -> dict[str, object] | None:
    """The frame's JSON, where a byte search says that it may matter; of escaped text only its JSON can say.

    Raises Refusal 400 `malformed_json` for a caller's that we cannot read: the provider might.
    """
    raw = data.encode() if isinstance(data, str) else data
    if b"\\u" not in raw and not any(word in raw for word in _TURNS):
        return None
    try:
        doc = orjson.loads(raw)
    except orjson.JSONDecodeError:
        if is_callers and raw.lstrip().startswith(b"{"):
            raise Refusal(400, "malformed_json", should_retry=False) from None
        return None
    return doc if isinstance(doc, dict) else None
