"""A provider that sends our own key back (faults.md U29): headers lose it, a body ends before it. Never sees the caller's own key."""

from __future__ import annotations

from proxy.exchange import RawHeaders
from proxy.ports import Line
from proxy.refusal import UpstreamCut

_GONE = b"[redacted]"


class KeyReflected(UpstreamCut):
    """The answer holds the key that Sluice sent."""


def without_key(headers: RawHeaders, secret: bytes) -> RawHeaders:
    """The same headers, the key in them redacted."""
    return tuple((name, value.replace(secret, _GONE)) for name, value in headers)


class NoReflection:
    """A `ports.Line` around another one. A beginning of the key at the end of a chunk waits for the next; all else passes at once."""

    def __init__(self, line: Line, secret: bytes) -> None:
        self._line, self._secret = line, secret
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
            raise KeyReflected("upstream_cut", "the provider's answer holds the key that Sluice sent")
        begun = _begun(data, self._secret)
        if begun:
            data, self._held = data[:-begun], data[-begun:]
        return data


def _begun(data: bytes, secret: bytes) -> int:
    """With how many bytes of the secret's beginning the data ends."""
    at = data.find(secret[:1], max(0, len(data) - len(secret) + 1))
    while at >= 0:
        if secret.startswith(data[at:]):
            return len(data) - at
        at = data.find(secret[:1], at + 1)
    return 0
