"""Accessors for JSON of unknown shape, and the matcher of surface patterns. Trusts no type and raises on none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast
from urllib.parse import unquote

from proxy.dialect.wire import Json, Path
from proxy.exchange import NOTHING, Usage
from proxy.refusal import Refusal

MODELS_MOST = 1_048_576  # tokens; more than any model writes in one answer
DEEP = 128  # levels of a document that are looked into
ODD = "usage_odd"  # a negative, non-numeric or absurd figure stood in the provider's usage
DECREASED = "usage_decreased"  # a cumulative figure went down within one stream; the last one counts


def mapping(value: object) -> Json:
    return cast(Json, value) if isinstance(value, dict) else NOTHING


def items(value: object) -> Sequence[object]:
    return value if isinstance(value, list) else ()


def text(value: object) -> str | None:
    """A non-empty string, else None."""
    return value if isinstance(value, str) and value else None


def at(value: object, *keys: str | int) -> object:
    """What stands at this path, None where the path leads nowhere."""
    for key in keys:
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list) and isinstance(key, int):
            value = value[key] if key < len(value) else None
        else:
            return None
    return value


def label(value: object) -> str:
    """An identifier of theirs as part of a channel's name; "" for what is none."""
    return str(value)[:128] if isinstance(value, str | int) else ""


def index_of(entry: object, default: int) -> int:
    """The entry's own `index`, else its place."""
    index = at(entry, "index")
    return index if isinstance(index, int) and not isinstance(index, bool) else default


def plain_path(path: str) -> str:
    """A raw path as a provider reads it for routing: percent-decoded, without empty segments."""
    return "/" + "/".join(segment for segment in unquote(path).split("/") if segment)


def output_limit(doc: Json, names: Sequence[str]) -> int | None:
    """The largest of these output limits. Raises Refusal 400 for a value of a wrong type; null is absent, 0 or less bounds nothing."""
    most = 0
    for name in names:
        if name in doc and (value := doc[name]) is not None:
            if type(value) is not int:
                raise Refusal(400, "invalid_request", f"{name} must be an integer", should_retry=False)
            limit = value if value > 0 else MODELS_MOST  # what it means is the provider's to say: 0 to echo, -1 without end
            if limit > most:
                most = limit
    return most or None


def several(*values: object) -> int:
    """How many answers are asked for: the largest usable figure, 1 where there is none. Providers read "4" and 4.0 as 4, too."""
    return max((number for value in values if (number := _meant(value)) > 0), default=1)


def _meant(value: object) -> int:
    match value:
        case bool():
            return 0
        case int():
            return value
        case float() if value.is_integer():
            return int(value)
        case str() if len(value) < 20 and value.strip().isdecimal():
            return int(value)
    return 0


def merged(old: Json, new: Json, levels: int = 4) -> dict[str, object]:
    """Two cumulative usage objects of one stream: the last one wins per field, null takes nothing back."""
    out = dict(old)
    for key, value in new.items():
        if isinstance(value, dict) and levels:
            out[key] = merged(mapping(out.get(key)), value, levels - 1)
        elif value is not None:
            out[key] = value
    return out


def noted(so_far: Usage | None, now: Usage) -> Usage:
    """`now`, with a note where a cumulative figure went down."""
    if so_far is None or (now.input >= so_far.input and now.output >= so_far.output):
        return now
    return replace(now, note=now.note or DECREASED)


def texts_at(surface: Sequence[str], value: object, root: Path = ()) -> tuple[tuple[Path, bool], ...]:
    """Paths of the strings in `value` that `surface` names, each once, in the order of the patterns; (path, is_json)."""
    found: dict[Path, bool] = {}
    for pattern in surface:
        is_json = pattern.endswith("!json")
        for path in _matches(value, pattern.removesuffix("!json").split("."), root):
            found.setdefault(path, is_json)
    return tuple(found.items())


def _matches(value: object, keys: Sequence[str], path: Path) -> Iterator[Path]:
    if not keys:
        if isinstance(value, str):
            yield path
        return
    if len(path) > DEEP:
        return
    key, rest = keys[0], keys[1:]
    if key == "**":
        yield from _matches(value, rest, path)
    for name, child in _children(value):
        if key == "**":
            yield from _matches(child, keys, (*path, name))
        elif key in ("*", name):
            yield from _matches(child, rest, (*path, name))


def _children(value: object) -> Iterator[tuple[str | int, object]]:
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, list):
        yield from enumerate(value)
