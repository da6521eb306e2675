"""Finds one short field in a multipart/form-data body (RFC 7578) as it passes. Reads no file and holds back no byte."""

from __future__ import annotations

import re

from proxy.refusal import Refusal

_BOUNDARY = re.compile(r'boundary=(?:"([^"]{1,70})"|([^\s;,"]{1,70}))', re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_NAME = re.compile(rb"""[;\s]name\*?\s*=\s*(?:utf-8'[^']*')?["']?([^"';\s]*)""", re.IGNORECASE)
_LONGEST = 512  # bytes of a field's value
_LONGEST_HEAD = 8 * 1024  # bytes of a part's header lines


class FormField:
    """Read as leniently as any reader might: what one of them could take for the field counts, and may come once."""

    def __init__(self, content_type: str, name: str) -> None:
        self.value: str | None = None
        self.is_decided = False  # the field, or the end of the form, was seen
        self._name = name
        found = _BOUNDARY.findall(content_type)
        self._mark = b"--" + (found[0][0] or found[0][1]).encode("latin-1", "replace") if len(found) == 1 else b""
        self._rest = b""

    def saw(self, piece: bytes) -> None:
        """The next bytes of the body. Raises Refusal 400 `duplicate_key`, `invalid_request` (a value longer than any name)."""
        if not self._mark:
            return  # no boundary, or two: never decided
        data, at = self._rest + piece, 0
        while (start := data.find(self._mark, at)) >= 0:
            at = start + len(self._mark)
            if data.startswith(b"--", at):
                self.is_decided = True
                continue
            head = _BLANK_LINE.search(data, at, at + _LONGEST_HEAD)
            if head is None and len(data) - at < _LONGEST_HEAD:
                self._rest = data[start:]
                return
            if head is None or not self._is_it(data[at : head.start()]):
                continue
            end = data.find(self._mark, head.end())
            if (len(data) if end < 0 else end) - head.end() > _LONGEST + len(self._mark):
                raise Refusal(400, "invalid_request", f"the form field {self._name} is too long", should_retry=False, close=True)
            if end < 0:
                self._rest = data[start:]
                return
            self._take(data[head.end() : end])
            at = end
        self._rest = data[max(at, len(data) - len(self._mark) - 1) :]

    def _is_it(self, lines: bytes) -> bool:
        return any(named == self._name.encode() for named in _NAME.findall(lines))

    def _take(self, value: bytes) -> None:
        if self.value is not None:
            raise Refusal(400, "duplicate_key", f"the form field {self._name} stands twice; send it once", should_retry=False, close=True)
        self.value, self.is_decided = value.strip().decode("utf-8", "replace"), True
