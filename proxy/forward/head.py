"""The bytes that stand before a request's body, exactly as given. Adds no header but Host and the framing of the body."""

from __future__ import annotations

from proxy.ports import Outgoing
from proxy.refusal import Refusal

_BODY_IS_DEFINED = frozenset({"POST", "PUT", "PATCH"})  # RFC 9110, 8.6: an empty body of these says Content-Length: 0
_NUL, _LF, _CR = b"\0\n\r"


def head_of(request: Outgoing) -> bytes:
    """Request line, Host, the header lines in their order and spelling, framing. Raises Refusal 400 for a line break inside any of them."""
    method, target = request.method, request.target
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: " + request.origin.host_header, *map(b": ".join, request.headers)]
    if request.body:
        lines.append(b"Content-Length: %d" % len(request.body))
    elif framing := _framing(request):
        lines.append(framing)
    given = b"".join(lines)
    if _LF in given or _CR in given or _NUL in given or " " in target or " " in method:
        raise Refusal(400, "invalid_request", "the target or a header holds a control character", should_retry=False, close=True)
    lines += (b"", b"")
    return b"\r\n".join(lines)


def _framing(request: Outgoing) -> bytes | None:
    """Of a body that is empty, or not held."""
    if request.upload is not None and request.body is None:
        return b"Transfer-Encoding: chunked" if request.upload_length is None else b"Content-Length: %d" % request.upload_length
    return b"Content-Length: 0" if request.method in _BODY_IS_DEFINED else None
