"""The straight way of a call through its limits, while none is near its end: where each counts is found once. Never says why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from orjson import Fragment

from proxy.admit.accounts import Account, Moment
from proxy.admit.counters import Charge, Counters, windows_of
from proxy.admit.periods import Periods
from proxy.admit.records import charge_said
from proxy.admit.windows import NS
from proxy.policy.plan import Claim, Limit
from proxy.standings import Standings, Term, Terms, terms_of

MOST_PLACES = 1024
ENTRY = ("requests", "concurrency")  # what a call takes; an attempt takes tokens and spend


class Line:
    """One limit on one account: its windows, and its money of the present periods. Good while the account's `line` is it."""

    __slots__ = (
        "account", "asked", "attempt", "balances", "entry", "is_open", "limit", "money", "periods", "requests", "slots", "terms", "tokens",
        "used",
    )  # fmt: skip

    def __init__(self, account: Account, name: str, limit: Limit, periods: Periods) -> None:
        self.account, self.limit, self.periods = account, limit, periods
        self.terms = _terms(limit, periods)
        self.requests = [(account.ring("requests", rate.period_s), rate.count) for rate in limit.requests]
        self.tokens = [(account.ring("tokens", rate.period_s), rate.count) for rate in limit.tokens]
        self.slots = limit.concurrency
        spans = [(spend.nanousd, periods.span(spend.period)) for spend in limit.spend]
        self.money = [(account.balance(it.id), most, it.end_ns // NS) for most, it in spans]
        self.balances = [balance for balance, _, _ in self.money]
        self.entry = Charge(limit.name, name, windows_of(limit, "requests"), ())
        self.attempt = Charge(limit.name, name, windows_of(limit, "tokens"), tuple([it.id for _, it in spans]))
        self.asked = [account.ring("requests", period_s) for period_s in self.entry.rates]  # each once, whatever rates look at it
        self.used = [account.ring("tokens", period_s) for period_s in self.attempt.rates]
        amounts = [it.count for it in (*limit.requests, *limit.tokens)] + [it.nanousd for it in limit.spend]
        self.is_open = 0 not in amounts and self.slots != 0  # a limit of 0 has a refusal of its own


class Place:
    """Where all of these claims count; good while each line is good."""

    __slots__ = ("attempts", "claims", "entered", "entry", "held", "lines")

    def __init__(self, claims: Sequence[Claim], lines: Sequence[Line]) -> None:
        self.claims, self.lines = claims, lines
        self.entered = [(line.account, line.entry) for line in lines]
        self.attempts = tuple([line.attempt for line in lines])
        # for the journal: of each charge that counts requests, and of all that count tokens and money
        self.entry = b",".join([charge_said(line.entry) for line in lines if line.entry.rates])
        self.held = Fragment(b"[%b]" % b",".join(map(charge_said, self.attempts)))


class Places:
    """Those of the claims that came lately: calls of one plan come with one and the same tuple."""

    def __init__(self, books: Mapping[str, Mapping[str, Account]]) -> None:
        self._books = books
        self._known: dict[int, Place] = {}  # by the identity of the tuple, which is nobody else's while it stands here

    def of(self, claims: Sequence[Claim], periods: Periods) -> Place | None:
        """None where one of these claims has no account of its own yet."""
        place = self._known.get(id(claims))
        if place is None:
            return self._find(claims, periods)
        for line in place.lines:
            if line.account.line is not line or line.periods is not periods:
                return self._find(claims, periods)
        return place

    def _find(self, claims: Sequence[Claim], periods: Periods) -> Place | None:
        lines = lines_of(self._books, claims, periods)
        if lines is None:
            self._known.pop(id(claims), None)
            return None
        place = Place(claims, lines)
        if type(claims) is tuple:  # nothing else is surely the same the next time
            if len(self._known) >= MOST_PLACES:
                self._known.clear()
            self._known[id(claims)] = place
        return place


def lines_named(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> list[Line]:
    """Of the accounts with these names; what is not there stands as if nothing ever counted, and is not made."""
    found = []
    for claim, name in zip(claims, names, strict=True):
        account = counters.find(claim.limit.name, name) or Account()
        found.append(line_of(account, name, claim.limit, now.periods))
    return found


def lines_made(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> list[Line]:
    """As `lines_named`; what is not there is made. All are there before the first is looked at: making one may forget another."""
    for claim, name in zip(claims, names, strict=True):
        counters.account(claim.limit.name, name, now)
    for claim, name in zip(claims, names, strict=True):
        counters.account(claim.limit.name, name)
    return lines_named(counters, claims, names, now)


def line_of(account: Account, name: str, limit: Limit, periods: Periods) -> Line:
    line = account.line
    if line is None or line.limit is not limit or line.periods is not periods:
        line = account.line = Line(account, name, limit, periods)
    return line


def lines_of(books: Mapping[str, Mapping[str, Account]], claims: Iterable[Claim], periods: Periods) -> list[Line] | None:
    """None where one of these claims has no account of its own yet."""
    found = []
    for claim in claims:
        limit = claim.limit
        book = books.get(limit.name)
        account = None if book is None else book.get(claim.account)
        if account is None:
            return None
        line = account.line
        if line is None or line.limit is not limit or line.periods is not periods:
            line = line_of(account, claim.account, limit, periods)
        found.append(line)
    return found


def is_far_from_full(books: Mapping[str, Mapping[str, Account]], claims: Iterable[Claim]) -> bool:
    """By what has counted up to now, and may be over by now: would a request and an attempt of nothing pass, surely?"""
    for claim in claims:
        book = books.get(claim.limit.name)
        account = None if book is None else book.get(claim.account)
        line = None if account is None else account.line
        if line is None or line.limit is not claim.limit or not line.is_open:
            return False
        if line.slots is not None and line.account.in_flight >= line.slots:
            return False
        for ring, most in line.requests:
            if ring.total >= most:
                return False
        for ring, most in line.tokens:
            if ring.total > most:
                return False
        for balance, most, _ in line.money:
            if balance.settled + balance.held > most:
                return False
    return True


def may_enter(lines: Iterable[Line], now_ns: int) -> bool:
    """Has every line room for a request and a slot?"""
    for line in lines:
        if not line.is_open or (line.slots is not None and line.account.in_flight >= line.slots):
            return False
        for ring, most in line.requests:
            if ring.total >= most and not ring.has_room(1, most, now_ns):
                return False
    return True


def may_hold(lines: Iterable[Line], now_ns: int, tokens: int, nanousd: int) -> bool:
    """I1: has every line room for these tokens, and settled + held + nanousd ≤ limit?"""
    for line in lines:
        if not line.is_open:
            return False
        for ring, most in line.tokens:
            if ring.total + tokens > most and not ring.has_room(tokens, most, now_ns):
                return False
        for balance, most, _ in line.money:
            if balance.settled + balance.held + nanousd > most:
                return False
    return True


# -- how a caller stands, for reply headers ------------------------------------------------------------------------------


def standings_on(lines: Sequence[Line], now_ns: int, wall_ns: int) -> Standings:
    """Requests and concurrency of each line, then tokens and spend (nano-dollars) of each."""
    row: list[int] = []
    now_s, to_wall_ns = wall_ns // NS, wall_ns - now_ns + NS - 1  # and up to a whole second
    for line in lines:
        for ring, most in line.requests:
            used = ring.total if now_ns < ring.edge else ring.used(now_ns)  # before the edge nothing is over
            resets_at = ((ring.buckets[-1][1] + ring.period_ns if used else now_ns) + to_wall_ns) // NS
            row += (most - used, resets_at, resets_at - now_s)
        if line.slots is not None:
            row += (line.slots - line.account.in_flight, now_s, 0)
    for line in lines:
        for ring, most in line.tokens:
            used = ring.total if now_ns < ring.edge else ring.used(now_ns)
            resets_at = ((ring.buckets[-1][1] + ring.period_ns if used else now_ns) + to_wall_ns) // NS
            row += (most - used, resets_at, resets_at - now_s)
        for balance, most, end_s in line.money:
            row += (most - balance.settled - balance.held, end_s, 0)
    return Standings(lines[0].terms if len(lines) == 1 else _joined(tuple([line.terms for line in lines])), row)


@lru_cache(maxsize=1024)
def _terms(limit: Limit, periods: Periods) -> Terms:
    name, is_shared = limit.name, limit.is_shared
    found = [Term(name, "requests", rate.count, rate.period_s, is_shared) for rate in limit.requests]
    if limit.concurrency is not None:
        found.append(Term(name, "concurrency", limit.concurrency, 0, is_shared))
    found += [Term(name, "tokens", rate.count, rate.period_s, is_shared) for rate in limit.tokens]
    for spend in limit.spend:
        span = periods.span(spend.period)
        found.append(Term(name, "spend", spend.nanousd, (span.end_ns - span.start_ns) // NS, is_shared))
    return terms_of(tuple(found))


@lru_cache(maxsize=1024)
def _joined(several: tuple[Terms, ...]) -> Terms:
    found = [it for terms in several for it in terms.each]
    return terms_of((*(it for it in found if it.kind in ENTRY), *(it for it in found if it.kind not in ENTRY)))
