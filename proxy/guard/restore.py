"""The line that gives an answer its values back, streamed or whole. Events keep their order, number and framing; only texts change.

The one exception: text held back when its channel ends, because it might have become a placeholder and did not, goes out
before the ending event in a small event of its own, modelled on the last piece of that channel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import orjson

from proxy.dialect.wire import Dialect, Operation, Path, Said
from proxy.guard.texts import texts
from proxy.guard.unmask import Pieces, Swap
from proxy.guard.vault import Vault
from proxy.stream.coding import Inflater
from proxy.stream.event import Event, Tap
from proxy.stream.spans import edit, value_span
from proxy.stream.taps import Line, streaming
from proxy.stream.whole import MAX_WHOLE, WholeDecoder

Form = Literal["sse", "ndjson", "json-array", "json"]
_BACKSLASH = 0x5C
Texts = dict[Path, list[str]]  # where, what stood there, and what shall


def restoring(dialect: Dialect, op: Operation, vault: Vault, form: Form, coding: str = "", behind: Sequence[Tap] = ()) -> Line:
    """A `ports.Line` for one answer. `coding` (gzip, deflate): the answer comes encoded and leaves as identity. `behind`: more taps.

    Build it only where `len(vault)` is not 0: with nothing to restore the answer is relayed as it comes.
    """
    swap = Swap(vault)
    if form == "json":
        whole = UnmaskWhole(dialect.answer_surface(op), swap)
        return Line(WholeDecoder(), (whole, *behind), Inflater(coding, MAX_WHOLE) if coding else None)
    unmask = Unmask(dialect, op, swap)
    return streaming(form, (unmask, *behind), coding, None if behind else unmask.is_calm)


class UnmaskWhole:
    """A tap for a whole JSON answer: only the placeholders' own bytes change."""

    def __init__(self, surface: tuple[str, ...], swap: Swap) -> None:
        self._surface, self._swap = surface, swap

    def feed(self, event: Event) -> Sequence[Event]:
        if not self._swap.may_stand.search(event.data):
            return (event,)
        try:
            orjson.loads(event.data)
        except orjson.JSONDecodeError:
            return (event,)
        edits = [
            (text.raw_at(start), text.raw_at(end), value)
            for text, quotes in texts(event.data, self._surface)
            if 0x5B in text.text  # a bracket
            for start, end, value in self._swap.found(text.text, quotes)
        ]
        return (event.with_data(edit(event.data, edits)),) if edits else (event,)

    def end(self) -> Sequence[Event]:
        return ()


class Unmask:
    """A tap for a stream: the texts of each channel are read as one, wherever the provider cuts them."""

    def __init__(self, dialect: Dialect, op: Operation, swap: Swap) -> None:
        self._dialect, self._op, self._swap = dialect, op, swap
        self._opens = swap.opens.search
        self._channels: dict[str, Pieces] = {}
        self._last: dict[str, tuple[Event, Path]] = {}  # of channels that hold text: the piece it came in

    def is_calm(self, data: bytes) -> bool:
        """No text is held, and nowhere in these bytes, an event or several, does a placeholder stand or begin."""
        if self._last or self._opens(data) is not None:
            return False
        return _BACKSLASH not in data or self._swap.spells.search(data) is None

    def feed(self, event: Event) -> Sequence[Event]:
        if not event.data or self.is_calm(event.data):
            return (event,)
        try:
            doc = orjson.loads(event.data)
        except orjson.JSONDecodeError:
            doc = None
        if not isinstance(doc, dict):  # [DONE], the closing bracket: nothing may follow
            return (*self.end(), event)
        said = self._dialect.said(self._op, doc)
        texts: Texts = {}
        ended: list[Event] = []
        spoke = self._hear(event, doc, said, texts)
        for channel in self._ended(said):
            if channel in spoke:
                texts[spoke[channel]][1] += self._channels[channel].end()
                self._last.pop(channel, None)
            else:
                ended += self._flush(channel)
        for path, is_json in said.wholes:
            whole = _at(doc, path)
            if isinstance(whole, str):
                texts[path] = [whole, self._swap.swapped(whole, is_json)]
        return (*ended, _retold(event, texts))

    def end(self) -> Sequence[Event]:
        return [event for channel in list(self._last) for event in self._flush(channel)]

    def _hear(self, event: Event, doc: object, said: Said, texts: Texts) -> dict[str, Path]:
        """Takes each piece into its channel; tells where each channel spoke last in this event."""
        spoke: dict[str, Path] = {}
        for channel, path, is_json in said.deltas:
            piece = _at(doc, path)
            if not isinstance(piece, str):
                continue
            pieces = self._channels.get(channel) or self._channels.setdefault(channel, Pieces(self._swap, is_json))
            texts[path] = [piece, pieces.feed(piece)]
            spoke[channel] = path
            if pieces.held:
                self._last[channel] = event, path
            else:
                self._last.pop(channel, None)
        return spoke

    def _ended(self, said: Said) -> list[str]:
        return [channel for channel in self._last if channel in said.ends or "*" in said.ends]

    def _flush(self, channel: str) -> list[Event]:
        event, path = self._last.pop(channel)
        rest = self._channels[channel].end()
        return [event.copy_with(orjson.dumps(_modelled(orjson.loads(event.data), path, rest)))]


def _at(doc: object, path: Path) -> object:
    for step in path:
        if isinstance(doc, dict):
            doc = doc.get(step)
        elif isinstance(doc, list) and isinstance(step, int) and step < len(doc):
            doc = doc[step]
        else:
            return None
    return doc


def _retold(event: Event, texts: Texts) -> Event:
    """The event with its new texts; the very same one where none is new."""
    edits = []
    for path, (was, text) in texts.items():
        span = value_span(event.data, path, was) if text != was else None
        if span:
            edits.append((*span, orjson.dumps(text)))
    return event.with_data(edit(event.data, edits)) if edits else event


def _modelled(piece: object, path: Path, text: str, is_top: bool = True) -> object:
    """A piece of the same channel that says `text`: what leads there, and of its neighbours only what says where it belongs.

    Names, ids and signatures would be added up, or read twice, by the caller's SDK.
    """
    if not path:
        return text
    step, rest = path[0], path[1:]
    if isinstance(piece, list) and isinstance(step, int):
        return [_modelled(piece[step], rest, text, False)]
    assert isinstance(piece, dict)
    kept = {
        key: value
        for key, value in piece.items()
        if key == step or not isinstance(value, (dict, list, str)) or (isinstance(value, str) and (is_top or key in ("type", "role")))
    }
    kept[step] = _modelled(piece[step], rest, text, False)
    return kept
