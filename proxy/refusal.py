"""How a room says no, and whose fault a broken call is. Knows no dialect: `listen/errors.py` words these for the caller."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class Refusal(Exception):
    """Sluice's own no: an HTTP status, a documented code, a message that names the cause and the fix.

    `retry_after` is in seconds and set only where waiting helps. `should_retry` False adds `x-should-retry: false`.
    `message` never echoes input, a masked value or another caller's amounts. `close` ends the connection after the
    reply (framing is in doubt). `code` is one of `proxy.codes`. `used`: what share of the refusing limit's `kind` is used, for the metrics.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str = "",
        *,
        retry_after: float | None = None,
        should_retry: bool | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
        limit: str | None = None,
        kind: str | None = None,
        used: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(code)
        self.status, self.code, self.message = status, code, message
        self.retry_after, self.should_retry = retry_after, should_retry
        self.headers, self.limit, self.close = headers, limit, close
        self.kind, self.used = kind, used


class ClientGone(Exception):
    """The client left. Nobody's fault: never retried, never counted by a breaker."""


class UpstreamFailed(Exception):
    """An attempt got no answer: `code` is the `x-sluice-error` code (`upstream_connect`, …).

    `kind` is the error class for retries and logs: dns, connect, tls, reset, protocol, first_byte_timeout, timeout,
    pool. `sent` says whether any byte of the request may have reached the provider (then money is unconfirmed).
    """

    def __init__(self, code: str, kind: str, *, sent: bool, status: int = 502, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.kind, self.sent, self.status, self.detail = code, kind, sent, status, detail


class UpstreamCut(Exception):
    """The provider died after its answer had begun. `code`: `upstream_cut`, `upstream_idle_timeout` or `upstream_timeout`."""

    def __init__(self, code: str = "upstream_cut", detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code, self.detail = code, detail
