"""The watch: a line that gives back every byte as it came and can say at any time what was used. Parses nothing per chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from proxy.dialect.fields import plain_path
from proxy.dialect.jobs import RESULTS, Job, job_of
from proxy.dialect.wire import JOBS, Asked, Dialect, Operation, stream_format_of
from proxy.exchange import Usage
from proxy.meter.reading import FIRST, STEP, Reading, StreamReading
from proxy.meter.results import LinesReading
from proxy.meter.whole import WholeReading
from proxy.stream.coding import READABLE, Inflater

MAX_DECODED = 64 * 1024 * 1024  # bytes of one compressed answer that are decoded for the meter (faults.md U23)
UNPARSED, MISSING = "usage_unparsed", "usage_missing"
_TALKING = frozenset({"chat", "messages", "responses", "completions", "generate", "audio"})


class Watch:
    """A `ports.Line` for one answer. `input_bound` and `output_bound` are tokens, the estimate that was held: what an answer
    is charged when it says nothing that can be read. `uploaded`: bytes of a body that streams through, so far.
    `content_type`, `content_encoding`: of the answer's head, as sent.
    """

    lag = FIRST  # what it hears late: so much of a stream it reads at once anyway; then STEP
    is_stream = False  # that can be read
    _is_json = True  # text of one kind or another
    _waiting = 0  # bytes of chunks
    _told_by = 0  # chunks that are not read, but say all by their end
    _is_looked_at = False  # since the last bytes were read
    _is_blind = False
    _inflater: Inflater | None = None

    def __init__(
        self,
        dialect: Dialect,
        op: Operation,
        asked: Asked,
        content_type: str,
        content_encoding: str = "",
        status: int = 200,
        input_bound: int = 0,
        output_bound: int = 0,
        uploaded: Callable[[], int] | None = None,
    ) -> None:
        self._op, self._asked, self._status, self._dialect, self._uploaded = op, asked, status, dialect, uploaded
        self._input_bound, self._output_bound = input_bound, output_bound
        self._chunks: list[bytes] = []
        self._reading: Reading | None
        form = stream_format_of(op.variant, content_type)
        if op.variant == RESULTS and status == 200:
            self._reading = LinesReading()
        elif form is not None:
            self._reading, self.is_stream = StreamReading(dialect, op, form), True
        elif "json" in content_type or "json" in content_type.lower():
            self._reading = WholeReading(dialect, op)
        else:
            self._reading, self._is_json = None, False
        if content_encoding:
            encoding = content_encoding.strip().lower()
            if encoding in READABLE:
                self._inflater = Inflater(encoding, MAX_DECODED)
            elif encoding not in ("", "identity"):
                self._give_up()

    def feed(self, data: bytes) -> bytes:
        """The same object. Costs an append; a stream is read in large pieces, so that memory stays bounded."""
        self._chunks.append(data)
        self._waiting = waiting = self._waiting + len(data)
        if waiting > self.lag:
            self._digest()
        return data

    def hear(self, pieces: list[bytes]) -> None:
        """See `ports.Late`."""
        self._chunks += pieces

    def end(self) -> bytes:
        """A watch holds nothing back."""
        return b""

    @property
    def ended(self) -> bool:
        """The terminal event was seen, the JSON parsed. True as well for what has no end of its own (bytes, unknown paths, unreadable
        answers): there the framing alone can tell a cut."""
        return self._has_ended(self._look())

    @property
    def is_cut_short(self) -> bool:
        """The content coding never came to its end, though the framing did (faults.md U22)."""
        if self._inflater is None:
            return False
        if self._chunks:
            self._digest()
        return not self._is_blind and not self._inflater.is_whole

    @property
    def error(self) -> str | None:
        """The type of the error event (or error object under a 200) that was seen."""
        reading = self._look()
        return None if reading is None else reading.error

    def told(self) -> tuple[Usage, str | None]:
        """`usage` and `error`."""
        error = self.error
        return self.usage(), error

    def usage(self) -> Usage:
        """The provider's own final figures; else what was counted; else the estimate. May be asked at any time, and again."""
        reading = self._look()
        stated = None if reading is None else reading.usage
        if reading is not None and stated is not None and stated.source == "provider":
            if reading.is_whole and self._inflater is None and stated.ended:  # most answers
                return stated
            return replace(stated, ended=self._has_ended(reading))
        ended = self._has_ended(reading)
        op = self._op
        is_counted = op.is_metered or op.name == "audio"  # speech: no reply states its cost, but the text sent bounds it
        if not op.is_billed or not is_counted or op.is_read_back or self._status >= 300:
            return replace(stated or Usage(), ended=ended)
        counted = self._counted(reading)
        if counted is None:
            note = UNPARSED if self._is_blind else MISSING
            return Usage(input=self._input_bound, output=self._output_bound, source="estimate", note=note, units=self._units())
        partial = stated or Usage(input=self._input_bound, units=self._units())
        note = partial.note or (UNPARSED if reading is not None and reading.is_odd else "")
        return replace(partial, output=max(counted, partial.output), source="counted", note=note, ended=ended)

    def job(self, path: str) -> Job | None:
        """The job that the answer speaks of, which its provider bills later. `path`: of the call, names it where the answer may not."""
        if self._op.name not in JOBS or self._status >= 300 or (reading := self._look()) is None:
            return None
        if isinstance(reading, LinesReading):
            id = _named(path)
            return Job(id, reading.is_whole and not reading.is_odd and self.ended, reading.usages) if id else None
        doc = reading.doc()
        return None if doc is None else job_of(self._dialect.name, self._op, doc)

    def _counted(self, reading: Reading | None) -> int | None:
        """Output tokens; None where nothing can be counted."""
        if reading is None:
            return 0 if self._op.name == "audio" and not self._is_json else None
        counted = reading.counted()
        return counted if counted is None or self._op.name in _TALKING else 0

    def _units(self) -> dict[str, int]:
        """What is billed beside tokens, bounded by what was sent: n bytes are at most n characters, and n ms of audio at 8 kbit/s."""
        if self._op.name == "audio" and self._uploaded is not None:
            return {"audio_ms": self._uploaded()}
        if self._op.name == "audio":
            return {"characters": self._input_bound, "audio_ms": self._input_bound}
        return {"images": self._asked.images} if self._op.name == "images" and self._asked.images else {}

    def _has_ended(self, reading: Reading | None) -> bool:
        if reading is None or self._op.name == "other":
            return True
        return reading.is_whole and (self._inflater is None or self._inflater.is_whole)

    def _look(self) -> Reading | None:
        if len(self._chunks) > self._told_by:
            if self._tells():
                return self._reading
            self._digest()
        reading = self._reading
        if reading is not None and not self._is_looked_at:
            self._is_looked_at = True
            try:
                reading.look()
            except Exception:  # a failing meter costs an estimate, never the answer (design.md section 1)
                self._give_up()
        return self._reading

    def _tells(self) -> bool:
        """Does the end of a stream tell all?"""
        reading = self._reading
        try:
            is_told = self._inflater is None and isinstance(reading, StreamReading) and reading.tells(self._chunks)
        except Exception:  # as in `_look`
            is_told = False
        self._told_by = len(self._chunks) if is_told else 0
        self._is_looked_at = is_told
        return is_told

    def _digest(self) -> None:
        self._told_by = 0
        chunks, self._chunks, self._waiting, self.lag = self._chunks, [], 0, STEP
        if self._reading is None:
            return
        self._is_looked_at = False
        data = b"".join(chunks)  # of one, that one
        try:
            self._reading.take(data if self._inflater is None else self._inflater.feed(data))
        except Exception:  # as in `_look`; TooLong and UpstreamCut: above a bound, or no valid coding
            self._give_up()

    def _give_up(self) -> None:
        self._is_blind, self._reading, self.is_stream = True, None, False


def _named(path: str) -> str | None:
    """The job whose results this path asks for."""
    *_, before, last = ("", "", *plain_path(path).split("/"))
    return before if last == "results" else None
