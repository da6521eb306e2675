"""What of this process is open: calls under way and attempts held, with the names Redis knows them by. Talks to nobody."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from proxy.admit.counters import Charge
from proxy.admit.fleet.ops import Adopt, Count, Entry, Join, Op
from proxy.admit.fleet.shares import Key
from proxy.admit.shape import windows_of
from proxy.policy.plan import Claim, Spend
from proxy.standings import Standing

ALONE = "/local"  # behind the id of what was decided without Redis: a void of a lost take of the same attempt is not meant for it
MIRROR = "/mirror"  # behind the uid of a call, in our own books, of what Redis decides
MOST_REMEMBERED = 10_000


def keys_of(charges: Sequence[Charge]) -> list[Key]:
    return [Key(charge.limit, charge.account, period) for charge in charges for period in charge.periods]


@dataclass(slots=True)
class Stay:
    """A call under way. `remote`: its name in Redis; None, Redis does not know of it."""

    uid: str
    claims: tuple[Claim, ...]  # the shared ones
    at_ns: int  # as `EmbeddedState.now().ns`
    remote: str | None = None
    is_decided: bool = False  # here or there; until then it is only noted
    is_uncounted: bool = False
    lost: int = 0  # takes of it that may have arrived and were undone

    def name(self) -> str:
        """For Redis: what was undone there cannot be taken again."""
        return f"{self.uid}~{self.lost}" if self.lost else self.uid

    def charges(self) -> tuple[Charge, ...]:
        return tuple([Charge(it.limit.name, it.account, windows_of(it.limit, "requests"), ()) for it in self.claims])


def entries_of(stays: Sequence[Stay]) -> tuple[Entry, ...]:
    return tuple([Entry(stay.name(), stay.claims) for stay in stays])


@dataclass(slots=True)
class Held:
    """An attempt's tokens and money on shared claims. `remote` as above; `mark` of `Shares.spent`; `more`: what it was extended by."""

    id: str
    claims: tuple[Claim, ...]
    charges: tuple[Charge, ...]
    at_ns: int
    tokens: int
    nanousd: int
    remote: str | None
    mark: int
    more: list[tuple[str, int]] = field(default_factory=list)

    def money(self) -> list[Key]:
        return keys_of(self.charges)

    def adopted(self, skew_ns: int) -> Iterator[Op]:
        assert self.remote is not None
        at_ns = self.at_ns + skew_ns
        yield Adopt(self.remote, at_ns, self.tokens, self.nanousd, self.charges)
        for id, nanousd in self.more:
            yield Adopt(id, at_ns, 0, nanousd, self.charges)


@dataclass(slots=True)
class Calls:
    """All that is open, and what was counted without Redis in the windows that still matter."""

    stays: dict[str, Stay] = field(default_factory=dict)
    held: dict[str, Held] = field(default_factory=dict)
    _of_call: dict[str, list[str]] = field(default_factory=dict)  # call → uids of its stays (a session's model counts beside it)
    _tally: dict[tuple[str, Charge], dict[int, int]] = field(default_factory=dict)  # kind, charge → bucket → count

    def note(self, stay: Stay) -> None:
        self.stays[stay.uid] = stay
        self._of_call.setdefault(stay.uid.partition("/")[0], []).append(stay.uid)

    def drop(self, uid: str) -> Stay | None:
        stay = self.stays.pop(uid, None)
        if stay is not None:
            call = uid.partition("/")[0]
            self._of_call[call].remove(uid)
            if not self._of_call[call]:
                del self._of_call[call]
        return stay

    def undecided(self, call_uid: str) -> list[Stay]:
        """The stays of a call that nobody has decided yet: they come with its first hold."""
        return [self.stays[uid] for uid in self._of_call.get(call_uid, ()) if not self.stays[uid].is_decided]

    # -- for Redis, once it is back -----------------------------------------------------------------------------------

    def counted(self, kind: str, charges: Sequence[Charge], at_ns: int, count: int) -> None:
        """Without Redis. Older than its longest window it matters to nobody."""
        for charge in charges:
            if not charge.rates or not count:
                continue
            width = min(charge.rates) * 1_000_000_000 // 60
            buckets = self._tally.setdefault((kind, Charge(charge.limit, charge.account, charge.rates, ())), {})
            buckets[at_ns // width * width] = buckets.get(at_ns // width * width, 0) + count
            while next(iter(buckets)) < at_ns - max(charge.rates) * 1_000_000_000:
                del buckets[next(iter(buckets))]

    def counts(self, skew_ns: int) -> list[Op]:
        """What was counted without Redis, and is told now."""
        found: list[Op] = [
            Count("requests" if kind == "requests" else "tokens", at + skew_ns, count, (charge,))
            for (kind, charge), buckets in self._tally.items()
            for at, count in buckets.items()
            if count > 0
        ]
        self._tally.clear()
        return found

    def all_open(self, skew_ns: int) -> Iterator[Op]:
        """Every open hold and call, under a name that Redis knows from now on."""
        for id, held in self.held.items():
            held.remote = held.remote or id + ALONE
            yield from held.adopted(skew_ns)
        for uid, stay in self.stays.items():
            if stay.is_decided:
                stay.remote = stay.remote or uid + ALONE
                yield Join(stay.remote, stay.at_ns + skew_ns, stay.charges())

    def names(self) -> set[str]:
        """Of all that is open, as Redis knows it."""
        holds = {it.remote for it in self.held.values() if it.remote} | {id for it in self.held.values() for id, _ in it.more}
        return holds | {it.remote for it in self.stays.values() if it.remote}


@dataclass(slots=True)
class Spender:
    """A spend account that was used of late."""

    claim: Claim
    spend: Spend
    key: Key
    used_at: float


class Remembered:
    """How callers stood when we were told last. Bounded: the longest unseen is forgotten first."""

    def __init__(self) -> None:
        self._standings: OrderedDict[tuple[str, str], tuple[Standing, ...]] = OrderedDict()

    def told(self, claims: Sequence[Claim], standings: Sequence[Standing]) -> None:
        """`standings`: of these claims, whole or in part; those of the same kind and window are replaced."""
        for claim in claims:
            mine = [it for it in standings if it.limit == claim.limit.name]
            if not mine:
                continue
            key = claim.limit.name, claim.account
            fresh = {(it.kind, it.window_s) for it in mine}
            kept = [it for it in self._standings.pop(key, ()) if (it.kind, it.window_s) not in fresh]
            self._standings[key] = (*kept, *mine)
        while len(self._standings) > MOST_REMEMBERED:
            self._standings.popitem(last=False)

    def of(self, claims: Sequence[Claim]) -> tuple[Standing, ...]:
        return tuple([it for claim in claims for it in self._standings.get((claim.limit.name, claim.account), ())])
