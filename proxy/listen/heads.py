"""What request heads say, worked out once for all that differ only in lines that vary from call to call. Keeps no value of those."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from aiohttp import HttpVersion10, HttpVersion11

from proxy.exchange import RawHeaders, Route
from proxy.listen.again import Message
from proxy.listen.complaints import wrong_version
from proxy.listen.headers import MAX_HEAD, check_head, fields_of, lower, too_large
from proxy.listen.reply import cors_headers, preflight_headers
from proxy.refusal import Refusal

MOST = 1024  # heads that are kept; then all are forgotten
LARGEST = 4096  # bytes of the target and of all lines that do not vary

# Lines whose value is taken anew from each request: credentials, and what an SDK, a tracer or a browser counts up.
VARYING = frozenset(
    {"authorization", "x-api-key", "api-key", "x-goog-api-key", "sec-websocket-protocol", "content-length", "x-request-id", "baggage",
     "traceparent", "tracestate", "idempotency-key", "x-stainless-retry-count", "x-stainless-read-timeout", "cookie", "referer"}
)  # fmt: skip
_VARIES = re.compile(
    r"auth|key|token|secret|passw|credential|cookie|session|signature|nonce|trace|span|forwarded|timestamp|timeout|digest|md5|sha256"
    r"|(?:^|[-_])(?:id|date|time)$|(?:^|[-_])(?:user(?!-agent$)|email|name|ip)(?:[-_]|$)"
)
_IN_QUERY = re.compile("%|auth|key|token|secret|passw|credential|session|sig|code", re.IGNORECASE)  # what may be, or hide, a credential
_SECRET = re.compile(rb"(?:^|\W)(?:bearer |basic |sk-|slk-|eyj|aiza|akia)", re.IGNORECASE)  # a credential under a name that does not tell


Lines = tuple[tuple[bytes, bytes | None, str], ...]


@dataclass(slots=True)
class Head:
    """A head that may be served. What varies is "" in `fields`."""

    under: object  # which `Heads` knows it
    fields: dict[str, str]
    is_websocket: bool
    expects: bool
    cors: RawHeaders
    preflight: RawHeaders | None
    method: str = ""
    target: str = ""
    count: int = 0  # lines
    constant: tuple[tuple[int, int, RawHeaders], ...] = ()  # from where to where, and what stands there
    varying: tuple[tuple[int, bytes, str], ...] = ()  # where, the name as spelt and in lower case
    size: int = 0  # bytes of names, and of values that do not vary
    route: Route | None = None  # found by the first request that needs it
    kept: dict[object, object] = field(default_factory=dict)  # see `Call.kept`

    def fields_of(self, message: Message) -> dict[str, str] | None:
        """Those of a message whose head this is; None if it is not. Raises Refusal 431."""
        raw = message.raw_headers
        if message.path != self.target or message.method != self.method or message.version != HttpVersion11 or len(raw) != self.count:
            return None
        for start, stop, lines in self.constant:
            if raw[start:stop] != lines:
                return None
        fields, size = self.fields.copy(), self.size
        for at, spelt, key in self.varying:
            name, said = raw[at]
            if name != spelt:
                return None
            fields[key] = said.decode("latin-1")
            size += len(said)
        if size > MAX_HEAD:
            raise too_large()
        return fields


class Heads:
    """All that is known of heads under one policy: which hosts it serves, and which origins may call."""

    def __init__(self, hosts: tuple[str, ...] | None, cors: tuple[str, ...]) -> None:
        self._hosts, self._cors, self.mark = hosts, cors, object()
        self._known: dict[tuple[object, ...], Head] = {}

    def read(self, message: Message, last: Head | None) -> tuple[Head, dict[str, str]]:
        """What the head says, and its fields: lower-case name → value (latin-1), repeated names joined by ", ".

        `last`: of the request before on this connection, which is likely to be the same. Raises the Refusal of `fields_of` and
        `check_head`; 505 `version_not_supported`.
        """
        if last is not None and last.under is self.mark and (fields := last.fields_of(message)) is not None:
            return last, fields
        raw = message.raw_headers
        lines: Lines = tuple([(name, None if varies(key := lower(name)) else said, key) for name, said in raw])
        head = self._known.get((message.method, message.path, lines))
        if head is not None and (fields := head.fields_of(message)) is not None:
            return head, fields
        return self._learn(message, lines)

    def _learn(self, message: Message, lines: Lines) -> tuple[Head, dict[str, str]]:
        method, fields = message.method, _fields_of(message)
        check_head(method, fields, self._hosts)
        cors: RawHeaders = ()
        preflight: RawHeaders | None = None
        if self._cors:
            cors, preflight = cors_headers(fields, self._cors), preflight_headers(method, fields, self._cors)
        head = Head(self.mark, fields, fields.get("upgrade", "").lower() == "websocket", "expect" in fields, cors, preflight)
        size = sum([len(name) + len(constant or b"") for name, constant, _ in lines])
        if size + len(message.path) <= LARGEST and _may_be_kept(message, fields, lines):
            if len(self._known) >= MOST:
                self._known.clear()
            head.method, head.target, head.count, head.size = method, message.path, len(lines), size
            head.varying = tuple([(at, name, key) for at, (name, constant, key) in enumerate(lines) if constant is None])
            head.constant = tuple(_runs(message.raw_headers, [-1, *[at for at, _, _ in head.varying], len(lines)]))
            head.fields = fields | {key: "" for _, _, key in head.varying}
            self._known[method, message.path, lines] = head
        return head, fields


def _runs(raw: RawHeaders, breaks: list[int]) -> Iterator[tuple[int, int, RawHeaders]]:
    """The lines between two that vary, with where they begin and end."""
    for before, after in pairwise(breaks):
        if after - before > 1:
            yield before + 1, after, raw[before + 1 : after]


def _fields_of(message: Message) -> dict[str, str]:
    """The fields, as far as the version of HTTP allows them."""
    if message.version not in (HttpVersion10, HttpVersion11):
        raise wrong_version()
    fields = fields_of(message.raw_headers)
    if "transfer-encoding" in fields and message.version == HttpVersion10:
        raise Refusal(400, "invalid_request", "HTTP/1.0 knows no Transfer-Encoding", should_retry=False, close=True)
    return fields


@lru_cache(maxsize=1024)
def varies(name: str) -> bool:
    """Is the value of this line (name in lower case) left out of what is known of a head? Nothing in `Call.kept` may rest on it."""
    return name in VARYING or _VARIES.search(name) is not None


def _may_be_kept(message: Message, fields: Mapping[str, str], lines: Lines) -> bool:
    """Is it all known by method, target and lines that do not vary, and may it be remembered?"""
    varying = [key for _, constant, key in lines if constant is None]
    is_plain = message.version == HttpVersion11 and len(set(varying)) == len(varying)  # none of them is repeated
    is_bodiless = message.method in ("GET", "HEAD") and "content-length" in fields  # it must be 0
    is_single = "boundary=" in fields.get("content-type", "")  # of a form: no other request will have it
    holds_secret = any([constant and _SECRET.search(constant) for _, constant, _ in lines])
    return is_plain and not (is_bodiless or is_single or holds_secret or _IN_QUERY.search(message.path.partition("?")[2]))
