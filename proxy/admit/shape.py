"""What is the same for all who stand on the same limits in the same periods: told once. Knows no account and counts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from math import inf

from proxy.admit.accounts import Moment, RateKind
from proxy.admit.counters import Charge
from proxy.admit.periods import NS, Periods
from proxy.admit.records import encode
from proxy.policy.plan import Claim, Limit
from proxy.standings import Term, terms_of

MOST_SHAPES = 1024
ENTRY = ("requests", "concurrency")  # what a call takes; an attempt takes tokens and spend


class Shape:
    """Each bound with the number of its limit, which is that of its account, where it counts there, the most it may be, and its
    number among all. By the numbers that `lines.Where` has: `asked` and `used`, of rings, the most; `slots` of accounts and `funds` of
    balances, the most and where `Standings.row` has it; `rates` of rings, the most, what shares are of (of nothing, none is left), where
    the row has it and when it resets, the length and the number among all."""

    __slots__ = (
        "_said", "asked", "ends", "funds", "has_twins", "is_open", "limits", "money", "periods", "rates", "requests", "row", "slots",
        "terms", "tokens", "used",
    )  # fmt: skip

    def __init__(self, limits: Sequence[Limit], periods: Periods) -> None:
        self.limits, self.periods = limits, periods
        self.requests: list[tuple[int, tuple[RateKind, int], int, int]] = []
        slots: list[tuple[int, int, int]] = []
        self.tokens: list[tuple[int, tuple[RateKind, int], int, int]] = []
        self.money: list[tuple[int, str, int, int]] = []
        terms: list[Term] = []
        ends: dict[int, int] = {}  # of those that end, by their number: Unix seconds
        for n, limit in enumerate(limits):  # requests and slots of each limit come first
            self._rates(self.requests, "requests", n, limit, terms)
            if (most := limit.concurrency) is not None:
                slots.append((n, most, len(terms)))
                terms.append(Term(limit.name, "concurrency", most, 0, limit.is_shared))
        for n, limit in enumerate(limits):
            self._rates(self.tokens, "tokens", n, limit, terms)
            for spend in limit.spend:
                span = periods.span(spend.period)
                self.money.append((n, span.id, spend.nanousd, len(terms)))
                ends[len(terms)] = span.end_ns // NS
                terms.append(Term(limit.name, "spend", spend.nanousd, (span.end_ns - span.start_ns) // NS, limit.is_shared))
        self.terms = terms_of(tuple(terms))
        left, asked = self.terms.left, len(self.requests)
        self.asked = [(n, most) for n, (_, _, most, _) in enumerate(self.requests)]
        self.used = [(n, most) for n, (_, _, most, _) in enumerate(self.tokens, asked)]
        both = enumerate(self.requests + self.tokens)
        self.rates = [(n, most, most or inf, left[at], left[at] + 1, key[1], at) for n, (_, key, most, at) in both]
        self.slots = [(n, most, left[at]) for n, most, at in slots]
        self.funds = [(n, most, left[at]) for n, (_, _, most, at) in enumerate(self.money)]
        self.row = [0] * self.terms.width  # `Standings.row`, before anything is counted; and what it does not tell
        self.ends = tuple([ends.get(at) for at in range(len(terms))])
        self.is_open = 0 not in [it.allowed for it in terms]  # a limit of 0 has a refusal of its own
        rates = [(n, key) for n, key, _, _ in self.requests + self.tokens]
        self.has_twins = len(set(rates)) < len(rates)
        self._said: tuple[list[int], bytes, bytes] | None = None

    def _rates(
        self, found: list[tuple[int, tuple[RateKind, int], int, int]], kind: RateKind, n: int, limit: Limit, terms: list[Term]
    ) -> None:
        for rate in limit.requests if kind == "requests" else limit.tokens:
            found.append((n, (kind, rate.period_s), rate.count, len(terms)))
            terms.append(Term(limit.name, kind, rate.count, rate.period_s, limit.is_shared))

    def entered(self, names: Sequence[str]) -> list[Charge]:
        """Where a request of the accounts with these names is counted."""
        return [Charge(limit.name, name, windows_of(limit, "requests"), ()) for limit, name in zip(self.limits, names, strict=True)]

    def held(self, names: Sequence[str]) -> list[Charge]:
        """And where an attempt's tokens and money are."""
        charges, span = [], self.periods.span
        for limit, name in zip(self.limits, names, strict=True):
            charges.append(Charge(limit.name, name, windows_of(limit, "tokens"), tuple([span(it.period).id for it in limit.spend])))
        return charges

    def said(self, names: Sequence[str]) -> tuple[bytes, bytes]:
        """Both for the journal: of the first, charges that do count requests; empty, where none does."""
        if self._said is None:
            nobody = [""] * len(self.limits)
            entered = self.entered(nobody)
            entering = [at for at, charge in enumerate(entered) if charge.rates]
            counted = b",".join([_form(entered[at]) for at in entering])
            self._said = entering, b"[%b]" % counted if counted else b"", b"[%b]" % b",".join(map(_form, self.held(nobody)))
        entering, entry, held = self._said
        said = tuple([encode(name) for name in names])
        return entry % (said if len(said) == len(entering) else tuple([said[at] for at in entering])), held % said


def charges_of(claims: Sequence[Claim], names: Sequence[str], now: Moment, kind: RateKind) -> tuple[Charge, ...]:
    """What these claims count now: windows of `kind`, and for tokens the money of the present periods too."""
    charges = []
    for claim, name in zip(claims, names, strict=True):
        periods = tuple([now.periods.span(it.period).id for it in claim.limit.spend]) if kind == "tokens" else ()
        charges.append(Charge(claim.limit.name, name, windows_of(claim.limit, kind), periods))
    return tuple(charges)


def windows_of(limit: Limit, kind: RateKind) -> tuple[int, ...]:
    rates = limit.requests if kind == "requests" else limit.tokens
    return (rates[0].period_s,) if len(rates) == 1 else tuple({rate.period_s for rate in rates})


Lately = tuple[tuple[Limit, ...], Periods, Shape]
_lately: dict[tuple[int, ...], Lately] = {}  # by the identities of the limits, which are nobody else's while these stand here


def shape_of(limits: tuple[Limit, ...], periods: Periods) -> Shape:
    """One for all that are equal, and mostly the same."""
    key = tuple(map(id, limits))
    found = _lately.get(key)
    if found is None or found[1] is not periods:
        if len(_lately) >= MOST_SHAPES:
            _lately.clear()
        found = _lately[key] = limits, periods, _shape(limits, periods)
    return found[2]


@lru_cache(maxsize=MOST_SHAPES)
def _shape(limits: tuple[Limit, ...], periods: Periods) -> Shape:
    return Shape(limits, periods)


def _form(charge: Charge) -> bytes:
    """With a place for the account's name."""
    limit, _, rates, periods = [encode(it).replace(b"%", b"%%") for it in charge]
    return b"[%b,%%b,%b,%b]" % (limit, rates, periods)
