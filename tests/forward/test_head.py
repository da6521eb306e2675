"""The bytes before a body."""

import pytest

from proxy.forward.head import Head, framing_of
from proxy.policy.plan import Origin
from proxy.ports import Address, Outgoing
from proxy.refusal import Refusal

ORIGIN = Origin("https", "api.example.com", 443, b"api.example.com")


@pytest.mark.parametrize(
    ("method", "body", "upload_length", "framing"),
    [
        ("POST", b"ab", None, b"Content-Length: 2\r\n"),
        ("POST", b"", None, b"Content-Length: 0\r\n"),
        ("PUT", None, None, b"Content-Length: 0\r\n"),
        ("GET", None, None, b""),
        ("DELETE", b"", None, b""),
        ("DELETE", b"x", None, b"Content-Length: 1\r\n"),
        ("POST", None, "chunked", b"Transfer-Encoding: chunked\r\n"),
        ("POST", None, 7, b"Content-Length: 7\r\n"),
    ],
)
def test_the_framing_fits_the_body(method, body, upload_length, framing):
    upload = None if upload_length is None else object
    length = None if upload_length == "chunked" else upload_length
    to = Address(ORIGIN, method, "/v1/x")
    request = Outgoing(to, Head(to, ((b"A", b"b"),)).of(()), body, False, upload, length)
    head = request.head + framing_of(request)
    assert head == b"%b /v1/x HTTP/1.1\r\nHost: api.example.com\r\nA: b\r\n%b\r\n" % (method.encode(), framing)


def test_what_differs_from_call_to_call_is_put_in_its_place():
    head = Head(Address(ORIGIN, "POST", "/v1/x"), ((b"A", b"b"), (b"Authorization", 2), (b"C", b"d"), (b"E", 0)))
    before = b"POST /v1/x HTTP/1.1\r\nHost: api.example.com\r\nA: b\r\nAuthorization: "
    assert head.of(((b"E", b"1"), (b"X", b"y"), (b"Authorization", b"s"))) == before + b"s\r\nC: d\r\nE: 1"
    assert head.of(((b"E", b"2"), (b"X", b"y"), (b"Authorization", b"t"))) == before + b"t\r\nC: d\r\nE: 2"


@pytest.mark.parametrize("value", [b"a\r\nX-Evil: 1", b"a\0", b"\n"])
def test_no_control_character_is_put_in(value):
    head = Head(Address(ORIGIN, "POST", "/v1/x"), ((b"A", 0),))
    with pytest.raises(Refusal) as no:
        head.of(((b"A", value),))
    assert (no.value.status, no.value.close) == (400, True)
