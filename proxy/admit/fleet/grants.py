"""Parts of limits that a sidecar was granted for calls decided in another slot, and what it has used of them. Talks to nobody.

Never more than granted is used: money and slots up to their level, requests and tokens until the grant ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from proxy.admit.accounts import RateKind
from proxy.admit.limits import Denied, Why
from proxy.exchange import value
from proxy.policy.plan import Claim, Limit, Rate, Spend
from proxy.standings import Standing

PART = 100  # beyond what is needed at once, a grant is at most this part of the limit
VALID_NS = 1_000_000_000  # of a grant of requests or tokens
MOST_BACKS = 16  # corrections told at once, the newest

Period = Literal["day", "month", "total"]


@value(frozen=True, slots=True)
class Wish:
    """What a call wants of one account: a request and a slot as it begins, tokens and money (nano-dollars) for an attempt."""

    claim: Claim
    requests: int = 0
    slots: int = 0
    tokens: int = 0
    nanousd: int = 0
    is_hold: bool = False

    @property
    def dimensions(self) -> Iterator[tuple[str, Rate | Spend | int, int]]:
        """Each number of the limit that it asks something of: kind, bound, want. Of those of one window or period the smallest."""
        limit = self.claim.limit
        if self.is_hold:
            yield from (("spend", spend, self.nanousd) for spend in least_spend(limit))
        if self.requests:
            yield from (("requests", rate, self.requests) for rate in least_rates(limit.requests))
        if self.tokens:
            yield from (("tokens", rate, self.tokens) for rate in least_rates(limit.tokens))
        if self.slots and limit.concurrency is not None:
            yield "concurrency", limit.concurrency, self.slots


@value(frozen=True, slots=True)
class Ask:
    """One dimension, as its home is asked. `keep`: what stays granted whatever the answer; `need`: beyond it, or nothing."""

    kind: str  # requests | tokens | spend | concurrency
    bound: Rate | Spend | int
    want: int = 0
    keep: int = 0
    need: int = 0
    period: str = ""  # that `keep` is of
    backs: tuple[tuple[int, int], ...] = ()

    def values(self) -> tuple[object, ...]:
        """As grant.lua reads it. An ask that wants nothing gives back."""
        bound = self.bound
        if isinstance(bound, Spend):
            chunk = bound.nanousd // PART if self.want else 0
            return "spend", bound.period, bound.nanousd, self.period, self.keep, self.need, self.want, chunk
        if isinstance(bound, Rate):
            return "rate", self.kind, bound.count, bound.period_s, self.need, bound.count // PART, VALID_NS // 1000, self.backs
        return "slots", bound, self.keep, self.need, bound // PART if self.want else 0


@dataclass(slots=True)
class Level:
    """Money of one period, or slots: so much is granted, and so much of it used. `room`: what was left at home when it spoke last."""

    period: str = ""
    granted: int = 0
    used: int = 0
    room: int = 0
    ends_ns: int = 0  # of the period, by the server's clock; 0: never


@dataclass(slots=True)
class Packet:
    """Requests or tokens to be used before `until_ns` (monotonic); the home counts them at `ends_us`, its own time."""

    left: int
    until_ns: int
    ends_us: int
    room: int


@dataclass(slots=True)
class Used:
    """What a wish took, to be given back or corrected: in the levels and packets of then."""

    wish: Wish
    levels: tuple[Level, ...]
    packets: tuple[tuple[RateKind, int, int], ...]  # kind, window, the instant the home counts it at


@dataclass(slots=True)
class Purse:
    """What is granted of one account."""

    spend: dict[Period, Level] = field(default_factory=dict)
    rates: dict[tuple[str, int], Packet] = field(default_factory=dict)
    slots: Level = field(default_factory=Level)
    backs: dict[tuple[str, int], dict[int, int]] = field(default_factory=dict)  # → instant → what was not used of it

    def has(self, wish: Wish, now_ns: int, server_ns: int) -> bool:
        """Can the wish be met at once? `now_ns`: monotonic; `server_ns`: the server's clock."""
        return all(self._has(kind, bound, want, now_ns, server_ns) for kind, bound, want in wish.dimensions)

    def _has(self, kind: str, bound: Rate | Spend | int, want: int, now_ns: int, server_ns: int) -> bool:
        if isinstance(bound, Spend):
            level = self.spend.get(bound.period)
            is_present = level is not None and (not level.ends_ns or server_ns < level.ends_ns)
            return level is not None and is_present and level.used + want <= level.granted
        if isinstance(bound, Rate):
            packet = self.rates.get((kind, bound.period_s))
            return packet is not None and want <= packet.left and now_ns < packet.until_ns
        return self.slots.used + want <= self.slots.granted

    # -- asking -------------------------------------------------------------------------------------------------------

    def asks(self, wish: Wish, now_ns: int, server_ns: int) -> list[Ask]:
        """For what the wish lacks. What is not kept is not used any more from here on."""
        return [
            self._ask(kind, bound, want) for kind, bound, want in wish.dimensions if not self._has(kind, bound, want, now_ns, server_ns)
        ]

    def asks_back(self, limit: Limit) -> list[Ask]:
        """Asks that want nothing: all that is not used goes back."""
        for level in (*self.spend.values(), self.slots):
            level.granted = min(level.granted, level.used)
        rates = [*[("requests", rate) for rate in least_rates(limit.requests)], *[("tokens", rate) for rate in least_rates(limit.tokens)]]
        known = [(kind, rate) for kind, rate in rates if (key := (kind, rate.period_s)) in self.rates or key in self.backs]
        return [*self.tells(limit), *(self._ask(kind, rate, 0) for kind, rate in known)]

    def tells(self, limit: Limit) -> list[Ask]:
        """Asks that want nothing: what is granted, so that the home knows it also after a loss."""
        found = [self._ask("spend", spend, 0) for spend in least_spend(limit) if spend.period in self.spend]
        return [*found, self._ask("concurrency", limit.concurrency, 0)] if limit.concurrency is not None else found

    def _ask(self, kind: str, bound: Rate | Spend | int, want: int) -> Ask:
        if isinstance(bound, Rate):
            return Ask(kind, bound, want, 0, want, backs=self._backs((kind, bound.period_s)))
        level = self.spend.setdefault(bound.period, Level()) if isinstance(bound, Spend) else self.slots
        keep = max(level.granted, level.used)  # more is used than was granted where an estimate was too low
        return Ask(kind, bound, want, keep, max(0, level.used + want - keep), level.period)

    def _backs(self, key: tuple[str, int]) -> tuple[tuple[int, int], ...]:
        """With what is left of the present packet, which is not used any more."""
        backs, packet = self.backs.pop(key, {}), self.rates.pop(key, None)
        if packet is not None and packet.left:
            backs[packet.ends_us] = backs.get(packet.ends_us, 0) + packet.left
        return tuple(sorted(backs.items(), reverse=True)[:MOST_BACKS])

    def told(self, ask: Ask, said: Sequence[int], period: tuple[str, int], asked_ns: int) -> None:
        """The answer to an ask sent at `asked_ns` (monotonic). `period`: for money, the id and the end that the server chose."""
        bound = ask.bound
        if isinstance(bound, Rate):
            given, ends_us, _, left = said
            if ask.want:
                self.rates[ask.kind, bound.period_s] = Packet(given, asked_ns + VALID_NS, ends_us, left - given)
            return
        level = self.slots
        if isinstance(bound, Spend):
            level = self.spend[bound.period]
            if level.period != period[0]:
                level = self.spend[bound.period] = Level(period[0])
            level.ends_ns = period[1]
        level.granted, level.room = said[0], said[-1]

    # -- using --------------------------------------------------------------------------------------------------------

    def use(self, wish: Wish) -> Used:
        """Only where it `has` the wish."""
        levels, packets = [], list[tuple[RateKind, int, int]]()
        for kind, bound, want in wish.dimensions:
            if isinstance(bound, Spend):
                levels.append(self.spend[bound.period])
                levels[-1].used += want
            elif isinstance(bound, Rate):
                packet = self.rates[kind, bound.period_s]
                packet.left -= want
                packets.append(("requests" if kind == "requests" else "tokens", bound.period_s, packet.ends_us))
            else:
                self.slots.used += want
        return Used(wish, tuple(levels), tuple(packets))

    def use_anyway(self, wish: Wish) -> Used:
        """Money alone, granted or not: it is told as used with the next question."""
        levels = tuple([self.spend.setdefault(spend.period, Level()) for spend in least_spend(wish.claim.limit)])
        for level in levels:
            level.used += wish.nanousd
        return Used(wish, levels, ())

    def close(self, used: Used, tokens: int, nanousd: int) -> None:
        """The true figures of an attempt."""
        for level in used.levels:
            level.used += nanousd - used.wish.nanousd
        self._correct(used, "tokens", used.wish.tokens - tokens)

    def uncount(self, used: Used) -> None:
        self._correct(used, "requests", used.wish.requests)

    def leave(self, used: Used) -> None:
        if used.wish.claim.limit.concurrency is not None:
            self.slots.used -= used.wish.slots

    def _correct(self, used: Used, kind: RateKind, unused: int) -> None:
        for its_kind, period_s, ends_us in used.packets:
            if its_kind == kind and unused:
                backs = self.backs.setdefault((kind, period_s), {})
                backs[ends_us] = backs.get(ends_us, 0) + unused

    def is_empty(self, server_ns: int) -> bool:
        """May it be forgotten? What was spent in a period that lasts may not: it is told as a whole each time."""
        if any(it.granted > it.used or (it.used and (not it.ends_ns or server_ns < it.ends_ns)) for it in self.spend.values()):
            return False
        return not (self.slots.used or self.slots.granted or self.rates or self.backs)

    def standings(self, claim: Claim, server_ns: int) -> Iterator[Standing]:
        """As last told, less what was used since."""
        limit = claim.limit
        for spend in least_spend(limit):
            if level := self.spend.get(spend.period):
                left = level.room + level.granted - level.used
                yield Standing(limit.name, "spend", spend.nanousd, max(0, left), level.ends_ns // 10**9, 0, limit.is_shared)
        for kind, rates in (("requests", limit.requests), ("tokens", limit.tokens)):
            for rate in least_rates(rates):
                if packet := self.rates.get((kind, rate.period_s)):
                    resets_at = -(-packet.ends_us // 10**6) + rate.period_s
                    yield Standing(
                        limit.name, kind, rate.count, max(0, packet.room + packet.left), resets_at, rate.period_s, limit.is_shared
                    )
        if limit.concurrency is not None:
            left = self.slots.room + self.slots.granted - self.slots.used
            yield Standing(limit.name, "concurrency", limit.concurrency, max(0, left), server_ns // 10**9, 0, limit.is_shared)


def impossible(wish: Wish) -> list[Denied]:
    """What no grant could ever meet."""
    found = []
    for kind, bound, want in wish.dimensions:
        most = bound.nanousd if isinstance(bound, Spend) else bound.count if isinstance(bound, Rate) else bound
        if want > most or not most:
            found.append(Denied(Why.LARGER if most else Why.ZERO, wish.claim, kind, bound, want, most))
    return found


def denied(wish: Wish, ask: Ask, level: Level | None, said: Sequence[int]) -> Denied | None:
    """The refusal in an answer, if it is one. `level`: of money or slots, after it was told."""
    if isinstance(ask.bound, Rate):
        given, _, wait_us, left = said
        return None if given >= ask.want else Denied(Why.RATE, wish.claim, ask.kind, ask.bound, ask.want, left, wait_us * 1000)
    assert level is not None
    if level.used + ask.want <= level.granted:
        return None
    left = max(0, level.room + level.granted - level.used)
    if isinstance(ask.bound, Spend):
        return Denied(Why.BUDGET, wish.claim, "spend", ask.bound, ask.want, left, until_ns=level.ends_ns)
    return Denied(Why.IN_FLIGHT, wish.claim, "concurrency", ask.bound, ask.want, 0, SLOT_WAIT_NS)


SLOT_WAIT_NS = 1_000_000_000  # an estimate: the home does not know when the others' calls end


def least_spend(limit: Limit) -> Sequence[Spend]:
    """One for each period, the smallest: they share one balance."""
    found: dict[str, Spend] = {}
    for spend in sorted(limit.spend, key=lambda it: -it.nanousd):
        found[spend.period] = spend
    return list(found.values())


def least_rates(rates: Sequence[Rate]) -> Sequence[Rate]:
    """One for each window, the smallest: they share one ring."""
    found: dict[int, Rate] = {}
    for rate in sorted(rates, key=lambda it: -it.count):
        found[rate.period_s] = rate
    return list(found.values())
