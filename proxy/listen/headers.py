"""Which header lines travel and which stay behind, both ways (RFC 9110). Rewrites no value, but narrows Accept-Encoding."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import chain, compress, count
from operator import itemgetter
from typing import TypeVar

from proxy.exchange import Call, RawHeaders, Route
from proxy.refusal import Refusal

MAX_HEAD = 65_536  # bytes of all header lines together

CREDENTIALS = frozenset({"authorization", "x-api-key", "api-key", "x-goog-api-key"})
_SINGLE = CREDENTIALS | {"content-type", "content-length", "host", "expect"}
_HOP_BY_HOP = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings", "proxy-connection",
     "proxy-authorization", "proxy-authenticate", "proxy-authentication-info"}
)  # fmt: skip
_FRAMING = frozenset({"content-length", "host", "expect"})
_OVERRIDES = frozenset({"x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"})
_STEERS = re.compile(r"(?:.*-)?(?:custom-host|api-base|base-url|api-base-url)|x-forwarded-(?:host|server)|x-original-host")  # faults.md H60
_END_TO_END = CREDENTIALS | {"host", "content-length", "content-type", "content-encoding", "cookie"}
_name = itemgetter(0)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # design.md section 9
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_READABLE_CODINGS = frozenset({"gzip", "deflate", "identity"})


_T = TypeVar("_T")
_MOST_NAMES, _LONGEST_NAME = 1024, 64


class ByName(dict[bytes, _T]):
    """What `of` says of a header's name in lower case, remembered for as many spellings as there usually are."""

    def __init__(self, of: Callable[[bytes], _T]) -> None:
        self._of = of

    def __missing__(self, name: bytes) -> _T:
        said = self._of(name.lower())
        if len(self) < _MOST_NAMES and len(name) <= _LONGEST_NAME:
            self[name] = said
        return said


@lru_cache(maxsize=1024)
def lower(name: bytes) -> str:
    return name.lower().decode("latin-1")


_TAILS = tuple([f"{number:02x}" for number in range(256)])  # of numbers that are written out once for all of them


def ids(prefix: str) -> Iterator[str]:
    """Well-formed ids that never repeat while `prefix` (the caller's randomness) does not."""
    return chain.from_iterable(map(f"slu-{prefix}-{number:x}".__add__, _TAILS) for number in count(1))


def fields_of(raw: RawHeaders) -> dict[str, str]:
    """Lower-case name → value (latin-1), repeated names joined by ", ".

    Raises Refusal 431 `headers_too_large`; 400 where a name that must stand once is repeated (H27, H56, H57).
    """
    fields: dict[str, str] = {}
    size = 0
    for name, value in raw:
        size += len(name) + len(value)
        key = lower(name)
        if key not in fields:
            fields[key] = value.decode("latin-1")
        elif key not in _SINGLE:
            fields[key] += ", " + value.decode("latin-1")
        elif key in CREDENTIALS:
            raise Refusal(400, "ambiguous_credentials", "a credential header is repeated; send exactly one", should_retry=False)
        else:
            raise Refusal(400, "invalid_request", f"the header {key} is repeated; send it once", should_retry=False, close=True)
    if size > MAX_HEAD:
        raise too_large()
    return fields


def too_large() -> Refusal:
    return Refusal(431, "headers_too_large", f"the header lines are larger than {MAX_HEAD} bytes together", close=True)


def check_head(method: str, fields: Mapping[str, str], hosts: tuple[str, ...] | None) -> None:
    """What must hold before anything is looked up. Raises Refusal 405, 400, 421 `wrong_host`, 417 `expectation_failed`."""
    if method not in _METHODS:
        allowed = {"allow": ", ".join(sorted(_METHODS))}
        raise Refusal(405, "method_not_allowed", "this method is not served", headers=allowed, should_retry=False, close=True)
    _check_host(fields.get("host", ""), hosts)
    if fields.get("expect", "100-continue").lower() != "100-continue":
        raise Refusal(417, "expectation_failed", "Expect knows only 100-continue", should_retry=False, close=True)
    if not _OVERRIDES.isdisjoint(fields):
        raise Refusal(400, "invalid_request", "a header asks for another method or path than the request line", should_retry=False)
    if "connection" in fields and not _END_TO_END.isdisjoint(_tokens(fields["connection"])):
        raise Refusal(400, "invalid_request", "Connection names a header that must reach the provider", should_retry=False, close=True)
    has_body = "transfer-encoding" in fields or fields.get("content-length", "0").strip("0") != ""
    if has_body and method in ("GET", "HEAD"):
        raise Refusal(400, "invalid_request", f"a {method} request carries no body", should_retry=False, close=True)


def _check_host(host: str, hosts: tuple[str, ...] | None) -> None:
    found = _HOST.fullmatch(host)
    if host and found is None:
        raise Refusal(400, "invalid_request", "the Host header is no host name", should_retry=False, close=True)
    if hosts is None:
        return
    names = {host.lower(), found[1].lower().rstrip(".").strip("[]")} if found else set()
    if names.isdisjoint(entry.lower().strip("[]") for entry in hosts):
        raise Refusal(421, "wrong_host", "this Host is not in server.hosts of the policy", should_retry=False, close=True)


def said_length(raw: RawHeaders) -> int:
    """What the Content-Length of a request says that was parsed; 0 where there is none."""
    return int(next((said for name, said in raw if lower(name) == "content-length"), b"0"))


def check_handshake(call: Call) -> None:
    """A WebSocket upgrade is one of version 13 or none at all (H51). Raises Refusal 400."""
    handshake = (call.method, call.fields.get("sec-websocket-version"), "sec-websocket-key" in call.fields)
    if handshake != ("GET", "13", True) or "upgrade" not in _tokens(call.fields.get("connection", "")):
        raise Refusal(400, "invalid_request", "this is no WebSocket handshake of version 13", should_retry=False, close=True)


def read_call(
    method: str,
    route: Route,
    raw: RawHeaders,
    fields: Mapping[str, str],
    uid: str,
    peer: str,
    at_ns: int,
    began: float,
    kept: dict[object, object] | None = None,
    seen: dict[object, object] | None = None,
) -> Call:
    """The frozen call. `fields` is `fields_of(raw)`; `at_ns` is wall clock, `began` monotonic seconds; `kept`, `seen`: see `Call`."""
    asked = fields.get("x-request-id")
    is_callers = asked is not None and _REQUEST_ID.fullmatch(asked) is not None
    id_ = asked if is_callers and asked is not None else uid
    return Call(uid, id_, is_callers, method, route, raw, fields, peer, at_ns, began, {} if kept is None else kept, seen)


def _tokens(connection: str) -> frozenset[str]:
    return frozenset(token.strip().lower() for token in connection.split(","))


def _named_by_connection(raw: RawHeaders) -> frozenset[str]:
    return frozenset().union(*(_tokens(value.decode("latin-1")) for name, value in raw if lower(name) == "connection"))


def forwardable(raw: RawHeaders) -> RawHeaders:
    """The request lines that may travel on, byte-identical and in order.

    Left behind: hop-by-hop fields and all that Connection names (RFC 9110 7.6.1), framing, Host, Expect, cookies, `x-sluice-*`, fields that
    steer a gateway to another host, and underscore twins of all those, of credentials and of fields that are present (H58).
    """
    return tuple(compress(raw, _travels(raw)))


def _travels(raw: RawHeaders) -> tuple[bool, ...]:
    """Of each line. Rests on the names and on what Connection says, on nothing else."""
    named = _named_by_connection(raw)
    present = {lower(name) for name, _ in raw}
    return tuple(not _stays(lower(name), named, present) for name, _ in raw)


def _stays(name: str, named: frozenset[str], present: set[str]) -> bool:
    if name in named or _never_travels(name):
        return True
    if "_" not in name:
        return False
    twin = name.replace("_", "-")
    return twin in present or twin in _END_TO_END or twin in named or _never_travels(twin)


@lru_cache(maxsize=1024)
def _never_travels(name: str) -> bool:
    return (
        name in _HOP_BY_HOP or name in _FRAMING or name == "cookie" or name.startswith("x-sluice-") or _STEERS.fullmatch(name) is not None
    )


def answer_headers(raw: RawHeaders, is_bodiless: bool = False) -> RawHeaders:
    """The provider's lines that reach the client, byte-identical and in order.

    Left behind: hop-by-hop fields and all that Connection names, Set-Cookie, `x-sluice-*`, and Content-Length, which is the sink's;
    an answer without a body (to HEAD, or 304: `is_bodiless`) keeps it, for there it is information.
    """
    reach = _REACH[is_bodiless]
    lines, connection = [], None
    for line in raw:
        reaches = reach[line[0]]
        if reaches is None:
            connection = b"," if connection else line[1]  # two of them are looked at together
        elif reaches:
            lines.append(line)
    if connection is not None and connection.lower() != b"keep-alive":  # that is left behind anyway
        named = _named_by_connection(raw)
        return tuple([line for line in lines if lower(line[0]) not in named])
    return tuple(lines)


def _reaches(name: bytes) -> bool | None:
    """None: it is Connection."""
    if name == b"connection":
        return None
    text = name.decode("latin-1")
    return not (text in _HOP_BY_HOP or text in ("set-cookie", "set-cookie2", "content-length") or text.startswith("x-sluice-"))


_REACH = (ByName(_reaches), ByName(lambda name: True if name == b"content-length" else _reaches(name)))


@lru_cache(maxsize=256)
def narrowed_accept_encoding(value: str | None) -> str | None:
    """Only the content codings the meter can read, q-values kept; never widened, never invented (H69). None stays None."""
    if value is None:
        return None
    items = [item.strip() for item in value.split(",")]
    kept = [item for item in items if item.partition(";")[0].strip().lower() in _READABLE_CODINGS]
    if len(kept) == len(items):
        return value
    return ", ".join(kept) or "identity"
