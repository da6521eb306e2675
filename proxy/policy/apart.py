"""A policy read in a process of its own: pydantic and the model of the language weigh 13 MB, and whoever serves needs what they found.
Compiles nothing."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path as FilePath
from typing import cast

from proxy.policy.document import Document
from proxy.policy.problems import PolicyErrors, Problem

Reading = Callable[[], Document]  # raises PolicyErrors


def read_here(path: FilePath | None) -> Document:
    """In this process, as it comes from a child: a reload, which keeps pydantic from then on. Raises PolicyErrors."""
    return _document(_read(path))


def reading_apart(path: FilePath | None) -> Reading:
    """Forks, so that only a process without threads may ask: at start. What is given back waits for what the child found."""
    there, here = os.pipe()
    try:
        child = os.fork()
    except OSError:  # no process more is allowed here
        os.close(there)
        os.close(here)
        return lambda: read_here(path)
    if child == 0:
        _say(here, path)
    os.close(here)

    def read() -> Document:
        with open(there, "rb") as pipe:
            found = pipe.read()
        _, status = os.waitpid(child, 0)
        return _document(found) if status == 0 else read_here(path)  # which says what the child could not

    return read


def _say(pipe: int, path: FilePath | None) -> None:
    """The whole life of the child."""
    code = 1
    try:
        with open(pipe, "wb") as stream:
            stream.write(_read(path))
        code = 0
    finally:
        os._exit(code)  # it is a copy: what the parent does at its end is none of its business


def _read(path: FilePath | None) -> bytes:
    from proxy.policy.read import read_policy

    try:
        return pickle.dumps(read_policy(path))
    except PolicyErrors as errors:
        return pickle.dumps(errors.problems)


def _document(found: bytes) -> Document:
    said = pickle.loads(found)  # of our own making: it came from no file and from nobody else
    if isinstance(said, Document):
        return said
    raise PolicyErrors(cast(list[Problem], said))
