"""The line that body bytes pass when a policy rewrites the answer: decode, taps, encode. Rewrites nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from proxy.stream.coding import Inflater
from proxy.stream.event import Decoder, Event, Tap
from proxy.stream.jsonarray import JsonArrayDecoder
from proxy.stream.ndjson import NdjsonDecoder
from proxy.stream.sse import SseDecoder
from proxy.stream.whole import MAX_WHOLE

DECODERS: Mapping[str, Callable[[], Decoder]] = {"sse": SseDecoder, "ndjson": NdjsonDecoder, "json-array": JsonArrayDecoder}  # by form


Calm = Callable[[bytes], bool]  # do these whole events, framing and all, concern no tap of the line?


def streaming(form: str, taps: Sequence[Tap], coding: str = "", is_calm: Calm | None = None) -> Line:
    """The line of a stream. `coding` (gzip, deflate): it comes encoded and leaves as identity."""
    return Line(DECODERS[form](), taps, Inflater(coding, MAX_WHOLE) if coding else None, is_calm)


class Line:
    """A `ports.Line`. Events that no tap changed leave as the bytes they came in."""

    lag = 0

    def __init__(self, decoder: Decoder, taps: Sequence[Tap], inflater: Inflater | None = None, is_calm: Calm | None = None) -> None:
        self._decoder = decoder
        self._taps = taps
        self._inflater = inflater
        self._is_calm = is_calm
        self._is_cut = False

    def feed(self, data: bytes) -> bytes:
        """Raises UpstreamCut where the answer breaks a bound."""
        if self._inflater:
            data = self._inflater.feed(data)
        if self._is_calm and self._decoder.is_whole(data) and self._is_calm(data):
            return data  # as nearly every event of a stream: decoded, it would come out as it is
        return self._through(self._decoder.feed(data), self._taps)

    def cut(self) -> None:
        """The answer ends here by our will: the event under way is left out of `end`, what taps hold is not."""
        self._is_cut = True

    def end(self) -> bytes:
        """What is held comes out: the decoder's rest through all taps, then each tap's through those behind it."""
        parts = [self._through(() if self._is_cut else self._decoder.end(), self._taps)]
        for number, tap in enumerate(self._taps, 1):
            parts.append(self._through(tap.end(), self._taps[number:]))
        return b"".join(parts)

    @staticmethod
    def _through(events: Iterable[Event], taps: Sequence[Tap]) -> bytes:
        for tap in taps:
            events = [out for event in events for out in tap.feed(event)]
        return b"".join([event.raw for event in events])
