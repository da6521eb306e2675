"""Whom a sidecar trusts over TLS: those that SSL_CERT_FILE vouches for, and it is the same for every connection that it opens."""

import asyncio
import signal
import time

import aiohttp
import jwt
import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ec
from support import chat
from support.caller import ask
from support.certificate import self_signed, serving
from support.sluice import ROOT, Sluice, sidecar

ISSUER = ec.generate_private_key(ec.SECP256R1())
POLICY = """
version: 1
providers: {openai: {url: 'https://127.0.0.1:PORT', key: env:KEY}}
prices: {dear: {input: 0, output: 10000}}
retry: off
callers: {default_tier: small, jwt: [{name: c, issuer: c, jwks: 'https://127.0.0.1:PORT/jwks.json', algorithms: ES256}]}
tiers: {small: {spend: $1/day}}
alerts: {at: 50%, webhook: env:HOOK}
"""


class Elsewhere:
    """A provider, an issuer and the receiver of alerts behind one certificate; `reached` names what was asked of it."""

    def __init__(self) -> None:
        self.reached: list[str] = []

    async def serve(self, request):
        self.reached.append(request.path)
        if request.path == "/jwks.json":
            key = jwt.get_algorithm_by_name("ES256").to_jwk(ISSUER.public_key(), as_dict=True)
            return web.json_response({"keys": [{**key, "kid": "e1", "alg": "ES256", "use": "sig"}]})
        if request.path == "/v1/realtime":
            ws = web.WebSocketResponse()
            await ws.prepare(request)
            await ws.close()
            return ws
        return web.json_response({**chat.whole(model="dear"), "usage": {"prompt_tokens": 0, "completion_tokens": 60, "total_tokens": 60}})


@pytest.fixture
async def elsewhere(tmp_path):
    """(it, its port, the file of its certificate)"""
    certificate, one = self_signed(tmp_path), Elsewhere()
    server = await asyncio.get_running_loop().create_server(web.Server(one.serve), "127.0.0.1", 0, ssl=serving(certificate))
    yield one, server.sockets[0].getsockname()[1], certificate
    server.close()


def started(tmp_path, port, certificate):
    env = {"KEY": "sk-of-the-provider", "HOOK": f"https://127.0.0.1:{port}/hook", "SSL_CERT_FILE": str(certificate)}
    return sidecar(tmp_path, POLICY.replace("PORT", str(port)), env)


def token():
    now = int(time.time())
    return jwt.encode({"iss": "c", "sub": "ann", "iat": now, "exp": now + 600}, ISSUER, "ES256", {"kid": "e1"})


async def said(sluice):
    return await ask(
        sluice.port, "POST", chat.TARGET, [chat.JSON, ("Authorization", f"Bearer {token()}")], chat.asked(model="dear", max_tokens=60)
    )


async def test_provider_issuer_webhook_and_websocket_are_reached_where_the_file_vouches_for_them(tmp_path, elsewhere):
    it, port, certificate = elsewhere
    async with started(tmp_path, port, certificate) as sluice:
        assert (await said(sluice)).status == 200
        async with aiohttp.ClientSession() as session, asyncio.timeout(20):
            headers = {"Authorization": f"Bearer {token()}"}
            async with session.ws_connect(f"{sluice.url}/openai/v1/realtime?model=dear", headers=headers) as ws:
                assert (await ws.receive()).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
            while "/hook" not in it.reached:
                await asyncio.sleep(0.02)
    assert {*it.reached} == {"/jwks.json", "/v1/chat/completions", "/v1/realtime", "/hook"}


async def test_nobody_is_reached_whom_another_file_vouches_for(tmp_path, elsewhere):
    it, port, _ = elsewhere
    (tmp_path / "another").mkdir()
    async with started(tmp_path, port, self_signed(tmp_path / "another")) as sluice:
        got = await said(sluice)
        assert (got.status, got.code) == (503, "state_unavailable"), "the issuer's key set is not to be had"
        keyless = [chat.JSON, ("Authorization", "Bearer sk-x")]
        sluice.policy.write_text(POLICY.replace("PORT", str(port)).replace("callers: {", "callers: {pass_through: small, "))
        sluice.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(20):
            while (got := await ask(sluice.port, "POST", chat.TARGET, keyless, chat.asked(model="dear", max_tokens=60))).status == 401:
                await asyncio.sleep(0.02)
        assert (got.status, got.code) == (502, "upstream_tls")
    assert it.reached == []


async def test_a_sidecar_that_is_told_to_stop_as_soon_as_it_listens_ends_well(tmp_path):
    """While the authorities are being loaded, that is."""
    for number in range(5):
        (tmp_path / str(number)).mkdir()
        one = Sluice(tmp_path / str(number), "version: 1")
        process = await asyncio.create_subprocess_exec(*one.command(), stderr=asyncio.subprocess.PIPE, cwd=ROOT)
        said = await process.stderr.readuntil(b"point an SDK at it")  # the banner
        process.send_signal(signal.SIGTERM)
        _, rest = await asyncio.wait_for(process.communicate(), 20)
        assert process.returncode == 0, (said + rest).decode()
