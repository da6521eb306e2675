import asyncio
import json
import os

import pytest
from aiohttp import ClientSession, web

from proxy.listen.address import read_listen
from proxy.listen.connection import Deadlines
from proxy.listen.edge import Settings
from proxy.refusal import Refusal

HEAD = b"Host: localhost\r\n"
GET = b"GET /openai/v1/models HTTP/1.1\r\n" + HEAD + b"\r\n"
LAST = GET[:-2] + b"Connection: close\r\n\r\n"
SECRET = b"sk-canary-0123456789"


def post(body=b"{}", *lines, target=b"/openai/v1/chat/completions", version=b"HTTP/1.1"):
    return b"\r\n".join([b"POST %b %b" % (target, version), b"Host: localhost", *lines, b"Content-Length: %d" % len(body), b"", body])


def status_of(reply):
    return int(reply.split(b" ", 2)[1])


def raw(*lines, body=b""):
    return b"\r\n".join([*lines, b"", body])


def chunked(body, *lines):
    return raw(b"POST /openai/v1/x HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked", *lines, body=body)


def odd(*lines, body=b"", start=b"POST /openai/v1/x HTTP/1.1"):
    """A POST with odd lines after its Host."""
    return raw(start, b"Host: a", *lines, body=body)


def get(target=b"/openai/v1/models", *lines, version=b"HTTP/1.1", method=b"GET"):
    return raw(b"%b %b %b" % (method, target, version), b"Host: a", *lines)


MODELS = b"GET /openai/v1/models HTTP/1.1"
LENGTH = b"Content-Length: 2"
BAD_TARGETS = (
    b"http://169.254.169.254/x", b"//evil.example/v1", b"@127.0.0.1:1/x", b"/\\evil", b"/openai/v1/../admin", b"/openai/v1/%2e%2e/admin",
    b"/openai/v1%2fadmin", b"/openai/v1%5cadmin", b"/openai/%0d%0a", b"/openai/%00", b"/openai/%zz", b"/openai/v1#frag", b"/a b",
    "/é".encode(), b"*",
)  # fmt: skip

# faults.md 3.1: the bytes, the exact status
BAD = {
    "H1 length and chunked": (odd(LENGTH, b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
    "H1 chunked and length": (odd(b"Transfer-Encoding: chunked", LENGTH, body=b"{}"), 400),
    "H2 two equal lengths": (odd(LENGTH, LENGTH, body=b"{}"), 400),
    "H4 list of lengths": (odd(b"Content-Length: 2, 2", body=b"{}"), 400),
    **{f"H5 length {n!r}": (odd(b"Content-Length: " + n, body=b"{}"), 400) for n in (b"+2", b"-2", b"0x2", b"1_0", b"9" * 23)},
    **{
        f"H8 coding {n!r}": (odd(b"Transfer-Encoding: " + n, body=b"0\r\n\r\n"), 400)
        for n in (b"gzip", b"xchunked", b"chunked, identity", b"\x0bchunked")
    },
    "H8 doubled": (chunked(b"0\r\n\r\n", b"Transfer-Encoding: chunked"), 400),
    "H11 chunked in 1.0": (odd(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", start=b"POST /openai/v1/x HTTP/1.0"), 400),
    "H12 LF in extension": (chunked(b"2;a\nb\r\n{}\r\n0\r\n\r\n"), 400),
    **{f"H14 size {n!r}": (chunked(n + b"\r\n{}\r\n0\r\n\r\n"), 400) for n in (b"0x2", b"0_2", b"-2", b"F" * 17)},
    "H15 LF chunks": (chunked(b"2\n{}\n0\n\n"), 400),
    "H15 no CRLF after chunk": (chunked(b"2\r\n{}0\r\n\r\n"), 400),
    "H19 bare LF": (MODELS + b"\nHost: a\n\n", 400),
    "H20 NUL in a value": (get(b"/openai/v1/models", b"Authorization: Bearer " + SECRET + b"\x00x"), 400),
    "H20 CR in a value": (get(b"/openai/v1/models", b"Authorization: Bearer " + SECRET + b"\rx"), 400),
    "H21 obs-fold": (get(b"/openai/v1/models", b"X: 1", b" 2"), 400),
    "H21 leading space": (raw(MODELS, b" Host: a"), 400),
    "H22 no colon": (get(b"/openai/v1/models", b"nocolon"), 400),
    "H22 empty name": (get(b"/openai/v1/models", b": x"), 400),
    "H22 non-ASCII name": (get(b"/openai/v1/models", "é: x".encode()), 400),
    "H25 long value": (get(b"/openai/v1/models", b"x: " + b"a" * 9000), 431),
    "H26 200 headers": (get(b"/openai/v1/models", *[b"x: 1"] * 200), 431),
    "H26 20,000 headers": (get(b"/openai/v1/models", *[b"x: 1"] * 20_000), 431),
    "H26 100 KB of headers": (get(b"/openai/v1/models", *[b"x: " + b"a" * 8000] * 13), 431),
    "H27 no Host": (raw(MODELS), 400),
    "H27 two Hosts": (get(b"/openai/v1/models", b"Host: a"), 400),
    "H28 userinfo": (raw(MODELS, b"Host: u:p@evil"), 400),
    "H28 space": (raw(MODELS, b"Host: a b"), 400),
    **{f"target {target!r}": (get(target), 400) for target in BAD_TARGETS},
    "H43 long target": (get(b"/openai/" + b"a" * 9000), 414),
    "H46 HTTP/2.0": (odd(LENGTH, body=b"{}", start=b"POST /openai/v1/x HTTP/2.0"), 505),
    "H46 HTTP/9.9": (get(version=b"HTTP/9.9"), 505),
    "H46 HTTP/0.9": (get(version=b"HTTP/0.9"), 505),
    "H46 http/1.1": (get(version=b"http/1.1"), 400),
    "H47 h2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "H47 TLS hello": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 40, 400),
    "H48 lower-case method": (get(method=b"get"), 400),
    "H48 endless method": (get(method=b"A" * 5000), 400),
    "H49 TRACE": (get(method=b"TRACE"), 405),
    "H49 CONNECT": (get(b"evil:443", method=b"CONNECT"), 405),
    "H49 PURGE": (get(method=b"PURGE"), 405),
    "H51 bad websocket": (get(b"/openai/v1/models", b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 777"), 400),
    "H54 Expect": (post(b"{}", b"Expect: foo"), 417),
    "H55 GET with body": (odd(LENGTH, body=b"{}", start=MODELS), 400),
    "H56 two credentials": (get(b"/openai/v1/models", b"Connection: close", *[b"Authorization: Bearer " + SECRET] * 2), 400),
    "H57 two types": (post(b"{}", b"Content-Type: a/b", b"Content-Type: a/c"), 400),
    "unknown provider": (get(b"/nothing/here", b"Connection: close"), 404),
}


async def never_ends(call, body, sink):
    """The framing cases whose head is good are found in the body."""
    await body.read(1000)
    sink.start(200, b"OK", (), 0)
    sink.finish()


@pytest.mark.parametrize("name", BAD)
async def test_bad_framing_gets_its_exact_status_in_json_and_the_secret_is_neither_echoed_nor_logged(open_edge, logged, name):
    sent, expected = BAD[name]
    world = await open_edge(never_ends)
    reply = await world.ask(sent)
    head, _, body = reply.partition(b"\r\n\r\n")
    assert status_of(reply) == expected
    assert json.loads(body)["error"]["message"]
    assert b"x-sluice-error: " in head and b"\r\nConnection: close" in head
    assert reply.count(b"\r\n\r\n") == 1
    assert SECRET not in reply and SECRET.decode() not in logged.text
    assert "Traceback" not in logged.text


@pytest.mark.parametrize(
    "sent",
    [
        post(b"{}", b"Connection: close"),
        post(b"{}", b"X: caf\xc3\xa9", b"Connection: close"),
        post(b"{}", b"x-long: " + b"a" * 8180, b"Connection: close"),
        post(b"{}", b"Upgrade: h2c", b"HTTP2-Settings: AAMA", b"Connection: close, Upgrade, HTTP2-Settings"),
        raw(b"DELETE /openai/v1/files/f HTTP/1.1", b"Host: a", b"Connection: close", b"Content-Length: 2", body=b"{}"),
        chunked(b"1;a=b\r\n{\r\n1\r\n}\r\n0\r\nAuthorization: trailer\r\n\r\n", b"Connection: close"),
        post(b"{}", version=b"HTTP/1.0"),
        raw(b"POST /openai/v1/x HTTP/1.0", b"Content-Length: 2", body=b"{}"),
    ],
)
async def test_good_framing_is_served_and_the_reply_is_written_as_given(open_edge, sent):
    world = await open_edge()
    reply = await world.ask(sent)
    head, _, body = reply.partition(b"\r\n\r\n")
    target = world.calls[0].route.target.encode()
    assert head == b"HTTP/1.1 200 OK\r\nX-Odd-CASE: kept\r\nContent-Length: %d\r\nConnection: close" % (len(target) + 2)
    assert body == target + b" 2"
    assert "trailer" not in str(world.calls[0].fields)


async def test_the_call_holds_the_raw_lines_the_peer_and_the_callers_id(open_edge):
    world = await open_edge()
    await world.ask(post(b"{}", b"X-Request-ID: mine-1", b"X-A: caf\xc3\xa9", b"Connection: close"))
    (call,) = world.calls
    assert (call.id, call.id_is_callers, call.peer, call.method) == ("mine-1", True, "127.0.0.1", "POST")
    assert (b"X-A", b"caf\xc3\xa9") in call.headers
    assert call.uid.startswith("slu-")


async def test_a_unix_socket_serves_and_its_stale_file_is_replaced_but_never_a_live_one(open_edge, tmp_path):
    path = tmp_path / "s.sock"
    world = await open_edge(listen=f"unix:{path}")
    assert status_of(await world.ask(LAST)) == 200
    assert world.calls[0].peer == "unix"
    with pytest.raises(OSError, match="in use"):
        await open_edge(listen=f"unix:{path}")
    os.rename(path, tmp_path / "kept")
    await world.edge.close(0)
    os.rename(tmp_path / "kept", path)  # what a killed process leaves behind
    again = await open_edge(listen=f"unix:{path}")
    assert status_of(await again.ask(LAST)) == 200


async def test_a_port_in_use_raises_oserror(open_edge):
    world = await open_edge()
    with pytest.raises(OSError):
        await open_edge(listen=f"127.0.0.1:{world.edge.port}")


@pytest.mark.parametrize(
    ("listen", "where"),
    [("127.0.0.1:8080", ("127.0.0.1", 8080)), ("[::1]:1", ("::1", 1)), (":80", ("0.0.0.0", 80)), ("unix:/run/s", "/run/s")],
)
def test_an_address_is_read(listen, where):
    assert read_listen(listen) == where


@pytest.mark.parametrize("listen", ["8080", "host", "host:port", "h:99999", "unix:", ""])
def test_an_address_that_is_none_says_what_is_wanted(listen):
    with pytest.raises(ValueError, match="HOST:PORT"):
        read_listen(listen)


async def test_a_host_outside_the_list_never_becomes_a_call(open_edge):
    world = await open_edge(hosts=("gate.example",))
    assert status_of(await world.ask(LAST)) == 421
    assert world.calls == [] and world.refusals == ["wrong_host"]


async def test_pipelined_requests_are_answered_in_order(open_edge):
    async def slow_first(call, body, sink):
        await asyncio.sleep(0.05 if call.route.path == "/0" else 0)
        sink.start(200, b"OK", (), len(call.route.path))
        sink.push(call.route.path.encode())
        sink.finish()

    world = await open_edge(slow_first)
    sent = b"".join(b"GET /openai/%d HTTP/1.1\r\n%b\r\n" % (n, HEAD) for n in range(100))
    reply = await world.ask(sent + LAST)
    assert [part[:4].split(b"H")[0] for part in reply.split(b"\r\n\r\n")[1:-1]] == [b"/%d" % n for n in range(100)]
    assert len(world.calls) == 101


@pytest.mark.parametrize("body", [b"", b"x" * 1000])
async def test_a_connection_serves_on_after_a_refusal_that_left_a_small_body_unread(open_edge, body):
    async def no(call, _, sink):
        raise Refusal(401, "missing_credentials", "send a key")

    world = await open_edge(no)
    reply = await world.ask(post(body) + LAST)
    assert reply.count(b"HTTP/1.1 401 Unauthorized\r\n") == 2


async def test_a_refusal_that_leaves_a_large_body_unread_closes_and_the_client_still_reads_it(open_edge):
    async def no(call, _, sink):
        raise Refusal(401, "missing_credentials", "send a key")

    world = await open_edge(no)
    reply = await world.ask(post(b"x" * 5_000_000))
    assert status_of(reply) == 401 and b"Connection: close" in reply


async def test_refusals_speak_the_dialect_of_the_path(open_edge):
    world = await open_edge(draining=True)
    reply = await world.ask(post(target=b"/v1/messages"))
    assert json.loads(reply.partition(b"\r\n\r\n")[2])["type"] == "error"
    assert b"x-sluice-error: draining" in reply and b"Connection: close" in reply and b"retry-after: 1\r\n" in reply


async def test_a_defect_is_a_500_whose_text_tells_nothing_and_whose_log_names_the_place(open_edge, logged):
    async def broken(call, body, sink):
        raise ValueError(SECRET.decode())

    world = await open_edge(broken)
    reply = await world.ask(post())
    assert status_of(reply) == 500 and b"x-sluice-error: internal" in reply
    assert SECRET not in reply and SECRET.decode() not in logged.text
    assert "ValueError at test_edge.py:" in logged.text


async def test_a_defect_after_the_head_ends_the_connection_without_a_clean_end(open_edge):
    async def broken(call, body, sink):
        sink.start(200, b"OK", (), None)
        sink.push(b"half")
        raise ValueError

    reply = await (await open_edge(broken)).ask(post())
    assert reply.endswith(b"4\r\nhalf\r\n")


async def test_a_run_that_says_nothing_leaves_no_client_waiting(open_edge):
    async def silent(call, body, sink):
        return

    assert await (await open_edge(silent)).ask(post()) == b""


async def test_expect_continue_is_answered_when_the_body_is_touched_and_not_before(open_edge):
    gate = asyncio.Event()

    async def late(call, body, sink):
        await gate.wait()
        assert await body.read(100) == b"{}"
        sink.start(200, b"OK", (), 0)
        sink.finish()

    world = await open_edge(late)
    reader, writer = await world.connect()
    writer.write(post(b"{}", b"Expect: 100-continue")[:-2])
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.read(1)
    gate.set()
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_refused_expectation_gets_no_100_and_the_connection_ends(open_edge):
    async def no(call, body, sink):
        raise Refusal(401, "missing_credentials", "send a key")

    reply = await (await open_edge(no)).ask(post(b"{}", b"Expect: 100-continue")[:-2])
    assert status_of(reply) == 401 and b"100 Continue" not in reply


async def test_more_connections_than_the_cap_are_told_503_and_the_others_live(open_edge):
    world = await open_edge(most=2)
    first, second = await world.connect(), await world.connect()
    await asyncio.sleep(0.05)
    reply = await world.ask(GET)
    assert status_of(reply) == 503 and b"x-sluice-error: overloaded" in reply
    for reader, writer in (first, second):
        writer.write(LAST)
        assert status_of(await reader.read()) == 200
        writer.close()


ORIGIN = b"Origin: https://console.example"


async def test_a_listed_origin_gets_its_preflight_and_its_replies_are_readable(open_edge):
    world = await open_edge(cors=("https://console.example",))
    flight = raw(b"OPTIONS /openai/v1/models HTTP/1.1", b"Host: a", ORIGIN, b"Access-Control-Request-Method: POST", b"Connection: close")
    reply = await world.ask(flight)
    assert status_of(reply) == 204 and b"access-control-allow-methods" in reply and world.calls == []
    assert reply.count(b"access-control-allow-origin") == 1
    allowed = await world.ask(post(b"{}", ORIGIN, b"Connection: close"))
    assert b"access-control-allow-origin: https://console.example" in allowed
    refused = await world.ask(raw(b"GET /nothing/x HTTP/1.1", b"Host: a", ORIGIN, b"Connection: close"))
    assert status_of(refused) == 404 and b"access-control-allow-origin" in refused


async def test_an_unlisted_origin_is_left_alone(open_edge):
    world = await open_edge(cors=("https://console.example",))
    reply = await world.ask(post(b"{}", b"Origin: https://evil.example", b"Connection: close"))
    assert status_of(reply) == 200 and b"access-control" not in reply


async def test_settings_are_read_for_every_request_on_one_connection(providers, open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    writer.write(GET)
    await reader.readuntil(b" 0")
    world.edge.settings = Settings({}, "openai")
    writer.write(LAST)
    assert status_of(await reader.read()) == 404
    writer.close()


async def test_a_websocket_on_a_realtime_path_is_bridged_and_elsewhere_it_is_not(open_edge):
    async def bridge(call, request):
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data.upper())
        return socket

    world = await open_edge(upgrade=bridge)
    async with ClientSession() as session:
        async with session.ws_connect(f"http://127.0.0.1:{world.edge.port}/openai/v1/realtime?model=m") as socket:
            await socket.send_str("hi")
            assert (await socket.receive()).data == "HI"
            assert world.edge.active == 1
        async with session.get(
            f"http://127.0.0.1:{world.edge.port}/openai/v1/models",
            headers={"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a" * 22 + "=="},
        ) as reply:
            assert (reply.status, await reply.text()) == (200, "/v1/models 0")


async def test_a_refused_websocket_is_an_http_refusal(open_edge):
    async def no(call, request):
        raise Refusal(402, "budget_exhausted", "nothing left")

    world = await open_edge(upgrade=no)
    handshake = (
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: aaaaaaaaaaaaaaaaaaaaaa==",
    )
    reader, writer = await world.connect()
    writer.write(raw(b"GET /openai/v1/realtime HTTP/1.1", b"Host: a", *handshake))
    assert status_of(await reader.readuntil(b"\r\n\r\n")) == 402
    writer.close()


async def test_close_lets_a_call_finish_and_refuses_what_comes_on_an_idle_connection(open_edge):
    world = await open_edge(deadlines=Deadlines())
    idle, idle_writer = await world.connect()
    gate = asyncio.Event()

    async def slow(call, body, sink):
        await gate.wait()
        sink.start(200, b"OK", (), 2)
        sink.push(b"ok")
        sink.finish()

    world.run = slow
    reader, writer = await world.connect()
    writer.write(GET)
    await world.is_busy()
    port = world.edge.port
    closing = asyncio.ensure_future(world.edge.close(5))
    await asyncio.sleep(0)
    idle_writer.write(GET)
    refused = await idle.read()
    assert status_of(refused) == 503 and b"x-sluice-error: draining" in refused and b"Connection: close" in refused
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    gate.set()
    reply = await reader.read()
    assert b"Connection: close" in reply and reply.endswith(b"ok")
    await closing
    writer.close()
    idle_writer.close()


async def test_close_waits_for_a_call_that_goes_on_though_its_client_has_left(open_edge):
    gate, left = asyncio.Event(), asyncio.Event()

    async def going_on(call, body, sink):
        sink.finish_anyway = True
        while not sink.is_gone:
            await asyncio.sleep(0.01)
        left.set()
        await gate.wait()

    world = await open_edge(going_on)
    _, writer = await world.connect()
    writer.write(GET)
    await world.is_busy()
    assert world.edge.active == 1
    writer.transport.abort()
    await left.wait()
    assert world.edge.active == 1
    closing = asyncio.ensure_future(world.edge.close(20))
    await asyncio.sleep(0.05)
    assert not closing.done()
    gate.set()
    async with asyncio.timeout(5):
        await closing
    assert world.edge.active == 0


async def test_close_cancels_what_does_not_finish_within_the_grace(open_edge):
    ended = []

    async def endless(call, body, sink):
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(sink.is_gone)

    world = await open_edge(endless)
    reader, writer = await world.connect()
    writer.write(GET)
    await world.is_busy()
    async with asyncio.timeout(20):
        await world.edge.close(0.1)
    assert ended == [False]
    assert await reader.read() == b""
    writer.close()


async def test_a_body_that_the_close_cuts_off_is_no_whole_one_to_a_client_that_reads_until_the_end(open_edge):
    async def endless(call, body, sink):
        sink.start(200, b"OK", (), None)
        sink.push(b"begun")
        await asyncio.Event().wait()

    world = await open_edge(endless)
    reader, writer = await world.connect()
    writer.write(GET.replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert (await reader.readuntil(b"begun")).startswith(b"HTTP/1.1 200 ")
    await world.edge.close(0)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        (b"GET /openai/v1/x HTTP/1.1\r\n\r\n", b"it has no Host"),
        (b"GET /openai/v1/x HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"Host stands more than once"),
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"write http://"),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", b"Content-Length is no number"),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n", b"stands more than once"),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", b"exclude each other"),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", b"exclude each other"),
        (b"POST /openai/v1/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: sk-secret\r\n\r\n", b"Transfer-Encoding must be chunked"),
        (b"SK-SECRET /openai/v1/x HTTP/1.1\r\nHost: a\r\n\r\n", b"the method is unknown"),
        (b"GET /openai/v1/x HTTP/1.1\r\nHost: a\r\nsk secret: x\r\n\r\n", b"a header name holds"),
        (b"GET /openai/v1/x HTTP/1.1\r\nHost: a\r\nX: sk-\x00secret\r\n\r\n", b"a header value holds"),
    ],
)
async def test_a_request_that_is_no_http_is_told_what_is_wrong_with_it_and_nothing_of_it_is_quoted(open_edge, sent, says):
    world = await open_edge()
    reader, writer = await world.connect()
    writer.write(sent)
    got = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    assert got.startswith(b"HTTP/1.1 400 ") and b"x-sluice-error: invalid_request" in got
    assert says in got, got
    assert b"secret" not in got.lower()
