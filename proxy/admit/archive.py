"""Files of rows that leave the ledger: JSON lines of one day each, in gzip members. Never cuts or extends what it did not write.

How long each file is stands in the ledger, moved by the transaction that deletes the rows: what a crash left beyond it is cut off.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from itertools import count
from pathlib import Path

FOLDER = "archive"
LEVEL = 3  # a quarter larger than the best, three times as fast


def file_for(folder: Path, day: str, known: Mapping[str, int]) -> str:
    """The name of the file that takes the rows of `day` ("2026-11-21"). `known`: names and lengths of those begun.

    One that is not ours, or that somebody has cut short, is left alone: the next number is taken.
    """
    for number in count(1):
        name = f"ledger-{day}.jsonl.gz" if number == 1 else f"ledger-{day}.{number}.jsonl.gz"
        size = _size(folder / name)
        if size is None or (name in known and size >= known[name]):
            return name
    raise AssertionError  # count never ends


def append(folder: Path, name: str, length: int, text: bytes) -> int:
    """Writes `text` behind the first `length` bytes of the file (made where missing, mode 0600) and syncs it; its new length.

    Raises OSError: then what is beyond `length` counts for nothing.
    """
    path = folder / name
    folder.mkdir(mode=0o700, exist_ok=True)
    is_new = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        start = min(length, os.fstat(fd).st_size)  # less than `length` only where somebody has taken the file away
        os.ftruncate(fd, start)
        packer = zlib.compressobj(LEVEL, wbits=31)
        data = packer.compress(text) + packer.flush()
        written = 0
        while written < len(data):
            written += os.pwrite(fd, data[written:], start + written)
        os.fsync(fd)
    finally:
        os.close(fd)
    if is_new:
        _sync(folder)
        _sync(folder.parent)
    return start + len(data)


def cut(folder: Path, known: Mapping[str, int]) -> None:
    """Takes off what a crash left: rows that are in the ledger still. Raises OSError."""
    for name, length in known.items():
        size = _size(folder / name)
        if size is not None and size > length:
            os.truncate(folder / name, length)


def _size(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return None


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
