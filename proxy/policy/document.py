"""A policy as read: its model, and the place of every key in its file. Reads nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from pydantic import BaseModel

from proxy.policy.model import PolicyModel
from proxy.policy.problems import Path, Problem, path_text
from proxy.policy.tree import Tree
from proxy.policy.values import Ref

NO_FILE = "(no policy file)"


@dataclass(frozen=True, slots=True)
class Document:
    """One policy as read: `model` is valid, names resolved; `warnings` are what a reader should know."""

    model: PolicyModel
    file: str = NO_FILE
    tree: Tree = field(default_factory=Tree, repr=False)
    warnings: tuple[Problem, ...] = ()

    def problem(self, path: Path, message: str, *, key: bool = False) -> Problem:
        """At the place of `path`, or of the nearest thing around it."""
        return problem_at(self.file, self.tree, path, message, key=key)

    def references(self) -> Iterator[tuple[Path, Ref]]:
        """Every env: and file: of the policy, with its path."""
        return _references(self.model, ())


def problem_at(file: str, tree: Tree, path: Path, message: str, *, key: bool = False) -> Problem:
    """At the place of `path`; an index into a lone value is left out."""
    if path and isinstance(path[-1], int) and path not in tree.values:
        path = path[:-1]
    return Problem(file, *tree.at(path, key=key), path_text(path), message)


def _references(value: object, path: Path) -> Iterator[tuple[Path, Ref]]:
    if isinstance(value, Ref):
        yield path, value
    elif isinstance(value, BaseModel):
        for name, info in type(value).model_fields.items():
            yield from _references(getattr(value, name), (*path, info.alias or name))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _references(item, (*path, key))
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _references(item, (*path, index))
