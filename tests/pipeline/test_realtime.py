"""A WebSocket through the bridge: same rooms, both sides close alike, each turn is settled, and no trick gets a key or a model out."""

import asyncio
import contextlib
import itertools
import json
import time

import aiohttp
import pytest
from aiohttp import web
from support.inside import inside, slk

from proxy.bridge import Bridge
from proxy.identify.keys import digest_of
from proxy.listen.edge import Edge, Settings
from proxy.policy.plan_callers import KeyRecord

PATH = "/openai/v1/realtime?model=gpt-4o"
CREATE = json.dumps({"type": "response.create"})
CREATED = json.dumps({"type": "response.created", "response": {"id": "r"}})
USAGE = {"total_tokens": 30, "input_tokens": 20, "output_tokens": 10}
DONE = json.dumps({"type": "response.done", "response": {"id": "r", "usage": USAGE}})
REFUSED = json.dumps({"type": "error", "error": {"type": "invalid_request_error", "code": "x", "message": "no"}})


class Provider:
    """A realtime provider that plays a script, and who knocked at its door."""

    def __init__(self, script) -> None:
        self.script, self.requests, self.closed = script, [], asyncio.Event()
        self.code = self.reason = None

    async def serve(self, request):
        self.requests.append(request)
        if isinstance(self.script, web.Response):
            return self.script
        if self.script == "silent":
            await asyncio.sleep(30)
        ws = web.WebSocketResponse(autoclose=False, protocols=["realtime"])
        await ws.prepare(request)
        await self.script(ws)
        message = await ws.receive()
        self.code, self.reason = message.data, message.extra
        await ws.close()
        self.closed.set()
        return ws


@pytest.fixture
async def bridged(tmp_path):
    """(script, more policy) → (path, provider, connect, edge)"""
    async with contextlib.AsyncExitStack() as stack:

        async def open_one(script, more=""):
            provider = Provider(script)
            app = web.Application()
            app.router.add_route("*", "/{tail:.*}", provider.serve)
            runner = web.AppRunner(app, shutdown_timeout=0.1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            port = site._server.sockets[0].getsockname()[1]
            path = await stack.enter_async_context(inside(tmp_path, more, url=f"http://127.0.0.1:{port}"))
            bridge = Bridge(path.rooms)
            stack.push_async_callback(bridge.close)
            rules = path.rooms.generation.rules
            settings = Settings(rules.providers, rules.default_provider)
            refused = path.rooms.books.turned_away
            edge = Edge(path.pipeline.run, bridge.run, settings, path.rooms.clock, on_refusal=refused)
            await edge.start("127.0.0.1:0")
            stack.push_async_callback(edge.close, 0)
            session = await stack.enter_async_context(aiohttp.ClientSession())

            def connect(target=PATH, key="ann", protocols=("realtime",), **headers):
                lines = {"Authorization": f"Bearer {slk(key)}"} if key else {}
                return session.ws_connect(
                    f"http://127.0.0.1:{edge.port}{target}", headers={**lines, **headers}, protocols=protocols, autoclose=False
                )

            return path, provider, connect, edge

        yield open_one


async def nothing(ws):
    """Waits for the close."""


async def answers(ws):
    assert json.loads((await ws.receive()).data)["type"] == "response.create"
    await ws.send_str(CREATED)
    await ws.send_str(DONE)


async def refusals(path, code):
    text = b"".join(path.rooms.metrics.exposition()).decode()
    return [line for line in text.splitlines() if line.startswith("sluice_refusals_total") and code in line]


async def test_a_turn_is_metered_and_the_clients_close_reaches_the_provider_as_it_is(bridged):
    path, provider, connect, _ = await bridged(answers)
    async with await connect() as ws:
        assert ws.protocol == "realtime"
        await ws.send_str(CREATE)
        assert [(await ws.receive()).data for _ in range(2)] == [CREATED, DONE]
        await ws.close(code=4007, message=b"enough")
    await asyncio.wait_for(provider.closed.wait(), 20)
    assert (provider.code, provider.reason) == (4007, "enough")
    await settled(path)
    (row,) = await path.rows()
    assert (row["kind"], row["input_tokens"], row["output_tokens"], row["end"]) == ("turn", 20, 10, "done")
    assert path.story.end == "done"
    await path.assert_nothing_is_left()


async def settled(path):
    for _ in range(100):
        if not len(path.rooms.under_way) and path.books.story is not None:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("the session is not over")


async def test_the_providers_close_reaches_the_client_as_it_is_within_a_second(bridged):
    async def leaves(ws):
        await ws.close(code=4001, message=b"bye")

    path, _, connect, _ = await bridged(leaves)
    async with await connect() as ws:
        began = time.monotonic()
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 4001, "bye")
        assert time.monotonic() - began < 10
        await ws.close()
    await settled(path)
    await path.assert_nothing_is_left()


async def test_a_key_in_a_subprotocol_is_a_credential_and_stays_here(bridged):
    path, provider, connect, _ = await bridged(nothing)
    async with await connect(key=None, protocols=("realtime", f"openai-insecure-api-key.{slk('ann')}")):
        (request,) = provider.requests
    assert "slk-" not in str(request.headers)
    assert request.headers["Authorization"] == "Bearer sk-provider-secret-1"
    assert request.headers["Sec-WebSocket-Protocol"] == "realtime"
    await settled(path)
    assert path.story.caller.name == "ann"
    with pytest.raises(aiohttp.WSServerHandshakeError) as no:
        await connect(key=None, protocols=("realtime", f"openai-insecure-api-key.{slk('nobody')}"))
    assert no.value.status == 401


async def test_a_redirect_is_not_followed_with_our_key(bridged):
    elsewhere = Provider(nothing)
    runner = web.AppRunner(app := web.Application())
    app.router.add_route("*", "/{tail:.*}", elsewhere.serve)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        target = f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}/stolen"
        path, provider, connect, _ = await bridged(web.Response(status=307, headers={"Location": target}))
        with pytest.raises(aiohttp.WSServerHandshakeError) as no:
            await connect()
        assert (no.value.status, no.value.headers["x-sluice-error"]) == (502, "upstream_redirect")
        assert len(provider.requests) == 1
        assert not elsewhere.requests
        await path.assert_nothing_is_left()
    finally:
        await runner.cleanup()


@pytest.mark.parametrize(
    ("script", "status", "code"),
    [
        (web.Response, (502), "upstream_auth"),
        ("silent", 504, "upstream_first_byte_timeout"),
    ],
)
async def test_a_handshake_that_fails_is_a_refusal_that_is_counted_once(bridged, script, status, code):
    script = web.Response(status=401) if script is web.Response else script
    path, _, connect, _ = await bridged(script, "timeouts: {connect: 100ms, first_byte: 100ms}")
    with pytest.raises(aiohttp.WSServerHandshakeError) as no:
        await connect()
    assert (no.value.status, no.value.headers["x-sluice-error"]) == (status, code)
    assert [line.split()[-1] for line in await refusals(path, code)] == ["1.0"]
    await path.assert_nothing_is_left()


async def test_a_budget_that_is_used_up_closes_with_1008_and_its_code_and_charges_nothing(bridged):
    path, provider, connect, _ = await bridged(nothing, "limits: [{name: poor, match: {caller: ann}, per: caller, spend: $0.00001/day}]")
    async with await connect() as ws:
        await ws.send_str(CREATE)
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        assert message.extra in ("exceeds_limit", "budget_exhausted")
        await ws.close()
    await asyncio.wait_for(provider.closed.wait(), 20)
    await settled(path)
    (row,) = await path.rows()
    assert (row["kind"], row["cost_nanousd"], row["usage_source"]) == ("refusal", 0, "none")
    await path.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("target", "frame"),
    [
        ("/openai/v1/realtime?model=o3", None),
        ("/openai/v1/realtime?model=gpt-4o&model=o3", None),
        ("/openai/v1/realtime", {"type": "session.update", "session": {"model": "o3"}}),
        ("/openai/v1/realtime", {"type": "response.create"}),
    ],
)
async def test_a_model_that_is_not_allowed_is_reached_by_no_frame(bridged, target, frame):
    got = []

    async def listens(ws):
        message = await ws.receive()
        got.append(message.type)
        assert message.type is not aiohttp.WSMsgType.TEXT

    path, _, connect, _ = await bridged(listens)
    try:
        async with await connect(target, key="bob") as ws:
            await ws.send_str(json.dumps(frame))
            message = await ws.receive()
            assert (message.data, message.extra) == (1008, "not_allowed")
            await ws.close()
    except aiohttp.WSServerHandshakeError as no:
        assert no.headers["x-sluice-error"] in ("not_allowed", "duplicate_key")
        assert frame is None
    await settled(path)
    assert aiohttp.WSMsgType.TEXT not in got
    await path.assert_nothing_is_left()


async def test_escaped_text_hides_neither_a_turn_nor_the_model_from_the_rooms(bridged):
    got = []

    async def listens(ws):
        got.append((await ws.receive()).type)

    poor = "limits: [{name: poor, match: {caller: ann}, per: caller, spend: $0.00001/day}]"
    path, _, connect, _ = await bridged(listens, poor)
    for key, target, frame, code in (
        ("ann", PATH, CREATE.replace("create", r"cre\u0061te"), "exceeds_limit"),
        ("bob", "/openai/v1/realtime", json.dumps({"session": {"model": "o3"}}).replace("session", r"s\u0065ssion"), "not_allowed"),
        ("ann", PATH, r'{"type": "response.create", "x": "\ud800"}', "malformed_json"),  # the provider's reader may take it
    ):
        assert r"\u" in frame
        async with await connect(target, key=key) as ws:
            await ws.send_str(frame)
            message = await ws.receive()
            assert (message.data, message.extra) == (1008, code)
            await ws.close()
    await settled(path)
    assert aiohttp.WSMsgType.TEXT not in got
    await path.assert_nothing_is_left()


async def test_a_limit_on_the_model_counts_a_session_that_names_it_later(bridged):
    path, _, connect, _ = await bridged(nothing, "limits: [{name: one, match: {model: o3}, per: caller, concurrency: 1}]")
    frame = json.dumps({"type": "session.update", "session": {"model": "o3"}})
    async with await connect("/openai/v1/realtime") as first:
        await first.send_str(frame)
        for _ in range(100):
            if len(path.store.stays) > 1:
                break
            await asyncio.sleep(0.01)
        async with await connect("/openai/v1/realtime") as second:
            await second.send_str(frame)
            message = await second.receive()
            assert (message.data, message.extra) == (1008, "too_many_in_flight")
            await second.close()
        await first.close()
    await settled(path)
    await path.assert_nothing_is_left()


async def test_a_response_the_provider_would_not_begin_costs_nothing(bridged):
    async def says_no(ws):
        await ws.receive()
        await ws.send_str(REFUSED)

    path, _, connect, _ = await bridged(says_no)
    async with await connect() as ws:
        await ws.send_str(CREATE)
        assert (await ws.receive()).data == REFUSED
        await ws.close()
    await settled(path)
    (row,) = await path.rows()
    assert (row["kind"], row["cost_nanousd"], row["usage_source"]) == ("turn", 0, "none")
    await path.assert_nothing_is_left()


async def test_what_was_used_is_in_the_ledger_also_where_no_budget_is_left_for_it(bridged):
    async def transcribes(ws):
        await ws.send_str(
            json.dumps({"type": "conversation.item.input_audio_transcription.completed", "usage": {**USAGE, "type": "tokens"}})
        )

    path, _, connect, _ = await bridged(transcribes, "limits: [{name: poor, match: {caller: ann}, per: caller, tokens: 10/min}]")
    async with await connect() as ws:
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1008)
        await ws.close()
    await settled(path)
    first, refusal = await path.rows()
    assert (first["kind"], first["input_tokens"], first["usage_source"]) == ("turn", 20, "provider")
    assert first["cost_nanousd"] > 0
    assert (refusal["kind"], refusal["cost_nanousd"]) == ("refusal", 0)


async def test_a_client_that_vanishes_in_a_turn_pays_its_estimate_and_the_provider_is_let_go(bridged):
    async def begins(ws):
        await ws.receive()
        await ws.send_str(CREATED)

    path, provider, connect, _ = await bridged(begins)
    ws = await connect()
    await ws.send_str(CREATE)
    await ws.receive()
    ws._response.connection.transport.abort()
    await asyncio.wait_for(provider.closed.wait(), 20)
    await settled(path)
    (row,) = await path.rows()
    assert (path.story.end, row["end"], row["usage_source"]) == ("client_gone", "client_gone", "estimate")
    assert row["cost_nanousd"] == row["held_nanousd"] > 0
    await path.assert_nothing_is_left()


async def test_a_drain_closes_both_sides_with_1001(bridged):
    async def begins(ws):
        await ws.receive()
        await ws.send_str(CREATED)

    path, provider, connect, edge = await bridged(begins)
    async with await connect() as ws:
        await ws.send_str(CREATE)
        await ws.receive()
        closing = asyncio.ensure_future(edge.close(0))
        message = await ws.receive()
        assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
        await ws.close()
        await closing
    await asyncio.wait_for(provider.closed.wait(), 20)
    assert provider.code == 1001
    await settled(path)
    (row,) = await path.rows()
    assert (path.story.end, row["end"]) == ("stopped:drain", "stopped:drain")
    await path.assert_nothing_is_left()


async def test_a_key_that_is_revoked_ends_its_session_with_1008(bridged):
    async def begins(ws):
        await ws.receive()
        await ws.send_str(CREATED)

    path, provider, connect, _ = await bridged(begins)
    async with await connect() as ws:
        await ws.send_str(CREATE)
        await ws.receive()
        assert path.rooms.under_way.revoked([KeyRecord("bob", digest_of(slk("bob"))), KeyRecord("ann", digest_of("another"))]) == 0
        assert path.rooms.under_way.revoked([KeyRecord("ann", digest_of(slk("ann")))]) == 1
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "stopped_revoked")
        await ws.close()
    await asyncio.wait_for(provider.closed.wait(), 20)
    await settled(path)
    (row,) = await path.rows()
    assert (path.story.end, row["end"]) == ("stopped:revoked", "stopped:revoked")
    await path.assert_nothing_is_left()


async def test_responses_under_way_at_once_are_attempts_of_their_own_whatever_order_they_end_in(bridged):
    used = {"a": 3, "b": 5}

    async def both(ws):
        for _ in used:
            await ws.receive()
        for one in used:
            await ws.send_str(json.dumps({"type": "response.created", "response": {"id": one}}))
        for one in reversed(used):
            usage = {"input_tokens": 1, "output_tokens": used[one]}
            await ws.send_str(json.dumps({"type": "response.done", "response": {"id": one, "usage": usage}}))

    path, _, connect, _ = await bridged(both)
    async with await connect() as ws:
        for _ in used:
            await ws.send_str(CREATE)
        for _ in range(4):
            await ws.receive()
        await ws.close()
    await settled(path)
    rows = await path.rows()
    assert [(row["attempt"], row["kind"], row["usage_source"], row["output_tokens"]) for row in rows] == [
        (1, "turn", "provider", 3),
        (2, "turn", "provider", 5),
    ]
    assert all(row["held_nanousd"] > 0 for row in rows)
    await path.assert_nothing_is_left()


async def test_a_budget_for_one_response_does_not_let_a_second_begin_beside_it(bridged):
    path, provider, connect, _ = await bridged(nothing, "limits: [{name: one, match: {caller: ann}, per: caller, spend: $0.06/day}]")
    async with await connect() as ws:
        await ws.send_str(CREATE)
        await ws.send_str(CREATE)
        message = await ws.receive()
        assert (message.type, message.data, message.extra) == (aiohttp.WSMsgType.CLOSE, 1008, "budget_exhausted")
        await ws.close()
    await asyncio.wait_for(provider.closed.wait(), 20)
    await settled(path)
    rows = sorted(await path.rows(), key=lambda row: row["kind"])
    assert [(row["kind"], row["cost_nanousd"] > 0) for row in rows] == [("refusal", False), ("turn", True)]
    await path.assert_nothing_is_left()


async def take_turns(bridged, turns, usage, more=""):
    """So many turns in one session, each with that usage; the path with their rows."""
    done = json.dumps({"type": "response.done", "response": {"id": "r", "usage": usage}})

    async def play(ws):
        for _ in range(turns):
            await ws.receive()
            await ws.send_str(CREATED)
            await ws.send_str(done)

    path, provider, connect, _ = await bridged(play, more)
    async with await connect() as ws:
        for _ in range(turns):
            await ws.send_str(CREATE)
            assert [(await ws.receive()).data for _ in range(2)] == [CREATED, done]
        await ws.close()
    await asyncio.wait_for(provider.closed.wait(), 20)
    await settled(path)
    return path


async def test_a_turn_may_read_what_the_ones_before_it_were_answered_with(bridged):
    answered = 3_000
    path = await take_turns(bridged, 3, {"total_tokens": 3_001, "input_tokens": 1, "output_tokens": answered})
    held = sorted(row["held_nanousd"] for row in await path.rows())
    token = 2_500  # nano-dollars of input
    assert [after - before for before, after in itertools.pairwise(held)] == [(answered + len(CREATE)) * token] * 2


async def test_what_turns_take_is_learned_and_rates_are_held_for_no_more(bridged):
    path = await take_turns(
        bridged, 17, {"total_tokens": 5, "input_tokens": 3, "output_tokens": 2}, "limits: [{name: few, tokens: 100k/min}]"
    )
    known = path.store.lessons.of(("openai", "gpt-4o"))
    assert known.output_tokens(4_096, None) <= 3
    assert known.like(0, 300).tokens(300) <= 300 / 4, "a hundredth of its bytes was read, and a sixteenth is the least"
