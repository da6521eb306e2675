"""YAML text → plain values and the place of each, by the YAML 1.2 core rules. Knows no key of the policy; refuses aliases and tags."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import yaml

from proxy.policy.document import Tree
from proxy.policy.problems import Path, looks_secret
from proxy.policy.values import Trap

MAX_BYTES = 1 << 20
MAX_DEPTH = 40
NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
TRAPS = frozenset({"yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF"})
INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]{1,3})?")
OCTAL = re.compile(r"[-+]?0[0-9_]+")
SIXTIES = re.compile(r"[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?")
INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
FLAW = "(flaw)"  # stands for a scalar that was refused


def read_tree(raw: bytes) -> Tree:
    """Of UTF-8 text with or without BOM, at most 1 MiB. What is wrong stands in `flaws`; nothing is raised."""
    tree = Tree()
    text = _decoded(raw, tree)
    if text is None:
        return tree
    events = yaml.parse(text, Loader=yaml.CSafeLoader)
    try:
        _Builder(events, tree).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = str(error.problem or "cannot be read")
        is_tab = mark is not None and "\t" in "".join(text.splitlines()[mark.line : mark.line + 1])
        hint = "; indent with spaces, YAML allows no tabs" if is_tab else ""
        tree.flaws.append((*_place(mark), (), f"this is not YAML: {said}{hint}"))
    except yaml.YAMLError:
        tree.flaws.append((1, 1, (), "this is not YAML: it holds a control character"))
    return tree


def _decoded(raw: bytes, tree: Tree) -> str | None:
    if len(raw) > MAX_BYTES:
        flaw = "a policy holds at most 1 MiB, and this file is larger"
    elif raw[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\x00" in raw[:2]:
        flaw = "needs UTF-8, this file is UTF-16 or UTF-32"
    else:
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            flaw = f"needs UTF-8; byte {error.start} is not"
    tree.flaws.append((1, 1, (), flaw))
    return None


def _place(mark: Any) -> tuple[int, int]:
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


class _Builder:
    """Walks the parser's events once. A refused part is read on, so that all flaws come out at once."""

    def __init__(self, events: Iterator[yaml.Event], tree: Tree) -> None:
        self._events, self._tree = events, tree

    def document(self) -> None:
        next(self._events)  # stream start
        if isinstance(next(self._events), yaml.StreamEndEvent):
            return
        self._tree.data = self._node(next(self._events), ())
        next(self._events)  # document end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            self._flaw(after, (), "a policy is one YAML document; this file holds several (---)")

    def _flaw(self, event: yaml.Event, path: Path, message: str) -> None:
        self._tree.flaws.append((*_place(event.start_mark), path, message))

    def _node(self, event: yaml.Event, path: Path) -> object:
        self._tree.values[path] = _place(event.start_mark)
        if getattr(event, "anchor", None) is not None:
            self._flaw(event, path, "anchors and aliases (& and *) are refused; write it out")
        if isinstance(event, yaml.AliasEvent):
            return FLAW
        if getattr(event, "tag", None) is not None:
            self._flaw(event, path, "tags (!) are refused; write a plain value")
        if len(path) > MAX_DEPTH:
            mark: Any = event.start_mark
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} levels deep", mark)
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(path)
        return self._mapping(path)

    def _sequence(self, path: Path) -> tuple[object, ...]:
        items: list[object] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            items.append(self._node(event, (*path, len(items))))
        return tuple(items)

    def _mapping(self, path: Path) -> dict[object, object]:
        found: dict[object, object] = {}
        seen: dict[str, int] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._key(event, path)
            value = self._node(next(self._events), (*path, key))
            if key in seen:
                self._flaw(event, (*path, key), f"duplicate key, first on line {seen[key]}")
                continue
            seen[key] = self._tree.keys[(*path, key)][0]
            if value is not None:  # null is absent
                found[key] = value
        return found

    def _key(self, event: yaml.Event, path: Path) -> str:
        place = _place(event.start_mark)
        if not isinstance(event, yaml.ScalarEvent) or event.anchor is not None or event.tag is not None:
            self._flaw(event, path, "a key is plain text")
            self._node(event, (*path, FLAW))
            key = FLAW
        else:
            key = event.value
            if event.implicit[0] and key == "<<":
                self._flaw(event, path, "merge keys (<<) are refused; write it out")
            elif event.implicit[0] and (key in TRAPS or key in NULLS or key in TRUTHS):
                self._flaw(
                    event, (*path, key), "a plain yes, no, on, off, true, false or null is no name to every YAML reader: put it in quotes"
                )
        self._tree.keys.setdefault((*path, key), place)
        return key

    def _scalar(self, event: yaml.ScalarEvent, path: Path) -> object:
        said = event.value
        if looks_secret(said):
            self._flaw(event, path, "an inline secret: write env:NAME or file:path, and change this secret, it stood in a file")
            return FLAW
        if not event.implicit[0]:
            return said
        if said in NULLS or said in TRUTHS:
            return TRUTHS.get(said)
        if said in TRAPS:
            return Trap(said)
        if flaw := _trap(said):
            self._flaw(event, path, flaw)
            return FLAW
        return _number(said)


def _trap(said: str) -> str | None:
    if OCTAL.fullmatch(said) and said.strip("+-0_"):
        return "a number with a leading zero is octal to some YAML readers: write it without, or in quotes"
    if SIXTIES.fullmatch(said):
        return "digits with colons are a base-60 number to some YAML readers: write a unit (90s) or put it in quotes"
    if INFINITE.fullmatch(said):
        return "infinite and not-a-number are no amounts; write `off` for no limit"
    return None


def _number(said: str) -> object:
    if INTEGER.fullmatch(said):
        return int(said) if len(said) < 40 else Decimal(said)
    if FLOAT.fullmatch(said) and any(char.isdigit() for char in said):
        number = Decimal(said.replace("_", ""))
        return int(number) if number == number.to_integral_value() and number.adjusted() < 20 else number
    return said
