"""A body on its way to the client, read by read: what comes as we would write it goes by as it is, and nothing else does."""

from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.forward.answer import reply_on
from proxy.forward.flow import flow_of
from proxy.forward.known import KnownHeads
from proxy.forward.parse import AnswerParser
from proxy.listen.headers import answer_headers
from proxy.ports import LEAST_FRAMED
from proxy.refusal import ClientGone, UpstreamCut

CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"0\r\n\r\n"
FORMS = (b"%x\r\n", b"%X\r\n", b"0%x\r\n", b"%x;a=b\r\n", b'%x;a="b\t;c"\r\n', b"%x;a;b=c\r\n")


def chunk(data, form=b"%x\r\n"):
    return form % len(data) + data + b"\r\n"


LOOKS = (b"data: a\n\n", b"\r\n\r\n", b"5\r\nabcde\r\n", END, *[b"x" * size for size in (15, 16, 255, 256, 2038, 2042, 3000)])
DATA = st.one_of(st.binary(min_size=1, max_size=20), st.sampled_from(LOOKS))
USUAL = st.builds(chunk, DATA)
CHUNKS = st.lists(st.one_of(USUAL, USUAL, st.builds(chunk, DATA, st.sampled_from(FORMS))), max_size=12)
ODD = st.sampled_from((b"", b"\r", b"\n", b"\r\n", b"0", b"1", b"f", b"g", b";", b'"', b" ", b"x", b"\0", b"0\r\n", b"5\r\nabcde\r\n"))


class Line:
    """Changes nothing, or puts `mark` before each piece."""

    def __init__(self, lag=0, mark=b""):
        self.lag, self.mark, self.heard = lag, mark, []

    def feed(self, data):
        self.heard.append(data)
        return self.mark + data if self.mark else data


class Way:
    """A connection and its client, without a socket."""

    is_full = is_aborted = is_paused = False

    def __init__(self, line=None, parser=None):
        self.parser, self.line = parser or AnswerParser(), line or Line()
        self.data, self.framed, self.late = b"", [], []
        self.pool = SimpleNamespace(ended=lambda connection: None)

    def push(self, data, framed=b""):
        assert framed in (b"", chunk(data)) and (not framed or len(data) >= LEAST_FRAMED)
        self.data += data
        self.framed.append(framed)
        return self.is_full

    def ask(self, head=CHUNKED):
        self.reply = reply_on(self, None, 0.0, 1e9)
        self.parser.feed(head)
        self.parser.slices.clear()  # has been relayed
        self.reply._is_flowing = True
        self.attend(flow_of(self.reply, self.parser, self, self.line, self.late))
        return self

    def attend(self, receive):
        self.receive = receive or self.parser.feed

    def abort(self):
        self.is_aborted = True
        self.receive = lambda data: None

    def pause(self):
        self.is_paused = True

    def reads(self, *reads):
        for read in reads:
            self.receive(read)
        return self

    def told(self):
        parser, failure = self.parser, self.reply.failure
        return self.data, type(failure), parser.is_over, parser.is_last, self.is_aborted


def cut(data, places):
    at = 0
    for place in (*sorted({place % (len(data) + 1) for place in places}), len(data)):
        if place > at:
            yield data[at:place]
            at = place


@given(CHUNKS, st.sampled_from((END, b"0\r\nT: x\r\n\r\n", b"00;a=b\r\n\r\n", END + b"x", b"")), st.lists(st.integers(0, 9999), max_size=9),
       st.booleans())  # fmt: skip
def test_a_client_gets_the_same_body_wherever_the_network_cuts_it(chunks, last, places, is_by_chunk):
    data = b"".join(chunks) + last
    bounds = [len(b"".join(chunks[:number])) for number in range(len(chunks) + 1)] if is_by_chunk else []
    by_byte = Way().ask().reads(*cut(data, range(len(data))))
    assert not any(by_byte.framed)
    way = Way().ask().reads(*cut(data, [*bounds, *places]))
    assert way.told() == by_byte.told()
    assert way.told()[1:3] == (type(None), last != b"")
    alone = AnswerParser()
    alone.begin(SimpleNamespace())
    alone.feed(CHUNKED + data)
    assert (b"".join(alone.slices), alone.is_over) == (way.data, way.parser.is_over)


@given(CHUNKS, st.integers(0, 9999), st.integers(0, 2), ODD, st.lists(st.integers(0, 9999), max_size=4), st.booleans())
@example([chunk(b"abcde")] * 3, 2 * len(chunk(b"abcde")) - 2, 0, b"x", [], True)
@example([chunk(b"abcde")] * 3, 2 * len(chunk(b"abcde")) - 2, 1, b"x", [], True)
@example([chunk(b"abcde")] * 3, 2 * len(chunk(b"abcde")) - 1, 1, b"x", [], True)
@example([chunk(b"abcde")] * 3, len(chunk(b"abcde")), 1, b"4", [], True)
@example([chunk(b"abcde")] * 3, 2 * len(chunk(b"abcde")), 0, b"5", [21], True)
def test_what_is_malformed_is_refused_the_same_behind_whole_chunks(chunks, at, gone, odd, places, is_by_chunk):
    data = b"".join(chunks) + END
    at %= len(data)
    bounds = [len(b"".join(chunks[:number])) for number in range(len(chunks) + 1)] if is_by_chunk else []
    bounds = [bound if bound <= at else bound + len(odd) - gone for bound in bounds]
    data = data[:at] + odd + data[at + gone :]
    by_byte, way = Way().ask().reads(*cut(data, range(len(data)))), Way().ask().reads(*cut(data, [*bounds, *places]))
    is_last = 3  # line ends behind an answer make it the last in a read of their own alone
    assert way.told()[:is_last] == by_byte.told()[:is_last] and way.is_aborted == by_byte.is_aborted


def test_a_whole_chunk_in_a_read_of_its_own_goes_by_as_it_came():
    first, second, third = chunk(b"first"), chunk(b"x" * 300), chunk(b"third")
    way = Way().ask().reads(first, second, third, END)
    assert way.framed[0] == b""  # that llhttp stands between two chunks, it must have said
    assert way.framed[1] is second and way.framed[2] is third
    assert way.told() == (b"first" + b"x" * 300 + b"third", type(None), True, False, False)


@pytest.mark.parametrize("size", [*range(1, 40), *range(250, 265), *range(2020, 2060), 4095, 4096])
def test_each_length_is_told_from_the_next(size):
    data = b"a" * size
    way = Way().ask().reads(chunk(b"first"), chunk(data), chunk(data) + b"6", b"\r\nbehind\r\n", END)
    assert way.told() == (b"first" + data * 2 + b"behind", type(None), True, False, False)
    assert way.framed[1] == (chunk(data) if size >= LEAST_FRAMED and len(chunk(data)) < 2048 else b"")


@pytest.mark.parametrize("form", FORMS[1:])
def test_no_other_form_of_a_chunk_goes_by_as_it_came(form):
    odd = chunk(b"x" * 27, form)
    way = Way().ask().reads(chunk(b"first"), odd, odd, END)
    assert not any(way.framed) and way.told() == (b"first" + b"x" * 54, type(None), True, False, False)


INSIDE = (
    b"5\r\n",
    b"5\r\nab",
    b"5\r\nabcde",
    b"5\r\nabcde\r",
    b"0\r\n",
    *[chunk(b"abcde") + more for more in (b"1", b"e\r\n", b"14;", b'14;a="')],
)


@pytest.mark.parametrize("before", INSIDE)
def test_inside_a_chunk_what_looks_like_one_is_none(before):
    looks = chunk(b"data: x\n\n")
    by_byte, way = Way().ask(), Way().ask()
    by_byte.reads(chunk(b"first"), *cut(before + looks, range(99)))
    way.reads(chunk(b"first"), before, looks)
    assert not any(way.framed) and way.told() == by_byte.told()


HEADS = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\nab\r\n",
    b"HTTP/1.1 200 OK\r\n\r\nab\r\n",
    b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 20\r\n\r\n",
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("is_known", [False, True])
def test_in_a_body_that_is_not_chunked_a_chunk_is_data_also_after_an_answer_that_was(head, is_known):
    parser = AnswerParser(KnownHeads(answer_headers))
    for _ in range(2 * is_known):  # what was seen twice
        Way(parser=parser).ask(HEADS[0][:-4]).reads(b"x" * 24)
    Way(parser=parser).ask(CHUNKED + chunk(b"first") + END)
    way = Way(parser=parser).ask(head).reads(chunk(b"x" * 5), chunk(b"y" * 5))
    assert way.data == chunk(b"x" * 5) + chunk(b"y" * 5) and not any(way.framed)
    assert way.parser.is_over == (b"Length" in head)


def test_a_connection_serves_on_after_chunks_that_llhttp_did_not_see():
    parser = AnswerParser(KnownHeads(answer_headers))
    for number in range(4):
        data = b"data: %d\n\n" % number
        way = Way(parser=parser).ask().reads(chunk(data), chunk(data), chunk(data), END)
        assert way.told() == (data * 3, type(None), True, False, False) and way.framed[1:] == [chunk(data)] * 2


def test_such_a_read_counts_as_one_that_brought_something():
    way = Way().ask().reads(chunk(b"first"))
    way.parser.has_body = False
    way.reads(chunk(b"second"))
    assert way.framed[1] and way.parser.has_body and way.parser.no_body == 0


def test_the_end_of_a_chunk_in_a_read_of_its_own_counts_as_one_that_brought_nothing():
    way = Way().ask().reads(chunk(b"first")[:-2], b"\r\n")
    assert way.parser.no_body == 2
    way.reads(chunk(b"second"))
    assert way.data == b"firstsecond" and way.parser.no_body == 0


@pytest.mark.parametrize("step", [b"1;" + b"x" * 1000, b"T: " + b"x" * 1000])
def test_endless_bytes_that_are_no_body_are_refused_behind_whole_chunks(step):
    way = Way().ask().reads(chunk(b"first"), chunk(b"second"), *([b"0\r\n"] if step[:1] == b"T" else []), step, *[b"x" * 1000] * 66)
    assert way.framed[1] and isinstance(way.reply.failure, UpstreamCut)


@pytest.mark.parametrize("form", [b"%x\r\n", b"0%x\r\n"])
def test_a_line_that_hears_late_hears_all(form):
    line, data = Line(lag=10), [b"%06d" % number for number in range(9)]
    way = Way(line).ask().reads(*[chunk(piece, form) for piece in data])
    assert b"".join([*line.heard, *way.late]) == way.data == b"".join(data) and any(way.framed) == (form == b"%x\r\n")
    assert len(b"".join(way.late)) <= line.lag and len(line.heard) == 4


def test_what_a_line_has_changed_is_framed_anew_and_what_it_has_not_is_no_more():
    way = Way(Line(mark=b">")).ask().reads(chunk(b"first"), chunk(b"second"), END)
    assert way.data == b">first>second" and not any(way.framed)
    way = Way().ask().reads(chunk(b"first"), chunk(b"second"), END)
    assert way.framed[1]


@pytest.mark.parametrize("fault", [ClientGone, UpstreamCut("upstream_cut", "too long")])
@pytest.mark.parametrize("who", ["line", "sink"])
def test_who_raises_at_a_whole_chunk_ends_the_answer(who, fault):
    way = Way().ask().reads(chunk(b"first"))

    def raising(*_):
        raise fault

    if who == "line":
        way.line.feed = raising
    else:
        way.push = raising
    way.attend(flow_of(way.reply, way.parser, way, way.line, way.late))
    way.reads(chunk(b"second"))
    assert isinstance(way.reply.failure, fault if isinstance(fault, type) else UpstreamCut) and way.is_aborted


def test_a_client_that_is_full_pauses_the_provider_at_a_whole_chunk():
    way = Way().ask().reads(chunk(b"first"))
    assert not way.is_paused
    way.is_full = True
    way.reads(chunk(b"second"))
    assert way.framed[1] and way.is_paused


@pytest.mark.parametrize("line", [Line(), Line(lag=10), Line(mark=b">")])
def test_no_large_piece_is_kept_until_the_next_read(line):
    way = Way(line).ask().reads(chunk(b"x" * 60_000))
    kept = way.receive.__self__.gi_frame.f_locals.values()
    assert len(way.data) >= 60_000 and not [value for value in kept if isinstance(value, bytes) and len(value) > 2048]
