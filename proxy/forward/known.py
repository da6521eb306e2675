"""Heads of answers that came before, but for what varies in them: one match reads another. Knows none but those llhttp has let pass."""

from __future__ import annotations

import re
from collections.abc import Callable

from proxy.exchange import RawHeaders, Spoken
from proxy.forward.redirect import LEADING

Reaching = Callable[[RawHeaders], RawHeaders]  # of a head's lines those that reach the client; goes by names and by what Connection says

MOST = 256  # heads that are kept, or were seen once; then all are forgotten
LARGEST = 4096  # bytes of a head that is kept
LIKELY = 4  # forms that a connection tries

# Lines whose value says how to read the answer, or which lines travel: in another value it is another head.
_CONSTANT = frozenset({b"connection", b"proxy-connection", b"transfer-encoding", b"content-type", b"content-encoding"})
_VALUE = rb"(?![ \t])[\t -~\x80-\xff]*+(?<![ \t])"  # such bytes as llhttp lets pass in a value
_DIGITS = rb"([0-9]{1,18})"

Key = tuple[bytes, RawHeaders]


def said_by(headers: RawHeaders) -> Spoken:
    """What the lines say of the body; of a line that is repeated, the first that says something."""
    kind = coding = b""
    leads = shares = False
    for spelt, value in headers:
        name = spelt.lower()
        if name == b"content-type":
            kind = kind or value
        elif name == b"content-encoding":
            coding = coding or value.strip().lower()
        elif name in LEADING:
            leads = True
        elif name.startswith(b"access-control-"):
            shares = True
    return Spoken(kind.decode("latin-1"), "" if coding == b"identity" else coding.decode("latin-1"), leads, shares)


class Known:
    """All that is the same in heads of this form. `match(data)` has the lines as its first group, then the rest in their order."""

    __slots__ = ("facts", "length_at", "match", "run_at", "runs")

    def __init__(self, start: bytes, headers: RawHeaders, travelling: RawHeaders, reason: bytes) -> None:
        names = [name.lower() for name, _ in headers]
        self.facts = int(start[9:12]), reason, said_by(headers)
        self.length_at = 0  # among the groups; 0: no length is said
        self.runs: list[int] = []  # lines that travel, as on the wire
        reach = set(map(id, travelling))
        parts, groups, was_in = [], 1, False
        for line, name in zip(headers, names, strict=True):
            if (is_in := id(line) in reach) and not was_in:
                self.runs.append(groups)
                groups += 1
            if name == b"content-length":
                self.length_at = groups
                groups += 1
            parts.append((b")" if was_in and not is_in else b"", b"(" if is_in and not was_in else b"", _form(line, name)))
            was_in = is_in
        self.run_at = self.runs[0] if len(self.runs) == 1 else 0  # where it is one; 0: it is none, or more
        lines = b"".join([end + (rb"\r\n" if at else b"") + begin + form for at, (end, begin, form) in enumerate(parts)])
        self.match = re.compile(re.escape(start) + rb"\r\n(" + lines + (b")" if was_in else b"") + rb")\r\n\r\n").match


def _form(line: tuple[bytes, bytes], name: bytes) -> bytes:
    """A line as on the wire, with a place for what varies."""
    value = _DIGITS if name == b"content-length" else re.escape(line[1]) if name in _CONSTANT else _VALUE
    return re.escape(line[0]) + b": " + value


class KnownHeads:
    """Of all connections. What was seen twice is worth knowing: a head that nobody sends again costs no compiled form."""

    def __init__(self, reaching: Reaching) -> None:
        self._reaching = reaching
        self._seen: dict[Key, Known | None] = {}

    def learn(self, start: bytes, headers: RawHeaders, reason: bytes) -> Known | None:
        """The form of a head that came whole and in one read, and was not the last, if it is worth one. `start`: its first line."""
        names = tuple([(name, value if name.lower() in _CONSTANT else b"") for name, value in headers])
        if not headers or sum([len(name) + len(value) for name, value in headers]) > LARGEST:
            return None
        key = (start, names)
        if key not in self._seen:
            if len(self._seen) >= MOST:
                self._seen.clear()
            self._seen[key] = None
            return None
        known = self._seen[key]
        if known is None:
            known = self._seen[key] = Known(start, headers, self._reaching(headers), reason)
        return known


def lines_of(block: bytes) -> RawHeaders:
    """The lines of a head that was matched, one by one."""
    return tuple([(name, value) for name, _, value in [line.partition(b": ") for line in block.split(b"\r\n")]])
