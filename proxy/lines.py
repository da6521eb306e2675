"""Which lines an answer's bytes pass, and what is said into a stream that breaks off. Sends nothing and decides no end."""

from __future__ import annotations

from proxy.at_limit import Purse
from proxy.dialect.wire import Dialect, stream_format_of
from proxy.exchange import Spoken
from proxy.forward.known import said_by
from proxy.forward.reflection import NoReflection
from proxy.guard.restore import restoring
from proxy.meter.strip import StripUsage
from proxy.meter.tap import Watch
from proxy.ports import Line
from proxy.rooms import Ready
from proxy.stream.coding import READABLE
from proxy.stream.tail import Tail
from proxy.stream.taps import streaming

__all__ = ["NOWHERE", "Nowhere", "Spoken", "Through", "form_of", "guarded", "last_words", "reworded", "said_by"]


class Nowhere:
    """The line of an answer that has none yet."""

    def feed(self, data: bytes) -> bytes:
        return b""

    def end(self) -> bytes:
        return b""


NOWHERE = Nowhere()


class Through:
    """Two lines, one behind the other."""

    def __init__(self, first: Line, second: Line) -> None:
        self._first, self._second = first, second

    def feed(self, data: bytes) -> bytes:
        return self._second.feed(self._first.feed(data))

    def end(self) -> bytes:
        return self._second.feed(self._first.end()) + self._second.end()


def form_of(ready: Ready, head: Spoken) -> str:
    """In which form of stream the client gets its answer; "" for one whole body, and for a coded stream: we cannot write into it."""
    return "" if head.coding else stream_format_of(ready.op, head.kind) or ""


def guarded(key: bytes, head: Spoken, line: Line) -> Line:
    """No provider hands our key to a caller: not in what can be read without decoding it."""
    return NoReflection(line, key) if key and not head.coding else line


def reworded(dialect: Dialect, ready: Ready, head: Spoken, purse: Purse | None, watch: Watch, *, asked_usage: bool) -> tuple[Line, bool]:
    """The line that changes an answer where something wants that, else the watch; and whether it reads it event by event, and so uncoded.

    `asked_usage`: by us, and it is taken out again.
    """
    line: Line = StripUsage(watch) if asked_usage and watch.is_stream and not head.coding else watch
    events = _by_events(dialect, ready, head, purse) if ready.vault or purse else None
    return (line, False) if events is None else (Through(line, events), True)


def _by_events(dialect: Dialect, ready: Ready, head: Spoken, purse: Purse | None) -> Line | None:
    """Gives values back, and may end an answer between two events. None: it cannot be read."""
    form = stream_format_of(ready.op, head.kind) or ("json" if "json" in head.kind else None)
    if form is None or (head.coding and head.coding not in READABLE):
        return None
    taps = (purse,) if purse else ()
    line = restoring(dialect, ready.op, ready.vault, form, head.coding, taps) if ready.vault else streaming(form, taps, head.coding)
    return purse.behind(line) if purse else line


def last_words(dialect: Dialect, ready: Ready, tail: Tail | None, form: str, code: str, text: str) -> bytes:
    """The error event of the dialect, where one can be said."""
    gap = tail.gap(form) if tail else None
    return b"" if gap is None else gap + dialect.error_event(ready.op, code, text, ready.call.id)
