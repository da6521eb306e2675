"""What calls write in one turn of the event loop leaves together, with the last of them: who reads it is woken once, and not by each while
the next is worked on. Changes no byte and no order on a connection; keeps nothing for a second turn, and nothing of a call that is alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from weakref import WeakKeyDictionary

log = logging.getLogger("sluice.post")

MOST, SMALL = 32, 16 * 1024  # what waits, and bytes of what may: a large one has taken its time already, and those behind it will
# On which transport, what, and who hears of it where the kernel does not take the whole of it
Letter = tuple[asyncio.Transport, tuple[bytes, ...], Callable[[], object] | None]


class Post:
    """Of one loop. `due`: how many have been woken and have not written yet. That is a guess, as not all who are woken do: where it is too
    high, what waits leaves a turn later; where it is too low, one by one."""

    __slots__ = ("_call_soon", "_late", "box", "due")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        self._late = self._leave_late
        self.due = 0
        self.box: list[Letter] = []  # what waits; where there is something, `leave` is to come

    def put(self, transport: asyncio.Transport, parts: tuple[bytes, ...], unsent: Callable[[], object] | None = None) -> None:
        """All that one who was woken has to say for now, on a transport that is not closing. See `Letter`."""
        box = self.box
        if self.due > 1:
            self.due -= 1
            if len(box) < MOST and len(parts[-1]) <= SMALL:
                if not box:
                    self._call_soon(self._late)
                box.append((transport, parts, unsent))
                return
        else:
            self.due = 0
        if box:
            self.leave()
        transport.writelines(parts)
        if unsent is not None and transport.get_write_buffer_size():
            unsent()

    def holds(self, transport: asyncio.Transport) -> bool:
        """Does something wait for it?"""
        return any([letter[0] is transport for letter in self.box])

    def leave(self) -> None:
        """All that waits is written; what is for a connection that has ended is dropped. Who ends one, or writes to it otherwise, asks for
        this first."""
        box, self.box = self.box, []
        for transport, parts, unsent in box:
            try:
                if not transport.is_closing():
                    transport.writelines(parts)
                    if unsent is not None and transport.get_write_buffer_size():
                        unsent()
            except Exception as error:  # the fault of one connection is not another's
                log.error("a connection cannot be written to: %s", type(error).__name__)
                transport.abort()

    def _leave_late(self) -> None:
        """A turn later: of those that were due, some have not written, and the others may have written before."""
        if self.box:
            self.due = 0
            self.leave()


_posts: WeakKeyDictionary[asyncio.AbstractEventLoop, Post] = WeakKeyDictionary()


def post_of(loop: asyncio.AbstractEventLoop) -> Post:
    post = _posts.get(loop)
    if post is None:
        post = _posts[loop] = Post(loop)
    return post
