"""Finds one short field in the beginning of a multipart/form-data body (RFC 7578). Reads no file and never the whole."""

from __future__ import annotations

import re

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_NAME = re.compile(rb'(?:^|[;\s])name="([^"]*)"', re.IGNORECASE)
_LONGEST = 512  # bytes of a field's value


def form_field(head: bytes, content_type: str, name: str) -> tuple[bool, str | None]:
    """(is it decided, the field's value). Decided without a value: there is no such field, or it cannot be read."""
    found = _BOUNDARY.search(content_type)
    if found is None:
        return True, None
    mark = b"--" + (found[1] or found[2]).encode("latin-1", "replace")
    at = head.find(mark)
    while at >= 0:
        start = at + len(mark)
        if head.startswith(b"--", start):
            return True, None
        lines_end = head.find(b"\r\n\r\n", start)
        if lines_end < 0:
            return False, None
        end = head.find(b"\r\n" + mark, lines_end + 2)
        lines = head[start:lines_end]
        named = _NAME.search(lines)
        if named is not None and named[1] == name.encode() and b"filename" not in lines.lower():
            if end < 0:
                return len(head) - lines_end > _LONGEST, None
            value = head[lines_end + 4 : end]
            return True, value.decode("utf-8", "replace") if len(value) <= _LONGEST else None
        at = end + 2 if end >= 0 else -1
    return False, None
