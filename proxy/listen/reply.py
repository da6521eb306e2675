"""The headers that Sluice adds to a reply. Never overwrites what the provider said, `x-should-retry` after our own retries excepted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from proxy.exchange import NANO, RawHeaders
from proxy.ports import Standing

_NOT_PRINTABLE = re.compile(r"[^ -~]")
_TOKEN_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,4096}")
_RATELIMIT = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
_IETF = (b"ratelimit", b"ratelimit-policy")
_UNITS = {"requests": b"", "tokens": b';qu="tokens"', "concurrency": b';qu="concurrent-requests"'}  # the first is what no unit means
_DONE_TO = {"mask": "masked", "flag": "flagged", "block": "blocked"}
SECURITY: RawHeaders = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))  # on replies that Sluice words itself


def field_value(text: object) -> bytes:
    """Any text as one header value: what is not printable ASCII becomes "?", so that no name can split a line."""
    value = str(text)
    return (value if value.isascii() and value.isprintable() else _NOT_PRINTABLE.sub("?", value)).encode("ascii")


def reply_headers(
    request_id: str,
    answer: RawHeaders = (),
    *,
    now_s: float,
    status: int = 200,
    overhead_ms: float | None = None,
    standings: Sequence[Standing] = (),
    limit: str | None = None,
    kind: str | None = None,
    retry_after: float | None = None,
    provider: str | None = None,
    attempts: int | None = None,
    model: str | None = None,
    found: Mapping[tuple[str, str, str], int] | None = None,
    reserved_nanousd: int | None = None,
    cost_nanousd: int | None = None,
    should_retry: bool | None = None,
) -> RawHeaders:
    """`answer` (the provider's lines, see `headers.answer_headers`) and ours after them (design.md section 3).

    `now_s` is Unix seconds; `status` the reply's; `overhead_ms` our own share; `limit` names the refusing limit and `kind` what of it,
    else the tightest of `standings` is named; `retry_after` (seconds) is what the refusal says; `model` is given only where another
    model answered; `reserved_nanousd` was held, `cost_nanousd` where it is known already; `found` is the story's (entity, direction,
    action) → count.
    """
    sent = {name.lower() for name, _ in answer}
    lines: list[tuple[bytes, bytes]] = [(b"x-sluice-request-id", field_value(request_id))]
    if b"x-request-id" not in sent:
        lines.append((b"x-request-id", field_value(request_id)))
    if overhead_ms is not None:
        lines.append((b"server-timing", b"sluice;dur=%.1f" % overhead_ms))
    lines += _limit_lines(standings, limit, kind, sent, may_reset=status < 400 or limit is not None)
    if sent.isdisjoint(_IETF):
        lines += _ietf_lines(standings, now_s, retry_after)
    named = ((b"x-sluice-provider", provider), (b"x-sluice-attempts", attempts), (b"x-sluice-model", model))
    lines += [(name, field_value(value)) for name, value in named if value is not None]
    amounts = ((b"x-sluice-reserved-usd", reserved_nanousd), (b"x-sluice-cost-usd", cost_nanousd))
    lines += [(name, b"%d.%09d" % divmod(amount, NANO)) for name, amount in amounts if amount is not None]
    if guarded := _guarded(found or {}):
        lines.append((b"x-sluice-guard", field_value(guarded)))
    if should_retry is not None:
        answer = tuple(line for line in answer if line[0].lower() != b"x-should-retry")
        lines.append((b"x-should-retry", b"true" if should_retry else b"false"))
    return (*answer, *lines)


def tightest(standings: Sequence[Standing]) -> Standing | None:
    """The standing with the smallest share left."""
    return min(standings, key=lambda at: at.remaining / at.allowed if at.allowed else 0.0, default=None)


def _limit_lines(
    standings: Sequence[Standing], limit: str | None, kind: str | None, sent: set[bytes], *, may_reset: bool
) -> list[tuple[bytes, bytes]]:
    """`may_reset`: no limit's reset stands in an error that no limit caused, as the cohere SDK sleeps until it before it tries again."""
    lines: list[tuple[bytes, bytes]] = []
    first = tightest(standings)
    name = limit or (first.limit if first else None)
    if name is not None:
        lines.append((b"x-sluice-limit", field_value(name)))
    # money has no place in headers that count, and what others use of a shared account is not this caller's to know
    rates = [at for at in standings if at.kind in ("requests", "tokens") and not at.is_shared]
    counted = tightest([at for at in rates if (at.limit, at.kind) == (limit, kind)] or rates)
    if counted is not None and sent.isdisjoint(_RATELIMIT):
        figures = (counted.allowed, counted.remaining, counted.resets_at)[: 3 if may_reset else 2]
        lines += [(name, b"%d" % figure) for name, figure in zip(_RATELIMIT, figures, strict=False)]
    return lines


def _ietf_lines(standings: Sequence[Standing], now_s: float, retry_after: float | None) -> list[tuple[bytes, bytes]]:
    """draft-ietf-httpapi-ratelimit-headers-11. Of `t` it asks: within so many seconds no more than `r` can be used; and beside a
    `retry-after` it should not be later than that (section 6). Money has no unit there."""
    counted = [at for at in standings if at.kind in _UNITS and not at.is_shared]
    if not counted:
        return []
    policies, left = [], []
    for at in counted:
        is_one = sum((other.limit, other.kind) == (at.limit, at.kind) for other in counted) == 1
        name = _quoted(at.limit, at.kind, 0 if is_one else at.window_s)
        policies.append(_policy(name, at.kind, at.allowed, at.window_s))
        item = b"%b;r=%d" % (name, at.remaining)
        if at.window_s:
            until = max(0, at.resets_at - int(now_s))
            item += b";t=%d" % (until if retry_after is None else min(until, math.ceil(retry_after)))
        left.append(item)
    return [(b"ratelimit-policy", b", ".join(policies)), (b"ratelimit", b", ".join(left))]


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def _policy(name: bytes, kind: str, allowed: int, window_s: int) -> bytes:
    return b"%b;q=%d%b" % (name, allowed, _UNITS[kind]) + (b";w=%d" % window_s if window_s else b"")


@lru_cache(maxsize=1024)
def _quoted(limit: str, kind: str, window_s: int) -> bytes:
    """`window_s` tells several windows of one limit apart."""
    said = f"{limit} {kind}" + (f" {window_s}s" if window_s else "")
    return b'"%b"' % field_value(said).replace(b"\\", b"?").replace(b'"', b"?")


def _guarded(found: Mapping[tuple[str, str, str], int]) -> str:
    """`masked email=2 phone=1; flagged iban=1`: entity names and counts, never a value."""
    by_action: dict[str, dict[str, int]] = {}
    for (entity, _, action), number in found.items():
        counts = by_action.setdefault(_DONE_TO.get(action, action), {})
        counts[entity] = counts.get(entity, 0) + number
    return "; ".join(
        f"{action} " + " ".join(f"{entity}={number}" for entity, number in counts.items()) for action, counts in by_action.items()
    )


def cors_headers(fields: Mapping[str, str], origins: tuple[str, ...]) -> RawHeaders:
    """What lets a browser page of an origin in `server.cors` read the reply; nothing for any other caller."""
    origin = fields.get("origin")
    if origin is None or origin not in origins:
        return ()
    return (
        (b"access-control-allow-origin", origin.encode("latin-1")),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"Origin"),
    )


def preflight_headers(method: str, fields: Mapping[str, str], origins: tuple[str, ...]) -> RawHeaders | None:
    """The answer to a CORS preflight of an allowed origin (Fetch standard); None for anything else."""
    allowed = cors_headers(fields, origins)
    if method != "OPTIONS" or not allowed or "access-control-request-method" not in fields:
        return None
    wanted = fields.get("access-control-request-headers", "")
    names = wanted.encode("latin-1") if _TOKEN_LIST.fullmatch(wanted) else b""
    return (
        *allowed,
        (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (b"access-control-allow-headers", names),
        (b"access-control-max-age", b"600"),
    )
