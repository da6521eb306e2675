"""Journal, snapshots and index of one state directory, tied together. Knows what must be safe before what may go; counts nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proxy.admit.accounts import Moment
from proxy.admit.counters import Counters
from proxy.admit.journal import Journal
from proxy.admit.records import ClockMark, segment_record
from proxy.admit.replay import Replayed
from proxy.admit.snapshots import Snapshots, forget_before, is_due
from proxy.admit.sqlite import Index


class Storage:
    """What an `EmbeddedState` writes to from its start to its end."""

    def __init__(
        self,
        folder: Path,
        found: Replayed,
        index: Index,
        counters: Counters,
        *,
        now: Callable[[], Moment],
        mark: Callable[[], ClockMark],
        is_on_disk: bool,
    ) -> None:
        """Begins the segment after those that were found. Raises OSError."""
        self._folder, self._index = folder, index
        self._is_closing = False
        self.journal = Journal(
            folder,
            found.next_number,
            found.previous,
            head=lambda previous: segment_record(previous, mark()),
            wrote=index.put,
            rotated=self._rotated,
            doubted=lambda: self._snapshots.renew(),
            is_on_disk=is_on_disk,
        )
        self._snapshots = Snapshots(folder, counters, self.journal, now, self._retired)
        for left_over in folder.glob("snapshot-*.new"):
            left_over.unlink()

    def compact(self) -> None:
        """Begins a snapshot, after which the segments before this one go."""
        self._snapshots.begin()

    def _rotated(self) -> None:
        if not self._is_closing and not self.journal.is_doubtful and is_due(self._folder):
            self.compact()

    def _retired(self, number: int) -> None:
        """Old segments go when their rows are committed too; on the index's thread."""
        self._index.when_safe(lambda: forget_before(self._folder, number))

    async def close(self) -> None:
        """Compacts and syncs; on a full disk, as much of that as is possible."""
        self._is_closing = True
        await self._snapshots.stop()
        with suppress(OSError):
            self.journal.position()
            self.journal.rotate()
            await self._snapshots.write()
        await self.journal.close()
