"""Framing of one answer, without a socket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.parse import HEAD_BYTES, AnswerParser, Malformed

CHUNKED = b"HTTP/1.1 200 Fine\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nTrailer: t\r\n\r\n"
SIZED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nA:  b\t\r\nContent-Length: 8\r\n\r\nabcdefgh"


def fed(data, cuts=(), **kind):
    parser = AnswerParser(**kind)
    at = 0
    for cut in (*sorted(cuts), len(data)):
        if cut > at:
            parser.feed(data[at:cut])
            at = cut
    return parser


@given(st.sampled_from([CHUNKED, SIZED]), st.lists(st.integers(1, 130)))
def test_an_answer_does_not_depend_on_where_the_network_cut(data, cuts):
    parser = fed(data, [cut for cut in cuts if cut < len(data)])
    assert (parser.status, parser.reason, parser.headers[0], b"".join(parser.slices)) == (200, b"Fine", (b"A", b"b"), b"abcdefgh")
    assert (parser.is_over, parser.keeps_alive, parser.is_dirty, parser.received) == (True, True, False, 8)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(first, second):
    parser = AnswerParser()
    try:
        parser.feed(b"HTTP/1.1 200 OK\r\n" + first)
        parser.feed(second)
    except Malformed:
        assert not parser.is_over


@pytest.mark.parametrize(
    ("head", "length", "ends_at_close", "keeps_alive"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 3, False, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3 \r\nConnection: close\r\n\r\n", 3, False, False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", 3, False, False),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, True, False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", None, False, True),
    ],
)
def test_the_head_says_how_the_body_ends(head, length, ends_at_close, keeps_alive):
    parser = fed(head)
    assert (parser.length, parser.ends_at_close, parser.keeps_alive, parser.is_over) == (length, ends_at_close, keeps_alive, False)


@pytest.mark.parametrize("tail", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize(
    ("data", "kind"), [(SIZED, {}), (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", {"is_to_head": True}), (CHUNKED, {})]
)
def test_what_follows_the_end_makes_the_answer_dirty_and_changes_nothing(data, kind, tail):
    clean, dirty = fed(data, **kind), fed(data + tail, **kind)
    assert (dirty.status, dirty.headers, dirty.slices, dirty.is_over) == (clean.status, clean.headers, clean.slices, True)
    assert (clean.is_dirty, dirty.is_dirty) == (False, True)


@pytest.mark.parametrize("noise", [b"T: " + b"x" * 1000, b"1;" + b"x" * 1000], ids=["trailer", "chunk extension"])
def test_endless_bytes_that_are_no_body_are_refused(noise):
    parser = fed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"0\r\n" if noise.startswith(b"T") else b"") + noise)
    with pytest.raises(Malformed, match="too much"):
        for _ in range(HEAD_BYTES // 1000 + 1):
            parser.feed(b"x" * 1000)
