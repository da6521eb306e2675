"""One event of an answer: its payload, and the bytes around it. Knows no dialect and never touches unchanged bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import field
from typing import Protocol

from proxy.exchange import value

MAX_EVENT = 4 * 1024 * 1024  # bytes of one event (faults.md U23)


@value(frozen=True, slots=True)
class Event:
    """`raw` is what goes to the client; `data` the payload (b"" for comments and blank lines).

    A changed event is `before + data + after`: name, id, comments, separators and line endings stay the provider's own.
    """

    raw: bytes = field(repr=False)
    data: bytes = field(default=b"", repr=False)
    before: bytes = b""
    after: bytes = b""
    joint: bytes | None = None  # stands for `before` in a copy that is put in front of, or behind, this event
    newline: bytes = b"\ndata: "  # what stands between two lines of the payload

    def with_data(self, data: bytes) -> Event:
        """The same event saying something else. `data` is JSON: its line breaks are framing, not content."""
        framed = data.replace(b"\n", self.newline) if b"\n" in data else data
        return Event(self.before + framed + self.after, data, self.before, self.after, self.joint, self.newline)

    def copy_with(self, data: bytes) -> Event:
        """One more event of this kind."""
        before = self.before if self.joint is None else self.joint
        after = self.after + b"\n" if self.after.endswith(b"\n\r") else self.after  # its last LF was still under way
        return Event(b"", b"", before, after, self.joint, self.newline).with_data(data)


class Decoder(Protocol):
    """Bytes in, events out. The events' `raw` join up to exactly the bytes fed."""

    def feed(self, data: bytes) -> list[Event]:
        """Raises UpstreamCut where one event passes its bound."""
        ...

    def is_whole(self, data: bytes) -> bool:
        """Are these bytes whole events, with none under way before them? Such bytes may pass by unfed. False where that is not known."""
        ...

    def end(self) -> list[Event]:
        """The body is over: what is left, complete or not."""
        ...


class Tap(Protocol):
    """One stage of a line. It may hold back, must give back, and never waits."""

    def feed(self, event: Event) -> Iterable[Event]: ...
    def end(self) -> Iterable[Event]: ...
