"""Usage out of an answer's plain bytes, streamed or whole, read late and in large pieces. Changes nothing and keeps bounded copies."""

from __future__ import annotations

import json
import re
import zlib
from collections import deque
from typing import Protocol

import orjson

from proxy.dialect.fields import at, mapping, texts_at
from proxy.dialect.openai_usage import UNFINISHED
from proxy.dialect.wire import Dialect, Json, Operation, Path, StreamFormat
from proxy.exchange import Usage
from proxy.stream.event import MAX_EVENT
from proxy.stream.jsonarray import JsonArrayDecoder
from proxy.stream.sse import event_of

UNCOUNTED = 256 * 1024  # bytes of events kept for counting; what is older is counted and dropped
STEP = 16 * 1024  # read, and where need be counted, at a time: less than a millisecond
MAX_WHOLE = 4 * 1024 * 1024  # bytes of a JSON answer that are parsed; of a longer one only its end is looked at
BYTES_PER_TOKEN = 3  # of counted text: below what byte-level BPE makes of any common language
_REMEMBERED = 4096  # channels and complete texts of one stream
_LATEST = 8  # events at the end of a stream among which its terminal or error event is looked for
_LATEST_BYTES = 64 * 1024  # of them; the last two are kept whatever their size

_SPLIT = {"sse": re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)"), "ndjson": re.compile(rb"\n")}
_STATES_USAGE = re.compile(rb'usage(?:Metadata)?"\s*:\s*\{')
_TAIL_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata|meta)"\s*:\s*(?=\{)')


class TooLong(Exception):
    """One event is longer than its bound: the rest of this answer is not read."""


class Reading(Protocol):
    usage: Usage | None  # what the answer states so far
    error: str | None
    is_odd: bool  # something could not be parsed

    def take(self, data: bytes) -> None:
        """Raises TooLong."""
        ...

    @property
    def is_whole(self) -> bool:
        """Its own end was seen."""
        ...

    def look(self) -> None:
        """Brings `usage`, `error` and `is_whole` up to date."""
        ...

    def counted(self) -> int | None:
        """Output tokens counted from the text; None where the text cannot be read."""
        ...

    def doc(self) -> Json | None:
        """What the answer says of itself: its JSON; of a stream the `response` that an event of its beginning or end carries."""
        ...


class StreamReading:
    """Events, split lazily: only those that state usage, the last few, and where counting is needed the rest, are parsed."""

    def __init__(self, dialect: Dialect, op: Operation, form: StreamFormat) -> None:
        self._dialect, self._op, self._form = dialect, op, form
        self.usage: Usage | None = None
        self.error: str | None = None
        self.is_odd = False
        self.is_whole = False
        self._rest = bytearray()  # an event under way
        self._scanned = 0  # it does not end before this offset
        self._looked = False
        self._array = JsonArrayDecoder(MAX_EVENT + STEP)
        self._latest: deque[bytes] = deque()
        self._latest_bytes = 0
        self._uncounted: deque[bytes] = deque()
        self._uncounted_bytes = 0
        self._count = _Count()
        self._first = b""

    def take(self, data: bytes) -> None:
        self._looked = False
        for block in self._split(data):
            self._first = self._first or block
            self._fold(block)
            self._uncounted.append(block)
            self._uncounted_bytes += len(block)
            self._latest.append(block)
            self._latest_bytes += len(block)
            while len(self._latest) > _LATEST or (len(self._latest) > 2 and self._latest_bytes > _LATEST_BYTES):
                self._latest_bytes -= len(self._latest.popleft())
        if self._uncounted_bytes > UNCOUNTED:
            self._count_down_to(UNCOUNTED - STEP)

    def look(self) -> None:
        if self._looked:
            return
        self._looked = True
        rest = bytes(self._rest)
        self._fold(rest)
        for block in (*self._latest, rest):  # clients read a last event without its blank line too
            data = self._payload(block)
            if not data:
                continue
            self.is_whole = self.is_whole or self._dialect.is_terminal(self._op, data)
            if self.error is None and b"error" in data and (event := _json(data)):
                self.error = self._dialect.error_of(self._op, event)

    def counted(self) -> int:
        self._count_down_to(0)
        return self._count.tokens

    def doc(self) -> Json | None:
        for block in (*reversed((*self._latest, bytes(self._rest))), self._first):
            if b'"response"' in block and (event := _json(self._payload(block))) and isinstance(event.get("response"), dict):
                return mapping(event["response"])
        return None

    def _split(self, data: bytes) -> list[bytes]:
        if self._form == "json-array":
            return [event.data for event in self._array.feed(data) if event.data and event.data != b"]"]
        self._rest += data
        split = _SPLIT[self._form]
        if split.search(self._rest, self._scanned) is None:
            if len(self._rest) > MAX_EVENT:
                raise TooLong
            self._scanned = max(0, len(self._rest) - 3)
            return []
        whole = bytes(self._rest)
        *blocks, rest = whole.split(b"\n\n") if self._form == "sse" and b"\r" not in whole else split.split(whole)  # ten times as fast
        self._rest, self._scanned = bytearray(rest), 0
        return blocks

    def _payload(self, block: bytes) -> bytes:
        return event_of(block).data if self._form == "sse" else block.strip()

    def _fold(self, block: bytes) -> None:
        if (_STATES_USAGE.search(block) or b"billed_units" in block) and (event := _json(self._payload(block))):
            self.usage = self._dialect.fold(self._op, self.usage, event)

    def _count_down_to(self, size: int) -> None:
        while self._uncounted_bytes > size:
            block = self._uncounted.popleft()
            self._uncounted_bytes -= len(block)
            data = self._payload(block)
            event = _json(data)
            if event is not None:
                self._count.saw(self._dialect, self._op, event)
            elif data and data.strip() != b"[DONE]":
                self.is_odd = True


class _Count:
    """Tokens of the text that passed: a third of its bytes, and one for each event that carries any, whichever is more."""

    def __init__(self) -> None:
        self._events = self._bytes = 0
        self._channels: dict[str, tuple[int, int]] = {}  # channel → (crc, length) of its text so far
        self._complete: set[tuple[int, int]] = set()  # of complete texts: what only repeats one is not counted again

    @property
    def tokens(self) -> int:
        return max(self._events, -(-self._bytes // BYTES_PER_TOKEN))

    def saw(self, dialect: Dialect, op: Operation, event: Json) -> None:
        said, before = dialect.said(op, event), self._bytes
        for channel, path, _ in said.deltas:
            text = _text_at(event, path)
            crc, length = self._channels.get(channel, (0, 0))
            self._channels[channel] = (zlib.crc32(text, crc), length + len(text))
            self._bytes += len(text)
        for channel in tuple(self._channels) if "*" in said.ends else said.ends:
            if channel in self._channels:
                self._complete.add(self._channels.pop(channel))
        for path, _ in said.wholes:
            text = _text_at(event, path)
            mark = (zlib.crc32(text), len(text))
            if mark not in self._complete:
                self._complete.add(mark)
                self._bytes += len(text)
        for remembered in (self._channels, self._complete):
            if len(remembered) > _REMEMBERED:
                remembered.clear()
        self._events += self._bytes > before


class WholeReading:
    """One JSON body."""

    usage: Usage | None = None
    error: str | None = None
    is_odd = False
    is_whole = False
    _is_tail = False
    _doc: Json | None = None

    def __init__(self, dialect: Dialect, op: Operation) -> None:
        self._dialect, self._op = dialect, op
        self._body = bytearray()

    def take(self, data: bytes) -> None:
        self._body += data
        if len(self._body) > 2 * MAX_WHOLE:
            del self._body[:-MAX_WHOLE]
            self._is_tail = True

    def look(self) -> None:
        if self._is_tail or len(self._body) > MAX_WHOLE:
            self.is_whole = self._body.rstrip().endswith((b"}", b"]"))
            doc = _usage_at_the_end(bytes(self._body[-MAX_WHOLE:]))
        else:
            doc = _json(self._body)
            self.is_whole = doc is not None
        self._doc = doc
        self.is_odd = doc is None
        if doc is not None:
            self.usage = self._dialect.usage(self._op, doc)
            self.error = self._dialect.error_of(self._op, doc)

    def doc(self) -> Json | None:
        return None if self._is_tail else self._doc

    def counted(self) -> int | None:
        if self._doc is None or self._is_tail or len(self._body) > MAX_WHOLE:
            return None
        if self._doc.get("status") in UNFINISHED:  # it goes on in the background: what it says so far is not what it will cost
            return None
        found = texts_at(self._dialect.answer_surface(self._op), self._doc)
        return -(-sum(len(_text_at(self._doc, path)) for path, _ in found) // BYTES_PER_TOKEN)


def _json(data: bytes | bytearray) -> Json | None:
    """An object, or None for anything else."""
    try:
        doc = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return doc if isinstance(doc, dict) else None


def _usage_at_the_end(tail: bytes) -> Json | None:
    """Of a body too long to parse: its last usage object, as all providers write it behind the content."""
    last = deque(_TAIL_USAGE.finditer(tail), maxlen=1)
    if not last:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(tail[last[0].end() : last[0].end() + STEP].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return {last[0].group(1).decode(): found}


def _text_at(doc: object, path: Path) -> bytes:
    text = at(doc, *path)
    return text.encode("utf-8", "replace") if isinstance(text, str) else b""
