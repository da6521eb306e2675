"""What a refused caller is told: limit, cause, amounts of its own account only, when it ends, what would fit. Decides nothing."""

from __future__ import annotations

from datetime import UTC, datetime

from proxy.admit.limits import Denied, Why
from proxy.admit.windows import NS, seconds_until_room
from proxy.policy.plan import Rate, Spend
from proxy.ports import Intent
from proxy.refusal import Refusal

LONGEST_WAIT_S = 60  # `retry-after` says 1 to 60 s (design.md section 3); beyond that waiting is no advice
WINDOWS = {60: "minute", 3600: "hour", 86400: "day"}


def refusal(no: Denied, intent: Intent | None = None) -> Refusal:
    """The Refusal for the worst failing dimension. `intent` lets it say what `max_tokens` would fit."""
    limit = no.claim.limit
    status, code = _status(no)
    said = [f"limit {limit.name}{_cause(no)}"]
    if no.kind == "spend" and intent and not limit.is_shared and (fits := _fitting_max_tokens(no, intent)):
        said.append(f"max_tokens ≤ {fits} would fit")
    if limit.contact:
        said.append(f"ask {limit.contact}")
    wait_s = seconds_until_room(no.wait_ns)
    waits = no.why in (Why.RATE, Why.IN_FLIGHT) and (wait_s <= LONGEST_WAIT_S or no.why is Why.IN_FLIGHT)
    return Refusal(
        status,
        code,
        "; ".join(said),
        retry_after=float(min(wait_s, LONGEST_WAIT_S)) if waits else None,
        should_retry=None if waits else False,
        limit=limit.name,
        kind=no.kind,
        used=1 - no.left / amount if (amount := _amount(no.bound)) else 1.0,
    )


def unavailable() -> Refusal:
    """The journal cannot be written: nothing is forwarded that could not be accounted for."""
    return Refusal(
        503, "ledger_unavailable", "the ledger cannot be written just now, and nothing is forwarded unaccounted", retry_after=5.0
    )


def _status(no: Denied) -> tuple[int, str]:
    if no.why is Why.LARGER:
        return 400, "exceeds_limit"
    if no.kind == "spend":
        return no.claim.limit.money_status, "budget_exhausted"
    return 429, "too_many_in_flight" if no.kind == "concurrency" else "rate_limited"


def _cause(no: Denied) -> str:
    """All amounts are the caller's own, or left out."""
    when = _when(no)
    if no.why is Why.ZERO:
        return f" allows no {no.kind} at all"
    if no.claim.limit.is_shared:
        return (": this call is larger than the whole limit" if no.why is Why.LARGER else " is used up") + when
    if no.why is Why.IN_FLIGHT:
        return f": {no.bound} calls may run at once, and as many do{when}"
    per = _per(no.bound)
    if no.kind == "spend":
        cost = f": this call may cost {dollars(no.want, up=True)}"
        if no.why is Why.LARGER:
            return f"{cost}, more than the whole {dollars(_amount(no.bound))} {per}"
        if not no.want:
            return f": {dollars(_amount(no.bound))} {per} is spent{when}"
        return f"{cost}, {dollars(no.left)} left{when}"
    if no.why is Why.LARGER:
        return f": this call may use {no.want} {no.kind}, more than the whole {_amount(no.bound)} {per}"
    return f": {_amount(no.bound)} {no.kind} {per}, {no.left} left{when}"


def _when(no: Denied) -> str:
    if no.why is Why.BUDGET:
        return f" until {instant(no.until_ns)}" if no.until_ns else ""
    return f", room in {seconds_until_room(no.wait_ns)} s" if no.why is Why.RATE else ""


def _amount(bound: Rate | Spend | int) -> int:
    if isinstance(bound, Rate):
        return bound.count
    return bound.nanousd if isinstance(bound, Spend) else bound


def _per(bound: Rate | Spend | int) -> str:
    if isinstance(bound, Rate):
        return f"per {WINDOWS[bound.period_s]}"
    return "in total" if isinstance(bound, Spend) and bound.period == "total" else f"per {bound.period}" if isinstance(bound, Spend) else ""


def _fitting_max_tokens(no: Denied, intent: Intent) -> int:
    """The largest `max_tokens` whose estimate fits into what is left; 0 where none does or nobody knows."""
    if not (intent.max_tokens and intent.output_nanousd):
        return 0
    room = no.left - (intent.nanousd - intent.output_nanousd)
    return max(0, room * intent.max_tokens // intent.output_nanousd)


def dollars(nanousd: int, *, up: bool = False) -> str:
    """ "$1.20", "$0.000013": to the micro-dollar, rounded down, or up for what something costs."""
    micro = -(-nanousd // 1000) if up else nanousd // 1000
    whole, rest = divmod(micro, 1_000_000)
    digits = f"{rest:06d}".rstrip("0").ljust(2, "0")
    return f"${whole}.{digits}"


def instant(ns: int) -> str:
    """ "2026-12-01T00:00Z"."""
    return datetime.fromtimestamp(ns // NS, UTC).strftime("%Y-%m-%dT%H:%MZ")
