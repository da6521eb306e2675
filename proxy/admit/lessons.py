"""Keeps in the state's directory what was learned of models. Loses at most the last lessons when killed, and never stops a start."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from proxy.admit.learned import Learned

FILE = "learned.json"
VERSION = 2


class Lessons(Learned):
    """`proxy.lessons.Lessons`. `path`: the state's directory, None: nothing is kept. `later` runs its argument on another thread."""

    def __init__(self, path: Path | None, later: Callable[[Callable[[Any], None]], object]) -> None:
        super().__init__()
        if path is not None:
            self._models = _read(path / FILE)._models
        self._path, self._later = path, later

    def _written(self) -> None:
        if self._path is not None:
            file, stored = self._path / FILE, self.as_json()
            self._later(lambda _: _write(file, stored))

    def keep(self) -> None:
        """At the end: what was not written yet."""
        if self._fresh and self._path is not None:
            self._fresh = 0
            _write(self._path / FILE, self.as_json())


def _read(file: Path) -> Learned:
    """A file that is not there or not ours teaches nothing: estimates start at the safe end."""
    try:
        stored = orjson.loads(file.read_bytes())
        return Learned.from_json(stored["models"]) if stored["version"] == VERSION else Learned()
    except (OSError, ValueError, TypeError, KeyError):
        return Learned()


def _write(file: Path, models: list[object]) -> None:
    fresh = file.with_suffix(".new")
    with contextlib.suppress(OSError):  # a full disk: the lessons are no book of record
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as out:
            out.write(orjson.dumps({"version": VERSION, "models": models}))
        fresh.replace(file)
