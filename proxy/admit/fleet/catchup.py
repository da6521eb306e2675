"""What Redis is told after it was away, forgot, or this process began anew: one list of operations, worked out in one step. Sends nothing.

The sums of our own journal are absolute, so that nothing that was told before, lost or told twice is counted twice. Whatever is open in
Redis and closed here is in those sums already.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet

from proxy.admit.fleet.calls import Calls
from proxy.admit.fleet.ops import Leave, Op, Rebase, Rebased, Resumed, Settle, Void
from proxy.admit.fleet.shares import Key

Sums = Iterable[tuple[Key, int]]  # settled by this process, nano-dollars


def catch_up(
    found: Resumed, figures: Mapping[str, tuple[int, int]], calls: Calls, on_the_way: AbstractSet[str], sums: Sums, skew_ns: int
) -> Iterator[Op]:
    """`found`: what Redis thinks is open here; `figures`: tokens and cost of what it closed by itself; `on_the_way`: takes without
    an answer yet; `skew_ns`: of its clock over ours. From now on everything open here has a name there."""
    ours = calls.names() | on_the_way
    charged = {it.id: it for it in found.charged}
    yield from _closed(found, figures, ours)
    extra = _still_open(calls, {id: it.nanousd for id, it in charged.items()})
    yield from calls.all_open(skew_ns)
    yield from calls.counts(skew_ns)
    for key, settled in sums:
        yield Rebase(key.limit, key.account, key.period, settled + extra.get(key, 0))
    yield Rebased()


def _closed(found: Resumed, figures: Mapping[str, tuple[int, int]], ours: AbstractSet[str]) -> Iterator[Op]:
    """Open there, and not here."""
    for hold in found.holds:
        if hold.id not in ours:
            yield Void(hold.id)
    for hold in found.charged:
        if hold.id not in ours:
            yield Settle(hold.id, *figures.get(hold.id, (hold.tokens, hold.nanousd)))
    for uid in found.calls:
        if uid not in ours:
            yield Leave(uid)


def _still_open(calls: Calls, charged: Mapping[str, int]) -> dict[Key, int]:
    """Charged there at the estimate and open here: their settle will correct it, until then it counts as settled by us."""
    extra: dict[Key, int] = {}
    for held in calls.held.values():
        for key in held.money():
            for name in (held.remote, *(more for more, _ in held.more)):
                if name is not None and name in charged:
                    extra[key] = extra.get(key, 0) + charged[name]
    return extra
