"""What a shared state cannot tell without a trip to Redis, at the most. Asks nobody."""

from __future__ import annotations


class Trips:
    """The part of `ports.Store` that need not wait: a shared state may always have to."""

    def enter_at_once(self, *_: object) -> bool:
        return False

    def hold_at_once(self, *_: object) -> bool:
        return False
