"""The append-only journal: one write per tick of the event loop for all records of that tick. Never reads what it wrote.

`durability: process`: a record is in the kernel when its waiter wakes, so it survives the end of this process.
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from proxy.admit.records import NOTHING, Values
from proxy.exchange import value

HEADER = struct.Struct("<II")  # length and CRC-32 of the payload
SEGMENT_BYTES = 16 * 1024 * 1024
RETRY_S = 1.0

Position = tuple[int, int]  # segment number, offset


class JournalDown(Exception):
    """The record is not in the journal and will not be."""


@value(frozen=True, slots=True)
class Frame:
    data: bytes
    row: Values | None = None
    waiter: asyncio.Future[None] | None = None  # its own, so that a cancelled task cancels nobody else


def framed(payload: bytes) -> bytes:
    return HEADER.pack(len(payload), zlib.crc32(payload)) + payload


def read_frames(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Payloads and the offset behind each, up to the end or the first damaged record."""
    at = 0
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        payload = data[at + HEADER.size : end]
        if end > len(data) or not payload or zlib.crc32(payload) != checksum:
            return
        yield payload, end
        at = end


def segments(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of each segment, oldest first."""
    return sorted((int(path.stem.removeprefix("journal-")), path) for path in folder.glob("journal-*.log"))


def forget_before(folder: Path, number: int) -> None:
    """Removes the segments that segment `number` replaces, once that one is on the disk. Raises OSError."""
    fd = os.open(folder / f"journal-{number:08d}.log", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    for it, path in segments(folder):
        if it < number:
            path.unlink()


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


class Journal:
    """`snapshot` gives the first record of a segment; `wrote` gets the rows that are durable now, with the position behind
    them; `retired` gets the number of the segment that replaces all before it."""

    def __init__(
        self,
        folder: Path,
        number: int,
        *,
        snapshot: Callable[[], bytes],
        wrote: Callable[[list[Values], Position], None],
        retired: Callable[[int], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Begins segment `number`. Raises OSError."""
        self._folder, self._number, self._segment_bytes = folder, number, segment_bytes
        self._snapshot, self._wrote, self._retired = snapshot, wrote, retired
        self._loop = asyncio.get_running_loop()
        self._pending: list[Frame] = []
        self._is_scheduled = False
        self._is_torn = self._is_closed = False
        self._retry: asyncio.TimerHandle | None = None
        self._fd, self._size = self._begin(number)
        self._rotate_at = self._size + segment_bytes

    @property
    def is_down(self) -> bool:
        """The last write failed; it is tried again every second."""
        return self._retry is not None

    def append(self, payload: bytes, row: Values | None = None) -> None:
        """Never fails: what cannot be written now is kept and tried again."""
        self._add(Frame(framed(payload), row))

    def hold(self, payload: bytes) -> asyncio.Future[None]:
        """Done when the record is durable; JournalDown when it is not written and never will be."""
        waiter = self._loop.create_future()
        self._add(Frame(framed(payload) if payload else b"", None, waiter))
        return waiter

    def written(self) -> asyncio.Future[None]:
        """Done when all so far is durable."""
        return self.hold(b"")

    def _add(self, frame: Frame) -> None:
        self._pending.append(frame)
        if not self._is_scheduled and self._retry is None:
            self._is_scheduled = True
            self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        self._is_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Writes what is pending, in one write; nothing after `close`."""
        frames, self._pending = self._pending, []
        if not frames:
            return
        try:
            if self._is_closed:
                raise OSError(errno.EBADF, "closed")
            self._write(b"".join([frame.data for frame in frames]))
        except OSError:
            self._failed(frames)
            return
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        for frame in frames:
            if frame.waiter is not None and not frame.waiter.done():
                frame.waiter.set_result(None)
        if rows := [frame.row for frame in frames if frame.row is not None]:
            self._wrote(rows, (self._number, self._size))
        if self._size >= self._rotate_at:
            self._try_to_rotate()

    def _failed(self, frames: list[Frame]) -> None:
        """Holds are given up, as their callers are told so; what has happened already is kept."""
        self._pending = [frame for frame in frames if frame.waiter is None] + self._pending
        for frame in frames:
            if frame.waiter is not None and not frame.waiter.done():
                frame.waiter.set_exception(JournalDown())
        if self._retry is not None:
            self._retry.cancel()
        if not self._is_closed:
            self._retry = self._loop.call_later(RETRY_S, self._try_again)

    def _try_again(self) -> None:
        if not self._pending:
            self._pending.append(Frame(framed(NOTHING)))  # a real write: only it can tell that there is room again
        self.flush()

    def _write(self, data: bytes) -> None:
        if self._is_torn:
            os.ftruncate(self._fd, self._size)  # a half record would hide all that follow it
        self._is_torn = True
        _write_all(self._fd, data)
        self._is_torn = False
        self._size += len(data)

    # -- segments -----------------------------------------------------------------------------------------------------

    def _begin(self, number: int) -> tuple[int, int]:
        """A new segment appears whole, with its snapshot, or not at all."""
        fresh = self._folder / "journal.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            data = framed(self._snapshot())
            _write_all(fd, data)
            fresh.rename(self._folder / f"journal-{number:08d}.log")
        except OSError:
            os.close(fd)
            raise
        return fd, len(data)

    def _try_to_rotate(self) -> None:
        try:
            self.rotate()
        except OSError:
            self._rotate_at = self._size + self._segment_bytes // 16  # the old segment goes on

    def rotate(self) -> None:
        """Begins the next segment with a snapshot of what is counted now. Nothing may be pending. Raises OSError."""
        old, number = self._fd, self._number + 1
        self._fd, self._size = self._begin(number)
        self._number, self._rotate_at = number, self._size + self._segment_bytes
        os.close(old)
        self._retired(number)

    def close(self) -> None:
        """Writes what is pending, compacts and syncs; on a full disk, as much of that as is possible."""
        self.flush()
        if self._retry is not None:
            self._retry.cancel()
        elif not self._pending:
            self._try_to_rotate()
        self._is_closed = True
        try:
            os.fsync(self._fd)
        finally:
            os.close(self._fd)
