"""Operations as the plain values that the scripts read, and back: instants in µs, accounts as text. Does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from proxy.admit.counters import Charge
from proxy.admit.fleet.almanac import Around, Spans
from proxy.admit.fleet.ops import Adopt, Count, Join, Leave, Op, Rebase, Rebased, Settle, Take, Uncount, Void, Watch
from proxy.admit.records import MOST
from proxy.policy.plan import Claim

Values = Sequence[object]


def spans(around: Around) -> dict[str, object]:
    """The periods that the script chooses from, with their ends."""
    return {"day": _spans(around.day), "month": _spans(around.month)}


def _spans(of: Spans) -> list[Values]:
    return [(span.id, span.end_ns // 1000) for span in of]


def claims_of(take: Take) -> list[Claim]:
    """Each claim of a take once; it is told apart by being the same object."""
    found = {id(claim): claim for entry in take.entries for claim in entry.claims}
    if take.hold:
        found.update((id(claim), claim) for claim in take.hold.claims)
    return list(found.values())


def request_of(take: Take, claims: Sequence[Claim]) -> dict[str, object]:
    """What is taken, the claims by their number in `claims`, from 1."""
    number = {id(claim): at for at, claim in enumerate(claims, 1)}
    request: dict[str, object] = {
        "claims": [_claim(claim) for claim in claims],
        "entries": [(it.uid, [number[id(claim)] for claim in it.claims]) for it in take.entries],
    }
    if want := take.hold:
        request["hold"] = (want.id, [number[id(claim)] for claim in want.claims], min(want.tokens, MOST), min(want.nanousd, MOST))
    return request


def _claim(claim: Claim) -> Values:
    limit = claim.limit
    most = -1 if limit.concurrency is None else limit.concurrency
    requests, tokens = ([(it.count, it.period_s) for it in rates] for rates in (limit.requests, limit.tokens))
    spend = [(it.nanousd, it.period) for it in limit.spend]
    return limit.name, claim.account, int(limit.is_unbounded), most, requests, tokens, spend


def op_of(op: Op) -> Values:
    match op:
        case Settle():
            return "settle", op.id, min(op.tokens, MOST), min(op.nanousd, MOST)
        case Void():
            return "void", op.id
        case Leave() | Uncount():
            return ("leave" if isinstance(op, Leave) else "uncount"), op.uid
        case Count():
            return "count", op.kind, op.at_ns // 1000, op.count, _charges(op.charges)
        case Adopt():
            return "adopt", op.id, op.at_ns // 1000, min(op.tokens, MOST), min(op.nanousd, MOST), _charges(op.charges)
        case Join():
            return "join", op.uid, op.at_ns // 1000, _charges(op.charges)
        case Rebase():
            return "rebase", op.limit, op.account, op.period, op.nanousd
        case Rebased():
            return ("rebased",)


def watch_of(watch: Watch) -> Values:
    claim, spend = watch.claim, watch.spend
    return claim.limit.name, claim.account, spend.period, spend.nanousd, watch.left, watch.is_wanted


def _charges(charges: Iterable[Charge]) -> list[Values]:
    return [(it.limit, it.account, it.rates, it.periods) for it in charges]


def read_charges(text: bytes) -> tuple[Charge, ...] | None:
    """Of a hold that was known to the script; None for b"". Lua writes an empty list as {}."""
    if not text:
        return None
    found: list[list[Any]] = orjson.loads(text)
    return tuple([Charge(limit, account, tuple(rates), tuple(periods)) for limit, account, rates, periods, _ in found])
