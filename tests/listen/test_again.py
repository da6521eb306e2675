"""A request that repeats the head before it is known again without the parser, and is to the byte what the parser would have made of it."""

import asyncio

import pytest
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import HttpProcessingError
from aiohttp.http_parser import HttpRequestParser
from hypothesis import given
from hypothesis import strategies as st

from proxy.listen import again
from proxy.listen.connection import Deadlines
from proxy.listen.edge import Edge, Settings
from proxy.listen.straight import Server
from proxy.policy.plan import Origin, Provider

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer slk-1\r\nContent-Length: %d\r\nAccept: */*\r\n\r\n"


def asked(body, head=HEAD):
    return head % len(body) + body


@pytest.fixture(scope="module")
def loop():
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def parsed(loop, data):
    """The messages that aiohttp's parser makes of it, each with its body; None where it complains or something is missing."""
    parser = HttpRequestParser(BaseProtocol(loop), loop, 2**16, max_line_size=8190, max_field_size=8190)
    try:
        messages, _, tail = parser.feed_data(data)
    except HttpProcessingError:
        return None
    if tail or not messages or not messages[-1][1].is_eof():
        return None
    return [(message, content.read_nowait()) for message, content in messages]


def told(message):
    return (message.method, message.path, message.version, message.raw_headers, message.should_close, message.upgrade, message.chunked)


def learned(loop, data):
    """What is kept of the head of a request that is parsed as one."""
    found = parsed(loop, data)
    return again.head_of(data, found[0][0])[0] if found is not None and len(found) == 1 else None


def read(head, sent):
    """What a connection finds in it: what has come of the body, and how much is due. None: it is left to the parser."""
    is_anothers = len(sent) == head.size and not sent.startswith(head.head) and head.is_anothers(sent)
    assert not is_anothers or (sent.startswith(head.head) and len(sent) == head.size)
    if not (is_anothers or sent.startswith(head.head) or head.is_with_others(sent)):
        return None
    assert head.end == len(head.head) and head.size == head.end + head.length and sent.startswith(head.head)
    return (sent[head.end :], head.size - len(sent)) if len(sent) <= head.size else None


@given(first=st.binary(max_size=40), second=st.binary(max_size=200))
def test_another_body_under_the_same_head_is_read_as_the_parser_reads_it(loop, first, second):
    head = learned(loop, asked(first))
    ((true, true_body),) = parsed(loop, asked(second))
    assert read(head, asked(second)) == (true_body or b"", 0) and told(head) == told(true)


PIECES = [b"\r\n", b"\n", b"\r", b" ", b":", b"0", b"1", b"5", b"+", b"-", b",", b"Content-Length: 5", b"content-length:5",
          b"\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"GET / HTTP/1.1\r\n", b"Expect: 100-continue\r\n", b"Connection: close\r\n",
          b"\x00", b"abcde", b"\r\n 6", b"HTTP/1.0", asked(b"abcde")]  # fmt: skip


@given(
    first=st.tuples(st.integers(0, 150), st.integers(0, 20), st.sampled_from(PIECES)),
    second=st.lists(st.tuples(st.integers(0, 150), st.integers(0, 20), st.sampled_from(PIECES)), max_size=2),
    body=st.sampled_from([b"", b"abcde", b"abcdefghij", asked(b"")]),
)
def test_whatever_is_changed_in_either_request_nothing_is_known_again_that_the_parser_reads_otherwise(loop, first, second, body):
    def changed(data, changes):
        for at, size, piece in changes:
            data = data[:at] + piece + data[at + size :]
        return data

    for before in (asked(b"abcde"), changed(asked(b"abcde"), [first])):
        head = learned(loop, before)
        after = changed(asked(body, before[: before.find(b"Content-Length")] + HEAD[HEAD.find(b"Content-Length") :]), second)
        for sent in (after, changed(before, second)):
            found = None if head is None else read(head, sent)
            if found is not None:
                body, due = found
                true = parsed(loop, sent + b"x" * due)
                assert true is not None and len(true) == 1
                assert (told(head), body + b"x" * due) == (told(true[0][0]), true[0][1])


@pytest.mark.parametrize(
    "length", [b"+5", b"-5", b" 5", b"5 ", b"05", b"5,5", b"0x5", b"5_0", b"\xb2", b"", b"5\r\nContent-Length: 5", b"4", b"5" * 20]
)
def test_a_length_that_is_not_plainly_that_of_the_body_is_left_to_the_parser(loop, length):
    head = learned(loop, asked(b"abcde"))
    assert read(head, asked(b"12345")) is not None
    assert read(head, (HEAD.replace(b"%d", b"@") + b"12345").replace(b"@", length)) is None


@pytest.mark.parametrize(
    "first",
    [
        HEAD.replace(b"Accept: */*", b"Connection: close") % 2 + b"{}",
        HEAD.replace(b"Accept: */*", b"Connection: upgrade\r\nUpgrade: websocket") % 2 + b"{}",
        HEAD.replace(b"Accept: */*", b"Expect: 100-continue") % 2 + b"{}",
        HEAD.replace(b"HTTP/1.1", b"HTTP/1.0") % 2 + b"{}",
        HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"2\r\n{}\r\n0\r\n\r\n",
        HEAD.replace(b"Content-Length: %d\r\n", b""),
        HEAD.replace(b"*/*", b"a" * again.LARGEST) % 2 + b"{}",
        HEAD.replace(b"*/*", b"x\r\nX-Other: Content-Length: 2").replace(b"Content-Length: %d", b"CONTENT-LENGTH:2") + b"{}",
    ],
)
def test_what_is_no_plain_request_of_a_said_length_is_not_kept(loop, first):
    assert parsed(loop, first) is not None
    assert learned(loop, first) is None


# -- another caller ------------------------------------------------------------------------------------------------------

NAMES = [b"Authorization", b"authorization", b"x-api-key", b"API-Key", b"x-goog-api-key"]
LENGTH = b"Content-Length: %d\r\n"


def head_of_callers(lines, is_length_first=False):
    """With these lines of (name, credential) beside its length."""
    held = b"".join([b"%b: %b\r\n" % line for line in lines]).replace(b"%", b"%%")
    return b"POST /v1/x HTTP/1.1\r\nHost: x\r\n" + (LENGTH + held if is_length_first else held + LENGTH) + b"Accept: */*\r\n\r\n"


PLAIN = st.tuples(st.sampled_from([b"", b"Bearer ", b"Basic "]), st.text(st.characters(codec="ascii", min_codepoint=33, max_codepoint=126),
                  min_size=1, max_size=60)).map(lambda it: it[0] + it[1].encode())  # fmt: skip
SLY = st.lists(st.sampled_from([b"slk-1", b" ", b"\t", b"\r\n", b"\n", b"\r", b"\0", b"\x7f", b"\xe9", b":", b",", b"Content-Length: 5",
               b"Content-Length: 0\r\n\r\nGET / HTTP/1.1", b"Transfer-Encoding: chunked", b"Accept: */*\r\n\r\n", b"a" * 3000,
               b"\r\nContent-Length: ", b"\r\nAccept: */*"]), max_size=5).map(b"".join)  # fmt: skip


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(("first", "second"), [(b"Bearer slk-1", b"Bearer slk-2"), (b"sk-1", b"sk-2"), (b"Basic a", b"Basic b")])
def test_a_credential_as_long_as_the_one_before_is_known_by_where_it_stands(loop, first, second, is_last):
    head = learned(loop, asked(b"{}", head_of_callers([(b"Authorization", first)], is_last)))
    for credential, body in ((second, b"{}"), (first, b"[]"), (second, b"12")):
        sent, seen = asked(body, head_of_callers([(b"Authorization", credential)], is_last)), head.seen
        ((true, _),) = parsed(loop, sent)
        assert head.is_anothers(sent) and read(head, sent) == (body, 0)
        assert told(head) == told(true) and head.fields["authorization"] == credential.decode() and head.seen is not seen


@pytest.mark.parametrize("other", [b"Bearer slk 1", b"Bearer slk-\xb2", b"Bearer slk-\t", b"BearerXslk-1", b"bearer slk-1",
                                   b"Bearer slk\r1", b"Bearer slk\n1", b"Bearer  slk1", b"Bearer slk1 "])  # fmt: skip
def test_another_scheme_or_what_is_no_credential_is_not_known_by_where_it_stands(loop, other):
    head = learned(loop, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-1")])))
    before = told(head), head.head, head.seen
    assert not head.is_anothers(asked(b"{}", head_of_callers([(b"Authorization", other)])))
    assert (told(head), head.head, head.seen) == before and head.seen is before[2]


@pytest.mark.parametrize("lines", [[], [(b"Authorization", b"Bearer a"), (b"x-api-key", b"b")], [(b"Authorization", b"")]])
@pytest.mark.parametrize("sent", [b"\0", b"\n", b"\n\n", b"", b"POST"])
def test_a_head_with_no_credential_or_with_two_is_nobody_elses(loop, lines, sent):
    head = learned(loop, asked(b"{}", head_of_callers(lines)))
    assert not head.is_anothers(sent.ljust(head.size, b"x"))


@pytest.mark.parametrize("is_last", [False, True])
def test_lengths_and_credentials_may_change_in_any_turn(loop, is_last):
    """Either alone, both, neither: what one turn has found holds where the next begins."""
    head = learned(loop, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-1")], is_last)))
    turns = [(b"Bearer slk-22", b"{}"), (b"Bearer slk-22", b"[1, 2, 3, 4]"), (b"Bearer slk-1", b"[1, 2, 3, 4]"), (b"Bearer 4", b""),
             (b"Bearer 4", b"12345"), (b"Bearer slk-333", b"12345"), (b"Bearer slk-333", b"{}"), (b"x", b"{}"), (b"y", b"{}")]  # fmt: skip
    for number, (credential, body) in enumerate(turns):
        sent = asked(body, head_of_callers([(b"Authorization", credential)], is_last))
        ((true, _),) = parsed(loop, sent)
        seen = head.seen
        assert read(head, sent) == (body, 0) and told(head) == told(true)
        assert (head.seen is seen) == (number > 0 and turns[number - 1][0] == credential)
        seen = head.seen
        assert read(head, sent.replace(b"Accept: */*", b"Accept: x/*")) is None
        assert head.seen is seen and told(head) == told(true), "what is not known again changes nothing"


@given(
    name=st.sampled_from(NAMES), first=PLAIN, others=st.lists(st.tuples(PLAIN, st.binary(max_size=40)), max_size=4), is_last=st.booleans()
)
def test_another_callers_request_under_the_same_head_is_read_as_the_parser_reads_it(loop, name, first, others, is_last):
    head = learned(loop, asked(b"{}", head_of_callers([(name, first)], is_last)))
    for credential, body in others:
        sent = asked(body, head_of_callers([(name, credential)], is_last))
        ((true, _),) = parsed(loop, sent)
        assert read(head, sent) == (body, 0)
        assert told(head) == told(true)
        assert read(head, sent[: len(sent) - len(body)]) == (b"", len(body)) and told(head) == told(true)


@given(
    name=st.sampled_from(NAMES),
    before=st.one_of(PLAIN, SLY),
    others=st.lists(st.tuples(st.one_of(PLAIN, SLY), st.sampled_from([b"", b"abcde", asked(b"")])), min_size=1, max_size=4),
    is_last=st.booleans(),
    also=st.sampled_from([(), ((b"X-Api-Key", b"sk-2"),), ((b"Authorization", b"Bearer b"),), ((b"Content-Length", b"2"),)]),
)
def test_whatever_stands_where_a_credential_stood_nothing_is_known_again_that_the_parser_reads_otherwise(
    loop, name, before, others, is_last, also
):
    head = learned(loop, asked(b"{}", head_of_callers([(name, before), *also], is_last)))
    for credential, body in others:
        sent = asked(body, head_of_callers([(name, credential), *also], is_last))
        found = None if head is None else read(head, sent)
        if found is not None:
            body, due = found
            true = parsed(loop, sent + b"x" * due)
            assert true is not None and len(true) == 1
            assert (told(head), body + b"x" * due) == (told(true[0][0]), true[0][1] or b"")


@pytest.mark.parametrize("is_last", [False, True])
@pytest.mark.parametrize(
    "credential",
    [b"", b" x", b"x ", b"a  b", b"a b c", b"\tx", b"a\tb", b"x\0", b"x\x7f", b"caf\xe9", b"x\r\nContent-Length: 3", b"x\nA: b", b"x\rA: b",
     b"x\r\n\r\nGET / HTTP/1.1", b"x\r\nx-api-key: y", b"x\r\n y", b"a" * again.LARGEST],
)  # fmt: skip
def test_a_credential_that_is_not_plainly_one_is_left_to_the_parser(loop, credential, is_last):
    head = learned(loop, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-1")], is_last)))
    assert read(head, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-2")], is_last))) == (b"{}", 0)
    assert read(head, asked(b"{}", head_of_callers([(b"Authorization", credential)], is_last))) is None
    assert read(head, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer " + credential)], is_last))) is None


def test_of_two_lines_that_may_hold_a_credential_none_may_hold_another(loop):
    lines = [(b"Authorization", b"Bearer a"), (b"x-api-key", b"b")]
    head = learned(loop, asked(b"{}", head_of_callers(lines)))
    assert read(head, asked(b"[1]", head_of_callers(lines))) == (b"[1]", 0)
    for others in ([lines[0], (b"x-api-key", b"c")], [(b"Authorization", b"Bearer c"), lines[1]]):
        assert read(head, asked(b"{}", head_of_callers(others))) is None


def test_a_line_that_holds_no_credential_may_not_hold_another_value(loop):
    lines = [(b"Authorization", b"Bearer a"), (b"X-Request-Id", b"one")]
    head = learned(loop, asked(b"{}", head_of_callers(lines)))
    assert read(head, asked(b"{}", head_of_callers([lines[0], (b"X-Request-Id", b"two")]))) is None


def test_no_credential_of_a_caller_is_kept_once_another_came(loop):
    head = learned(loop, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-first")])))
    assert read(head, asked(b"{}", head_of_callers([(b"Authorization", b"Bearer slk-second")]))) == (b"{}", 0)
    kept = repr([getattr(head, name, None) for name in type(head).__slots__])
    assert "slk-second" in kept and "slk-first" not in kept


def test_a_body_of_which_more_is_due_is_said_to_be_so(loop):
    assert read(learned(loop, asked(b"abcde")), HEAD % 12 + b"hello") == (b"hello", 7)


# -- any requests in any pieces ------------------------------------------------------------------------------------------


class Wire(asyncio.Transport):
    """A client's side that takes everything."""

    def __init__(self):
        super().__init__()
        self.said, self._is_closing, self.is_paused = [], False, False

    def write(self, data):
        self.said.append(bytes(data))

    def is_closing(self):
        return self._is_closing

    def close(self):
        self._is_closing = True

    abort = close

    def pause_reading(self):
        self.is_paused = True

    def resume_reading(self):
        self.is_paused = False

    def get_write_buffer_size(self):
        return 0

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def can_write_eof(self):
        return False


class Clock:
    def now_ns(self):
        return 0

    def monotonic(self):
        return 0.0


OPENAI = Provider("openai", "openai", "openai", Origin("http", "127.0.0.1", 1, b"127.0.0.1:1"), "/v1")


async def played(reads, lessons):
    """What a connection that gets these reads (with so many turns of the loop after each) makes of them, and says."""
    calls = []

    async def run(call, body, sink):
        calls.append([call.method, call.route.target, call.headers, dict(call.fields), body.length])
        if call.route.path.endswith("unread"):
            sink.answer(200, (), b"ok")
            return
        calls[-1].append(await body.read(2_000_000))
        sink.answer(200, (), b"ok")

    settings = Settings({"openai": OPENAI}, "openai")
    edge = Edge(run, None, settings, Clock(), most=1)
    connection = Server(edge, Deadlines(linger=5), 10)()
    connection._lessons, wire = lessons, Wire()
    connection.connection_made(wire)
    for data, turns in reads:
        for _ in range(10_000):
            if not wire.is_paused:
                break
            await asyncio.sleep(0)
        assert not wire.is_paused or wire.is_closing()
        connection.data_received(data)
        for _ in range(turns):
            await asyncio.sleep(0)
    for _ in range(60):
        await asyncio.sleep(0)
    is_open = not wire.is_closing()
    known = connection._again
    connection.connection_lost(None)
    for _ in range(5):
        await asyncio.sleep(0)
    return calls, [line for line in b"".join(wire.said).split(b"\r\n") if line.startswith(b"HTTP/1.1 ")], is_open, known is not None


BODY = asked(b"{}")
REQUESTS = st.one_of(
    st.sampled_from([b"", b"{}", b"abc" * 400, BODY, BODY + BODY, b"0\r\n\r\n"]).map(asked),
    st.sampled_from([b"", b"{}", BODY]).map(lambda body: asked(body, HEAD.replace(b"slk-1", b"slk-2"))),
    st.sampled_from([b"slk-2", b"slk-333", b"slk-1 ", b"slk 1", b""]).map(lambda key: asked(b"[]", HEAD.replace(b"slk-1", key))),
    st.sampled_from([b"{}", BODY]).map(lambda body: asked(body, HEAD.replace(b"completions", b"unread"))),
    st.sampled_from([
        asked(b"x" * 1_200_000), asked(b"x" * 1_200_000, HEAD.replace(b"completions", b"unread")), asked(b"x" * 2_000_001),
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", b"\r\n" + BODY, b"\r\n", b"garbage\r\n\r\n",
        BODY[:60], HEAD % 50 + b"short", HEAD % 2 + b"longer", *[BODY.replace(b": 2\r", it) for it in
        (b": +2\r", b": 02\r", b":  2\r", b": 2 \r", b": 2\r\nContent-Length: 2\r", b": 2\r\nTransfer-Encoding: chunked\r", b": 2, 2\r")],
        HEAD.replace(b"Content-Length: %d", b"Transfer-Encoding: chunked") + b"3\r\nabc\r\n0\r\n\r\n",
        BODY.replace(b"Accept: */*", b"Expect: 100-continue"), BODY.replace(b"Accept: */*", b"Connection: close"),
        BODY.replace(b"HTTP/1.1", b"HTTP/1.0"), BODY.replace(b"POST", b"GET"), BODY.replace(b"\r\n", b"\n"),
    ]),
)  # fmt: skip


@given(
    requests=st.lists(REQUESTS, min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 400), max_size=6),
    turns=st.lists(st.sampled_from([0, 1, 3, 30]), min_size=1, max_size=8),
    is_apart=st.booleans(),
)
def test_whatever_comes_in_whatever_pieces_the_calls_and_the_replies_are_those_that_the_parser_alone_would_lead_to(
    loop, requests, cuts, turns, is_apart
):
    pieces = [asked(b"{}"), *requests] if is_apart else [asked(b"{}"), b"".join(requests)]
    for cut in cuts:
        at = cut % len(pieces)
        pieces[at : at + 1] = [pieces[at][:cut], pieces[at][cut:]]
    sizes = [piece[at : at + 262_144] for piece in pieces for at in range(0, len(piece), 262_144)]
    reads = [(piece, turns[at % len(turns)]) for at, piece in enumerate(sizes)]
    reads[0] = (reads[0][0], 30)
    *short, _ = loop.run_until_complete(played(reads, 4))
    *parsed_all, is_known = loop.run_until_complete(played(reads, 0))
    assert short == parsed_all and not is_known


# -- on the wire ---------------------------------------------------------------------------------------------------------


async def replies(reader, count):
    return [await reader.readexactly(int((await reader.readuntil(b"\r\n\r\n")).lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            for _ in range(count)]  # fmt: skip


async def test_requests_that_repeat_a_head_are_served_one_after_the_other_each_with_its_own_body(open_edge):
    bodies, read = [bytes([65 + number]) * number for number in range(12)], []

    async def run(call, body, sink):
        read.append(await body.read(1000))
        sink.start(200, b"OK", (), 2)
        sink.push(b"ok")
        sink.finish()

    world = await open_edge(run=run)
    reader, writer = await world.connect()
    for body in bodies:
        writer.write(asked(body))
        await replies(reader, 1)
    assert read == bodies
    assert [call.fields["content-length"] for call in world.calls] == [str(len(body)) for body in bodies]
    (connection,) = world.edge._connections()
    assert connection._again is not None and connection._lessons == 4  # it was known again
    writer.close()


async def test_another_key_another_path_and_a_request_without_a_body_are_told_apart_on_one_connection(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    said = [asked(b"{}"), asked(b"{}"), asked(b"{}", HEAD.replace(b"slk-1", b"slk-2")), asked(b"[]", HEAD.replace(b"chat/", b"")),
            b"GET /v1/models HTTP/1.1\r\nHost: x\r\n\r\n", asked(b"{}"), asked(b"{}")]  # fmt: skip
    for data in said:
        writer.write(data)
        await replies(reader, 1)
    assert [(call.method, call.route.target, call.fields.get("authorization")) for call in world.calls] == [
        ("POST", "/v1/chat/completions", "Bearer slk-1"),
        ("POST", "/v1/chat/completions", "Bearer slk-1"),
        ("POST", "/v1/chat/completions", "Bearer slk-2"),
        ("POST", "/v1/completions", "Bearer slk-1"),
        ("GET", "/v1/models", None),
        ("POST", "/v1/chat/completions", "Bearer slk-1"),
        ("POST", "/v1/chat/completions", "Bearer slk-1"),
    ]
    writer.close()


@pytest.mark.parametrize("is_length_first", [False, True])
@pytest.mark.parametrize("name", [b"Authorization", b"x-api-key"])
async def test_callers_that_take_turns_on_a_connection_are_told_apart_without_the_parser(open_edge, name, is_length_first):
    world = await open_edge()
    reader, writer = await world.connect()
    said = [
        (b"slk-1", b"{}"),
        (b"slk-1", b"{}"),
        (b"slk-2", b"{}"),
        (b"slk-33", b"[1]"),
        (b"slk-1", b"[1]"),
        (b"slk-1", b""),
        (b"slk-2", b"{}"),
    ]
    for number, (key, body) in enumerate(said):
        data = asked(body, head_of_callers([(name, key)], is_length_first))
        for piece in (data, b"") if number % 2 else (data[: len(data) - len(body)], body):  # whole, or as httpx sends it
            writer.write(piece)
            await asyncio.sleep(0.02)
        assert (await replies(reader, 1))[0].endswith(b" %d" % len(body))
    (connection,) = world.edge._connections()
    assert connection._request_count == 1
    key, value = name.decode().lower(), [key.decode() for key, _ in said]
    assert [call.fields[key] for call in world.calls] == value
    assert [dict(call.headers)[name].decode() for call in world.calls] == value
    lengths = [len(body) for _, body in said]
    sizes = [(int(call.fields["content-length"]), int(dict(call.headers)[b"Content-Length"])) for call in world.calls]
    assert sizes == [(size, size) for size in lengths]
    assert len({call.uid for call in world.calls}) == len({call.id for call in world.calls}) == len(said)
    seen = [call.seen for call in world.calls[2:]]  # of what was read anew nothing is seen
    assert seen[2] is seen[3] and len({id(one) for one in seen}) == 4
    writer.close()


async def test_what_is_known_of_a_head_under_one_policy_is_worked_out_anew_under_the_next(open_edge, providers):
    world = await open_edge()
    reader, writer = await world.connect()
    for number in range(9):
        if number == 3:
            world.edge.settings = Settings(providers, "together")
        elif number == 6:
            world.edge.settings = Settings(providers, "openai", cors=("https://a.example",))
        writer.write(asked(b"{}"))
        await replies(reader, 1)
    assert [call.route.provider for call in world.calls] == ["openai"] * 3 + ["together"] * 3 + ["openai"] * 3
    assert [call.kept is world.calls[number // 3 * 3 + 2].kept for number, call in enumerate(world.calls)] == [True] * 9
    assert len({id(call.kept) for call in world.calls}) == 3
    world.edge.settings = Settings(providers, "openai", hosts=("elsewhere",))
    writer.write(asked(b"{}"))
    assert b" 421 " in await reader.readuntil(b"\r\n") and len(world.calls) == 9
    writer.close()


async def test_the_first_request_of_a_connection_keeps_what_follows_from_its_head_for_the_second(open_edge):
    world = await open_edge()
    for _ in range(2):
        reader, writer = await world.connect()
        for _ in range(2):
            writer.write(asked(b"{}"))
            await replies(reader, 1)
        writer.close()
    one, two, other, another = [call.seen for call in world.calls]
    assert one is two and other is another and one is not None and other is not one


@pytest.mark.parametrize("says", ["the policy", "the edge"])
async def test_a_head_that_is_known_is_refused_as_any_other_while_draining(open_edge, providers, says):
    world = await open_edge()
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(asked(b"{}"))
        await replies(reader, 1)
    if says == "the policy":
        world.edge.settings = Settings(providers, "openai", draining=True)
    else:
        world.edge.stop_accepting()
    writer.write(asked(b"{}"))
    assert b" 503 " in await reader.readuntil(b"\r\n") and world.refusals == ["draining"]
    writer.close()


async def test_a_callers_own_id_in_a_known_head_stays_its_own_and_ours_do_not_repeat(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(asked(b"{}", HEAD.replace(b"Accept: */*", b"X-Request-Id: mine")))
        await replies(reader, 1)
    assert [(call.id, call.id_is_callers) for call in world.calls] == [("mine", True)] * 3
    assert len({call.uid for call in world.calls}) == 3
    writer.close()


async def test_a_call_under_a_known_head_says_all_that_it_said_when_the_head_was_read(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    for _ in range(4):
        writer.write(asked(b"{}"))
        await replies(reader, 1)
    first, *others = [
        {name: getattr(call, name) for name in type(call).__slots__ if name not in ("uid", "id", "at_ns", "began", "seen")}
        for call in world.calls
    ]
    assert others == [first] * 3
    assert [call.id for call in world.calls] == [call.uid for call in world.calls]
    assert sorted(world.calls, key=lambda call: (call.at_ns, call.began)) == world.calls
    writer.close()


async def test_a_defect_under_a_known_head_is_told_as_under_any_other(open_edge, logged):
    world = await open_edge()
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(asked(b"{}"))
        await replies(reader, 1)

    async def breaks(call, body, sink):
        raise ValueError("slk-1")

    world.run = breaks
    writer.write(asked(b"{}"))
    reply = await reader.read()
    assert reply.startswith(b"HTTP/1.1 500 ") and b"Connection: close" in reply and world.refusals == ["internal"]
    assert "internal error: ValueError" in logged.text and "slk-1" not in logged.text
    assert world.edge.active == 0
    writer.close()


async def test_a_head_that_was_refused_is_refused_again_whatever_was_served_before_it(open_edge):
    world = await open_edge(hosts=("x",))
    reader, writer = await world.connect()
    for target in (b"chat/completions", b"chat/completions"):
        writer.write(asked(b"{}", HEAD.replace(b"chat/completions", target)))
        await replies(reader, 1)
    (connection,) = world.edge._connections()
    known = connection.head
    for _ in range(2):
        writer.write(asked(b"{}", HEAD.replace(b"Host: x", b"Host: x\r\nAuthorization: Bearer slk-2")))
        assert b" 400 " in await reader.readuntil(b"\r\n") and connection.head is not known
        await replies(reader, 1)
    assert len(world.calls) == 2 and world.refusals == ["ambiguous_credentials"] * 2
    writer.close()


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 12, 28, 35, 40, len(HEAD)])
async def test_of_a_request_that_came_in_two_pieces_the_second_is_no_head_that_may_come_again(open_edge, cut):
    world = await open_edge()
    reader, writer = await world.connect()
    data = asked(b"abcde")
    writer.write(data[:cut])
    await asyncio.sleep(0.05)
    writer.write(data[cut:])
    await replies(reader, 1)
    writer.write(data[cut:])
    assert b" 400 " in await reader.readuntil(b"\r\n")
    assert len(world.calls) == 1
    writer.close()


@pytest.mark.parametrize("cut", [1, 20, 60, 120, len(HEAD), len(HEAD) + 3])
async def test_a_repeated_request_may_come_in_pieces_or_with_the_next_behind_it(open_edge, cut):
    world = await open_edge()
    reader, writer = await world.connect()
    writer.write(asked(b"first"))
    await replies(reader, 1)
    data = asked(b"second") + asked(b"the third") + asked(b"4")
    writer.write(data[:cut])
    await asyncio.sleep(0.05)
    writer.write(data[cut:])
    told = await replies(reader, 3)
    writer.write(asked(b"fifth"))
    assert [it.rpartition(b" ")[2] for it in (*told, *await replies(reader, 1))] == [b"6", b"9", b"1", b"5"]
    writer.close()


@pytest.mark.parametrize("before", [b"ab", b"\r\nPO"])
async def test_what_follows_another_body_or_blank_lines_is_no_head_that_may_come_again(open_edge, before):
    world = await open_edge()
    reader, writer = await world.connect()
    rest = b"cdefg" + asked(b"{}") if before == b"ab" else asked(b"{}")[2:]
    writer.write(HEAD % 7 + before if before == b"ab" else before)
    await asyncio.sleep(0.05)
    writer.write(rest)
    await replies(reader, 2 if before == b"ab" else 1)
    served = len(world.calls)
    writer.write(rest)
    assert b" 400 " in await reader.readuntil(b"\r\n") and len(world.calls) == served
    writer.close()


async def started(world, first=b"{}"):
    """A connection that has sent the head, and in another read the body of one call."""
    reader, writer = await world.connect()
    for piece in (HEAD % len(first), first):
        writer.write(piece)
        await asyncio.sleep(0.02)
    await replies(reader, 1)
    return reader, writer


async def test_a_head_and_its_body_that_come_one_after_the_other_as_of_httpx_are_known_again_too(open_edge):
    world = await open_edge()
    reader, writer = await started(world)
    (connection,) = world.edge._connections()
    parsed = connection._request_count
    for body in (b"hello", b"x" * 3_000_000, b""):
        writer.write(HEAD % len(body))
        await asyncio.sleep(0.02)
        writer.write(body)
        assert (await replies(reader, 1))[0].endswith(b" %d" % len(body))
    assert connection._request_count == parsed and connection._own is None
    writer.close()


async def test_a_body_after_a_known_head_that_nobody_reads_stops_its_sender(open_edge):
    gate = asyncio.Event()

    async def late(call, body, sink):
        await gate.wait()
        sink.answer(200, (), b"%d" % len(await body.read(10_000_000)))

    world = await open_edge()
    reader, writer = await started(world)
    world.run = late
    writer.write(HEAD % 9_000_000 + b"x" * 9_000_000)
    await asyncio.sleep(0.1)
    (connection,) = world.edge._connections()
    assert connection._reading_paused and connection._own._size < 2_000_000
    gate.set()
    async with asyncio.timeout(20):
        assert await replies(reader, 1) == [b"9000000"]
    assert not connection._reading_paused
    writer.write(asked(b"{}"))
    assert await replies(reader, 1) == [b"2"]
    writer.close()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_body_after_a_known_head_that_stops_is_408_and_one_that_is_cut_reaches_no_one(open_edge, size):
    world = await open_edge(deadlines=Deadlines(body_idle=0.2, linger=0.1))
    reader, writer = await started(world)
    writer.write(HEAD % size + b"half")
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()
    reader, writer = await started(world)
    served = len(world.calls)
    writer.write(HEAD % size + b"half")
    writer.write_eof()
    async with asyncio.timeout(20):
        assert await reader.read() == b"" and len(world.calls) <= served + 1
        while world.edge._connections():
            await asyncio.sleep(0.01)
    assert world.edge.active == 0
    writer.close()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_body_after_a_known_head_that_comes_below_the_pace_is_408(open_edge, size):
    world = await open_edge(deadlines=Deadlines(body_grace=0.3, linger=0.1))
    reader, writer = await started(world)
    writer.write(HEAD % size)
    async with asyncio.timeout(20):
        for _ in range(9):
            writer.write(b"x")
            await asyncio.sleep(0.1)
            if len(reader._buffer):
                break
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
    writer.close()


@pytest.mark.parametrize("size", [10, 100_000])
async def test_a_body_after_a_known_head_is_streamed_as_it_comes(open_edge, size):
    pieces, news = [], asyncio.Event()

    async def run(call, body, sink):
        async for piece in body.stream(200_000):
            pieces.append(piece)
            news.set()
        sink.answer(200, (), b"%d" % sum(map(len, pieces)))

    world = await open_edge()
    reader, writer = await started(world)
    world.run = run
    writer.write(HEAD % size + b"half")
    async with asyncio.timeout(20):
        await news.wait()
        assert pieces == [b"half"]
        writer.write(b"x" * (size - 4))
        assert await replies(reader, 1) == [b"%d" % size]
        writer.write(asked(b"{}"))
        pieces.clear()
        assert await replies(reader, 1) == [b"2"] and pieces == [b"{}"]
    writer.close()


@pytest.mark.parametrize("size", [20, 100_000])
async def test_a_body_after_a_known_head_that_is_larger_than_what_is_taken_is_refused_before_it_comes(open_edge, size):
    async def run(call, body, sink):
        await body.read(10)

    world = await open_edge()
    reader, writer = await started(world)
    world.run = run
    writer.write(HEAD % size + b"half")
    async with asyncio.timeout(20):
        assert b" 413 " in await reader.readuntil(b"\r\n")
    writer.close()


async def test_a_small_body_that_nobody_reads_is_thrown_away_and_the_connection_lives_on(open_edge):
    async def run(call, body, sink):
        sink.answer(200, (), b"unread")

    world = await open_edge()
    reader, writer = await started(world)
    world.run = run
    for _ in range(2):
        writer.write(HEAD % 20 + b"half")
        assert await replies(reader, 1) == [b"unread"]
        writer.write(b"x" * 16)
    world.run = None
    writer.write(asked(b"{}"))
    assert (await replies(reader, 1))[0].endswith(b" 2")
    writer.close()


async def test_deadlines_of_a_head_and_of_silence_hold_after_a_request_that_passed_no_parser(open_edge):
    world = await open_edge(deadlines=Deadlines(head=0.2, keepalive=0.4))
    for sent, said in ((asked(b"{}")[:40], b"HTTP/1.1 408 "), (b"", b"")):
        reader, writer = await world.connect()
        for _ in range(3):
            writer.write(asked(b"{}"))
            await replies(reader, 1)
        writer.write(sent)
        async with asyncio.timeout(20):
            assert (await reader.read())[:13] == said
        writer.close()


async def test_a_body_that_looks_like_a_request_stays_a_body(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    for _ in range(3):
        writer.write(asked(asked(b"{}")))
        await replies(reader, 1)
    assert len(world.calls) == 3 and not world.refusals
    writer.close()


async def test_a_repeated_head_with_a_body_beyond_the_limit_is_refused_as_before(open_edge):
    async def run(call, body, sink):
        await body.read(10)
        sink.start(200, b"OK", (), 0)
        sink.push(b"")
        sink.finish()

    world = await open_edge(run=run)
    reader, writer = await world.connect()
    writer.write(asked(b"short"))
    await replies(reader, 1)
    writer.write(asked(b"longer than ten"))
    assert b" 413 " in await reader.readuntil(b"\r\n")
    assert world.refusals == ["too_large"]
    writer.close()


async def test_heads_that_never_come_again_are_given_up(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    for number in range(8):
        writer.write(asked(b"{}", HEAD.replace(b"*/*", b"a/" + str(number).encode())))
        await replies(reader, 1)
    (connection,) = world.edge._connections()
    assert connection._again is None and connection._lessons == 0
    writer.close()


async def test_what_a_connection_keeps_of_a_head_goes_with_it(open_edge):
    world = await open_edge()
    reader, writer = await world.connect()
    writer.write(asked(b"{}"))
    await replies(reader, 1)
    (connection,) = world.edge._connections()
    assert connection._again is not None
    writer.close()
    async with asyncio.timeout(20):
        while connection._again is not None:
            await asyncio.sleep(0.01)
