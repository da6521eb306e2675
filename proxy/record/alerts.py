"""Tells when a share of a money limit is used: a line in the log, a metric, a POST. Once per account, period and share; delays no call.

Money alone: requests, tokens and slots come back by themselves within their window, and have their metric.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from proxy.exchange import NANO
from proxy.policy.plan import Alerts as Rules
from proxy.policy.plan import Claim, Rulebook
from proxy.ports import Clock
from proxy.record.told import Key, Told
from proxy.standings import Standing

MAX_ACCOUNTS = 10_000  # with a line of their own; beyond, one of a limit speaks for the rest
PRUNE_S = 60  # between two looks for accounts of past periods, once there are so many


class Figures(Protocol):
    """The part of the metrics that alerts count on."""

    def alerted(self, limit: str, share: str) -> None: ...


class Teller(Protocol):
    """The part of the log that alerts are written to."""

    def event(self, level: str, event: str, **fields: object) -> None: ...


Account = tuple[str, str | None, str, int, int]  # limit, account, period, when it ends (Unix s, 0: never), allowed nano-dollars


class Alerts:
    """`rules`: those that are live; `post` sends a document to a URL some time; `folder`: where what was told is kept, None: in memory;
    `instance` names this machine."""

    def __init__(
        self,
        rules: Callable[[], Rulebook],
        post: Callable[[str, dict[str, object]], None],
        metrics: Figures,
        log: Teller,
        clock: Clock,
        folder: Path | None,
        instance: str,
    ) -> None:
        self._rules, self._post, self._metrics, self._log, self._clock = rules, post, metrics, log, clock
        self._instance = instance
        self._told = Told(folder, self._now_s())
        self._next: dict[Account, float | None] = {}  # the smallest share that nobody was told of yet; None: none is left
        self._floors: dict[Account, int] = {}  # what may be left, at most, for that share to be reached: more, and there is nothing to tell
        self._of: Rules | None = None  # the rules that `_next` was made by
        self._pruned_s = 0

    def saw(self, claims: Sequence[Claim], standings: Iterable[Standing], exhausted: str | None = None) -> None:
        """How accounts stand after a hold or a settle; `exhausted`: the limit that has refused a call for want of money."""
        rules = self._rules().alerts
        if rules is None:
            return
        if rules is not self._of:
            self._of = rules
            self._next.clear()
            self._floors.clear()
        spent = [at for at in standings if at.kind == "spend"]
        for claim in claims:
            if claim.limit.spend:
                name = claim.limit.name
                found = [at for at in spent if at.limit == name]
                tightest = min((at.remaining for at in found), default=0) if exhausted == name else None
                for spend, at in zip(claim.limit.spend, found, strict=False):
                    floor = self._floors.get((name, claim.account, spend.period, at.resets_at, at.allowed))
                    if floor is None or at.remaining <= floor or tightest is not None:
                        self._look(rules, claim, spend.period, at, is_out=at.remaining == tightest)

    def _account(self, claim: Claim, period: str, at: Standing) -> Account:
        name = claim.account if claim.account.isascii() else claim.account.encode("utf-8", "backslashreplace").decode()
        own: Account = (at.limit, name, period, at.resets_at, at.allowed)
        if own in self._next:
            return own
        if len(self._next) >= MAX_ACCOUNTS and (now := self._now_s()) >= self._pruned_s + PRUNE_S:
            self._pruned_s = now
            self._next = {one: share for one, share in self._next.items() if not 0 < one[3] <= now}
            self._floors.clear()
        if claim.limit.is_unbounded or len(self._next) >= MAX_ACCOUNTS:
            return (at.limit, None, period, at.resets_at, at.allowed)
        return own

    def _look(self, rules: Rules, claim: Claim, period: str, at: Standing, *, is_out: bool) -> None:
        account = self._account(claim, period, at)
        if account not in self._next:
            self._next[account] = self._after(rules, account)
        while (share := self._next[account]) is not None and (at.reaches(share) or (is_out and share <= 1)):
            self._tell(rules, account, share, at)
            self._next[account] = self._after(rules, account)
        if account[1] is not None:
            self._floors[at.limit, claim.account, period, at.resets_at, at.allowed] = -1 if share is None else at.floor(share)

    def _after(self, rules: Rules, account: Account) -> float | None:
        return next((share for share in sorted(rules.at) if (*account, share) not in self._told), None)

    def _tell(self, rules: Rules, account: Account, share: float, at: Standing) -> None:
        key: Key = (*account, share)
        if (problem := self._told.add(key)) is not None:
            self._log.event("error", "alert not kept", error=problem)
        limit, name, period, resets_at, allowed = account
        told: dict[str, object] = {
            "limit": limit,
            "account": None if self._rules().identities == "hashed" else name,
            "share": f"{share * 100:g}%",
            "period": period,
            "used_usd": _dollars(allowed - at.remaining),
            "allowed_usd": _dollars(allowed),
            "resets_at": datetime.fromtimestamp(resets_at, UTC).isoformat() if resets_at else None,
        }
        self._metrics.alerted(limit, str(told["share"]))
        self._log.event("warning", "alert", **told)
        if rules.webhook:
            id = hashlib.sha256(repr(key).encode("utf-8", "surrogatepass")).hexdigest()[:32]
            self._post(rules.webhook, {"id": id, "text": _text(told), **told, "instance": self._instance, "at": self._at()})

    def _now_s(self) -> int:
        return self._clock.now_ns() // NANO

    def _at(self) -> str:
        return datetime.fromtimestamp(self._now_s(), UTC).isoformat()


def _text(told: dict[str, object]) -> str:
    """One sentence: chat services show the field `text` of what is posted to them."""
    whose = f" ({told['account']})" if told["account"] else ""
    until = f" until {told['resets_at']}" if told["resets_at"] else ""
    per = "in total" if told["period"] == "total" else f"per {told['period']}"
    return f"Sluice: limit {told['limit']}{whose} has used ${told['used_usd']}, {told['share']} of ${told['allowed_usd']} {per}{until}"


def _dollars(nanousd: int) -> str:
    """Exact."""
    whole, rest = divmod(nanousd, NANO)
    return f"{whole}.{rest:09d}".rstrip("0").ljust(len(f"{whole}.00"), "0")
