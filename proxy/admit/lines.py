"""The straight way of a call through its limits, while none is near its end: where each counts is found once. Never says why not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from proxy.admit.accounts import Account, Moment
from proxy.admit.counters import Charge, Counters, windows_of
from proxy.admit.periods import Periods
from proxy.admit.records import charge_said
from proxy.admit.windows import NS
from proxy.policy.plan import Claim, Limit
from proxy.ports import Standing


class Line:
    """One limit on one account: its windows, and its money of the present periods. Good while the account's `line` is it."""

    __slots__ = (
        "account", "asked", "attempt", "entry", "is_open", "limit", "money", "periods", "requests", "said", "slots", "tokens", "used",
    )  # fmt: skip

    def __init__(self, account: Account, name: str, limit: Limit, periods: Periods) -> None:
        self.account, self.limit, self.periods = account, limit, periods
        self.requests = [(account.ring("requests", rate.period_s), rate.count, rate.period_s) for rate in limit.requests]
        self.tokens = [(account.ring("tokens", rate.period_s), rate.count, rate.period_s) for rate in limit.tokens]
        self.slots = limit.concurrency
        spans = [(spend.nanousd, periods.span(spend.period)) for spend in limit.spend]
        self.money = [(account.balance(it.id), most, it.end_ns // NS, (it.end_ns - it.start_ns) // NS) for most, it in spans]
        self.entry = Charge(limit.name, name, windows_of(limit, "requests"), ())
        self.attempt = Charge(limit.name, name, windows_of(limit, "tokens"), tuple([it.id for _, it in spans]))
        self.said = charge_said(self.entry) if self.entry.rates else b""
        self.asked = [account.ring("requests", period_s) for period_s in self.entry.rates]  # each once, whatever rates look at it
        self.used = [account.ring("tokens", period_s) for period_s in self.attempt.rates]
        amounts = [it.count for it in (*limit.requests, *limit.tokens)] + [it.nanousd for it in limit.spend]
        self.is_open = 0 not in amounts and self.slots != 0  # a limit of 0 has a refusal of its own


def lines_named(counters: Counters, claims: Sequence[Claim], names: Sequence[str], now: Moment) -> list[Line]:
    """Of the accounts with these names; what is not there stands as if nothing ever counted, and is not made."""
    found = []
    for claim, name in zip(claims, names, strict=True):
        account = counters.find(claim.limit.name, name) or Account()
        found.append(line_of(account, name, claim.limit, now.periods))
        for ring in (*found[-1].asked, *found[-1].used):
            ring.used(now.ns)
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
        for ring, most, _ in line.requests:
            if ring.total >= most:
                return False
        for ring, most, _ in line.tokens:
            if ring.total > most:
                return False
        for balance, most, _, _ in line.money:
            if balance.settled + balance.held > most:
                return False
    return True


def may_enter(lines: Iterable[Line], now_ns: int) -> bool:
    """Has every line room for a request and a slot?"""
    for line in lines:
        if not line.is_open or (line.slots is not None and line.account.in_flight >= line.slots):
            return False
        for ring, most, _ in line.requests:
            if ring.total >= most and not ring.has_room(1, most, now_ns):
                return False
    return True


def may_hold(lines: Iterable[Line], now_ns: int, tokens: int, nanousd: int) -> bool:
    """I1: has every line room for these tokens, and settled + held + nanousd ≤ limit?"""
    for line in lines:
        if not line.is_open:
            return False
        for ring, most, _ in line.tokens:
            if ring.total + tokens > most and not ring.has_room(tokens, most, now_ns):
                return False
        for balance, most, _, _ in line.money:
            if balance.settled + balance.held + nanousd > most:
                return False
    return True


# -- how a caller stands, for reply headers ------------------------------------------------------------------------------


def entry_standings_on(lines: Sequence[Line], now: Moment) -> tuple[Standing, ...]:
    """Requests and concurrency of each line. What is over has been forgotten (`Ring.used`, `Ring.add`)."""
    found: list[Standing] = []
    for line in lines:
        limit, slots = line.limit, line.slots
        for ring, most, window_s in line.requests:
            left = most - ring.total
            until = (ring.buckets[-1][1] + ring.period_ns if ring.total else now.ns) + now.skew_ns
            found.append(Standing(limit.name, "requests", most, left if left > 0 else 0, -(-until // NS), window_s, limit.is_shared))
        if slots is not None:
            left, now_s = slots - line.account.in_flight, (now.ns + now.skew_ns) // NS
            found.append(Standing(limit.name, "concurrency", slots, left if left > 0 else 0, now_s, 0, limit.is_shared))
    return tuple(found)


def hold_standings_on(lines: Sequence[Line], now: Moment) -> tuple[Standing, ...]:
    """Tokens and spend (nano-dollars) of each line. As above."""
    found: list[Standing] = []
    for line in lines:
        limit = line.limit
        for ring, most, window_s in line.tokens:
            left = most - ring.total
            until = (ring.buckets[-1][1] + ring.period_ns if ring.total else now.ns) + now.skew_ns
            found.append(Standing(limit.name, "tokens", most, left if left > 0 else 0, -(-until // NS), window_s, limit.is_shared))
        for balance, most, end_s, window_s in line.money:
            left = most - balance.settled - balance.held
            found.append(Standing(limit.name, "spend", most, left if left > 0 else 0, end_s, window_s, limit.is_shared))
    return tuple(found)
