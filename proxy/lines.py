"""Which lines an answer's bytes pass, and what is said into a stream that breaks off. Sends nothing and decides no end."""

from __future__ import annotations

from proxy.at_limit import Purse
from proxy.dialect.wire import Dialect, stream_format_of
from proxy.exchange import RawHeaders
from proxy.forward.preamble import header_of
from proxy.forward.reflection import NoReflection
from proxy.guard.restore import restoring
from proxy.ports import Line
from proxy.rooms import Ready
from proxy.stream.coding import READABLE
from proxy.stream.tail import Tail
from proxy.stream.taps import streaming


class Through:
    """Two lines, one behind the other."""

    def __init__(self, first: Line, second: Line) -> None:
        self._first, self._second = first, second

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def end(self) -> bytes:
        return self._second.feed(self._first.end()) + self._second.end()


def coding_of(headers: RawHeaders) -> str:
    """ "" for none."""
    coding = header_of(headers, b"content-encoding").strip().lower()
    return "" if coding == "identity" else coding


def form_of(ready: Ready, headers: RawHeaders) -> str:
    """In which form of stream the client gets its answer; "" for one whole body, and for a coded stream: we cannot write into it."""
    return "" if coding_of(headers) else stream_format_of(ready.op, header_of(headers, b"content-type")) or ""


def guarded(key: bytes, headers: RawHeaders, line: Line) -> Line:
    """No provider hands our key to a caller: not in what can be read without decoding it."""
    return NoReflection(line, key) if key and not coding_of(headers) else line


def by_events(dialect: Dialect, ready: Ready, headers: RawHeaders, purse: Purse | None) -> Line | None:
    """The line that reads an answer event by event: gives values back, and may end it between two events. None: nothing wants one."""
    coding, kind = coding_of(headers), header_of(headers, b"content-type")
    form = stream_format_of(ready.op, kind) or ("json" if "json" in kind else None)
    if not (ready.vault or purse) or form is None or (coding and coding not in READABLE):
        return None
    taps = (purse,) if purse else ()
    line = restoring(dialect, ready.op, ready.vault, form, coding, taps) if ready.vault else streaming(form, taps, coding)
    return purse.behind(line) if purse else line


def last_words(dialect: Dialect, ready: Ready, tail: Tail, form: str, code: str, text: str) -> bytes:
    """The error event of the dialect, where one can be said."""
    gap = tail.gap(form) if form else None
    return b"" if gap is None else gap + dialect.error_event(ready.op, code, text, ready.call.id)
