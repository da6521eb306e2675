"""What is known of a head is known of all that differ only in what varies, and of no other."""

import gc

import pytest
from aiohttp import HttpVersion10, HttpVersion11
from hypothesis import given
from hypothesis import strategies as st

from proxy.listen.headers import CREDENTIALS, check_head, fields_of, forwardable
from proxy.listen.heads import LARGEST, MOST, VARYING, Heads, varies
from proxy.planning import travelling
from proxy.refusal import Refusal

SECRET = b"Bearer canary-0123456789"
CHAT = "/openai/v1/chat/completions"
SDK = (
    (b"Host", b"a"),
    (b"User-Agent", b"OpenAI/Python 1.2"),
    (b"Authorization", SECRET),
    (b"x-stainless-retry-count", b"0"),
    (b"Content-Length", b"7"),
    (b"Accept-Encoding", b"gzip"),
)


class Message:
    """As much of aiohttp's as a head needs."""

    def __init__(self, lines=SDK, method="POST", path=CHAT, version=HttpVersion11):
        self.raw_headers = tuple((bytes(bytearray(name)), bytes(bytearray(said))) for name, said in lines)  # new objects, as on the wire
        self.method, self.path, self.version = method, path, version


def with_line(name, said, lines=SDK):
    return tuple((one, said if one == name else was) for one, was in lines)


def kept(heads):
    return len(heads._known)


def test_a_head_that_differs_only_in_what_varies_is_known_and_its_own_values_stand_in_its_fields():
    heads = Heads(None, ())
    first, fields = heads.read(Message(), None)
    again, others = heads.read(Message(with_line(b"Authorization", b"Bearer b", with_line(b"Content-Length", b"0"))), None)
    assert again is first and again.kept is first.kept
    assert (fields["authorization"], fields["content-length"]) == (SECRET.decode(), "7")
    assert (others["authorization"], others["content-length"]) == ("Bearer b", "0")
    assert list(others) == list(fields) == [name.decode().lower() for name, _ in SDK]


@pytest.mark.parametrize(
    "other",
    [
        Message(with_line(b"User-Agent", b"OpenAI/Python 1.3")),
        Message(with_line(b"Accept-Encoding", b"br")),
        Message(SDK[::-1]),
        Message((*SDK, (b"x-new", b"1"))),
        Message(SDK[:-1]),
        Message(((b"host", b"a"), *SDK[1:])),
        Message(tuple((b"authorization" if name == b"Authorization" else name, said) for name, said in SDK)),
        Message(path="/openai/v1/responses"),
        Message(method="PUT"),
        Message(version=HttpVersion10),
    ],
)
def test_a_head_that_differs_in_anything_else_is_another_one(other):
    heads = Heads(None, ())
    first, _ = heads.read(Message(), None)
    for last in (None, first):
        head, fields = heads.read(other, last)
        assert head is not first and head.kept is not first.kept
        assert fields == fields_of(other.raw_headers)


def test_the_head_before_on_the_connection_is_found_without_a_search_but_not_under_another_policy():
    heads = Heads(None, ())
    first, _ = heads.read(Message(), None)
    heads._known.clear()
    assert heads.read(Message(), first)[0] is first
    assert Heads(None, ()).read(Message(), first)[0] is not first
    with pytest.raises(Refusal):
        Heads(("elsewhere",), ()).read(Message(), first)


NOT_KEPT = {
    "a key in the query": Message(path=CHAT + "?key=AIzaSecret"),
    "a token in the query": Message(path=CHAT + "?access_token=x"),
    "a query that hides its names": Message(path=CHAT + "?k%65y=x"),
    "a repeated line that varies": Message((*SDK, (b"X-Request-Id", b"1"), (b"x-request-id", b"2"))),
    "a credential under any other name": Message((*SDK, (b"X-Upstream", b"Bearer abc"))),
    "a key of ours under any other name": Message((*SDK, (b"X-Upstream", b"slk-abc"))),
    "a form": Message((*SDK, (b"Content-Type", b"multipart/form-data; boundary=xyz"))),
    "a length that must be 0": Message(with_line(b"Content-Length", b"0"), method="GET"),
    "too much": Message((*SDK, (b"X-Long", b"a" * LARGEST))),
    "HTTP/1.0": Message(version=HttpVersion10),
}


@pytest.mark.parametrize("name", NOT_KEPT)
def test_what_may_hold_a_secret_or_is_seldom_the_same_is_not_kept(name):
    heads = Heads(None, ())
    head, fields = heads.read(NOT_KEPT[name], None)
    assert kept(heads) == 0 and head.count == 0
    assert fields == fields_of(NOT_KEPT[name].raw_headers)
    assert heads.read(NOT_KEPT[name], head)[0] is not head


def test_a_length_of_a_request_that_may_have_no_body_is_looked_at_each_time():
    heads = Heads(None, ())
    heads.read(Message(with_line(b"Content-Length", b"0"), method="GET"), None)
    with pytest.raises(Refusal, match="invalid_request"):
        heads.read(Message(method="GET"), None)


def test_a_credential_that_is_repeated_is_refused_whatever_is_known():
    heads = Heads(None, ())
    heads.read(Message(), None)
    with pytest.raises(Refusal, match="ambiguous_credentials"):
        heads.read(Message((*SDK, (b"authorization", b"Bearer b"))), None)


def test_lines_that_vary_count_towards_the_most_that_all_lines_may_hold():
    lines = tuple((b"x-%d-token" % number, b"a") for number in range(10))
    heads = Heads(None, ())
    first, _ = heads.read(Message((*SDK, *lines)), None)
    assert kept(heads) == 1
    large = Message((*SDK, *((name, b"a" * 8000) for name, _ in lines)))
    for last in (None, first):
        with pytest.raises(Refusal, match="headers_too_large"):
            heads.read(large, last)


def test_no_more_than_so_many_heads_are_kept():
    heads = Heads(None, ())
    for number in range(MOST + 10):
        heads.read(Message(path=f"/openai/v1/files/{number}"), None)
        assert kept(heads) <= MOST
    assert kept(heads) == 10


def test_nothing_that_is_kept_holds_a_value_that_varies():
    heads = Heads(None, ())
    heads.read(Message((*SDK, (b"X-Api-Key", b"canary"), (b"Cookie", b"canary"), (b"X-Amz-Security-Token", b"canary"))), None)
    assert kept(heads) == 1
    seen, todo = set(), [heads]
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type):
            continue
        seen.add(id(one))
        assert not (isinstance(one, bytes) and b"canary" in one) and not (isinstance(one, str) and "canary" in one)
        todo += [below for below in gc.get_referents(one) if isinstance(below, dict | tuple | list | str | bytes | type(heads)) or
                 type(below).__module__ == "proxy.listen.heads"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, True) for name in ("authorization", "x-api-key", "cookie", "content-length", "x-request-id", "traceparent", "x-amz-date")),
        *((name, True) for name in ("x-amz-security-token", "session_id", "x-forwarded-for", "cf-aig-authorization", "sec-websocket-key")),
        *((name, True) for name in ("x-end-user", "x-openwebui-user-email", "x-real-ip", "user_id", "referer", "idempotency-key")),
        *((name, False) for name in ("host", "user-agent", "content-type", "accept-encoding", "anthropic-version", "connection", "expect")),
        *((name, False) for name in ("x-stainless-runtime", "x-stainless-runtime-version", "openai-organization", "origin", "upgrade")),
    ],
)
def test_what_varies_is_told_by_its_name(name, expected):
    assert varies(name) is expected


@pytest.mark.parametrize(
    "name",
    ["host", "connection", "upgrade", "expect", "transfer-encoding", "content-type", "content-encoding", "origin", "accept",
     "access-control-request-method", "access-control-request-headers", "sec-websocket-version"],
)  # fmt: skip
def test_what_a_head_is_judged_by_does_not_vary(name):
    assert not varies(name)


def test_every_credential_varies():
    assert all(map(varies, VARYING)) and CREDENTIALS <= VARYING


NAMES = st.sampled_from(
    [b"Authorization", b"X-Api-Key", b"x_api_key", b"Connection", b"Keep-Alive", b"X-Hop", b"x_hop", b"Cookie", b"Host", b"X-Sluice-Tag",
     b"Content-Length", b"TE", b"X-Other", b"x-other", b"x_other", b"base-url", b"Accept"]
)  # fmt: skip
LINES = st.lists(st.tuples(NAMES, st.sampled_from([b"close", b"x-hop", b"keep-alive, X-Other", b"1"])), max_size=8).map(tuple)


@given(lines=LINES)
def test_of_the_lines_that_travel_those_that_vary_are_known_by_their_place(lines):
    kept = travelling(lines)
    assert tuple((name, lines[it][1] if isinstance(it, int) else it) for name, it in kept) == forwardable(lines)
    assert all(isinstance(it, int) == varies(name.decode().lower()) for name, it in kept)


@given(first=LINES, second=LINES, third=LINES)
def test_whatever_was_seen_before_the_fields_are_those_of_the_request(first, second, third):
    heads, last = Heads(None, ()), None
    for lines in (first, second, first, third, second):
        message = Message(((b"Host", b"a"), *lines))
        try:
            expected = fields_of(message.raw_headers)
            check_head("POST", expected, None)
        except Refusal as no:
            with pytest.raises(Refusal, match=no.code):
                heads.read(message, last)
            continue
        last, fields = heads.read(message, last)
        assert fields == expected and list(fields) == list(expected)
        last = last if last.count else None
