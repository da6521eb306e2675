"""A policy as read: what it says, and the place of every key in its file. Reads nothing, and needs no model of the language."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.policy.problems import Path, Problem, path_text
from proxy.policy.values import Ref

if TYPE_CHECKING:
    from proxy.policy.model import PolicyModel

NO_FILE = "(no policy file)"


class Said:
    """A `fields.Part` without pydantic, as it travels between processes: what its fields and properties say, and which were named."""

    __slots__ = ("__dict__", "model_fields_set")

    def __init__(self, said: Mapping[str, object], named: AbstractSet[str]) -> None:
        self.__dict__.update(said)
        self.model_fields_set = named

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Said) and vars(self) == vars(other)


@dataclass(slots=True)
class Tree:
    """The values, and (line, column) from 1 of every key and every value by path."""

    data: object = None
    keys: dict[Path, tuple[int, int]] = field(default_factory=dict)
    values: dict[Path, tuple[int, int]] = field(default_factory=dict)
    flaws: list[tuple[int, int, Path, str]] = field(default_factory=list)

    def at(self, path: Path, *, key: bool = False) -> tuple[int, int]:
        """Where `path` stands, or the nearest thing around it."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, (1, 1))


@dataclass(frozen=True, slots=True)
class Document:
    """One policy as read: `model` is valid (its parts are `Said` behind `apart`), names resolved; `references` are its env: and file:,
    with their paths; `warnings` are what a reader should know."""

    model: PolicyModel
    file: str = NO_FILE
    tree: Tree = field(default_factory=Tree, repr=False)
    references: tuple[tuple[Path, Ref], ...] = ()
    warnings: tuple[Problem, ...] = ()

    def problem(self, path: Path, message: str, *, key: bool = False) -> Problem:
        """At the place of `path`, or of the nearest thing around it."""
        return problem_at(self.file, self.tree, path, message, key=key)


def problem_at(file: str, tree: Tree, path: Path, message: str, *, key: bool = False) -> Problem:
    """At the place of `path`; an index into a lone value is left out."""
    if path and isinstance(path[-1], int) and path not in tree.values:
        path = path[:-1]
    return Problem(file, *tree.at(path, key=key), path_text(path), message)
