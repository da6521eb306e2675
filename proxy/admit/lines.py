"""The straight way of a call through its limits, while none is near its end: where all of them count is found once. Never says why not."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from orjson import Fragment

from proxy.admit.accounts import Account, Moment
from proxy.admit.counters import Counters
from proxy.admit.moments import Moments
from proxy.admit.periods import Periods
from proxy.admit.records import MOST
from proxy.admit.shape import Shape, shape_of
from proxy.admit.windows import NS
from proxy.policy.plan import Claim
from proxy.standings import Standings

MOST_PLACES = 4096
PLENTY = MOST  # where there is no limit


class Where:
    """What counts for some accounts that stand on the limits of a shape, by the numbers that it has there: `rings` of its requests and
    tokens, `balances` of its money. Bounds and all else that is the same for many stand in the shape."""

    __slots__ = ("balances", "everyone", "rings", "shape")

    def __init__(self, shape: Shape, accounts: Sequence[Account]) -> None:
        self.shape, self.everyone = shape, accounts
        self.rings = tuple([accounts[n].ring(key) for n, key, _, _ in shape.requests + shape.tokens])
        self.balances = tuple([accounts[n].balance(period) for n, period, _, _ in shape.money])


class Place(Where):
    """And where what they take is counted. Good while none of the accounts has forgotten anything since."""

    __slots__ = (
        "accounts", "as_of", "asked", "claims", "entries_to", "entry", "held", "is_open", "names", "nanousd_to", "periods", "sums", "times",
        "tokens_to", "used",
    )  # fmt: skip

    def __init__(
        self,
        claims: tuple[Claim, ...],
        names: Sequence[str],
        accounts: Sequence[Account],
        shape: Shape,
        periods: Periods,
        counters: Counters,
    ) -> None:
        Where.__init__(self, shape, accounts)
        self.sums = counters.join(accounts)
        self.as_of = counters.forgot  # when it was surely good
        self.claims, self.names, self.periods, self.is_open = claims, names, periods, shape.is_open
        self.accounts = tuple([(account, account.forgot) for account in accounts])
        self.asked, self.used = self.rings[: len(shape.requests)], self.rings[len(shape.requests) :]
        if shape.has_twins:  # each window once, whatever bounds look at it
            self.asked, self.used = tuple({id(it): it for it in self.asked}.values()), tuple({id(it): it for it in self.used}.values())
        entry, held = shape.said(names)
        self.entry, self.held = Fragment(entry) if entry else None, Fragment(held)
        each = [*map(id, accounts), *map(id, self.balances)]
        self.times = 1 if len(set(each)) == len(each) else len(each)  # what is taken here once counts as often on one of them, at most
        # While no more than this was ever taken (`sums`), there is room for sure, whoever took it: see `look`.
        self.entries_to = self.tokens_to = self.nanousd_to = -1

    def is_good(self, as_of: int) -> bool:
        """`as_of`: `Counters.forgot` now. Asked where that has changed."""
        for account, forgot in self.accounts:
            if account.forgot != forgot:
                return False
        self.as_of = as_of
        return True


class Places:
    """Of the claims that came lately: calls of one plan come with one and the same tuple."""

    def __init__(self, counters: Counters, moments: Moments) -> None:
        self._counters, self._moments = counters, moments
        self._known: dict[int, Place] = {}  # by the identity of the tuple, which is nobody else's while it is kept
        self._kept: dict[int, tuple[Claim, ...]] = {}
        moments.turned = self._forget

    def of(self, claims: Sequence[Claim]) -> Place | None:
        """What is not there is made. None where it might have to share the account of others. Who asks looks at `Counters.claims` first:
        the stages of one call follow each other."""
        counters = self._counters
        place, forgot = self._known.get(id(claims)), counters.forgot
        if place is None and claims and (account := counters.find(claims[0].limit.name, claims[0].account)) is not None:
            place = account.place
            if place is not None and (place.claims is not claims or place.periods is not self._moments.present):
                place = None
        if place is None or (place.as_of != forgot and not place.is_good(forgot)):
            place = self._find(claims)
            if place is None or type(claims) is not tuple:
                return place
        counters.claims, counters.place = claims, place
        return place

    def _find(self, claims: Sequence[Claim]) -> Place | None:
        place, present = None, self._moments.present
        if claims:
            account = self._counters.find(claims[0].limit.name, claims[0].account)
            place = None if account is None else account.place
        if place is None or place.periods is not present or place.claims != tuple(claims) or not place.is_good(self._counters.forgot):
            place = self._made(claims)
            if place is None:
                self._known.pop(id(claims), None)
                return None
        if type(claims) is tuple:  # nothing else is surely the same the next time
            if len(self._known) >= MOST_PLACES:
                self._forget()
            self._known[id(claims)], self._kept[id(claims)] = place, claims
        return place

    def _made(self, claims: Sequence[Claim]) -> Place | None:
        names, find = [claim.account for claim in claims], self._counters.find
        if None not in [find(claim.limit.name, claim.account) for claim in claims]:
            place = self.named(claims, names, self._moments.present)
        elif any([claim.limit.is_unbounded for claim in claims]):
            return None
        else:
            place = self.made(claims, names, self._moments.now())
        for account, _ in place.accounts[:1]:
            account.place = place
        return place

    def _forget(self) -> None:
        self._known.clear()
        self._kept.clear()
        self._counters.claims = None

    def named(self, claims: Sequence[Claim], names: Sequence[str], periods: Periods) -> Place:
        """Of the accounts with these names; what is not there stands as if nothing ever counted, and is not made."""
        find = self._counters.find
        accounts = tuple([find(claim.limit.name, name) or Account() for claim, name in zip(claims, names, strict=True)])
        shape = shape_of(tuple([claim.limit for claim in claims]), periods)
        return Place(tuple(claims), names, accounts, shape, periods, self._counters)

    def made(self, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> Place:
        """As `named`; what is not there is made. All are there before the first is looked at: making one may forget another."""
        for claim, name in zip(claims, names, strict=True):
            self._counters.account(claim.limit.name, name, now)
        for claim, name in zip(claims, names, strict=True):
            self._counters.account(claim.limit.name, name)
        return self.named(claims, names, now.periods)


def look(place: Place) -> bool:
    """By what has counted up to now, and may be over by now: would a request and an attempt of nothing pass, surely? And up to which
    sums of all that is taken there: if all of it were taken at one place, there would still be room. What is given back makes only more."""
    entries = tokens = nanousd = PLENTY if place.is_open else -1
    shape, rings, balances = place.shape, place.rings, place.balances
    for at, most in shape.asked:
        if most - rings[at].total < entries:
            entries = most - rings[at].total
    for at, most, _ in shape.slots:
        if most - place.everyone[at].in_flight < entries:
            entries = most - place.everyone[at].in_flight
    for at, most in shape.used:
        if most - rings[at].total < tokens:
            tokens = most - rings[at].total
    for at, most, _ in shape.funds:
        if most - balances[at].settled - balances[at].held < nanousd:
            nanousd = most - balances[at].settled - balances[at].held
    sums = place.sums
    place.entries_to, place.tokens_to, place.nanousd_to = sums.entries + entries, sums.tokens + tokens, sums.nanousd + nanousd
    return entries > 0 and tokens >= 0 and nanousd >= 0


def may_enter(place: Place, now_ns: int) -> bool:
    """Is there room for a request and a slot everywhere?"""
    for at, most in place.shape.asked:
        ring = place.rings[at]
        if ring.total >= most and not ring.has_room(1, most, now_ns):
            return False
    for at, most, _ in place.shape.slots:
        if place.everyone[at].in_flight >= most:
            return False
    return place.is_open


def may_hold(place: Place, now_ns: int, tokens: int, nanousd: int) -> bool:
    """I1: is there room for these tokens everywhere, and settled + held + nanousd ≤ limit?"""
    for at, most in place.shape.used:
        ring = place.rings[at]
        if ring.total + tokens > most and not ring.has_room(tokens, most, now_ns):
            return False
    for at, most, _ in place.shape.funds:
        balance = place.balances[at]
        if balance.settled + balance.held + nanousd > most:
            return False
    return place.is_open


def standings_on(where: Where, now_ns: int, now_s: int, part_ns: int) -> Standings:
    """How the accounts stand, for reply headers. By the wall clock it is `part_ns` after the second `now_s`."""
    shape, rings, balances = where.shape, where.rings, where.balances
    row = shape.row.copy()
    second_ns = now_ns - part_ns  # its beginning, as rates count it
    rate, tight, scarcest = None, 0, inf
    for n, most, amount, at, until, period_s, number in shape.rates:
        ring = rings[n]
        if used := ring.total if now_ns < ring.edge else ring.used(now_ns):  # before the edge nothing is over
            row[until] = period_s - (second_ns - ring.last) // NS  # rounded up; of small figures, mostly
        elif part_ns:
            row[until] = 1
        row[at] = left = most - used
        share = left / amount
        if share < scarcest:
            rate, tight, scarcest = number, at, share
    for n, most, at in shape.slots:
        held = where.everyone[n].in_flight
        row[at] = most - held if held < most else 0
    for n, most, at in shape.funds:
        balance = balances[n]
        row[at] = most - balance.settled - balance.held
    terms = shape.terms
    if scarcest < 0.0 or not terms.is_plain:
        return Standings.found(terms, row, now_s, shape.ends)
    if rate is not None:
        row[0] = row[tight]
        row[1] = now_s + row[tight + 1]
    standings = Standings()  # `standing_at`, but for the call
    standings.terms = terms
    standings.row = row
    standings.now_s = now_s
    standings.ends = shape.ends
    standings.first = 0
    standings.rate = rate
    return standings
