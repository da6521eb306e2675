"""The append-only journal. A hold is written at once, what has happened with it or once a tick of the event loop. Never reads it.

`durability: process`: a hold is in the kernel when `hold` returns, so it survives the end of this process. `disk`: it is on the
disk when its waiter wakes, by an fdatasync that began after the write (`sync`).
"""

from __future__ import annotations

import asyncio
import errno
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

from orjson import Fragment

from proxy.admit.records import NOTHING, Entry, Position, Values, entry_record, together
from proxy.admit.sync import GroupCommit, JournalDown

HEADER = struct.Struct("<II")  # length and CRC-32 of the payload
_head = HEADER.pack
SEGMENT_BYTES = 16 * 1024 * 1024
RETRY_S = 1.0


def framed(payload: bytes) -> bytes:
    return _head(len(payload), crc32(payload)) + payload


def read_frames(data: bytes, at: int = 0) -> Iterator[tuple[bytes, int]]:
    """Payloads and the offset behind each, from an offset up to the end or the first damaged record."""
    while at + HEADER.size <= len(data):
        length, checksum = HEADER.unpack_from(data, at)
        end = at + HEADER.size + length
        if end > len(data):  # before anything is copied: where damage is looked behind, many a length is none
            return
        payload = data[at + HEADER.size : end]
        if not payload or crc32(payload) != checksum:
            return
        yield payload, end
        at = end


def segments(folder: Path) -> list[tuple[int, Path]]:
    """Number and path of each segment, oldest first."""
    return sorted((int(path.stem.removeprefix("journal-")), path) for path in folder.glob("journal-*.log"))


def segment_path(folder: Path, number: int) -> Path:
    return folder / f"journal-{number:08d}.log"


def write_all(fd: int, data: bytes) -> None:
    while (written := os.write(fd, data)) < len(data):
        data = data[written:]


class Journal:
    """`head` gives the first record of a segment by the number of the one before; `wrote` gets the rows that are written now, with
    the position behind them; `rotated` hears that a segment was begun, `doubted` that what was written may be lost (failed sync)."""

    def __init__(
        self,
        folder: Path,
        number: int,
        previous: int,
        *,
        head: Callable[[int], bytes],
        wrote: Callable[[list[Values], Position], None],
        rotated: Callable[[], None],
        doubted: Callable[[], None],
        is_on_disk: bool = False,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        """Begins segment `number` after segment `previous`. Raises OSError."""
        self._folder, self._number, self._segment_bytes = folder, number, segment_bytes
        self._head, self._wrote, self._rotated, self._doubted = head, wrote, rotated, doubted
        self._loop = asyncio.get_running_loop()
        self._sync = GroupCommit(folder, self._sync_failed) if is_on_disk else None
        # Of the call that began last. Its hold says so where that is written next, else a record of its own does with whatever is: up to
        # its hold nothing of the call has left, so that to forget it with this process is right.
        self.entry: Entry | None = None
        self._pending: list[bytes] = []  # frames
        self._settled: list[tuple[object, ...]] = []  # records behind those, of which one frame is made when they are written
        self._rows: list[Values] = []  # of all these
        self._is_scheduled = False
        self._is_torn = self._is_closed = self._is_doubtful = False
        self.is_on_disk = is_on_disk  # a hold waits until it is
        # The last write or sync failed. A write is tried again every second; a failed sync is mended by a snapshot (`trust`).
        self.is_down = False
        self._retry: asyncio.TimerHandle | None = None
        self._fd, self._size = self._begin(number, previous)
        self._rotate_at = self._size + segment_bytes

    @property
    def is_doubtful(self) -> bool:
        return self._is_doubtful

    def append(self, payload: bytes, row: Values | None = None) -> None:
        """Never fails: what cannot be written now is kept and tried again."""
        if self._settled:
            self._gather()
        self._pending.append(framed(payload))
        if row is not None:
            self._rows.append(row)
        if not self._is_scheduled and self._retry is None:
            self._is_scheduled = True
            self._loop.call_soon(self._tick)

    def settled(self, record: tuple[object, ...], row: Values) -> None:
        """The same of an attempt that is over, as most of what happens is: all that come between two writes are one frame."""
        self._settled.append(record)
        self._rows.append(row)
        if not self._is_scheduled and self._retry is None:
            self._is_scheduled = True
            self._loop.call_soon(self._tick)

    def _gather(self) -> None:
        payload = together(self._settled)
        self._pending.append(_head(len(payload), crc32(payload)) + payload)  # `framed`, but for the call
        self._settled = []

    def begin(self, uid: str, at_ns: int, charges: Fragment) -> None:
        """A call began: its hold says so where that is written next."""
        if self.entry is not None:
            self.enter()
        self.entry = uid, at_ns, charges

    def enter(self) -> None:
        """`entry`, if there is one, as a record of its own."""
        if (entry := self.entry) is not None:
            self.entry = None
            self.append(entry_record(entry))

    def drops(self, uid: str) -> bool:
        """The call's entry is not written and never will be; False: it is, or surely will be."""
        if self.entry is None or self.entry[0] != uid:
            return False
        self.entry = None
        return True

    def hold(self, payload: bytes, said: Entry | None = None) -> asyncio.Future[None] | None:
        """None: the record and all before it are durable. Else they are when that is done, which fails with JournalDown. Raises
        JournalDown: the record is not written and never will be. `said`: `entry`, where the record says it too."""
        if self._is_doubtful:
            raise JournalDown
        if self.entry is not said:
            self.enter()
        if not self._flush(_head(len(payload), crc32(payload)) + payload):  # `framed`, but for the call
            raise JournalDown
        self.entry = None
        return None if self._sync is None else self._covered()

    def written(self) -> asyncio.Future[None] | None:
        """As `hold`, of all so far."""
        if self._is_doubtful or not self.flush():
            raise JournalDown
        return self._covered()

    def _covered(self) -> asyncio.Future[None] | None:
        if self._sync is None:
            return None
        waiter = self._loop.create_future()  # its own, so that a cancelled task cancels nobody else
        self._sync.cover(self._fd, [waiter])
        return waiter

    def _tick(self) -> None:
        self._is_scheduled = False
        if self.entry is not None:
            self.enter()
        self._flush()

    def flush(self) -> bool:
        """Writes what is pending, in one write; nothing after `close`. False: it is kept."""
        self.enter()
        return self._flush()

    def _flush(self, data: bytes = b"") -> bool:
        """Of what is framed or settled, and this. False: none of it is written, and what was pending is kept."""
        if self._settled:
            self._gather()
        pending = self._pending
        if pending:
            data = b"".join(pending) + data
        elif not data:
            return True
        length = len(data)
        try:
            if self._is_torn:
                self._mend()
            if (done := os.write(self._fd, data)) < length:
                write_all(self._fd, data[done:])
        except OSError:
            self._failed()
            return False
        self._size = size = self._size + length
        if pending:
            self._pending = []
            if rows := self._rows:
                self._rows = []
                self._wrote(rows, (self._number, size))
        if size >= self._rotate_at or self._retry is not None:
            self._written()
        return True

    def _written(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
            self._retry, self.is_down = None, self._is_doubtful
        if self._size >= self._rotate_at:
            self._try_to_rotate()

    def _mend(self) -> None:
        if self._is_closed:
            raise OSError(errno.EBADF, "closed")
        os.ftruncate(self._fd, self._size)  # a half record would hide all that follow it
        self._is_torn = False

    def position(self) -> Position:
        """Up to here the segments hold all that was appended so far. Raises OSError if some of it cannot be written."""
        self.flush()
        if self._pending or self._is_torn:
            raise OSError(errno.EIO, "the journal cannot be written")
        return self._number, self._size

    def _failed(self) -> None:
        self._is_torn = True
        if self._retry is not None:
            self._retry.cancel()
        if not self._is_closed:
            self._retry, self.is_down = self._loop.call_later(RETRY_S, self._try_again), True

    def _try_again(self) -> None:
        if not self._pending:
            self._pending.append(framed(NOTHING))  # a real write: only it can tell that there is room again
        self.flush()

    # -- a failed sync ------------------------------------------------------------------------------------------------

    def _sync_failed(self) -> None:
        """The kernel has dropped the pages it could not write, and would call the next sync a success."""
        if not self._is_doubtful and not self._is_closed:
            self._is_doubtful = self.is_down = True
            self._doubted()

    def trust(self) -> None:
        """A snapshot of all is on the disk, begun in a new segment: what the segments before it lost is lost no more."""
        self._is_doubtful = False
        self.is_down = self._retry is not None

    # -- segments -----------------------------------------------------------------------------------------------------

    def _begin(self, number: int, previous: int) -> tuple[int, int]:
        """A new segment appears with its head, or not at all."""
        fresh = self._folder / "journal.new"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            data = framed(self._head(previous))
            write_all(fd, data)
            fresh.rename(segment_path(self._folder, number))
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
        """Begins the next segment. Nothing may be pending. Raises OSError."""
        old, number = self._fd, self._number + 1
        self._fd, self._size = self._begin(number, self._number)
        self._number, self._rotate_at, self._is_torn = number, self._size + self._segment_bytes, False
        if self._sync is not None:
            self._sync.retire(old, is_doubtful=self._is_doubtful)
        else:
            os.close(old)
        self._rotated()

    async def close(self) -> None:
        """Writes what is pending and syncs; on a full disk, as much of that as is possible. Nothing is written after it."""
        self.flush()
        if self._retry is not None:
            self._retry.cancel()
        self._is_closed = self._is_torn = True
        if self._sync is not None:
            await self._sync.close()
        try:
            await asyncio.to_thread(os.fsync, self._fd)
        finally:
            os.close(self._fd)
