"""Heads known by their form: read as line by line, whatever they are and wherever the network cuts them."""

from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward import known
from proxy.forward.known import KnownHeads, said_by
from proxy.forward.parse import AnswerParser, Malformed
from proxy.listen.headers import answer_headers

NAMES = (b"Content-Type", b"content-type", b"Date", b"x-request-id", b"Set-Cookie", b"Connection", b"Proxy-Connection", b"Content-Encoding",
         b"X-Sluice-A", b"Location", b"Keep-Alive", b"Access-Control-Allow-Origin", b"Server", b"X")  # fmt: skip
VALUES = st.sampled_from((b"a", b"application/json", b"keep-alive", b"date", b"gzip", b"b: c", b"\xff", b"a\tb", b"close", b""))
LINE = st.builds(lambda name, value: name + b": " + value, st.sampled_from(NAMES), VALUES)
FRAMED = st.sampled_from(
    ((b"Content-Length: 3", b"abc"), (b"content-length: 4", b"abcd"), (b"Content-Length: 0", b""),
     (b"Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"), (b"Transfer-Encoding: Chunked", b"2;x\r\nab\r\n0\r\nX-T: t\r\n\r\n"),
     (b"Transfer-Encoding: chunked", b"zz\r\n"), (b"X: y", b"abc"))
)  # fmt: skip
STARTS = st.sampled_from((b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not  There", b"HTTP/1.1 200 ", b"HTTP/1.1 204 No", b"HTTP/1.1 304 Not",
                          b"HTTP/1.0 200 OK", b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 200 OK", b"HTTP/1.1 200"))  # fmt: skip
ODD = st.sampled_from(
    (b"", b"\r", b"\n", b"\r\n", b"\r\n ", b" ", b"\t", b":", b"\0", b"7", b"a", b"\r\nConnection: close", b"\r\n\r\n", b"HTTP/1.1 2")
)


@st.composite
def answers(draw):
    """One, and it again with something odd in it."""
    start, lines, (framing, body) = draw(STARTS), draw(st.lists(LINE, max_size=4)), draw(FRAMED)
    lines.insert(draw(st.integers(0, len(lines))), framing)
    data = b"\r\n".join([start, *lines, b"", b""]) + body
    at = draw(st.integers(0, len(data)))
    return data, data[:at] + draw(ODD) + data[at + draw(st.integers(0, 2)) :]


def told(parser, pieces):
    """All that is to be known of one answer after each of its reads."""
    head = SimpleNamespace()
    parser.begin(head)
    after = []
    for piece in pieces:
        try:
            parser.feed(piece)
        except Malformed as error:
            after.append(str(error))
            break
        seen = [parser.has_head, parser.is_over, parser.is_last, b"".join(parser.slices)]
        seen += [] if parser.is_over else [parser.has_body, parser.ends_at_close]  # nobody asks any more
        if parser.has_head:
            headers = head.split if head.block is None else known.lines_of(head.block)
            assert head.said == said_by(headers)
            if head.lines is not None:
                assert head.lines == b"\r\n".join(map(b": ".join, answer_headers(headers)))
            seen += [head.status, head.reason, headers, head.length]
        after.append(seen)
    return after


def cut(data, at):
    places = [0, *sorted(place % len(data) for place in at), len(data)]
    return [data[begin:end] for begin, end in pairwise(places) if end > begin]


@given(st.lists(st.tuples(answers(), st.lists(st.integers(0, 400), max_size=2)), min_size=1, max_size=4))
def test_an_answer_is_read_the_same_whether_its_head_is_known_or_not(sent):
    heads = KnownHeads(answer_headers)
    parser = AnswerParser(heads)
    whole = [[data] for (data, _), _ in sent]
    cuts = [cut(data, at) for (data, _), at in sent]
    odd = [pieces for (_, data), at in sent for pieces in ([data], cut(data, at)) if data]
    for pieces in (*whole, *whole, *whole, *cuts, *odd):
        assert told(parser, pieces) == told(AnswerParser(), pieces)
        if not parser.is_over or parser.is_last:
            parser = AnswerParser(heads)  # another connection, as the pool does
            parser._likely = [form for form in heads._seen.values() if form is not None]
        parser.slices.clear()


def read(parser, value=b"1", kind=b"application/json", more=b""):
    told(parser, [b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nx-request-id: %b\r\n%bContent-Length: 2\r\n\r\nhi" % (kind, value, more)])
    parser.slices.clear()
    return parser.told.lines


def test_a_head_that_came_twice_is_known_and_its_lines_are_those_of_this_answer():
    parser = AnswerParser(KnownHeads(answer_headers))
    assert [read(parser, b"a"), read(parser, b"b")] == [None, None]
    assert read(parser, b"c") == b"Content-Type: application/json\r\nx-request-id: c"
    first = parser.told.said
    assert read(parser, b"d") == b"Content-Type: application/json\r\nx-request-id: d"
    assert parser.told.said is first


@pytest.mark.parametrize(
    "other", [{"kind": b"text/event-stream"}, {"more": b"Set-Cookie: a\r\n"}, {"more": b"Connection: date\r\n"}, {"value": b" a"}]
)
def test_what_differs_in_more_than_it_may_is_another_head(other):
    parser = AnswerParser(KnownHeads(answer_headers))
    for _ in range(3):
        read(parser)
    assert read(parser) is not None
    assert read(parser, **other) is None


def test_a_provider_without_end_of_names_costs_no_form_and_a_bounded_memory(monkeypatch):
    monkeypatch.setattr(known, "MOST", 8)
    heads = KnownHeads(answer_headers)
    parser = AnswerParser(heads)
    for number in range(100):
        read(parser, more=b"X-%d: a\r\n" % number)
        assert len(heads._seen) <= 8
    assert not any(heads._seen.values())
    assert parser._likely == []
    for number in range(40):
        read(parser, more=b"X-%d: a\r\n" % (number // 4))
        assert len(parser._likely) <= known.LIKELY


def test_a_large_head_is_not_kept():
    heads = KnownHeads(answer_headers)
    parser = AnswerParser(heads)
    for _ in range(3):
        assert read(parser, b"a" * known.LARGEST) is None
    assert heads._seen == {}


def two_ways(value=b"a", framing=b"Content-Length: 2", body=b"hi"):
    """An answer after two like it, by a parser that knows their head and by one that does not."""
    heads = KnownHeads(answer_headers)
    parser = AnswerParser(heads)
    form = b"HTTP/1.1 200 OK\r\nX: %b\r\n%b\r\n\r\n%b"
    for _ in range(3):
        told(parser, [form % (b"a", b"Content-Length: 2", b"hi")])
        parser.slices.clear()
    assert parser._likely
    data = form % (value, framing, body)
    return parser, told(parser, [data]), told(AnswerParser(), [data])


@pytest.mark.parametrize("byte", range(256))
def test_a_known_head_lets_no_byte_pass_that_llhttp_refuses(byte):
    _, known_way, other_way = two_ways(b"a%cb" % byte)
    assert known_way == other_way


@pytest.mark.parametrize("length", [b"2", b"02", b"0" * 30 + b"2", b"3", b"0", b"9" * 18, b"9" * 19, b"18446744073709551618", b"9" * 5000])
@pytest.mark.parametrize("body", [b"", b"h", b"hi", b"hi!"])
def test_a_length_says_the_same_of_a_known_head_as_of_any_other(length, body):
    _, known_way, other_way = two_ways(framing=b"Content-Length: " + length, body=body)
    assert known_way == other_way


def test_bytes_behind_a_whole_body_are_none_of_it():
    parser, *_ = two_ways(body=b"hiHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert (list(parser.slices), parser.is_over, parser.is_last) == ([b"hi"], True, True)
