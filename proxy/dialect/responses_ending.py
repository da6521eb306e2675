"""The good end of a Responses stream: what is open is closed as far as it came, then `response.incomplete`. Invents no text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from proxy.dialect.ending import MAX_TEXT, read, sse
from proxy.dialect.fields import mapping
from proxy.dialect.openai_texts import ENDS_ALL
from proxy.dialect.wire import Json
from proxy.exchange import Usage

# what grows by deltas: where its parts stand in the item ("" the item itself), and in which field of them
_GROWING = {
    "response.output_text": ("content", "text"),
    "response.refusal": ("content", "refusal"),
    "response.reasoning_text": ("content", "text"),
    "response.reasoning_summary_text": ("summary", "text"),
    "response.function_call_arguments": ("", "arguments"),
    "response.custom_tool_call_input": ("", "input"),
}
_PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
_INDEX = {"content": "content_index", "summary": "summary_index", "": ""}


@dataclass(slots=True)
class _Text:
    """One growing text, and the part that it belongs to."""

    stem: str
    pieces: list[str] = field(default_factory=list)
    is_open: bool = True


@dataclass(slots=True)
class _Item:
    """One output item under way. Keys of `parts` and `texts`: (place, index)."""

    shown: dict[str, object]
    parts: dict[tuple[str, int], Json] = field(default_factory=dict)
    texts: dict[tuple[str, int], _Text] = field(default_factory=dict)
    is_open: bool = True


class ResponsesEnding:
    def __init__(self) -> None:
        self._response: dict[str, object] = {}
        self._items: dict[int, _Item] = {}
        self._sequence = -1
        self._left = MAX_TEXT
        self._is_over = False

    def saw(self, data: bytes) -> None:
        event = read(data)
        kind = str(event.get("type", ""))
        self._sequence = _number(event, "sequence_number", self._sequence)
        if kind in ENDS_ALL or kind == "error":
            self._is_over = True
        elif isinstance(event.get("response"), dict):
            self._response = dict(mapping(event["response"]))
        elif kind.startswith("response.output_item."):
            item = self._items.setdefault(_number(event, "output_index"), _Item({}))
            item.shown, item.is_open = dict(mapping(event.get("item"))), not kind.endswith(".done")
        elif (known := self._items.get(_number(event, "output_index"))) is not None:
            self._grew(known, *kind.rpartition(".")[::2], event)

    def _grew(self, item: _Item, stem: str, what: str, event: Json) -> None:
        if (place := _PARTS.get(stem)) is not None:
            item.parts[place, _number(event, _INDEX[place])] = mapping(event.get("part"))
            return
        if stem not in _GROWING:
            return
        place, name = _GROWING[stem]
        text = item.texts.setdefault((place, _number(event, _INDEX[place])), _Text(stem))
        piece = event.get("delta") if what == "delta" else event.get(name)
        if not isinstance(piece, str) or len(piece) > self._left:
            return
        self._left -= len(piece)
        if what == "delta":
            text.pieces.append(piece)
        else:
            text.pieces, text.is_open = [piece], False

    @property
    def is_possible(self) -> bool:
        return bool(self._response) and not self._is_over

    def words(self, usage: Usage) -> bytes:
        events: list[Json] = []
        output: list[object] = []
        for index, item in sorted(self._items.items()):
            if item.is_open:
                events += _closing(index, item)
            output.append(item.shown)
        figures = {
            "input_tokens": usage.input,
            "input_tokens_details": {"cached_tokens": usage.cached_input},
            "output_tokens": usage.output,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.input + usage.output,
        }
        why = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        events.append({"type": "response.incomplete", "response": {**self._response, **why, "output": output, "usage": figures}})
        return sse(*[{**event, "sequence_number": self._sequence + n} for n, event in enumerate(events, 1)], named=True)


def _closing(index: int, item: _Item) -> Iterator[Json]:
    """The `done` events of an item, inside out; the item is left as it will be shown."""
    where = {"item_id": item.shown.get("id"), "output_index": index}
    lists: dict[str, list[object]] = {}
    for (place, number), text in sorted(item.texts.items()):
        name, said = _GROWING[text.stem][1], "".join(text.pieces)
        here = where | ({_INDEX[place]: number} if place else {})
        if text.is_open:
            yield {"type": f"{text.stem}.done", **here, name: said}
        if not place:
            item.shown[name] = said
            continue
        part = {**item.parts.get((place, number), {}), name: said}
        lists.setdefault(place, []).append(part)
        if text.is_open:
            yield {"type": next(stem for stem, of in _PARTS.items() if of == place) + ".done", **here, "part": part}
    item.shown |= {**lists, "status": "incomplete"}
    yield {"type": "response.output_item.done", "output_index": index, "item": item.shown}


def _number(event: Json, name: str, default: int = 0) -> int:
    number = event.get(name)
    return number if isinstance(number, int) else default
