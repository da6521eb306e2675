"""Reads the framing of one answer (RFC 9112) and hands its parts out as they came. Does no I/O, and decodes nothing."""

from __future__ import annotations

import httptools

from proxy.exchange import RawHeaders

HEAD_BYTES = 64 * 1024  # a whole head, interim answers before it included; also the most that may come in a row and be no body
HEAD_LINES = 128


class Malformed(Exception):
    """Not an HTTP/1.x answer, or one that two readers could read differently."""


class AnswerParser:
    """One answer, fed read by read. `slices` are the body bytes not taken yet."""

    __slots__ = (
        "_is_to_head", "_lines", "_no_body", "_parser", "ends_at_close", "has_head", "headers", "is_dirty", "is_over", "keeps_alive",
        "length", "reason", "received", "slices", "status",
    )  # fmt: skip

    def __init__(self, *, is_to_head: bool = False) -> None:
        self.status, self.reason = 0, b""
        self.headers: RawHeaders = ()
        self.length: int | None = None  # Content-Length; 0 where no body can be
        self.has_head = self.is_over = False
        self.keeps_alive = self.ends_at_close = False
        self.is_dirty = False  # bytes came after the end: this connection is no longer to be trusted
        self.slices: list[bytes] = []
        self._is_to_head = is_to_head
        self._lines: list[tuple[bytes, bytes]] = []
        self._no_body = 0
        self.received = 0  # body bytes
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """One read of the socket. Raises Malformed; never after the end of the answer, that only makes it dirty."""
        before = self.received
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.is_over:
                raise Malformed(str(error.__context__ or error)) from error
            self.is_dirty = True
        self._no_body = 0 if self.received > before else self._no_body + len(data)
        if self._no_body > HEAD_BYTES and not self.is_over:
            raise Malformed("the head is too large" if not self.has_head else "too much between two pieces of the body")

    def let_go(self) -> None:
        """Ends the cycle with the parser, so that no collector has to."""
        del self._parser

    def on_message_begin(self) -> None:
        if self.is_over:
            self.is_dirty = True

    def on_status(self, text: bytes) -> None:
        if not self.has_head:
            self.reason += text

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.has_head:  # a trailer, which is dropped
            return
        self._lines.append((name, value.rstrip(b" \t")))
        if len(self._lines) > HEAD_LINES:
            raise Malformed("the head has too many lines")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.has_head or (status < 200 and status != 101):
            return
        version = self._parser.get_http_version()
        if status == 101 or version not in ("1.1", "1.0"):
            raise Malformed("an answer that switches protocols, or of another HTTP version")
        if sum(len(name) + len(value) + 4 for name, value in self._lines) > HEAD_BYTES:
            raise Malformed("the head is too large")
        self.status, self.headers = status, tuple(self._lines)
        self.keeps_alive = self._parser.should_keep_alive()
        self._frame(is_http10=version == "1.0")
        self.has_head, self._no_body = True, 0

    def _frame(self, *, is_http10: bool) -> None:
        """How long the body is: RFC 9112, 6.3."""
        lengths = [value for name, value in self.headers if name.lower() == b"content-length"]
        codings = [value.lower() for name, value in self.headers if name.lower() == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or is_http10 or lengths):
            raise Malformed("a transfer coding other than chunked")
        if self._is_to_head or self.status in (204, 304):
            self.length, self.is_over = 0, True
        elif lengths:
            self.length = int(lengths[0])
        else:
            self.ends_at_close = not codings

    def on_body(self, data: bytes) -> None:
        if self.is_over:
            self.is_dirty = True
        else:
            self.slices.append(data)
            self.received += len(data)

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_over = True
        else:  # an interim answer: what follows is the one we wait for
            self._lines, self.reason = [], b""
