"""The headers that Sluice adds to a reply. Never overwrites what the provider said, `x-should-retry` after our own retries excepted."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache

from proxy.exchange import NANO, RawHeaders
from proxy.ports import Standing

_NOT_PRINTABLE = re.compile(r"[^ -~]")
_TOKEN_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,4096}")
_RATELIMIT = (b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset")
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
    provider: str | None = None,
    attempts: int | None = None,
    model: str | None = None,
    found: Mapping[tuple[str, str, str], int] | None = None,
    reserved_nanousd: int | None = None,
    cost_nanousd: int | None = None,
    should_retry: bool | None = None,
) -> RawHeaders:
    """`answer` (the provider's lines, see `headers.answer_headers`) and ours after them (design.md section 3).

    `now_s` is Unix seconds; `status` the reply's; `overhead_ms` our own share; `limit` names the refusing limit, else the tightest of
    `standings` is named; `model` is given only where another model answered; `reserved_nanousd` was held, `cost_nanousd` where it is
    known already; `found` is the story's (entity, direction, action) → count.
    """
    sent = {name.lower() for name, _ in answer}
    lines: list[tuple[bytes, bytes]] = [(b"x-sluice-request-id", field_value(request_id))]
    if b"x-request-id" not in sent:
        lines.append((b"x-request-id", field_value(request_id)))
    if overhead_ms is not None:
        lines.append((b"server-timing", b"sluice;dur=%.1f" % overhead_ms))
    lines += _limit_lines(standings, limit, sent, now_s, may_reset=status < 400 or limit is not None)
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
    standings: Sequence[Standing], limit: str | None, sent: set[bytes], now_s: float, *, may_reset: bool
) -> list[tuple[bytes, bytes]]:
    """`may_reset`: no limit's reset stands in an error that no limit caused, as the cohere SDK sleeps until it before it tries again."""
    lines: list[tuple[bytes, bytes]] = []
    first = tightest(standings)
    name = limit or (first.limit if first else None)
    if name is not None:
        lines.append((b"x-sluice-limit", field_value(name)))
    # money has no place in headers that count, and what others use of a shared account is not this caller's to know
    rates = [at for at in standings if at.kind in ("requests", "tokens") and not at.is_shared]
    counted = tightest(rates)
    if counted is None:
        return lines
    if sent.isdisjoint(_RATELIMIT):
        figures = (counted.allowed, counted.remaining, counted.resets_at)[: 3 if may_reset else 2]
        lines += [(name, b"%d" % figure) for name, figure in zip(_RATELIMIT, figures, strict=False)]
    if b"ratelimit" not in sent and b"ratelimit-policy" not in sent:  # draft-ietf-httpapi-ratelimit-headers
        lines.append((b"ratelimit-policy", b", ".join([_policy(at.limit, at.kind, at.allowed, at.window_s) for at in rates])))
        left = [b"%b;r=%d;t=%d" % (_quoted(at.limit, at.kind), at.remaining, max(0, at.resets_at - int(now_s))) for at in rates]
        lines.append((b"ratelimit", b", ".join(left)))
    return lines


@lru_cache(maxsize=1024)  # limits have names and sizes of the policy
def _policy(limit: str, kind: str, allowed: int, window_s: int) -> bytes:
    return b"%b;q=%d;w=%d" % (_quoted(limit, kind), allowed, window_s)


@lru_cache(maxsize=1024)
def _quoted(limit: str, kind: str) -> bytes:
    return b'"%b"' % field_value(f"{limit} {kind}").replace(b"\\", b"?").replace(b'"', b"?")


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
