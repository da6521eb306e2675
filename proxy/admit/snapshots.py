"""What is counted, written beside the journal a slice at a time, so that old segments may go. Never holds the event loop for long.

The counters go on changing while they are written. So each account stands with the position of the journal that it was read at,
and the fold passes over what it has already (`records.Fold`). Open holds are those of the position in the file's head.
One is due when the journal behind the last has grown to TIMES its size: however many accounts there are, a call pays the same for it.
Frames: `["snap", version, columns, segment, offset]` · `["some", segment, offset, limit, ns, [columns…]]`, accounts of one limit (see
`columns`); until version 3 `["accounts", segment, offset, [account…]]` · `["holds", [hold record…]]` · `["end", number of frames]`.
A file appears whole, on the disk, or not at all.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import orjson

from proxy.admit.accounts import Moment
from proxy.admit.columns import rows_of
from proxy.admit.counters import Counters
from proxy.admit.journal import RETRY_S, Journal, framed, read_frames, segments, write_all
from proxy.admit.place import StateProblem
from proxy.admit.records import COLUMNS, VERSION, Position, encode
from proxy.admit.sync import sync_folder

T = TypeVar("T")

SLICE = 128  # accounts or holds at once: about a millisecond
PAUSE_S = 0.004  # between slices: a fifth of the loop at most
TIMES = 10
MOST_BYTES = 96 * 1024 * 1024  # of journal, then one is due whatever it costs: a start reads some 40 MB a second


class GivenUp(Exception):
    """This snapshot is not wanted any more."""


class Snapshots:
    """Writes one at a time; `done` hears, once it is on the disk, of the segment that it begins in: all before may go."""

    def __init__(self, folder: Path, counters: Counters, journal: Journal, now: Callable[[], Moment], done: Callable[[int], None]) -> None:
        self._folder, self._counters, self._journal, self._now, self._done = folder, counters, journal, now, done
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = False
        self._turn = 0  # a snapshot of an earlier turn gives up

    def begin(self) -> None:
        """In the background; after the one that is being written, if any, and only if one is due then."""
        self._is_wanted = True
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="sluice snapshot")

    def renew(self) -> None:
        """After a failed sync: one of a new segment, again and again until it is on the disk."""
        self._turn += 1
        self._task = asyncio.get_running_loop().create_task(self._mend(self._task), name="sluice snapshot")

    async def _run(self) -> None:
        with suppress(OSError, GivenUp):  # the old segments stay
            while self._is_wanted:
                self._is_wanted = False
                await self.write(PAUSE_S)
                self._is_wanted = self._is_wanted and is_due(self._folder)

    async def _mend(self, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await asyncio.wait([before])
        turn = self._turn
        while turn == self._turn:
            try:
                self._journal.position()
                self._journal.rotate()
                await self.write(PAUSE_S)
            except OSError:
                await asyncio.sleep(RETRY_S)
            except GivenUp:
                return
            else:
                self._journal.trust()
                return

    async def stop(self) -> None:
        """Gives up the one that is being written, if any."""
        self._turn += 1
        if self._task is not None:
            await asyncio.wait([self._task])

    async def write(self, pause_s: float = 0.0) -> None:
        """One snapshot from beginning to end. Raises OSError, GivenUp."""
        turn = self._turn
        fresh = self._folder / f"snapshot-{turn}.new"
        try:
            begin = self._journal.position()
            await self._write_to(fresh, begin, turn, pause_s)
            await asyncio.to_thread(_settle_down, self._folder, begin[0], fresh)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        self._done(begin[0])

    async def _write_to(self, fresh: Path, begin: Position, turn: int, pause_s: float) -> None:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            count = 0
            for frame in self._frames(begin):
                write_all(fd, framed(frame))
                count += 1
                await asyncio.sleep(pause_s)
                if turn != self._turn:
                    raise GivenUp
            write_all(fd, framed(encode(("end", count))))
        finally:
            os.close(fd)

    def _frames(self, begin: Position) -> Iterator[bytes]:
        holds = [intent for _, _, _, _, intent in self._counters.holds.values()]
        yield encode(("snap", VERSION, COLUMNS, *begin))
        for intents in _slices(holds):
            yield orjson.dumps(("holds", [orjson.Fragment(it) for it in intents]))
        for limit, accounts in self._counters.accounts():
            for names in _slices(accounts):
                at, now = self._journal.position(), self._now()
                yield encode(("some", *at, limit, now.ns, self._counters.told(limit, names, now)))


def _slices(them: list[T]) -> Iterator[list[T]]:
    for at in range(0, len(them), SLICE):
        yield them[at : at + SLICE]


def _settle_down(folder: Path, number: int, fresh: Path) -> None:
    """To the disk, the segments that the accounts were read at first: a snapshot must not know more than the journal. Raises OSError."""
    for path in (*(path for it, path in segments(folder) if it >= number), fresh):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    fresh.rename(folder / f"snapshot-{number:08d}.snap")
    sync_folder(folder)


def is_due(folder: Path) -> bool:
    """Has the journal grown enough since the newest one?"""
    try:
        number, size = max(((it, path.stat().st_size) for it, path in snapshots(folder)), default=(0, 0))
        behind = sum(path.stat().st_size for it, path in segments(folder) if it >= number)
    except OSError:  # one is just going
        return False
    return behind >= min(TIMES * size, MOST_BYTES)


def forget_before(folder: Path, number: int) -> None:
    """Removes what the snapshot of segment `number` replaces. Raises OSError."""
    for it, path in (*segments(folder), *snapshots(folder)):
        if it < number:
            path.unlink()


# -- reading -------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Snapshot:
    """Hold records and accounts (see `Counters.restore`), each account with the position it stands at."""

    columns: tuple[str, ...]
    begin: Position
    holds: list[list[Any]] = field(default_factory=list)
    accounts: list[tuple[Position, Sequence[Any]]] = field(default_factory=list)


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """Segment number and path of each, oldest first."""
    return sorted((int(path.stem.removeprefix("snapshot-")), path) for path in folder.glob("snapshot-*.snap"))


def read_snapshot(path: Path) -> Snapshot | None:
    """None for one that is not whole. Raises OSError, StateProblem for one of a newer Sluice."""
    records = [orjson.loads(payload) for payload, _ in read_frames(path.read_bytes())]
    if not records or records[-1] != ["end", len(records) - 1]:
        return None
    _, version, columns, *begin = records[0]
    check_version(path, version)
    found = Snapshot(tuple(columns), (begin[0], begin[1]))
    for record in records[1:-1]:
        if record[0] == "holds":
            found.holds += record[1]
        elif record[0] == "accounts":
            _, segment, offset, accounts = record
            found.accounts += [((segment, offset), account) for account in accounts]
        else:
            _, segment, offset, limit, ns, told = record
            found.accounts += [((segment, offset), account) for columns in told for account in rows_of(limit, ns, columns)]
    return found


def check_version(path: Path, version: int) -> None:
    if version > VERSION:
        raise StateProblem(f"{path} was written by a newer Sluice (version {version}, known {VERSION})")
