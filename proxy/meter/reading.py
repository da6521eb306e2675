"""Usage out of a streamed answer's plain bytes, read late and in large pieces. Changes nothing and keeps bounded copies."""

from __future__ import annotations

import re
from collections import deque
from typing import Protocol

import orjson
import re2

from proxy.dialect.fields import mapping
from proxy.dialect.wire import JOBS, Dialect, Json, Operation, StreamFormat
from proxy.exchange import Usage
from proxy.meter.counting import Count
from proxy.stream.event import MAX_EVENT
from proxy.stream.jsonarray import JsonArrayDecoder
from proxy.stream.sse import event_of

UNCOUNTED = 256 * 1024  # bytes of events kept for counting; what is older is counted and dropped
FIRST = 64 * 1024  # read at once of its beginning: most streams are over by then, and are read but once
STEP = 16 * 1024  # read, and where need be counted, at a time: less than a millisecond
_LATEST = 8  # events at the end of a stream among which its terminal or error event is looked for
_USAGE_AMONG = 3  # of them; that which states usage alone
_LATEST_BYTES = 64 * 1024  # of them; the last two are kept whatever their size

_BLANK_LINE = re.compile(rb"(?:\r\n?+|\n)(?:\r\n?+|\n)")
_BLANK_CRLF = b"\r\n\r\n"  # what it nearly always is, if it is not two line feeds
_STATES_USAGE = re.compile(rb'usage(?:Metadata)?"\s*:\s*\{')
_may_state_usage = re2.compile(_STATES_USAGE.pattern.replace(rb"\s", rb"[\t-\r ]")).search  # the same, but passes over "usage":null fast


class TooLong(Exception):
    """One event is longer than its bound: the rest of this answer is not read."""


class Reading(Protocol):
    usage: Usage | None  # what the answer states so far
    error: str | None

    @property
    def is_odd(self) -> bool:
        """Something could not be parsed."""
        ...

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
    """Events in slices as they came, which are split late: the last ones; where these do not say all, the few that state usage; and where
    need be counted, all."""

    usage: Usage | None = None
    error: str | None = None
    is_odd = False
    is_whole = False
    _scanned = 0  # the event under way does not end before this offset
    _recent_bytes = _uncounted_bytes = 0
    _first = b""  # event, of operations that may begin a job
    _count: Count | None = None  # made where it is needed

    def __init__(self, dialect: Dialect, op: Operation, form: StreamFormat) -> None:
        self._dialect, self._op, self._form = dialect, op, form
        self._separator = b"\n\n" if form == "sse" else b"\n"
        self._rest = bytearray()  # an event under way
        self._array = JsonArrayDecoder(MAX_EVENT + STEP) if form == "json-array" else None
        self._recent: list[bytes] = []  # the last slices, or single events
        self._uncounted: deque[bytes] = deque()
        self._unread: list[bytes] = []  # of these, those in which no usage was looked for yet

    def take(self, data: bytes) -> None:
        for whole in self._whole(data):
            if not self._first and self._op.name in JOBS:
                self._first = next(filter(None, self._blocks(whole)), b"")
            self._unread.append(whole)
            self._uncounted.append(whole)
            self._uncounted_bytes += len(whole)
            self._recent.append(whole)
            self._recent_bytes += len(whole)
            if self._recent_bytes > _LATEST_BYTES:
                self._recent = self._latest()
                self._recent_bytes = sum(map(len, self._recent))
        if self._uncounted_bytes > UNCOUNTED:
            self._read()
            self._count_down_to(UNCOUNTED - STEP)

    def tells(self, pieces: list[bytes]) -> bool:
        """Do the last of these pieces, which are all of a stream so far, say what was used, and that it is over? Then nothing else of it
        is read, as of nearly every one. False: `take` them."""
        if self._form != "sse" or self._op.name in JOBS or self._recent or self._rest:
            return False
        end = b"".join(pieces[-_LATEST - 1 :])
        *events, after = end.split(b"\n\n")
        blocks = events[1:]  # what is before these may be but the end of one
        if after or len(blocks) < _LATEST or b"\r" in end or b"error" in end:
            return False
        self.is_whole = self._dialect.is_terminal(self._op, self._payload(blocks[-1])) and self._states_all(blocks)
        return self.is_whole

    def look(self) -> None:
        blocks = self._latest()
        if self._rest:  # clients read a last event without its blank line too
            blocks.append(bytes(self._rest))
        if self.usage is not None or not self._states_all(blocks):
            self._read()
            self._fold(self._stating(bytes(self._rest)))
        for block in reversed(blocks):
            if self.is_whole:
                break
            data = self._payload(block)
            self.is_whole = bool(data) and self._dialect.is_terminal(self._op, data)
        if self.error is None and b"error" in b"".join(blocks):
            for block in blocks:
                if self.error is None and b"error" in block and (event := _json(self._payload(block))):
                    self.error = self._dialect.error_of(self._op, event)

    def counted(self) -> int:
        return self._count_down_to(0).tokens

    def doc(self) -> Json | None:
        for block in (bytes(self._rest), *reversed(self._latest()), self._first):
            if b'"response"' in block and (event := _json(self._payload(block))) and isinstance(event.get("response"), dict):
                return mapping(event["response"])
        return None

    def _latest(self) -> list[bytes]:
        """The last events: at most so many, and of so many bytes, but two in any case."""
        found: list[bytes] = []
        most = _LATEST
        for whole in reversed(self._recent):
            found = self._blocks(whole, most)[-most:] + found
            most = _LATEST - len(found)
            if not most:
                break
        while len(found) > 2 and sum(map(len, found)) > _LATEST_BYTES:
            del found[0]
        return found

    def _whole(self, data: bytes) -> list[bytes]:
        """The events that are whole now: in one slice, those of an array one by one."""
        if self._array is not None:
            return [event.data for event in self._array.feed(data) if event.data and event.data != b"]"]
        rest = self._rest
        if rest:
            rest += data
        held = rest or data
        end, after = self._end(held)
        if end < 0:
            if len(held) > MAX_EVENT:
                raise TooLong
            self._scanned = max(0, len(held) - 3)
            if not rest:
                rest += data
            return []
        whole = bytes(held[:end])
        self._scanned = 0
        if rest:
            del rest[:after]
        else:
            rest += data[after:]
        return [whole]

    def _end(self, rest: bytes | bytearray) -> tuple[int, int]:
        """Where the last whole event ends, and what separates it from the next one; -1: none does."""
        if self._form == "sse" and rest.find(b"\r", self._scanned) >= 0:
            end = rest.rfind(_BLANK_CRLF, self._scanned)
            last = (end, end + len(_BLANK_CRLF)) if end >= 0 else (-1, self._scanned)
            for found in _BLANK_LINE.finditer(rest, last[1]):
                last = found.span()
            return last
        end = rest.rfind(self._separator, self._scanned)
        return end, end + len(self._separator)

    def _blocks(self, whole: bytes, most: int = -1) -> list[bytes]:
        """A slice as its events; `most`: the last so many of them, and what is before these in one."""
        if self._array is not None:
            return [whole]
        if self._form == "sse" and b"\r" in whole:
            found: list[bytes] = []
            for part in whole.split(_BLANK_CRLF):
                found += (part,) if part.find(b"\r") < 0 and part.find(b"\n\n") < 0 else _BLANK_LINE.split(part)
            return found
        return whole.rsplit(self._separator, most)

    def _states_all(self, blocks: list[bytes]) -> bool:
        """Does one of the last events state all that was used, as nearly every stream's? Then no one before it states any (OpenAI API,
        `stream_options`), and none is looked at."""
        for block in reversed(blocks[-_USAGE_AMONG:]):
            if b'"usage"' in block and (event := _json(self._payload(block))):
                usage = self._dialect.fold(self._op, None, event)
                if usage is not None and usage.is_plain:
                    self.usage = usage
                    self._unread.clear()
                    return True
        return False

    def _read(self) -> None:
        """Looks for usage where that was not done yet."""
        unread, self._unread = self._unread, []
        for whole in unread:
            self._fold(self._stating(whole))

    def _stating(self, whole: bytes) -> list[bytes]:
        """The events of a slice that state usage."""
        first = _may_state_usage(whole)
        if first is None and not self._bills_units(whole):
            return []
        if first is None or self._array is not None or self._dialect.name == "cohere" or b"\r" in whole:
            return [block for block in self._blocks(whole) if _STATES_USAGE.search(block) or self._bills_units(block)]
        found: list[bytes] = []
        end = -1
        for mark in _STATES_USAGE.finditer(whole, first.start()):
            if mark.start() > end:
                start = whole.rfind(self._separator, 0, mark.start())
                end = whole.find(self._separator, mark.start())
                end = len(whole) if end < 0 else end
                found.append(whole[0 if start < 0 else start + len(self._separator) : end])
        return found

    def _payload(self, block: bytes) -> bytes:
        if self._form != "sse":
            return block.strip()
        before, _, last = block.rpartition(b"\n")
        if last.startswith(b"data: ") and before.find(b"data") < 0 and block.find(b"\r") < 0:
            return last[6:]  # as nearly every event ends
        return event_of(block).data

    def _bills_units(self, block: bytes) -> bool:
        return self._dialect.name == "cohere" and b"billed_units" in block

    def _fold(self, blocks: list[bytes]) -> None:
        for block in blocks:
            if event := _json(self._payload(block)):
                self.usage = self._dialect.fold(self._op, self.usage, event)

    def _count_down_to(self, size: int) -> Count:
        count = self._count = self._count or Count()
        while self._uncounted_bytes > size:
            whole = self._uncounted.popleft()
            end = whole.find(self._separator, STEP) if len(whole) > 2 * STEP and self._array is None else -1
            if end >= 0:
                self._uncounted.appendleft(whole[end:])  # what it begins with is a blank line, and no event
                whole = whole[:end]
            self._uncounted_bytes -= len(whole)
            for block in self._blocks(whole):
                data = self._payload(block)
                event = _json(data)
                if event is not None:
                    count.saw(self._dialect, self._op, event)
                elif data and data.strip() != b"[DONE]":
                    self.is_odd = True
        return count


def _json(data: bytes | bytearray) -> Json | None:
    """An object, or None for anything else."""
    try:
        doc = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return doc if isinstance(doc, dict) else None
