"""Reads the framing of answers (RFC 9112), one after the other; hands their parts out as they came. Does no I/O, decodes nothing."""

from __future__ import annotations

import httptools

from proxy.exchange import RawHeaders

HEAD_BYTES = 64 * 1024  # a whole head, interim answers before it included; also the most that may come in a row and be no body
HEAD_LINES = 128


class Malformed(Exception):
    """Not an HTTP/1.x answer, or one that two readers could read differently."""


class AnswerParser:
    """One answer from each `begin` on, fed read by read. `slices` are the body bytes not taken yet: whoever ends the answer clears them."""

    __slots__ = (
        "_is_11", "_is_to_head", "_lines", "_no_body", "_parser", "_said", "ends_at_close", "has_begun", "has_body", "has_head",
        "headers", "is_dirty", "is_over", "keeps_alive", "length", "on_body", "on_status", "reason", "slices", "status",
    )  # fmt: skip

    def __init__(self) -> None:
        self.slices: list[bytes] = []
        self._said: list[bytes] = []  # of the reason
        self.on_body, self.on_status = self.slices.append, self._said.append  # called by llhttp for each piece
        self._parser = httptools.HttpResponseParser(self)
        self.status, self.reason = 0, b""
        self.headers: RawHeaders = ()
        self.length: int | None = None  # Content-Length; 0 where no body can be
        self.keeps_alive = False
        self.is_dirty = False  # bytes came after the end: this connection is no longer to be trusted
        self.begin()
        self.is_over = True  # no answer is due yet

    def begin(self, *, is_to_head: bool = False) -> None:
        """What comes from here on is another answer. The one before it is over, and was not dirty."""
        self.has_begun = self.has_head = self.is_over = self.ends_at_close = False
        self.has_body = False  # a piece of it came; whoever asks may say False again
        self._is_to_head = is_to_head
        self._lines: list[tuple[bytes, bytes]] = []
        self._no_body = 0

    def feed(self, data: bytes) -> None:
        """One read of the socket. Raises Malformed; never after the end of the answer, that only makes it dirty."""
        if self.is_over:
            self.is_dirty = True
            return
        if not self.has_begun:
            self.has_begun, self._is_11 = True, data.startswith(b"HTTP/1.1 ")
        if not self.has_head:
            self._no_body += len(data)
        slices = self.slices
        before = len(slices)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            if not self.is_over:
                raise Malformed(str(error.__context__ or error)) from error
            self.is_dirty = True
        if len(slices) > before:
            self._no_body, self.has_body = 0, True
        else:
            if self.has_head:
                self._no_body += len(data)
            if self._no_body > HEAD_BYTES and not self.is_over:
                raise Malformed("the head is too large" if not self.has_head else "too much between two pieces of the body")
        if self.is_over and self._is_to_head:  # llhttp does not know that no body follows, and waits for one
            self.is_dirty = self.is_dirty or bool(slices)
            slices.clear()
            self._parser = httptools.HttpResponseParser(self)

    def let_go(self) -> None:
        """Ends the cycle with the parser, so that no collector has to."""
        del self._parser

    def on_message_begin(self) -> None:
        if self.is_over:
            raise Malformed("another answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name, value.rstrip()))  # llhttp leaves blanks and tabs at its end. Trailers come too: nobody looks at them

    def on_headers_complete(self) -> None:
        parser, lines = self._parser, self._lines
        status = parser.get_status_code()
        if status < 200 and status != 101:
            return
        is_11 = self._is_11 or parser.get_http_version() == "1.1"
        if status == 101 or not (is_11 or parser.get_http_version() == "1.0"):
            raise Malformed("an answer that switches protocols, or of another HTTP version")
        if len(lines) > HEAD_LINES:
            raise Malformed("the head has too many lines")
        if self._no_body > HEAD_BYTES and sum([len(name) + len(value) + 4 for name, value in lines]) > HEAD_BYTES:
            raise Malformed("the head is too large")
        self.status, self.headers, self.reason = status, tuple(lines), b"".join(self._said)
        self._said.clear()
        self.keeps_alive = parser.should_keep_alive()
        said = dict(lines).get(b"Content-Length")  # llhttp lets neither another length nor a coding stand beside one, nor what is no number
        if said is None:
            said = self._other_framing(is_http10=not is_11)
        self.length = None if said is None else int(said)
        if self._is_to_head or status in (204, 304):
            self.length, self.is_over = 0, True
        self.has_head, self._no_body = True, 0

    def _other_framing(self, *, is_http10: bool) -> bytes | None:
        """RFC 9112, 6.3. A length in another spelling; None: there is none, the body is chunked, or ends with the connection."""
        fields = [(name.lower(), value) for name, value in self.headers]
        length = dict(fields).get(b"content-length")
        codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or is_http10 or length is not None):
            raise Malformed("a transfer coding other than chunked")
        self.ends_at_close = length is None and not codings
        return length

    def on_message_complete(self) -> None:
        if self.has_head:
            self.is_over = True
        else:  # an interim answer: what follows is the one we wait for
            self._lines, self._is_11 = [], False
            self._said.clear()
