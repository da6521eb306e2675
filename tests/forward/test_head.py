"""The bytes before a body."""

import pytest

from proxy.forward.head import head_of
from proxy.policy.plan import Origin
from proxy.ports import Outgoing

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
    request = Outgoing(ORIGIN, method, "/v1/x", ((b"A", b"b"),), body, upload, length)
    assert head_of(request) == b"%b /v1/x HTTP/1.1\r\nHost: api.example.com\r\nA: b\r\n%b\r\n" % (method.encode(), framing)
