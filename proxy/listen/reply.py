"""The headers that Sluice adds to a reply. Never overwrites what the provider said, `x-should-retry` after our own retries excepted."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, cast

from proxy.exchange import NANO, RawHeaders
from proxy.listen.headers import ByName
from proxy.standings import NO_STANDINGS, Standings, Term, Terms

_NOT_PRINTABLE = re.compile(r"[^ -~]")
_TOKEN_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,4096}")
_ID, _RATE, _IETF = 1, 2, 4  # what a provider has said of itself, and we do not say again
_NAMES = {
    b"x-request-id": _ID,
    **dict.fromkeys((b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"), _RATE),
    **dict.fromkeys((b"ratelimit", b"ratelimit-policy"), _IETF),
}
_SAID = ByName(lambda name: _NAMES.get(name, 0))
_EVER = 1 << 62
_UNITS = {"requests": b"", "tokens": b';qu="tokens"', "concurrency": b';qu="concurrent-requests"'}  # the first is what no unit means
_DONE_TO = {"mask": "masked", "flag": "flagged", "block": "blocked"}
SECURITY: RawHeaders = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))  # on replies that Sluice words itself


def field_value(text: object) -> bytes:
    """Any text as one header value: what is not printable ASCII becomes "?", so that no name can split a line."""
    value = str(text)
    return (value if value.isascii() and value.isprintable() else _NOT_PRINTABLE.sub("?", value)).encode("ascii")


def reply_headers(request_id: str, answer: RawHeaders = (), *, should_retry: bool | None = None, **ours: Any) -> RawHeaders:
    """`answer` (the provider's lines, see `headers.answer_headers`) and ours after them; see `our_lines`."""
    lines = our_lines(request_id, answer, should_retry=should_retry, **ours).split(b"\r\n")
    if should_retry is not None:
        answer = tuple(line for line in answer if line[0].lower() != b"x-should-retry")
    return (*answer, *((name, value) for name, _, value in (line.partition(b": ") for line in lines)))


def said_in(answer: RawHeaders) -> int:
    """Which of the lines that we would add the provider has said."""
    said = 0
    for line in answer:
        said |= _SAID[line[0]]
    return said


def said_of(answer: RawHeaders, kept: dict[object, object]) -> int:
    """`said_in`, worked out once for all heads that share `kept` (`ports.Spoken`)."""
    said = kept.get(said_in)
    if said is None:
        said = kept[said_in] = said_in(answer)
    return cast("int", said)


def our_lines(
    request_id: str,
    answer: RawHeaders | int,
    now_s: float,
    status: int = 200,
    overhead_ms: float | None = None,
    standings: Standings = NO_STANDINGS,
    provider: str | None = None,
    attempts: int | None = None,
    model: str | None = None,
    reserved_nanousd: int | None = None,
    cost_nanousd: int | None = None,
    found: Mapping[tuple[str, str, str], int] | None = None,
    should_retry: bool | None = None,
    limit: str | None = None,
    kind: str | None = None,
    retry_after: float | None = None,
) -> bytes:
    """What stands beside the provider's lines in a reply (design.md section 3), as on the wire, without the end of the last line.
    `answer`: those lines, or what `said_in` tells of them.

    `now_s` is Unix seconds; `status` the reply's; `overhead_ms` our own share; `limit` names the refusing limit and `kind` what of it,
    else the tightest of `standings` is named; `retry_after` (seconds) is what the refusal says; `model` is given only where another
    model answered; `reserved_nanousd` was held, `cost_nanousd` where it is known already; `found` is the story's (entity, direction,
    action) → count.
    """
    said = answer if isinstance(answer, int) else said_in(answer)
    terms = standings.terms
    first, rate = _tightest(terms, standings.shares)
    if limit is not None:
        first, refused = limit, _refused(standings, limit, kind)
        rate = rate if refused is None else refused
    may_reset = status < 400 or limit is not None  # no limit's reset in an error that no limit caused: cohere's SDK sleeps until it
    id_ = field_value(request_id)
    figures: list[bytes | float] = [id_] if said & _ID else [id_, id_]
    if overhead_ms is not None:
        figures.append(overhead_ms)
    if rate is not None and not said & _RATE:
        figures.append(standings.remaining[rate])
        if may_reset:
            figures.append(standings.resets_at[rate])
    if not said & _IETF:
        _add_left(figures, standings, int(now_s), _EVER if retry_after is None else math.ceil(retry_after))
    if reserved_nanousd is not None:
        figures += divmod(reserved_nanousd, NANO)
    if cost_nanousd is not None:
        figures += divmod(cost_nanousd, NANO)
    timed, reserved, known = overhead_ms is not None, reserved_nanousd is not None, cost_nanousd is not None
    form = _form(said, timed, first, rate, may_reset, terms, provider, attempts, model, reserved, known)
    lines = form % tuple(figures)
    return lines + _rare_lines(found, should_retry) if found or should_retry is not None else lines


def _tightest(terms: Terms, shares: Sequence[float]) -> tuple[str | None, int | None]:
    """The name of the tightest limit, and where among the terms the tightest rate is."""
    first, rate, least, scarcest = None, None, math.inf, math.inf
    for at, name, is_rate in _looks(terms):
        share = shares[at]
        if share < scarcest:
            if share < least:
                first, least = name, share
            if is_rate:
                rate, scarcest = at, share
    return first, rate


def _refused(standings: Standings, limit: str, kind: str | None) -> int | None:
    """Where among the terms the rate is that refused."""
    terms, shares = standings.terms.each, standings.shares
    those = [at for at, it in enumerate(terms) if it.limit == limit and it.kind == kind and _is_rate(it)]
    return min(those, key=shares.__getitem__, default=None)


def _is_counted(it: Term) -> bool:
    """Money has no place in headers that count, and what others use of a shared account is not this caller's to know."""
    return it.kind in _UNITS and not it.is_shared


def _is_rate(it: Term) -> bool:
    return it.kind != "concurrency" and _is_counted(it)


@lru_cache(maxsize=1024)
def _looks(terms: Terms) -> tuple[tuple[int, str, bool], ...]:
    """Of each term: where it is, its limit, and is it a rate?"""
    return tuple([(at, it.limit, _is_rate(it)) for at, it in enumerate(terms.each)])


@lru_cache(maxsize=1024)
def _counted(terms: Terms) -> tuple[tuple[int, bool], ...]:
    """Which of the terms count; and has it a window?"""
    return tuple([(at, it.window_s > 0) for at, it in enumerate(terms.each) if _is_counted(it)])


def _add_left(figures: list[bytes | float], standings: Standings, now: int, most_s: int) -> None:
    """Of all that count what is left, and for how many seconds."""
    remaining, resets_at = standings.remaining, standings.resets_at
    for at, has_window in _counted(standings.terms):
        figures.append(remaining[at])
        if has_window:
            until = resets_at[at] - now
            if until < 0:
                until = 0
            figures.append(until if until < most_s else most_s)


@lru_cache(maxsize=1024)  # limits, providers and models have names and sizes of the policy
def _form(
    said: int,
    is_timed: bool,
    limit: str | None,
    rate: int | None,
    may_reset: bool,
    terms: Terms,
    provider: str | None,
    attempts: int | None,
    model: str | None,
    is_reserved: bool,
    is_priced: bool,
) -> bytes:
    """Our lines with a place for each figure."""
    allowed = 0 if rate is None else terms.each[rate].allowed
    counted = [it for it in terms.each if _is_counted(it)]
    rates = (b"x-ratelimit-limit: %d" % allowed, b"x-ratelimit-remaining: %d", b"x-ratelimit-reset: %d")
    named = ((b"x-sluice-provider: ", provider), (b"x-sluice-attempts: ", attempts), (b"x-sluice-model: ", model))
    lines = [
        b"x-sluice-request-id: %b",
        *([] if said & _ID else [b"x-request-id: %b"]),
        *([b"server-timing: sluice;dur=%.1f"] if is_timed else []),
        *([] if limit is None else [b"x-sluice-limit: " + _literal(limit)]),
        *([] if rate is None or said & _RATE else rates[: 3 if may_reset else 2]),
        *([] if said & _IETF or not counted else _ietf_lines(counted)),
        *[name + _literal(told) for name, told in named if told is not None],
        *([b"x-sluice-reserved-usd: %d.%09d"] if is_reserved else []),
        *([b"x-sluice-cost-usd: %d.%09d"] if is_priced else []),
    ]
    return b"\r\n".join(lines)


def _ietf_lines(terms: Sequence[Term]) -> list[bytes]:
    """draft-ietf-httpapi-ratelimit-headers-11. Of `t` it asks: within so many seconds no more than `r` can be used; and beside a
    `retry-after` it should not be later than that (section 6). Money has no unit there."""
    policies, left = [], []
    kinds = [(it.limit, it.kind) for it in terms]
    for limit, kind, allowed, window_s, _ in terms:
        name = _quoted(limit, kind, window_s if kinds.count((limit, kind)) > 1 else 0).replace(b"%", b"%%")
        window, until = (b";w=%d" % window_s, b";t=%d") if window_s else (b"", b"")
        policies.append(b"%b;q=%d%b%b" % (name, allowed, _UNITS[kind], window))
        left.append(name + b";r=%d" + until)
    return [b"ratelimit-policy: " + b", ".join(policies), b"ratelimit: " + b", ".join(left)]


def _literal(text: object) -> bytes:
    return field_value(text).replace(b"%", b"%%")


def _quoted(limit: str, kind: str, window_s: int) -> bytes:
    """`window_s` tells several windows of one limit apart."""
    said = f"{limit} {kind}" + (f" {window_s}s" if window_s else "")
    return b'"%b"' % field_value(said).replace(b"\\", b"?").replace(b'"', b"?")


def _rare_lines(found: Mapping[tuple[str, str, str], int] | None, should_retry: bool | None) -> bytes:
    guard = b"\r\nx-sluice-guard: %b" % field_value(_guarded(found)) if found else b""
    return guard if should_retry is None else guard + (b"\r\nx-should-retry: true" if should_retry else b"\r\nx-should-retry: false")


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
