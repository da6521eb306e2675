"""Locations in a provider's answer, made to point back here. Follows none, and leaves alone what points elsewhere."""

from __future__ import annotations

from urllib.parse import urlsplit

from proxy.exchange import Call, RawHeaders
from proxy.policy.plan import Provider

_ALWAYS = frozenset({b"x-goog-upload-url", b"operation-location"})  # where later requests of the same job go
_OF_REDIRECTS = frozenset({b"location"})
LEADING = _ALWAYS | _OF_REDIRECTS
_PORTS = {"http": 80, "https": 443}


def is_redirect(status: int) -> bool:
    return 300 <= status < 400 and status != 304


def followed_back(headers: RawHeaders, status: int, provider: Provider, call: Call) -> RawHeaders:
    """`location` of a redirect or a creation, `x-goog-upload-url` and `operation-location` of the same origin lead through Sluice."""
    wanted = LEADING if is_redirect(status) or status in (201, 202) else _ALWAYS
    if not any(name.lower() in wanted for name, _ in headers):
        return headers
    return tuple((name, _back(value, provider, call) if name.lower() in wanted else value) for name, value in headers)


def _back(value: bytes, provider: Provider, call: Call) -> bytes:
    origin = provider.origin
    try:
        there = urlsplit(value.decode("ascii"))
        port = there.port or _PORTS.get(there.scheme)
    except ValueError:
        return value
    if not there.scheme and not there.netloc and there.path.startswith("/"):
        return f"/{provider.name}".encode() + value
    host = call.fields.get("host", "")
    if not host or (there.scheme, there.hostname, port) != (origin.scheme, origin.host, origin.port):
        return value
    rest = there.path + (f"?{there.query}" if there.query else "")
    return f"http://{host}/{provider.name}{rest}".encode("ascii")
