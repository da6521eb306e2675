"""Where a JSON document holds text, compiled from dotted patterns. Reads no JSON itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

_JSON, _TEXT = "!json", "!text"


@dataclass(slots=True, eq=False)
class _Node:
    """One place in the tree of patterns. `text`/`json`: a string here is wanted, plain or as JSON source; `either`: unless it is base64."""

    named: dict[str, _Node] = field(default_factory=dict)
    text: bool = False
    json: bool = False
    either: bool = False
    is_deep: bool = False  # `**`: stays itself below any key


_Nodes = tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a string is wanted as. `is_always` false: unless it is base64."""

    is_json: bool
    is_always: bool


@dataclass(slots=True, eq=False)
class Place:
    """A place of the document, for all patterns at once: what is wanted there, and where the steps down from it lead."""

    here: Wanted | None
    keys: Wanted | None  # of an object that stands here
    numbers: bool
    named: dict[bytes, Place | None] = field(default_factory=dict)
    other: Place | None = None  # below any other key, and below an index


@lru_cache(maxsize=256)
def compiled(patterns: tuple[str, ...]) -> Place | None:
    """The start of the walk. `a.*.b` any key or index, `a.**` any string at or below, `**.b` any `b` below, `!json` JSON in a string,
    `!text` a string that holds base64 elsewhere. None: nothing is wanted."""
    root = _Node()
    for pattern in patterns:
        node = root
        dotted = pattern.removesuffix(_JSON).removesuffix(_TEXT)
        for key in dotted.split(".") if dotted else ():
            node = node.named.setdefault(key, _Node(is_deep=key == "**"))
        node.text |= dotted == pattern
        node.json |= pattern.endswith(_JSON)
        node.either |= pattern.endswith(_TEXT)
    return _place(_closed([root]), {}) if patterns else None


def _place(nodes: _Nodes, known: dict[frozenset[_Node], Place]) -> Place | None:
    """The one place that stands for so many of the tree's, and those below it."""
    if not nodes:
        return None
    place = known.get(frozenset(nodes))
    if place is None:
        deep = tuple(node for node in nodes if node.is_deep)
        place = known[frozenset(nodes)] = Place(_wanted(nodes), _wanted(deep), any(node.text for node in deep))
        place.other = _place(_below(nodes, None), known)
        for name in {name for node in nodes for name in node.named} - {"*", "**"}:
            place.named[name.encode()] = _place(_below(nodes, name), known)
    return place


def _wanted(nodes: _Nodes) -> Wanted | None:
    is_json = any(node.json for node in nodes)
    if is_json or any(node.text for node in nodes):
        return Wanted(is_json, True)
    return Wanted(False, False) if any(node.either for node in nodes) else None


def _below(nodes: _Nodes, key: str | None) -> _Nodes:
    """One step down; `key` None is an array's index."""
    found: list[_Node] = []
    for node in nodes:
        if node.is_deep:
            found.append(node)
        if key is not None and key in node.named:
            found.append(node.named[key])
        if "*" in node.named:
            found.append(node.named["*"])
    return _closed(found)


def _closed(found: list[_Node]) -> _Nodes:
    """`**` also stands for no step at all."""
    for node in found:
        deep = node.named.get("**")
        if deep is not None and deep not in found:
            found.append(deep)
    return tuple(found)
