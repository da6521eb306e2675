"""The bytes that stand before a request's body, exactly as given. Adds no header but Host and the framing of the body."""

from __future__ import annotations

import re
from collections.abc import Iterable

from proxy.exchange import RawHeaders
from proxy.ports import Address, Outgoing
from proxy.refusal import Refusal

_BODY_IS_DEFINED = frozenset({"POST", "PUT", "PATCH"})  # RFC 9110, 8.6: an empty body of these says Content-Length: 0
_CONTROL = re.compile(rb"[\0\r\n]")


class Head:
    """Request line, Host and header lines for one address, in their order and spelling; what differs from call to call is put in."""

    __slots__ = ("_pieces", "_places", "fixed")

    def __init__(self, to: Address, lines: Iterable[tuple[bytes, bytes | int]]) -> None:
        """A value that is a number is that of the line of the caller's which has it. Raises Refusal 400 for a control character."""
        if " " in to.target or " " in to.method:
            raise _controlled()
        pieces: list[bytes] = []
        places: list[tuple[int, int]] = []
        since = [_checked(f"{to.method} {to.target} HTTP/1.1".encode()), b"\r\nHost: ", to.origin.host_header]  # the last place
        for name, value in lines:
            since += (b"\r\n", _checked(name), b": ")
            if isinstance(value, int):
                places.append((len(pieces) + 1, value))
                pieces += (b"".join(since), b"")
                since = []
            else:
                since.append(_checked(value))
        self._pieces = [*pieces, b"".join(since)]
        self._places = tuple(places)
        self.fixed = b"" if places else self._pieces[0]  # where nothing differs from call to call, what `of` gives

    def of(self, headers: RawHeaders) -> bytes:
        """With what the caller's lines say, without the end of the last line. Raises Refusal 400 for a control character in them."""
        if not self._places:
            return self._pieces[0]
        pieces = self._pieces.copy()
        for place, at in self._places:
            pieces[place] = headers[at][1]
        _checked(b"".join([pieces[place] for place, _ in self._places]))
        return b"".join(pieces)


def framing_of(request: Outgoing) -> bytes:
    """What ends the head: which body follows."""
    if request.body:
        return b"\r\nContent-Length: %d\r\n\r\n" % len(request.body)
    if request.upload is not None and request.body is None:
        if request.upload_length is None:
            return b"\r\nTransfer-Encoding: chunked\r\n\r\n"
        return b"\r\nContent-Length: %d\r\n\r\n" % request.upload_length
    return b"\r\nContent-Length: 0\r\n\r\n" if request.to.method in _BODY_IS_DEFINED else b"\r\n\r\n"


def _checked(given: bytes) -> bytes:
    if _CONTROL.search(given):
        raise _controlled()
    return given


def _controlled() -> Refusal:
    return Refusal(400, "invalid_request", "the target or a header holds a control character", should_retry=False, close=True)
