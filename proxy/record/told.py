"""What alerts have told already, kept in a small file of the state so that a restart does not tell it again. Decides nothing."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import orjson

Key = tuple[str, str | None, str, int, int, float]  # limit, account, period, its end (Unix s, 0: never), allowed nano-dollars, share
FILE = "alerts.jsonl"


class Told:
    """One line per alert; those of past periods go when the file is opened."""

    def __init__(self, folder: Path | None, now_s: int) -> None:
        self._path = None if folder is None else folder / FILE
        self._keys: set[Key] = set()
        if self._path is not None:
            self._open(self._path, now_s)

    def __contains__(self, key: Key) -> bool:
        return key in self._keys

    def add(self, key: Key) -> str | None:
        """Gives the class of what prevented it from being kept; then it counts until the process ends."""
        self._keys.add(key)
        if self._path is None:
            return None
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(_line(key))
        except OSError as problem:
            return type(problem).__name__
        return None

    def _open(self, path: Path, now_s: int) -> None:
        try:
            lines = path.read_bytes().splitlines()
        except OSError:
            return
        keys = [key for line in lines if (key := _key(line)) is not None]
        self._keys = {key for key in keys if not 0 < key[3] <= now_s}
        if len(self._keys) < len(lines):
            with suppress(OSError):
                fresh = path.with_suffix(".new")
                fresh.write_bytes(b"".join(map(_line, self._keys)))
                fresh.chmod(0o600)
                fresh.replace(path)


def _line(key: Key) -> bytes:
    return orjson.dumps(key) + b"\n"


def _key(line: bytes) -> Key | None:
    """None for a line that was torn."""
    try:
        match orjson.loads(line):
            case [str(limit), str() | None as account, str(period), int(end), int(allowed), float() | int() as share]:
                return (limit, account, period, end, allowed, float(share))
    except orjson.JSONDecodeError:
        pass
    return None
