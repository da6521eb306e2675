"""The bytes that stand before a request's body, exactly as given. Adds no header but Host and the framing of the body."""

from __future__ import annotations

from proxy.ports import Outgoing
from proxy.refusal import Refusal

_BODY_IS_DEFINED = frozenset({"POST", "PUT", "PATCH"})  # RFC 9110, 8.6: an empty body of these says Content-Length: 0


def head_of(request: Outgoing) -> bytes:
    """Request line, Host, the header lines in their order and spelling, framing. Raises Refusal 400 for a line break inside any of them."""
    lines = [f"{request.method} {request.target} HTTP/1.1".encode(), b"Host: " + request.origin.host_header]
    lines += [name + b": " + value for name, value in request.headers]
    if framing := _framing(request):
        lines.append(framing)
    head = b"\r\n".join(lines)
    breaks = len(lines) - 1
    if head.count(b"\n") != breaks or head.count(b"\r") != breaks or b"\0" in head or lines[0].count(b" ") != 2:
        raise Refusal(400, "invalid_request", "the target or a header holds a control character", should_retry=False, close=True)
    return head + b"\r\n\r\n"


def _framing(request: Outgoing) -> bytes | None:
    if request.upload is not None and request.body is None:
        return b"Transfer-Encoding: chunked" if request.upload_length is None else b"Content-Length: %d" % request.upload_length
    if request.body or request.method in _BODY_IS_DEFINED:
        return b"Content-Length: %d" % len(request.body or b"")
    return None
