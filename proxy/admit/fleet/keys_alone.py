"""The keys of a fleet for a command: asked of Redis itself, without a sidecar. Keeps nothing here."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from proxy.admit.fleet.address import Address
from proxy.admit.fleet.keys import KeyBook
from proxy.admit.fleet.link import open_link
from proxy.admit.fleet.ops import Down
from proxy.admit.fleet.script import load
from proxy.admit.keyring import Kept, Keyring
from proxy.admit.place import StateProblem

T = TypeVar("T")


class FleetKeys:
    """As `admit.keys.OfflineKeys`."""

    def __init__(self, runner: asyncio.Runner, book: KeyBook) -> None:
        self._runner, self._book = runner, book
        self._ring = Keyring(self._told(book.news())[1])

    def all(self) -> list[Kept]:
        return list(self._ring)

    def change(self, decide: Callable[[Keyring], Sequence[Kept]]) -> list[Kept]:
        """Every sidecar of the fleet learns it within two seconds. What `decide` raises changes nothing."""
        news = self._ring.learn(decide(self._ring))
        self._told(self._book.tell(news))
        return news

    def _told(self, asked: Coroutine[object, object, T]) -> T:
        try:
            return self._runner.run(asked)
        except Down as problem:
            raise StateProblem(f"the shared state does not answer ({problem.kind}); ask a running sidecar with --admin") from None


@contextmanager
def fleet_keys(address: Address, namespace: str) -> Iterator[FleetKeys]:
    """Raises StateProblem where Redis does not answer."""
    with asyncio.Runner() as runner:
        try:
            link = open_link(address)
        except ValueError as problem:
            raise StateProblem(str(problem)) from None
        try:
            yield FleetKeys(runner, KeyBook(link, load("keys"), namespace, os.urandom))
        finally:
            runner.run(link.close())
