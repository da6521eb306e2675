"""Recorded WebSocket sessions through the bridge, frame by frame in their order, and a row of the ledger for each usage they state."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from contract.recordings import OWN, SHARED
from support.sluice import Sluice, sidecar

from proxy.meter.recompute import recompute

RECORDED = SHARED / "realtime_ws.jsonl"
TARGET = "/v1/realtime?model=gpt-realtime"
KEY = "Bearer sk-recorded-openai-key"
WAIT_S = 10.0


def sessions(where: str) -> list[dict]:
    if where == "own":
        return json.loads((OWN / "sessions" / "realtime.json").read_text())
    if not RECORDED.exists():
        pytest.skip("recorded WebSocket sessions skipped LOUDLY: shared/ is not here")
    return [json.loads(line) for line in RECORDED.read_text().splitlines()]


@pytest.mark.parametrize("where", ["own", "shared"])
async def test_recorded_sessions_pass_the_bridge_frame_by_frame_and_each_usage_has_its_row(tmp_path: Path, where: str):
    recorded = sessions(where)
    async with Realtime() as provider, sidecar(tmp_path, f"version: 1\nproviders: {{openai: {{url: '{provider.url}'}}}}\n") as sluice:
        for number, session in enumerate(recorded):
            passed = await passes(session, f"session-{number}", sluice, provider)
            assert passed == len(session["frames"])
        wanted = sum(len(session["usage_events"]) for session in recorded)
        rows = await all_rows(sluice, wanted)
    for number, session in enumerate(recorded):
        turns = [row for row in rows if row["request_id"] == f"session-{number}"]
        assert sorted(map(told, turns)) == sorted(map(stated, session["usage_events"])), session["source"]
        for row in turns:
            assert (row["kind"], row["operation"], row["status"], row["end"], row["usage_source"]) == (
                "turn",
                "realtime",
                101,
                "done",
                "provider",
            )
            assert recompute(row) == row["cost_nanousd"] > 0


async def test_the_close_of_either_side_reaches_the_other_with_its_code_and_reason(tmp_path: Path):
    async with Realtime() as provider, sidecar(tmp_path, f"version: 1\nproviders: {{openai: {{url: '{provider.url}'}}}}\n") as sluice:
        async with connected(sluice, provider, "provider-first") as (client, other, _):
            closing = asyncio.ensure_future(other.close(code=4001, message=b"session expired"))
            told = await client.receive(WAIT_S)
            assert (told.data, told.extra) == (4001, "session expired")
            await closing
        async with connected(sluice, provider, "client-first") as (client, other, _):
            closing = asyncio.ensure_future(client.close(code=3000, message=b"enough"))
            told = await other.receive(WAIT_S)
            assert (told.data, told.extra) == (3000, "enough")
            await closing
        async with connected(sluice, provider, "client-lost") as (client, other, _):
            assert client._response.connection is not None
            client._response.connection.transport.abort()
            async with asyncio.timeout(10):
                await other.receive()
            assert other.close_code == 1001


@asynccontextmanager
async def connected(sluice: Sluice, provider: Realtime, id_: str):
    """A client's WebSocket through Sluice, the provider's end of it, and the handshake as it arrived there."""
    async with aiohttp.ClientSession() as http:
        url = f"{sluice.url.replace('http', 'ws')}/openai{TARGET}"
        client = await http.ws_connect(url, headers={"authorization": KEY, "x-request-id": id_, "cookie": "a=b"}, autoclose=False)
        request, other = await asyncio.wait_for(provider.connected.get(), WAIT_S)
        yield client, other, request
        provider.done.set()
        await client.close()


async def passes(session: dict, id_: str, sluice: Sluice, provider: Realtime) -> int:
    """How many frames went through unchanged, each waited for before the next is sent."""
    number = 0
    async with connected(sluice, provider, id_) as (client, other, request):
        assert (request.raw_path, request.headers["authorization"], request.headers.get("cookie")) == (TARGET, KEY, None)
        for frame in session["frames"]:
            assert frame["kind"] == "message"
            text = json.dumps(frame["data"], ensure_ascii=False)
            source, sink = (client, other) if frame["direction"] == "sent" else (other, client)
            await source.send_str(text)
            arrived = await sink.receive(WAIT_S)
            assert (arrived.type, arrived.data) == (aiohttp.WSMsgType.TEXT, text)
            number += 1
        closing = asyncio.ensure_future(client.close(code=1000))
        assert (await other.receive(WAIT_S)).data == 1000
        await closing
    return number


def told(row: dict) -> tuple[int, ...]:
    units = row["price_row"].get("units", {})
    media = (units.get(name, 0) for name in ("input_audio", "output_audio", "audio_ms"))
    return (row["input_tokens"], row["output_tokens"], row["cached_input_tokens"], row["reasoning_tokens"], *media)


def stated(event: dict) -> tuple[int, ...]:
    usage = event["usage"]
    if usage.get("type") == "duration":
        return (0, 0, 0, 0, 0, 0, int(usage["seconds"] * 1000))
    inward, outward = usage["input_token_details"], usage["output_token_details"]
    shares = (inward["cached_tokens"], outward.get("reasoning_tokens", 0), inward["audio_tokens"], outward["audio_tokens"])
    return (usage["input_tokens"], usage["output_tokens"], *shares, 0)


async def all_rows(sluice: Sluice, wanted: int) -> list[dict]:
    async with asyncio.timeout(WAIT_S):
        while len(rows := await sluice.rows()) < wanted:
            await asyncio.sleep(0.05)
    return rows


class Realtime:
    """A provider that hands each accepted WebSocket to the test and keeps it open until the test is done with it."""

    async def __aenter__(self) -> Realtime:
        self.connected: asyncio.Queue[tuple[web.BaseRequest, web.WebSocketResponse]] = asyncio.Queue()
        self.done = asyncio.Event()
        self._runner = web.ServerRunner(web.Server(self._accept))
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://127.0.0.1:{1}".format(*self._runner.addresses[0])
        return self

    async def __aexit__(self, *_: object) -> None:
        self.done.set()
        await self._runner.cleanup()

    async def _accept(self, request: web.BaseRequest) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=1 << 24)
        await socket.prepare(request)
        self.done.clear()
        await self.connected.put((request, socket))
        await self.done.wait()
        return socket
