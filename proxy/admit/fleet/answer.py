"""A script's numbers as the answers of `admit.limits`: the same refusals and standings as any other store. Counts nothing itself."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from proxy.admit.accounts import Account, Balance, Moment, RateKind
from proxy.admit.counters import Charge, Counters
from proxy.admit.fleet.almanac import Around
from proxy.admit.fleet.ops import Take, Taken
from proxy.admit.limits import Denied, denied_entry, denied_hold, standings
from proxy.admit.periods import Periods
from proxy.admit.records import MOST
from proxy.admit.shape import ENTRY, charges_of
from proxy.admit.windows import Ring
from proxy.policy.plan import Claim, Rate
from proxy.standings import Standing


@dataclass(frozen=True, slots=True)
class Told:
    """What take.lua said. `names`: the account of each claim, by id() of the claim; `numbers` in the order of the claims, µs."""

    at_ns: int
    is_denied: bool
    names: Mapping[int, str]
    numbers: Sequence[int]
    held: tuple[Charge, ...] | None  # of a hold that was known
    live: int


class Seen(Ring):
    """A window as the script saw it: its sum, the instant it is empty, and how long each wish has to wait."""

    __slots__ = ("free_at", "waits")

    def __init__(self, period_s: int) -> None:
        super().__init__(period_s)
        self.free_at = 0
        self.waits: dict[int, int] = {}  # limit → ns, below 0 for never

    def used(self, now: int) -> int:
        return self.total

    def empty_at(self, now: int) -> int:
        return self.free_at

    def wait_ns(self, want: int, limit: int, now: int) -> int | None:
        wait = self.waits[limit]
        return None if wait < 0 else wait


def answer(take: Take, around: Around, told: Told) -> Taken:
    """The counters that the numbers describe, judged by the rules of every store: part by part, as the script told them."""
    numbers = iter(told.numbers)
    denied: list[Denied | None] = []
    found: list[Standing] = []
    entered, held = [], told.held or ()
    for entry in take.entries:
        counters, names, now = _read(numbers, entry.claims, "requests", around, told)
        denied.append(denied_entry(counters, entry.claims, names, now) if told.is_denied else None)
        found += [it for it in standings(counters, entry.claims, names, now) if it.kind in ENTRY]
        entered.append(charges_of(entry.claims, names, now, "requests"))
    if want := take.hold:
        counters, names, now = _read(numbers, want.claims, "tokens", around, told)
        denied.append(
            denied_hold(counters, want.claims, names, now, min(want.tokens, MOST), min(want.nanousd, MOST)) if told.is_denied else None
        )
        found += [it for it in standings(counters, want.claims, names, now) if it.kind not in ENTRY]
        held = charges_of(want.claims, names, now, "tokens") if told.held is None else told.held
    failing = tuple([it for it in denied if it is not None])
    return Taken(told.at_ns, failing, tuple(found), tuple(entered), held, told.live)


def _read(
    numbers: Iterator[int], claims: Sequence[Claim], kind: RateKind, around: Around, told: Told
) -> tuple[Counters, list[str], Moment]:
    counters, names = Counters(max_keys=1), [told.names[id(claim)] for claim in claims]
    day, month = around.day[1], around.month[1]
    for claim, name in zip(claims, names, strict=True):
        account = counters.books.setdefault(claim.limit.name, OrderedDict()).setdefault(name, Account())
        if kind == "requests":
            account.in_flight, account.stay_ns = next(numbers), next(numbers)
            _read_rings(numbers, account, kind, claim.limit.requests)
            continue
        _read_rings(numbers, account, kind, claim.limit.tokens)
        for spend in claim.limit.spend:
            used, span = next(numbers), around.span(spend.period, next(numbers))
            account.spend[span.id] = Balance(settled=used)
            day, month = span if spend.period == "day" else day, span if spend.period == "month" else month
    return counters, names, Moment(told.at_ns, Periods(day, month, ("", "")))


def _read_rings(numbers: Iterator[int], account: Account, kind: RateKind, rates: Sequence[Rate]) -> None:
    for rate in rates:
        ring = account.rings.get((kind, rate.period_s))
        if not isinstance(ring, Seen):
            ring = account.rings[kind, rate.period_s] = Seen(rate.period_s)
        ring.total, ring.free_at, ring.waits[rate.count] = next(numbers), next(numbers) * 1000, next(numbers) * 1000
        ring.last = ring.free_at - ring.period_ns
