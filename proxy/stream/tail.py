"""How what passed of a stream ended: an error event can stand between two events, and nowhere else. Changes no byte."""

from __future__ import annotations

import re

LONGEST = 4  # bytes of a blank line and the line end before it: as many of the last ones must be known
_LINE_END = re.compile(rb"(?:\r\n|\n|\r)\Z")
_BLANK_LINE = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)\Z")


def gap(passed: bytes, form: str) -> bytes | None:
    """What must stand before an event of our own in this form of stream; None: an event is under way, none can be said.

    `passed`: what passed last. A reader throws an event away whose end never comes. One that we ended for the provider it would take for
    the provider's.
    """
    last = passed[-LONGEST:]
    if form == "json-array":
        return b"" if last.rstrip().endswith(b"}") else None
    if form == "ndjson":
        return b"" if not last or last.endswith(b"\n") else None
    if not last or _BLANK_LINE.search(last):
        return b""
    ended = _LINE_END.search(last)
    return ended.group() if ended else None
