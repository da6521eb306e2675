"""Where a JSON document holds text, compiled from dotted patterns. Reads no JSON itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

_JSON, _TEXT = "!json", "!text"


@dataclass(slots=True, eq=False)
class Node:
    """One place in the tree of patterns. `text`/`json`: a string here is wanted, plain or as JSON source; `either`: unless it is base64."""

    named: dict[str, Node] = field(default_factory=dict)
    text: bool = False
    json: bool = False
    either: bool = False
    is_deep: bool = False  # `**`: stays itself below any key


Nodes = tuple[Node, ...]


@lru_cache(maxsize=256)
def compiled(patterns: tuple[str, ...]) -> Nodes:
    """The start of the walk. `a.*.b` any key or index, `a.**` any string at or below, `**.b` any `b` below, `!json` JSON in a string,
    `!text` a string that holds base64 elsewhere."""
    root = Node()
    for pattern in patterns:
        node = root
        dotted = pattern.removesuffix(_JSON).removesuffix(_TEXT)
        for key in dotted.split(".") if dotted else ():
            node = node.named.setdefault(key, Node(is_deep=key == "**"))
        node.text |= dotted == pattern
        node.json |= pattern.endswith(_JSON)
        node.either |= pattern.endswith(_TEXT)
    return _closed((root,))


def below(nodes: Nodes, key: str | None) -> Nodes:
    """The places one step down; `key` None is an array's index."""
    found: list[Node] = []
    for node in nodes:
        if node.is_deep:
            found.append(node)
        if key is not None and key in node.named and key not in ("*", "**"):
            found.append(node.named[key])
        if "*" in node.named:
            found.append(node.named["*"])
    return _closed(tuple(found)) if found else ()


def _closed(nodes: Nodes) -> Nodes:
    """`**` also stands for no step at all."""
    found = list(nodes)
    for node in found:
        deep = node.named.get("**")
        if deep is not None and deep not in found:
            found.append(deep)
    return tuple(found)
