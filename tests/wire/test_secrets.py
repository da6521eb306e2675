"""Keys through every door, at log level debug: nothing of them is in a reply, log line, metric, admin answer or state file (T-K1)."""

import asyncio
import json
import signal

from support import chat
from support.caller import Caller, ask
from support.canaries import JWTS, SECRETS, sha256, windows_of
from support.ports import free_port
from support.provider import Provider
from support.sluice import sidecar

POLICY = """
version: 1
server: {admin_token: env:ADMIN_TOKEN, drain: 2s}
observe: {logs: {level: debug}}
timeouts: {connect: 1s, first_byte: 1s, idle: 1s}
retry: {backoff: 0.01s..0.02s}
breaker: off
providers:
  openai: {url: "URL", keys: [env:KEY_1, env:KEY_2], headers: {set: {OpenAI-Project: env:PROJECT}}}
  anthropic: {url: "URL", key: "file:anthropic.key"}
  gemini: {url: "URL"}
  closed: {dialect: openai, url: "http://127.0.0.1:CLOSED", key: env:KEY_1}
callers:
  anonymous: open
  pass_through: open
  default_tier: open
  keys:
    - {name: bot, hash: "sha256:BOT"}
    - {name: old, hash: "sha256:OLD", expires: 2020-01-01}
    - {name: shared, key: env:SHARED}
    - {name: ci, key: env:OWN, own_provider_key: openai}
  jwt:
    - {name: corp, issuer: "https://issuer.test/", secret: env:JWT_SECRET, audience: [sluice], algorithms: [HS256], claims: {name: sub}}
tiers: {open: {spend: $1000/day}}
unmetered: flag
unknown_price: flag
"""
POLICY = POLICY.replace("BOT", sha256(SECRETS["a Sluice key"])).replace("OLD", sha256(SECRETS["an expired Sluice key"]))


async def provider_says(seen, reply):
    """Every fault with the key that it was sent, quoted wherever a provider could quote it."""
    said = seen.header("authorization") or seen.header("x-api-key") or ""
    if not any(SECRETS[name] in said for name in SECRETS if "of ours" in name or "in a file" in name):
        said = "your own key"  # what a provider tells a caller of the caller's own key is between the two
    wants = seen.header("x-wants") or "200"
    quoting = [("x-request-id", "req_1"), ("x-debug", said)]
    if wants == "cut":
        await reply.start(headers=quoting)
        await reply.event(chat.delta("a"))
        reply.abort()
    elif wants == "reset":
        reply.abort()
    elif wants == "garbage":
        await reply.raw(f"HTTP/1.1 200 {said}\r\n\x00{said}: {said}\r\n\r\n".encode())
        reply.keeps = False
    elif wants == "error event":
        await reply.start()
        await reply.event(chat.error(f"no {said}", "server_error"))
        await reply.end()
    elif wants == "200":
        await reply.json(chat.whole())
    else:
        await reply.json(chat.error(f"what is wrong is {said}"), int(wants), quoting)


def bearer(name):
    return ("Authorization", f"Bearer {SECRETS.get(name) or JWTS[name]}")


CALLERS = [*(name for name in SECRETS if "Sluice key" in name), "a shared token", "a named own key", *JWTS, None]
WANTS = ["200", "400", "401", "403", "429", "500", "cut", "reset", "garbage", "error event"]


async def through_every_door(sluice):
    """All replies, as they came."""
    replies = []

    async def send(method, target, headers, body=None, port=None):
        try:
            got = await ask(port or sluice.port, method, target, headers, body)
            replies.append(repr(got.headers).encode() + got.body)
        except Exception as cut:
            replies.append(getattr(cut, "body", b""))

    for caller in CALLERS:
        own = [bearer(caller)] if caller else []
        for wants in WANTS if caller in ("a Sluice key", None) else ["200", "401", "500"]:
            for is_streamed in (False, True):
                await send("POST", chat.TARGET, [chat.JSON, *own, ("x-wants", wants)], chat.asked(stream=is_streamed))
    await anthropic_and_gemini(send)
    await malformed(sluice, send, replies)
    await admin(sluice, send, replies)
    return replies


async def anthropic_and_gemini(send):
    ours, theirs, slk = "/anthropic/v1/messages", ("x-api-key", SECRETS["a malformed key"]), ("x-api-key", SECRETS["a Sluice key"])
    for headers in ([], [slk], [("x-wants", "401")], [slk, ("x-wants", "500")]):
        await send("POST", ours, [chat.JSON, *headers], chat.asked(model="claude-sonnet-4-5", max_tokens=9))
    await send("POST", ours, [chat.JSON, theirs, bearer("a pass-through key")], chat.asked(model="claude-sonnet-4-5", max_tokens=9))
    key = SECRETS["a query key"]
    for path in (
        "v1beta/models/gemini-2.5-flash:generateContent",
        "v1beta/models/gemini-2.5-flash:streamGenerateContent",
        "v1beta/mo%zzdels",
    ):
        await send("POST", f"/gemini/{path}?alt=sse&key={key}", [chat.JSON], b'{"contents":[{"parts":[{"text":"hi"}]}]}')
        await send("POST", f"/gemini/{path}?key={key}", [chat.JSON, ("x-goog-api-key", SECRETS["a pass-through key"])], b"{")
    await send("POST", f"/closed/v1/chat/completions?key={key}", [chat.JSON], chat.asked())


async def malformed(sluice, send, replies):
    bad = SECRETS["a malformed key"]
    nasty = [
        f"Authorization: Bearer {bad}\x00", f"Authorization: Bearer {bad}\r\n folded {bad}", f"Authorization: Bearer {bad}\xff\xfe",
        f"Authorization Bearer {bad}", f"Authorization: Bearer {bad}\r\nAuthorization: Bearer {bad}x", f"Authorization: Basic {bad}",
        f"Authorization: {bad}", f"Authorization: Bearer {bad} {bad}", f"Authorization: Bearer {bad}\r\nContent-Length: {bad}",
        f"Authorization: Bearer {bad}\r\nTransfer-Encoding: {bad}", f"Authorization: Bearer {bad}\r\nExpect: {bad}",
        f"Authorization: Bearer {bad}\r\nx: {bad * 300}", f"{bad}: {bad}", f"{bad * 200}: x", f"Upgrade: {bad}\r\nConnection: upgrade",
        f"Authorization: Bearer {bad}\r\nContent-Encoding: {bad}", f"Content-Type: {bad}\r\nContent-Type: {bad}", f"User-Agent: {bad}",
        f"Accept-Encoding: {bad}", f"x-stainless-timeout: {bad}", f"x-stainless-retry-count: {bad}", f"Idempotency-Key: {bad}",
        f"Cookie: session={SECRETS['a cookie']}", f"Host: {bad}@127.0.0.1",
    ]  # fmt: skip
    target = SECRETS["a key in a target"]
    lines = [f"POST {chat.TARGET} HTTP/1.1\r\nHost: x\r\n{line}\r\nContent-Length: 2\r\n\r\n{{}}" for line in nasty]
    lines += [
        f"GET /openai/v1/%zz{target} HTTP/1.1\r\nHost: x\r\n\r\n", f"GET /{target}/v1/models HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /openai/../{target} HTTP/1.1\r\nHost: x\r\n\r\n", f"GET http://{target}/ HTTP/1.1\r\nHost: x\r\n\r\n",
        f"{target} / HTTP/1.1\r\nHost: x\r\n\r\n", f"GET /openai/v1/models?api_key={target}# HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /openai/v1/{target} HTTP/{target}\r\n\r\n", f"GET /openai/v1/{target * 250} HTTP/1.1\r\nHost: x\r\n\r\n",
    ]  # fmt: skip

    async def raw(port, line):
        async with Caller(port) as caller:
            await caller.raw(line.encode("latin-1"))
            replies.append(await read_all(caller))

    await asyncio.gather(*(raw(port, line) for port in (sluice.port, sluice.admin_port) for line in lines))
    body = SECRETS["a key in a body"]
    says = [{"role": "user", "content": body}]
    bodies = [
        body.encode(),
        b'{"model": "' + body.encode(),
        json.dumps({"model": body, "api_key": body, "messages": body}).encode(),
        json.dumps({"model": body, "messages": says, "user": body}).encode(),
        json.dumps({"model": "gpt-4o", "max_tokens": body}).encode(),
        b'{"model":"gpt-4o","model":"' + body.encode() + b'"}',
    ]
    for data in bodies:
        await send("POST", chat.TARGET, [chat.JSON], data)
    key = SECRETS["a WebSocket key"]
    handshake = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="),
    ]
    protocols = ("Sec-WebSocket-Protocol", f"realtime, openai-insecure-api-key.{key}")
    for more in ([("Authorization", f"Bearer {key}")], [protocols], [("Authorization", f"Bearer {key}"), ("x-wants", "401")]):
        await send("GET", "/openai/v1/realtime?model=gpt-realtime", [*handshake, *more])


async def read_all(caller):
    came = b""
    try:
        async with asyncio.timeout(2):
            while data := await caller.some():
                came += data
    except (TimeoutError, ConnectionError):
        pass
    return came


async def admin(sluice, send, replies):
    wrong, right = SECRETS["a wrong admin token"], bearer("the admin token")
    paths = ["/", "/metrics", "/healthz/live", "/healthz/ready", "/healthz/startup", "/admin/ledger?limit=10000", "/admin/usage?by=caller",
             "/admin/usage?by=model", f"/admin/usage?by={wrong}", f"/admin/ledger?limit={wrong}", f"/admin/{wrong}"]  # fmt: skip
    for path in paths:
        for headers in ([], [("Authorization", f"Bearer {wrong}")], [right]):
            await send("GET", path, headers, port=sluice.admin_port)
    await send("POST", "/admin/keys", [right, chat.JSON], b'{"name": "' + wrong.encode(), port=sluice.admin_port)


async def test_nothing_of_any_key_is_found_anywhere(tmp_path):
    (tmp_path / "anthropic.key").write_text(SECRETS["a provider key in a file"] + "\n")
    (tmp_path / "anthropic.key").chmod(0o600)
    environment = {
        "KEY_1": SECRETS["a provider key of ours"], "KEY_2": SECRETS["a second provider key of ours"], "PROJECT": SECRETS["a set header"],
        "ADMIN_TOKEN": SECRETS["the admin token"], "JWT_SECRET": SECRETS["the HS256 secret"], "SHARED": SECRETS["a shared token"],
        "OWN": SECRETS["a named own key"], "PYTHONDEVMODE": "1", "PYTHONASYNCIODEBUG": "1",
    }  # fmt: skip
    async with Provider(provider_says) as provider:
        policy = POLICY.replace("URL", provider.url).replace("CLOSED", str(free_port()))
        async with sidecar(tmp_path, policy, environment) as sluice:
            replies = await through_every_door(sluice)
            sluice.policy.write_text(
                policy + f"nonsense: {SECRETS['a provider key of ours']}\nstate: redis://u:{SECRETS['the admin token']}@h/0\n"
            )
            sluice.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.5)
            sluice.policy.write_text(policy + f'  more: {{name: "{SECRETS["a shared token"]}}}')
            sluice.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.5)
            sluice.policy.write_text(policy)
            metrics = (await ask(sluice.admin_port, "GET", "/metrics")).body
            async with Caller(sluice.port) as caller:
                await caller.send(
                    "POST", chat.TARGET, [chat.JSON, bearer("a pass-through key"), ("x-wants", "cut")], chat.asked(stream=True)
                )
                await sluice.kill()
        await sluice.start()
        await sluice.stop()
    arrived = {(seen.header("authorization") or "").partition(" ")[2] for seen in provider.seen}
    assert {SECRETS["a provider key of ours"], SECRETS["a second provider key of ours"], SECRETS["a named own key"]} <= arrived
    files = {str(file): file.read_bytes() for file in sluice.state.rglob("*") if file.is_file()}
    assert files and len(replies) > 150 and len(sluice.logged()) > 10_000
    places = {"the log": sluice.logged().encode(), "/metrics": metrics, **files}
    places |= {f"reply {number}": reply for number, reply in enumerate(replies)}
    found = [
        (name, place, window)
        for name, secret in (SECRETS | {name: token.rpartition(".")[2] for name, token in JWTS.items()}).items()
        for window in windows_of(secret)
        for place, data in places.items()
        if window in data
    ]
    seen_at = {(name, place) for name, place, _ in found}
    assert not seen_at, "\n".join(f"{name} in {place}: {places[place][:600]!r}" for name, place in sorted(seen_at))
    assert "Traceback" not in sluice.logged()


async def test_the_state_is_for_its_owner_alone(tmp_path):
    async with (
        Provider(provider_says) as provider,
        sidecar(tmp_path, f'version: 1\nproviders: {{openai: {{url: "{provider.url}"}}}}') as sluice,
    ):
        for file in [sluice.state, *sluice.state.rglob("*")]:
            assert file.stat().st_mode & 0o077 == 0, file
