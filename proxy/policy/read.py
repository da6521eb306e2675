"""Policy file → `Document`: the validated model with the place of every key. Resolves no secret; raises all errors at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path as FilePath
from typing import Any, cast

from pydantic import BaseModel, ValidationError

from proxy.policy.document import NO_FILE, Document, Tree, problem_at
from proxy.policy.model import PolicyModel
from proxy.policy.names import check_names
from proxy.policy.problems import Path, PolicyErrors, Problem, path_text
from proxy.policy.tree import MAX_BYTES, read_tree
from proxy.policy.unreachable import idle_rules
from proxy.policy.unsupported import unsupported
from proxy.policy.values import Ref
from proxy.policy.wording import MANY, findings


def read_policy(path: FilePath | None, text: str | None = None) -> Document:
    """No path and no text: the empty policy. Raises PolicyErrors (an unreadable file is one too)."""
    if path is None and text is None:
        return Document(PolicyModel())
    file = NO_FILE if path is None else str(path)
    tree = read_tree(_content(path, text, file))
    return _document(file, tree)


def _content(path: FilePath | None, text: str | None, file: str) -> bytes:
    if text is not None or path is None:
        return (text or "").encode("utf-8", "surrogatepass")
    try:
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise PolicyErrors([Problem(file, 0, 0, "", f"cannot be read: {error.strerror or type(error).__name__}")]) from error


def _document(file: str, tree: Tree) -> Document:
    problems = [Problem(file, line, col, path_text(path), message) for line, col, path, message in tree.flaws]
    data = {} if tree.data is None else tree.data
    if not isinstance(data, dict):
        if not problems:
            problems.append(Problem(file, *tree.at(()), "", "a policy is a map of keys, like `version: 1`"))
        raise PolicyErrors(problems)
    problems += [problem_at(file, tree, path, message, key=True) for path, message in unsupported(data)]
    model, found, lost = _validated(data)
    problems += [problem_at(file, tree, path, message, key=key) for path, key, message in found]
    warnings: list[Problem] = []
    if model is not None:
        errors, remarks = check_names(model, data)
        wrong = [*(path for *_, path, _ in tree.flaws), *(path for path, *_ in found)]
        if not any(path[:1] in ((), ("rules",)) for path in wrong):  # a match that lost a wrong part would seem to hide other rules
            errors = [*errors, *idle_rules(model.rules)]
        problems += [problem_at(file, tree, written(path, lost), message) for path, message in errors]
        warnings = [problem_at(file, tree, path, message) for path, message in remarks]
    if problems or model is None:
        raise PolicyErrors(problems)
    return Document(model, file, tree, tuple(_references(model, ())), tuple(warnings))


def _references(value: object, path: Path) -> Iterator[tuple[Path, Ref]]:
    """Every env: and file: of the policy, with its path."""
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


def _validated(data: Mapping[str, object]) -> tuple[PolicyModel | None, list[tuple[Path, bool, str]], frozenset[Path]]:
    """The model of what is right, every finding, and the paths left out: wrong parts are, until the rest is valid, so that names are
    checked too."""
    found: list[tuple[Path, bool, str]] = []
    lost: frozenset[Path] = frozenset()
    rest: object = data
    for turn in range(8):
        try:
            return PolicyModel.model_validate(rest), found, lost
        except ValidationError as error:
            new = [
                (place_of(path[:-1], rest) + path[-1:] if key else place_of(path, rest), key, says) for path, key, says in findings(error)
            ]
            found = new if turn == 0 else found
            if len(new) > MANY:
                break
            wrong = {place_of(detail["loc"], rest) for detail in error.errors() if detail["type"] != "unknown_keys"}
            wrong |= {place for place, *_ in new}
            lost |= {written(place, lost) for place in wrong}
            rest = without(data, lost)
    return None, found, lost


def written(path: Path, lost: frozenset[Path]) -> Path:
    """A path in what is left → the path in the file: an item of a list counts those left out before it."""
    out: Path = ()
    for part in path:
        if isinstance(part, int):
            for gone in sorted(one[-1] for one in lost if one[:-1] == out and isinstance(one[-1], int)):
                part += gone <= part
        out = (*out, part)
    return out


def place_of(path: Path, data: object) -> Path:
    """pydantic's location → the path in the data: parts that the data does not have (a lone value in a list) are left out."""
    out: list[str | int] = []
    at: Any = data
    for part in path:
        if part in at if isinstance(at, dict) else isinstance(at, tuple) and part in range(len(at)):
            at = cast(Any, at)[part]
            out.append(part)
    return tuple(out)


def without(data: object, paths: AbstractSet[Path]) -> object:
    """A copy with the values at `paths` left out; a list's item goes as a whole, one of many stays."""
    if () in paths:
        return {}
    if isinstance(data, dict):
        return {key: _below(value, key, paths) for key, value in data.items() if (key,) not in paths}
    if isinstance(data, tuple):
        return tuple(_below(value, index, paths) for index, value in enumerate(data) if (index,) not in paths)
    return data


def _below(value: object, part: str | int, paths: AbstractSet[Path]) -> object:
    below = {path[1:] for path in paths if path[0] == part and len(path) > 1}
    return without(value, below) if below else value
