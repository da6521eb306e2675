"""Content codings (RFC 9110, section 8.4.1) undone within bounds. Never guesses: what it cannot read whole is refused."""

from __future__ import annotations

import zlib

from proxy.exchange import RawHeaders
from proxy.refusal import Refusal, UpstreamCut

READABLE = frozenset({"gzip", "x-gzip", "deflate"})
MAX_RATIO = 100  # decoded bytes for one encoded byte (faults.md H62)
FREE = 1 << 20  # decoded bytes that no ratio is asked of: small bodies of blanks are no bombs
_STEP = 1 << 18  # bytes decoded at once
_SLICE = 1 << 16  # bytes taken at once: zlib copies what it leaves over
_GZIP, _ZLIB, _RAW = 31, 15, -15


OF_BODY = frozenset({b"content-encoding", b"content-md5", b"digest", b"content-digest", b"repr-digest"})


def without_body_fields(headers: RawHeaders) -> RawHeaders:
    """The header lines that stay true of a body that was worded anew, uncoded (RFC 9110 8.4, RFC 9530)."""
    return tuple(line for line in headers if line[0].lower() not in OF_BODY)


class _TooLarge(Exception):
    """More decoded bytes than the bound."""


class Inflater:
    """Undoes one gzip or deflate coding piece by piece; `limit` and the ratio bound what comes out."""

    def __init__(self, encoding: str, limit: int, ratio: int = MAX_RATIO) -> None:
        self._is_gzip = encoding != "deflate"
        self._limit, self._ratio = limit, ratio
        self._taken = self._given = 0
        self._first = b""
        self._engine: zlib._Decompress | None = None

    @property
    def is_whole(self) -> bool:
        """The coded stream ended where it should (or nothing came at all)."""
        return not self._first and (self._engine is None or self._engine.eof)

    def feed(self, data: bytes) -> bytes:
        """For answers: the decoded bytes. Raises UpstreamCut for garbage and for a bomb."""
        try:
            return self.read(data)
        except zlib.error:
            raise UpstreamCut("upstream_cut", "broken content coding") from None
        except _TooLarge:
            raise UpstreamCut("upstream_cut", "answer grows too large when decoded") from None

    def read(self, data: bytes) -> bytes:
        """Raises zlib.error and _TooLarge."""
        self._taken += len(data)
        bound = min(self._limit, max(FREE, self._taken * self._ratio))
        whole = memoryview(self._first + data)
        self._first = b""
        parts: list[bytes] = []
        for at in range(0, len(whole), _SLICE):
            self._slice(bytes(whole[at : at + _SLICE]), bound, parts)
        return b"".join(parts)

    def _slice(self, data: bytes, bound: int, parts: list[bytes]) -> None:
        is_full = False  # zlib may owe output after its last input
        while data or is_full:
            engine = self._engine or self._begin(data)
            if engine is None:
                self._first = data
                return
            parts.append(engine.decompress(data, _STEP))
            self._given += len(parts[-1])
            if self._given > bound:
                raise _TooLarge
            data, is_full = self._rest(engine), len(parts[-1]) == _STEP and not engine.eof

    def _begin(self, data: bytes) -> zlib._Decompress | None:
        if self._is_gzip:
            self._engine = zlib.decompressobj(_GZIP)
        elif len(data) >= 2:  # "deflate" is zlib's format; some send the bare one
            is_zlib = data[0] & 15 == 8 and int.from_bytes(data[:2]) % 31 == 0
            self._engine = zlib.decompressobj(_ZLIB if is_zlib else _RAW)
        return self._engine

    def _rest(self, engine: zlib._Decompress) -> bytes:
        if not engine.eof:
            return engine.unconsumed_tail
        if not engine.unused_data:
            return b""
        if not self._is_gzip:
            raise zlib.error("bytes behind the end")
        self._engine = None  # one more member
        return engine.unused_data


def decode(encoding: str, data: bytes, limit: int, ratio: int = MAX_RATIO) -> bytes:
    """A request body without its coding: at most `limit` bytes.

    Raises Refusal: 415 for codings we cannot read and for chains, 413 above a bound, 400 for garbage or a body cut short.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return data
    if name not in READABLE:
        raise Refusal(
            415, "unsupported_encoding", "this content-encoding cannot be read here; send gzip, deflate or none, and one of them only"
        )
    inflater = Inflater(name, limit, ratio)
    try:
        text = inflater.read(data)
    except zlib.error:
        raise Refusal(400, "invalid_request", f"the body is not valid {name}") from None
    except _TooLarge:
        raise Refusal(
            413, "too_large", f"{len(data)} bytes of {name} decode to more than is taken: {limit} bytes, and {ratio} times the coded size"
        ) from None
    if not inflater.is_whole:
        raise Refusal(400, "invalid_request", f"the {name} body ends too early")
    return text
