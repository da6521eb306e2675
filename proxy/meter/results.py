"""Usage out of the results of a batch, one line for each of its requests, added up as they pass. Keeps one line, and no text."""

from __future__ import annotations

import orjson

from proxy.dialect.fields import mapping
from proxy.dialect.jobs import Sums, add_results
from proxy.exchange import Usage
from proxy.meter.reading import TooLong
from proxy.meter.whole import MAX_WHOLE


class LinesReading:
    """The results of a batch, one line for each of its requests: added up as they pass."""

    def __init__(self) -> None:
        self.usage: Usage | None = None
        self.error: str | None = None
        self.is_odd = False
        self.is_whole = False
        self._sums = Sums()
        self._rest = b""

    def take(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_WHOLE:
            raise TooLong
        self._add(lines)

    def look(self) -> None:
        if self._rest.strip().endswith(b"}"):  # the last line without its end
            self._add([self._rest])
            self._rest = b""
        self.is_whole = not self._rest.strip()

    def counted(self) -> None:
        return None

    def doc(self) -> None:
        return None

    @property
    def usages(self) -> tuple[Usage, ...]:
        """By model."""
        return self._sums.usages()

    def _add(self, lines: list[bytes]) -> None:
        for line in lines:
            if not line.strip():
                continue
            try:
                add_results(self._sums, (mapping(orjson.loads(line)),))
            except orjson.JSONDecodeError:
                self.is_odd = True
