"""A provider that sends our own key back (faults.md U29): headers lose it, a body ends before it. Never sees the caller's own key."""

from __future__ import annotations

from proxy.exchange import RawHeaders
from proxy.ports import Line
from proxy.refusal import UpstreamCut

REFLECTED = "the provider's answer holds the key that Sluice sent"
_GONE = b"[redacted]"


class KeyReflected(UpstreamCut):
    """The answer holds the key that Sluice sent."""


def without_key(headers: RawHeaders, secret: bytes) -> RawHeaders:
    """The same headers, the key in them redacted."""
    return tuple((name, value.replace(secret, _GONE)) for name, value in headers)


class NoReflection:
    """A `ports.Line` around another one. A beginning of the key at the end of a chunk waits for the next; all else passes at once."""

    lag = 0

    def __init__(self, line: Line, secret: bytes) -> None:
        self._line, self._secret = line, secret
        self._first, self._most = secret[:1], len(secret) - 1  # bytes of a beginning
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Raises KeyReflected where the key comes."""
        return self._checked(self._line.feed(data))

    def end(self) -> bytes:
        out = self._checked(self._line.end())
        held, self._held = self._held, b""
        return out + held

    def _checked(self, data: bytes) -> bytes:
        if self._held:
            data, self._held = self._held + data, b""
        if data.find(self._secret) >= 0:  # half as dear as `in`
            raise KeyReflected("upstream_cut", REFLECTED)
        at = data.find(self._first, -self._most)
        return data if at < 0 else self._withheld(data, at)

    def _withheld(self, data: bytes, at: int) -> bytes:
        """The key may begin at `at`, or further on."""
        while at >= 0:
            if self._secret.startswith(data[at:]):
                data, self._held = data[:at], data[at:]
                break
            at = data.find(self._first, at + 1)
        return data
