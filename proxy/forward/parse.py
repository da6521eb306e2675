"""Reads the framing of answers (RFC 9112), one after the other; hands their parts out as they came. Does no I/O, decodes nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import httptools

from proxy.forward.known import LIKELY, Known, KnownHeads, said_by

if TYPE_CHECKING:
    from proxy.forward.answer import Reply

HEAD_BYTES = 64 * 1024  # a whole head, interim answers before it included; also the most that may come in a row and be no body
HEAD_LINES = 128


class _Swift:
    """What llhttp tells of an answer whose head is known: no line, and by calls of C functions alone."""

    on_body: Callable[[bytes], None]
    on_chunk_complete: Callable[[], None]
    on_chunk_header: Callable[[], None]
    on_message_begin: Callable[[], None]
    on_message_complete: Callable[[], None]


class Malformed(Exception):
    """Not an HTTP/1.x answer, or one that two readers could read differently."""


_DUE = (None, None)  # of an answer: its beginning and its end


class AnswerParser:
    """One answer from each `begin` on, fed read by read. `slices` are the body bytes not taken yet: whoever ends the answer clears them,
    and `told`, where it is put down what the head says.

    A head like one that came before is read by its form, and if its body came whole with it, that is the answer. Where more is to come,
    llhttp reads both; any other head line by line.
    """

    __slots__ = (
        "_heads", "_is_11", "_is_new", "_likely", "_lines", "_parser", "_said", "_swift", "due", "ends_at_close", "has_begun", "has_body",
        "has_head", "is_last", "is_over", "is_to_head", "no_body", "on_body", "on_chunk_complete", "on_chunk_header", "on_status", "read",
        "slices", "told", "whole",
    )  # fmt: skip

    def __init__(self, heads: KnownHeads | None = None) -> None:
        self.slices: deque[bytes] = deque()  # a list that is emptied gives its memory back, and asks for it anew for each event
        self._said: list[bytes] = []  # of the reason
        self.on_body, self.on_status = self.slices.append, self._said.append  # called by llhttp for each piece
        self.whole: deque[bool] = deque()  # holds something once a chunk is over, until the next one's first line is
        self.on_chunk_complete, self.on_chunk_header = partial(self.whole.append, True), self.whole.clear
        self._heads = heads
        self._likely: list[Known] = []  # forms of heads that came on this connection
        self.due: list[None] = []  # a beginning or an end that comes when none is due is an error
        self._lines: list[tuple[bytes, bytes]] = []
        swift = _Swift()
        swift.on_body, swift.on_message_begin, swift.on_message_complete = self.on_body, self.due.pop, self.due.pop
        swift.on_chunk_complete, swift.on_chunk_header = self.on_chunk_complete, self.on_chunk_header
        self._parser = self._swift = httptools.HttpResponseParser(swift)
        self.read = self._swift.feed_data
        self.is_last = False  # no other answer may be read from this connection: so it is said, or bytes came after the end
        self.is_to_head = False  # until this answer is over
        self.told: Reply | None = None
        self.has_head = self.ends_at_close = self.has_body = False
        self.no_body = 0
        self.has_begun = self.is_over = True  # no answer is due yet

    def begin(self, told: Reply) -> None:
        """What comes from here on is another answer. The one before it is over, and was not the last."""
        self.told = told
        self.has_begun = self.has_head = self.is_over = False

    def feed(self, data: bytes) -> None:
        """One read of the socket. Raises Malformed; never after the end of the answer, that only makes it the last."""
        if self.has_begun or self.is_to_head:
            self._feed_on(data)
            return
        for known in self._likely:
            found = known.match(data)
            if found is not None:
                break
        else:
            self._feed_head(data)
            return
        groups = found.groups()
        told: Reply = self.told  # type: ignore[assignment]  # whoever feeds has asked; of each answer, so not by an assert
        at, body = known.length_at, found.end()
        told.length = length = int(groups[at]) if at else None
        if length == len(data) - body:  # as nearly always: nothing is left to be read
            if length:
                self.slices.append(data[body:])
            self.is_over = True
        elif not self._is_sound(data):
            self._feed_head(data)
            return
        told.status, told.reason, told.said = known.facts
        told.block = groups[0]
        told.lines = groups[known.run_at] if known.run_at else b"\r\n".join(map(groups.__getitem__, known.runs))
        self.has_begun = self.has_head = True

    def _feed_on(self, data: bytes) -> None:
        """A read that is not the first, or has no form."""
        if self.is_over:
            self.is_last = True
        elif self.has_head:
            before = len(self.slices)
            try:
                self.read(data)
            except httptools.HttpParserError as error:
                self.faulty(error)
            self.is_over = not self.due
            if len(self.slices) > before:
                self.no_body, self.has_body = 0, True
            else:
                self.noise(data)
        else:
            self._feed_head(data)

    def noise(self, data: bytes) -> None:
        """A read after the head that brought nothing of the body."""
        self.no_body += len(data)
        if self.no_body > HEAD_BYTES and not self.is_over:
            raise Malformed("too much between two pieces of the body")

    def _is_sound(self, data: bytes) -> bool:
        """Has llhttp found no fault in a read that begins with a head of a known form? Else nothing of it was read yet."""
        if self._parser is not self._swift:
            self._parser, self.read = self._swift, self._swift.feed_data
        self.due[:] = _DUE
        self.whole.clear()
        try:
            self.read(data)
        except httptools.HttpParserError:  # what it was shall be told line by line; the connection is used no more
            self.slices.clear()
            return False
        self.is_over, self.has_body = not self.due, bool(self.slices)  # the latter: whoever asks may say False again
        self.ends_at_close, self.no_body = False, 0
        if not (self.is_over or self.has_body):
            self.has_head = True
            self.noise(data)
        return True

    def faulty(self, error: httptools.HttpParserError) -> None:
        """What `read` raised. Raises Malformed, unless the answer had ended."""
        if self.due:
            raise Malformed(str(error.__context__ or error)) from error
        self.is_over = self.is_last = True

    def _feed_head(self, data: bytes) -> None:
        """Line by line."""
        self._is_new = not self.has_begun
        if self._is_new:
            self.has_begun, self._is_11 = True, data.startswith(b"HTTP/1.1 ")
            self._parser, self._lines = httptools.HttpResponseParser(self), []
            self.read = self._parser.feed_data  # llhttp's own
            self.ends_at_close = self.has_body = False
            self.no_body = 0
            self._said.clear()
            self.whole.clear()
            self.due[:] = _DUE
        self.no_body += len(data)
        try:
            self.read(data)
        except httptools.HttpParserError as error:
            self.faulty(error)
        self.is_over = not self.due
        if self.has_head:
            self.no_body, self.has_body = 0, bool(self.slices)
            if not self.has_body:
                self.noise(data)
        elif self.no_body > HEAD_BYTES:
            raise Malformed("the head is too large")
        if self.is_over and self.is_to_head:  # llhttp does not know that no body follows, and waits for one
            self.is_last = self.is_last or bool(self.slices)
            self.is_to_head = False
            self.slices.clear()
        elif self.has_head and self._is_new and self._heads is not None:
            self._learn(data)

    def _learn(self, data: bytes) -> None:
        """The next head of this form will be known by it."""
        told = self.told
        assert self._heads is not None and told is not None  # whoever feeds has asked
        if told.status in (204, 304) or self.is_last or not self._is_11:
            return
        start = data.partition(b"\r\n")[0]
        known = self._heads.learn(start, told.split, told.reason)
        if known is not None and known not in self._likely and known.match(data):
            self._likely = [known, *self._likely[: LIKELY - 1]]

    def let_go(self) -> None:
        """Ends the cycle with the parser, so that no collector has to."""
        del self._parser, self._swift, self.read

    # --- what llhttp tells of a head that is read line by line ---

    def on_message_begin(self) -> None:
        if not self.due:
            raise Malformed("another answer that nobody asked for")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._lines.append((name, value.rstrip()))  # llhttp leaves blanks and tabs at its end. Trailers come too: nobody looks at them

    def on_headers_complete(self) -> None:
        parser, lines, told = self._parser, self._lines, self.told
        assert told is not None  # whoever feeds has asked
        status = parser.get_status_code()
        if status < 200 and status != 101:
            return
        is_11 = self._is_11 or parser.get_http_version() == "1.1"
        if status == 101 or not (is_11 or parser.get_http_version() == "1.0"):
            raise Malformed("an answer that switches protocols, or of another HTTP version")
        if len(lines) > HEAD_LINES:
            raise Malformed("the head has too many lines")
        if self.no_body > HEAD_BYTES and sum([len(name) + len(value) + 4 for name, value in lines]) > HEAD_BYTES:
            raise Malformed("the head is too large")
        told.status, told.reason, told.split = status, b"".join(self._said), tuple(lines)
        told.said, told.block, told.lines = said_by(told.split), None, None
        self.is_last = self.is_last or not parser.should_keep_alive()
        said = dict(lines).get(b"Content-Length")  # llhttp lets neither another length nor a coding stand beside one, nor what is no number
        if said is None:
            said = self._other_framing(is_http10=not is_11)
        told.length = None if said is None else int(said)
        if self.is_to_head or status in (204, 304):
            told.length = 0
            self.due.clear()
        self.has_head, self.no_body = True, 0

    def _other_framing(self, *, is_http10: bool) -> bytes | None:
        """RFC 9112, 6.3. A length in another spelling; None: there is none, the body is chunked, or ends with the connection."""
        fields = [(name.lower(), value) for name, value in self._lines]
        length = dict(fields).get(b"content-length")
        codings = [value.lower() for name, value in fields if name == b"transfer-encoding"]
        if codings and (codings != [b"chunked"] or is_http10 or length is not None):
            raise Malformed("a transfer coding other than chunked")
        self.ends_at_close = length is None and not codings
        return length

    def on_message_complete(self) -> None:
        if self.has_head:
            self.due.clear()
        else:  # an interim answer: what follows is the one we wait for
            self._lines, self._is_11 = [], False
            self._said.clear()


def all_of(pieces: deque[bytes] | list[bytes]) -> bytes:
    """In one, and taken; one piece is itself."""
    data = b"".join(pieces)
    pieces.clear()
    return data
