import asyncio
import contextlib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.listen.connection import KEPT
from proxy.ports import LEAST_FRAMED
from proxy.refusal import ClientGone, Refusal
from proxy.stream.tail import LONGEST


def get(method=b"GET", version=b"HTTP/1.1", *lines):
    return b"\r\n".join([method + b" /openai/v1/models " + version, b"Host: a", *lines, b"", b""])


LAST = get(b"GET", b"HTTP/1.1", b"Connection: close")


def saying(*pushes, status=200, reason=b"OK", headers=(), length=None, end="finish"):
    async def run(call, body, sink):
        sink.start(status, reason, headers, length)
        for piece in pushes:
            sink.push(piece)
        sink.finish() if end == "finish" else sink.abort(end)

    return run


async def test_an_answer_of_known_length_is_written_as_given(open_edge):
    headers = ((b"X-One", b"1"), (b"x-ONE", b"\xe9"), (b"Date", b"then"))
    reply = await (await open_edge(saying(b"ab", b"c", length=3, reason=b"Fine, thanks", headers=headers))).ask(LAST)
    assert (
        reply == b"HTTP/1.1 200 Fine, thanks\r\nX-One: 1\r\nx-ONE: \xe9\r\nDate: then\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    )


async def test_an_answer_of_unknown_length_is_chunked_by_us(open_edge):
    reply = await (await open_edge(saying(b"ab", b"", b"c" * 17))).ask(LAST)
    assert reply == (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nab\r\n11\r\n" + b"c" * 17 + b"\r\n0\r\n\r\n"
    )


async def test_an_http_10_client_gets_a_body_that_ends_with_the_connection(open_edge):
    reply = await (await open_edge(saying(b"ab", b"c"))).ask(get(version=b"HTTP/1.0"))
    assert reply == b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nabc"


async def test_an_http_10_client_cannot_take_a_broken_answer_for_a_whole_one(open_edge):
    world = await open_edge(saying(b"half", end=b"error"))
    with pytest.raises(ConnectionResetError):
        await world.ask(get(version=b"HTTP/1.0"))


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_what_has_no_body_gets_none_and_no_framing_of_ours(open_edge, method, status):
    world = await open_edge(saying(b"body", status=status, reason=b"R", headers=((b"content-length", b"4"),)))
    reply = await world.ask(get(method, b"HTTP/1.1", b"Connection: close"))
    assert reply == b"HTTP/1.1 %d R\r\ncontent-length: 4\r\nConnection: close\r\n\r\n" % status


async def test_a_refused_head_request_has_no_body(open_edge):
    async def no(call, body, sink):
        raise Refusal(403, "not_allowed", "no")

    reply = await (await open_edge(no)).ask(get(b"HEAD", b"HTTP/1.1", b"Connection: close"))
    assert reply.startswith(b"HTTP/1.1 403 ") and reply.endswith(b"\r\n\r\n")


@given(pieces=st.lists(st.binary(max_size=300), max_size=12), is_chunked=st.booleans())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_any_split_of_a_body_arrives_as_the_same_bytes_on_a_connection_that_lives_on(open_edge, pieces, is_chunked):
    whole = b"".join(pieces)
    world = await open_edge(saying(*pieces, length=None if is_chunked else len(whole)))
    reader, writer = await world.connect()
    for _ in range(2):
        writer.write(get())
        await reader.readuntil(b"\r\n\r\n")
        got = b""
        if is_chunked:
            while size := int(await reader.readline(), 16):
                got += await reader.readexactly(size)
                await reader.readline()
            await reader.readline()
        else:
            got = await reader.readexactly(len(whole))
        assert got == whole
    writer.close()


async def test_the_head_leaves_with_a_push_of_nothing_where_no_body_follows_for_a_while(open_edge):
    gate = asyncio.Event()

    async def run(call, body, sink):
        sink.start(200, b"OK", (), None)
        sink.push(b"")
        await gate.wait()
        sink.finish()

    reader, writer = await (await open_edge(run)).connect()
    writer.write(LAST)
    async with asyncio.timeout(20):
        assert b"chunked" in await reader.readuntil(b"\r\n\r\n")
    gate.set()
    assert await reader.read() == b"0\r\n\r\n"
    writer.close()


async def test_head_and_first_bytes_leave_in_one_write(open_edge, monkeypatch):
    writes = []

    async def run(call, body, sink):
        monkeypatch.setattr(sink, "_transport", Tee(sink._transport, writes))
        await saying(b"ab", length=2)(call, body, sink)

    await (await open_edge(run)).ask(LAST)
    assert len(writes) == 1 and writes[0].endswith(b"\r\n\r\nab")


@pytest.mark.parametrize("pushed", [b"", b"ab"])
@pytest.mark.parametrize("rest", [None, b"", b"cd"])
@pytest.mark.parametrize("length", [None, 0, 2, 4, 9])
@pytest.mark.parametrize("asking", [get(), LAST, get(version=b"HTTP/1.0"), get(b"HEAD", b"HTTP/1.1", b"Connection: close")])
async def test_the_rest_leaves_with_the_end_as_if_it_were_pushed_before(open_edge, pushed, rest, length, asking):
    async def asked(is_apart):
        end = []

        async def run(call, body, sink):
            sink.start(200, b"OK", (), length)
            try:
                if pushed:
                    sink.push(pushed)
                if is_apart and rest:
                    sink.push(rest)
                end.append(sink.finish(None if is_apart else rest))
            except RuntimeError:
                end.append("more than was promised")
            end.append((sink.is_ended, sink._keeps, sink._head))
            sink.stop_keeping()

        try:
            return await (await open_edge(run)).ask(asking), end
        except ConnectionResetError:
            return "reset", end

    assert await asked(False) == await asked(True)


@pytest.mark.parametrize("body", [b"", b"ab"])
@pytest.mark.parametrize("length", [None, 0, 2, 9])
@pytest.mark.parametrize("ours", [b"", b"x-one: 1\r\nx-two: 2"])
@pytest.mark.parametrize("reason", [b"OK", b"Fine"])
@pytest.mark.parametrize("which", ["keeps", "last", "1.0", "head", "cors", "left", "left and is finished anyway"])
async def test_a_whole_answer_leaves_as_one_that_is_started_and_finished(open_edge, body, length, ours, reason, which):
    asking = {"keeps": get(), "1.0": get(version=b"HTTP/1.0"), "head": get(b"HEAD", b"HTTP/1.1", b"Connection: close")}.get(which, LAST)

    async def asked(is_whole):
        end = []

        async def run(call, its_body, sink):
            if which == "cors":
                sink.cors = ((b"vary", b"Origin"),)
            if which.startswith("left"):
                sink.finish_anyway = which != "left"
                sink._transport.abort()
            try:
                if is_whole:
                    end.append(sink.whole(reason, length, ours, body))
                else:
                    sink.start(200, reason, (), length, ours)
                    end.append(sink.finish(body))
            except (RuntimeError, ClientGone) as error:
                end.append(type(error))
            end.append((sink.is_started, sink.is_ended, sink._keeps, sink._head, sink.reply is KEPT))
            sink.stop_keeping()

        try:
            return await (await open_edge(run)).ask(asking), end
        except ConnectionResetError:
            return "reset", end

    assert await asked(True) == await asked(False)


async def test_a_whole_answer_begins_once(open_edge):
    again = []

    async def run(call, body, sink):
        sink.whole(b"OK", 2, b"x: 1", b"ab")
        with pytest.raises(RuntimeError):
            sink.whole(b"OK", 2, b"x: 1", b"ab")
        again.append(True)

    assert (await (await open_edge(run)).ask(LAST)).endswith(b"ab") and again


async def test_for_a_client_that_has_left_the_rest_is_nothing(open_edge):
    ended = []

    async def run(call, body, sink):
        sink.finish_anyway = True
        sink._transport.abort()
        sink.start(200, b"OK", (), 2)
        ended.append((sink.finish(b"ab"), sink.is_ended))

    with contextlib.suppress(ConnectionResetError):
        assert not await (await open_edge(run)).ask(LAST)
    assert ended == [(True, True)]


class Tee:
    def __init__(self, transport, writes):
        self._transport, self._writes = transport, writes

    def write(self, data):
        self._writes.append(data)
        self._transport.write(data)

    def __getattr__(self, name):
        return getattr(self._transport, name)


@pytest.mark.parametrize("which", ["keeps", "last", "1.0", "head", "left", "left and is finished anyway"])
@pytest.mark.parametrize("length", [None, 12, 99])
@pytest.mark.parametrize("first", [None, b"", b"ab"])
async def test_a_piece_whose_framing_is_at_hand_leaves_as_any_other(open_edge, which, length, first):
    asking = {"keeps": get(), "1.0": get(version=b"HTTP/1.0"), "head": get(b"HEAD", b"HTTP/1.1", b"Connection: close")}.get(which, LAST)

    async def asked(is_framed):
        end = []

        async def run(call, body, sink):
            sink.start(200, b"OK", (), length)
            try:
                if first is not None:
                    sink.push(first)
                if which.startswith("left"):
                    sink.finish_anyway = which != "left"
                    sink._transport.abort()
                for piece in (b"abcd", b"ef\n\n"):
                    end.append((sink.push(piece, b"4\r\n" + piece + b"\r\n") if is_framed else sink.push(piece), sink.last[-4:]))
            except ClientGone as gone:
                end.append(type(gone))
            end.append((sink._left, sink.is_ended))
            sink.finish()
            sink.stop_keeping()

        try:
            return await (await open_edge(run)).ask(asking), end
        except ConnectionResetError:
            return "reset", end

    assert await asked(True) == await asked(False)


async def test_such_a_piece_leaves_as_the_very_bytes_and_says_whether_the_client_is_full(open_edge):
    writes, framed = [], b"4\r\nef\n\n\r\n"

    async def run(call, body, sink):
        sink.start(200, b"OK", (), None)
        sink.push(b"ab")
        sink._transport = Tee(sink._transport, writes)
        assert sink.push(b"ef\n\n", framed) is False
        sink._connection._paused = True
        assert sink.push(b"ef\n\n", framed) is True
        sink._connection._paused = False
        sink.finish()

    await (await open_edge(run)).ask(LAST)
    assert writes[0] is framed and writes[1] is framed


def test_no_piece_is_framed_for_the_sink_that_is_too_short_to_end_a_stream_with():
    assert LEAST_FRAMED >= LONGEST


async def test_the_last_bytes_of_a_stream_are_known_and_no_fewer_than_four(open_edge):
    last = []

    async def run(call, body, sink):
        sink.start(200, b"OK", (), None)
        for piece in (b"", b"data: 1\n", b"\r", b"\n", b"x" * 5, b"y" * 300_000, b"z"):
            sink.push(piece)
            last.append(sink.last)
        sink.finish()

    await (await open_edge(run)).ask(LAST)
    assert last[:2] == [b"", b"data: 1\n"] and last[2].endswith(b" 1\n\r") and last[3].endswith(b"1\n\r\n") and last[4] == b"xxxxx"
    assert last[5].endswith(b"yyyy") and len(last[5]) < 100 and last[6].endswith(b"yyyz")


async def test_an_aborted_stream_ends_with_its_last_event_and_without_the_final_chunk(open_edge):
    reply = await (await open_edge(saying(b"data: 1\n\n", end=b"data: error\n\n"))).ask(get())
    assert reply.endswith(b"\r\n\r\n9\r\ndata: 1\n\n\r\nd\r\ndata: error\n\n\r\n")


@pytest.mark.parametrize("end", ["finish", b"error"])
async def test_an_answer_shorter_than_its_length_ends_the_connection(open_edge, end):
    reply = await (await open_edge(saying(b"ab", length=5, end=end))).ask(get())
    assert reply.endswith(b"Content-Length: 5\r\n\r\nab")


async def test_an_answer_longer_than_its_length_never_reaches_the_next_answer(open_edge, logged):
    world = await open_edge(saying(b"abc", b"HTTP/1.1 200 OK\r\n", length=3))
    try:
        reply = await world.ask(get() + get())
    except ConnectionResetError:
        reply = b""
    assert reply.count(b"HTTP/1.1") <= 1
    assert "RuntimeError at sink.py" in logged.text


async def test_an_answer_that_is_aborted_after_its_end_is_the_last_on_its_connection(open_edge):
    async def run(call, body, sink):
        await saying(b"ok", length=2)(call, body, sink)
        sink.abort(b"")

    world = await open_edge(run)
    reader, writer = await world.connect()
    writer.write(get() + get())
    with pytest.raises(ConnectionResetError):
        await reader.read()
    assert len(world.calls) == 1
    writer.close()


async def test_writing_to_a_client_that_left_raises_client_gone(open_edge):
    seen = asyncio.get_running_loop().create_future()

    async def run(call, body, sink):
        try:
            await asyncio.Event().wait()
        finally:
            raised = []
            for act in (lambda: sink.start(200, b"OK", (), None), lambda: sink.push(b"x")):
                try:
                    act()
                except ClientGone:
                    raised.append("gone")
            try:
                await sink.drain()
            except ClientGone:
                raised.append("gone")
            seen.set_result((raised, sink.refuse(Refusal(403, "not_allowed", "no"), "openai", ())))

    world = await open_edge(run)
    _, writer = await world.connect()
    writer.write(get())
    await world.is_busy()
    writer.transport.abort()
    async with asyncio.timeout(20):
        assert await seen == (["gone"] * 3, 403)


async def test_a_reply_cannot_begin_twice(open_edge, logged):
    async def run(call, body, sink):
        await saying(b"a", length=1)(call, body, sink)
        sink.start(200, b"OK", (), 0)

    reply = await (await open_edge(run)).ask(LAST)
    assert reply.count(b"HTTP/1.1") == 1 and "RuntimeError" in logged.text


async def test_headers_given_to_a_refusal_stand_beside_its_own(open_edge):
    async def run(call, body, sink):
        assert (
            sink.refuse(
                Refusal(429, "rate_limited", "wait", retry_after=3), "anthropic", ((b"X-Sluice-Limit", b"l"), (b"x-request-id", b"z"))
            )
            == 429
        )

    reply = await (await open_edge(run)).ask(get(b"GET", b"HTTP/1.1", b"Connection: close", b"X-Request-Id: mine"))
    head = reply.partition(b"\r\n\r\n")[0]
    assert b"X-Sluice-Limit: l" in head and b"x-request-id: mine" in head and b"x-request-id: z" not in head
    assert b"retry-after: 3" in head and b'"type":"error"' in reply.replace(b" ", b"")


async def test_lines_of_ours_stand_after_the_providers_as_they_are(open_edge):
    async def run(call, body, sink):
        sink.start(200, b"OK", ((b"A", b"1"),), 2, b"x-ours: 1\r\nx-more: 2")
        sink.push(b"ok")
        sink.finish()

    reply = await (await open_edge(run)).ask(LAST)
    assert reply == b"HTTP/1.1 200 OK\r\nA: 1\r\nx-ours: 1\r\nx-more: 2\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
