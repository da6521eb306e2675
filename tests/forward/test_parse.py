"""Framing of one answer, without a socket."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.parse import HEAD_BYTES, AnswerParser, Malformed

CHUNKED = b"HTTP/1.1 200 Fine\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nTrailer: t\r\n\r\n"
SIZED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 Fine\r\nA:  b\t\r\nContent-Length: 8\r\n\r\nabcdefgh"


def fed(data, cuts=(), is_to_head=False):
    parser = AnswerParser()
    parser.is_to_head = is_to_head
    parser.begin(SimpleNamespace())
    at = 0
    for cut in (*sorted(cuts), len(data)):
        if cut > at:
            parser.feed(data[at:cut])
            at = cut
    return parser


@given(st.sampled_from([CHUNKED, SIZED]), st.lists(st.integers(1, 130)))
def test_an_answer_does_not_depend_on_where_the_network_cut(data, cuts):
    parser = fed(data, [cut for cut in cuts if cut < len(data)])
    told = parser.told
    assert (told.status, told.reason, told.split[0], b"".join(parser.slices)) == (200, b"Fine", (b"A", b"b"), b"abcdefgh")
    assert (parser.is_over, parser.is_last, parser.has_body) == (True, False, True)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_no_bytes_raise_anything_but_malformed(first, second):
    parser = AnswerParser()
    parser.begin(SimpleNamespace())
    try:
        parser.feed(b"HTTP/1.1 200 OK\r\n" + first)
        parser.feed(second)
    except Malformed:
        assert not parser.is_over


@pytest.mark.parametrize(
    ("head", "length", "ends_at_close", "is_last"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", 3, False, False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3 \r\nConnection: close\r\n\r\n", 3, False, True),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", 3, False, True),
        (b"HTTP/1.1 200 OK\r\n\r\n", None, True, True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n", None, False, False),
    ],
)
def test_the_head_says_how_the_body_ends(head, length, ends_at_close, is_last):
    parser = fed(head)
    assert (parser.told.length, parser.ends_at_close, parser.is_last, parser.is_over) == (length, ends_at_close, is_last, False)


@pytest.mark.parametrize("tail", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
@pytest.mark.parametrize(
    ("data", "kind"), [(SIZED, {}), (b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", {"is_to_head": True}), (CHUNKED, {})]
)
def test_what_follows_the_end_makes_the_answer_the_last_and_changes_nothing(data, kind, tail):
    clean, dirty = fed(data, **kind), fed(data + tail, **kind)
    assert (vars(dirty.told), dirty.slices, dirty.is_over) == (vars(clean.told), clean.slices, True)
    assert (clean.is_last, dirty.is_last) == (False, True)


@pytest.mark.parametrize("noise", [b"T: " + b"x" * 1000, b"1;" + b"x" * 1000], ids=["trailer", "chunk extension"])
def test_endless_bytes_that_are_no_body_are_refused(noise):
    parser = fed(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + (b"0\r\n" if noise.startswith(b"T") else b"") + noise)
    with pytest.raises(Malformed, match="too much"):
        for _ in range(HEAD_BYTES // 1000 + 1):
            parser.feed(b"x" * 1000)


HEADLESS = b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n"
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"
KINDS = [(CHUNKED, False), (SIZED, False), (HEADLESS, True), (EMPTY, False), (CHUNKED.replace(b"Fine", b""), False)]


def seen(parser):
    return vars(parser.told), b"".join(parser.slices), parser.is_last


@given(st.lists(st.tuples(st.sampled_from(KINDS), st.lists(st.integers(1, 130), max_size=3)), min_size=1, max_size=6))
def test_answers_one_after_the_other_leave_nothing_to_each_other(answers):
    kept = AnswerParser()
    for (data, is_to_head), cuts in answers:
        if is_to_head:
            kept.is_to_head = True  # until that answer is over
        kept.begin(SimpleNamespace())
        at = 0
        for cut in (*sorted(cut for cut in cuts if cut < len(data)), len(data)):
            if cut > at:
                kept.feed(data[at:cut])
                at = cut
        assert kept.is_over
        assert seen(kept) == seen(fed(data, is_to_head=is_to_head))
        kept.slices.clear()


@pytest.mark.parametrize("spelt", [b"Content-Length", b"content-length", b"CONTENT-LENGTH"])
def test_a_length_is_one_however_it_is_spelt(spelt):
    parser = fed(b"HTTP/1.1 200 OK\r\nA: b\r\n" + spelt + b": 3\r\n\r\nabc")
    assert (parser.told.length, parser.is_over, parser.ends_at_close) == (3, True, False)


@pytest.mark.parametrize("length", [b"Content-Length: 1", b"content-length: 1"])
@pytest.mark.parametrize("other", [b"Transfer-Encoding: chunked", b"transfer-encoding: gzip", b"content-Length: 1", b"Content-Length: +1"])
@pytest.mark.parametrize("order", [1, -1])
def test_a_length_stands_alone_or_the_answer_is_malformed(length, other, order):
    lines = b"\r\n".join([length, other][::order])
    with pytest.raises(Malformed):
        fed(b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n1\r\nx\r\n0\r\n\r\n")


@pytest.mark.parametrize(
    "first", [b"HTTP/1.0 200 OK", b"HTTP/2.0 200 OK", b"RTSP/1.0 200 OK", b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.0 200 OK"]
)
def test_the_version_is_that_of_the_answer_itself(first):
    with pytest.raises(Malformed):
        fed(first + b"\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")


def test_what_comes_when_no_answer_is_due_is_never_read():
    parser = AnswerParser()
    parser.feed(SIZED)
    assert (parser.is_last, parser.has_head, list(parser.slices)) == (True, False, [])
