"""What Redis is still to be told, in order and exactly once: batches under ascending numbers, sent again unchanged until acknowledged.

Decides nothing and waits for nothing. It is short: beside calls that are open it holds what happened since the last acknowledgement.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

MOST = 64  # operations of one batch, so that a script stays short
LEAP = 1000  # a process that takes up another's numbers leaves these to what of it may still be on the way

Op = TypeVar("Op")


class Outbox(Generic[Op]):
    def __init__(self) -> None:
        self.seq = 0  # of the last batch that was made
        self.acked = 0  # of the last batch that Redis has
        self.put_count = self.acked_count = 0  # operations ever put, and acknowledged
        self._waiting: deque[Op] = deque()
        self._sent: tuple[Op, ...] = ()

    def begin_after(self, seq: int) -> None:
        """Takes up the numbers of the process before, of which Redis has `seq`."""
        self.seq = self.acked = max(self.acked, seq + LEAP)

    def put(self, op: Op) -> None:
        self._waiting.append(op)
        self.put_count += 1

    def batch(self) -> tuple[int, tuple[Op, ...]]:
        """The number and the operations to send now; the same ones until they are acknowledged."""
        if self.seq == self.acked:
            self.seq += 1
            self._sent = tuple([self._waiting.popleft() for _ in range(min(MOST, len(self._waiting)))])
        return self.seq, self._sent

    def is_acked(self, seq: int) -> None:
        """Redis has the batch of this number."""
        if seq == self.seq != self.acked:
            self.acked = seq
            self.acked_count += len(self._sent)
            self._sent = ()

    @property
    def is_empty(self) -> bool:
        return self.put_count == self.acked_count

    def __len__(self) -> int:
        return self.put_count - self.acked_count
