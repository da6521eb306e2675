"""The headers that Sluice adds to a reply. Never overwrites what the provider said, `x-should-retry` after our own retries excepted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

from proxy.exchange import NANO, RawHeaders
from proxy.listen.headers import ByName, answer_headers
from proxy.ports import Answer
from proxy.standings import NO_STANDINGS, Standings, Terms, standing_at

_PRINTABLE = bytes([byte if 0x20 <= byte < 0x7F else 0x3F for byte in range(256)])  # the rest: "?"
_TOKEN_LIST = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~, -]{0,4096}")
_ID, _RATE, _IETF = 1, 2, 4  # what a provider has said of itself, and we do not say again
_NAMES = {
    b"x-request-id": _ID,
    **dict.fromkeys((b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"), _RATE),
    **dict.fromkeys((b"ratelimit", b"ratelimit-policy"), _IETF),
}
_SAID = ByName(lambda name: _NAMES.get(name, 0))
_OVERHEAD, _ROW = 3, 4  # where figures are among all, behind the provider's lines and twice our id; from the last on, of `Standings.row`
_BELOW, _MORE = b"0.%09d", b"%b"  # less than a dollar, and more, which is written apart
_UNSAID = b"%.0b"  # takes a text and writes nothing: to pick from all figures is dearer
_UNITS = {"requests": b"", "tokens": b';qu="tokens"', "concurrency": b';qu="concurrent-requests"'}  # the first is what no unit means
_DONE_TO = {"mask": "masked", "flag": "flagged", "block": "blocked"}
Places = tuple[bytes, tuple[int, ...]]  # a line with places for figures, and which figures these are
SECURITY: RawHeaders = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))  # on replies that Sluice words itself


def field_value(text: object) -> bytes:
    """Any text as one header value: what is not printable ASCII becomes "?", so that no name can split a line."""
    return str(text).encode("ascii", "replace").translate(_PRINTABLE)


def reply_headers(request_id: str, answer: RawHeaders = (), *, should_retry: bool | None = None, **ours: Any) -> RawHeaders:
    """`answer` (the provider's lines, see `headers.answer_headers`) and ours after them; see `our_lines`."""
    lines = our_lines(request_id, said_in(answer), should_retry=should_retry, **ours).split(b"\r\n")
    if should_retry is not None:
        answer = tuple(line for line in answer if line[0].lower() != b"x-should-retry")
    return (*answer, *((name, value) for name, _, value in (line.partition(b": ") for line in lines)))


def said_in(answer: RawHeaders) -> int:
    """Which of the lines that we would add the provider has said."""
    said = 0
    for line in answer:
        said |= _SAID[line[0]]
    return said


def said_of(answer: Answer) -> int:
    """`said_in` of what reaches the client of this answer, worked out once for all heads that share a `Spoken`."""
    kept = answer.said.kept
    said = kept.get(said_in)
    if not isinstance(said, int):
        said = kept[said_in] = said_in(answer_headers(answer.headers))
    return said


class Refused(NamedTuple):
    """What a refusal says of limits: which refused, what of it, and in how many seconds to try again."""

    limit: str | None
    kind: str | None
    retry_after: float | None


def our_lines(
    request_id: str,
    said: int,
    standings: Standings = NO_STANDINGS,
    status: int = 200,
    overhead_ms: float | None = None,
    provider: str | None = None,
    attempts: int | None = None,
    model: str | None = None,
    reserved_nanousd: int = 0,
    cost_nanousd: int | None = None,
    found: Mapping[tuple[str, str, str], int] | None = None,
    should_retry: bool | None = None,
    no: Refused | None = None,
    theirs: bytes | None = None,
) -> bytes:
    """What stands beside the provider's lines in a reply (design.md section 3), as on the wire, without the end of the last line.
    `said`: what `said_in` tells of those lines; `theirs`: they themselves as on the wire, where ours are to follow them.

    `status` is the reply's; `overhead_ms` our own share; the tightest of `standings` is named, or the limit that refused; `model` is
    given only where another model answered; `reserved_nanousd` was held, `cost_nanousd` where it is known already; `found` is the
    story's (entity, direction, action) → count.
    """
    may_reset = status < 400  # no limit's reset in an error that no limit caused: cohere's SDK sleeps until it
    limit: str | None = None
    if no is not None:
        may_reset, limit = may_reset or no.limit is not None, no.limit
        standings = _refused(no, standings)
    id_ = field_value(request_id)
    lines = usual_lines(id_, said, standings, may_reset, overhead_ms, provider, attempts, model, reserved_nanousd, theirs, limit)
    return lines + rare_lines(cost_nanousd, found, should_retry)


def usual_lines(
    request_id: bytes,
    said: int,
    standings: Standings,
    may_reset: bool,
    overhead_ms: float | None,
    provider: str | None,
    attempts: int | None,
    model: str | None,
    reserved_nanousd: int,
    theirs: bytes | None,
    limit: str | None = None,
) -> bytes:
    """All of `our_lines` but for `rare_lines`. `request_id`: as on the wire; `may_reset`: tell when limits reset; `limit`: named in place
    of the tightest."""
    reserved: int | bytes = reserved_nanousd
    price = _BELOW if reserved_nanousd else b""
    if reserved_nanousd >= NANO:
        reserved, price = b"%d.%09d" % divmod(reserved_nanousd, NANO), _MORE
    form, upto, pick = _form(
        said, overhead_ms is not None, limit or standings.first, standings.rate, may_reset, standings.terms,
        provider, attempts, model, price, not theirs,
    )  # fmt: skip
    figures: tuple[object, ...] = (theirs or b"", request_id, request_id, overhead_ms, *standings.row[:upto], reserved)
    if pick is not None:
        figures = pick(figures)
    return form % figures


def _refused(no: Refused, standings: Standings) -> Standings:
    """With the tightest rate of the limit that refused; and no window ends later than the refusal says to try again."""
    terms, rate, row = standings.terms, standings.rate, standings.row.copy()
    if no.limit is not None:
        those = [at for at, it in enumerate(terms.each) if it.limit == no.limit and it.kind == no.kind and it.is_rate]
        if those:
            rate = min([(max(0, row[terms.left[at]]) / (terms.each[at].allowed or math.inf), at) for at in those])[1]
            row[0], row[1] = row[terms.left[rate]], standings.resets_at(rate)
    if no.retry_after is not None:
        most_s = math.ceil(no.retry_after)
        for at in terms.until:
            if at is not None:
                row[at] = min(row[at], most_s)
    return standing_at(terms, row, standings.now_s, standings.ends, standings.first, rate)


@lru_cache(maxsize=1024)  # limits, providers and models have names and sizes of the policy
def _form(
    said: int,
    is_timed: bool,
    limit: int | str | None,
    rate: int | None,
    may_reset: bool,
    terms: Terms,
    provider: str | None,
    attempts: int | None,
    model: str | None,
    price: bytes,
    is_alone: bool,
) -> tuple[bytes, int, Callable[[Any], Any] | None]:
    """Our lines with a place for each figure; how much of the row is among all figures; and what picks from all those that have a place,
    in their order, where not all of them have one. `limit`: named by us, or the number of one of its `terms`, as `rate` is."""
    if isinstance(limit, int):
        limit = terms.each[limit].limit
    upto = terms.told
    rates: tuple[Places, ...] = ()
    if rate is not None and not said & _RATE:
        limits = b"x-ratelimit-limit: %d" % terms.each[rate].allowed
        rates = ((limits, ()), (b"x-ratelimit-remaining: %d", (_ROW,)), (b"x-ratelimit-reset: %d", (_ROW + 1,)))
    named = ((b"x-sluice-provider: ", provider), (b"x-sluice-attempts: ", attempts), (b"x-sluice-model: ", model))
    first = _UNSAID if is_alone else b"%b\r\n"
    again = _UNSAID if said & _ID else b"\r\nx-request-id: %b"
    lines: list[Places] = [
        (first + b"x-sluice-request-id: %b" + again, (0, 1, 2)),
        *([(b"server-timing: sluice;dur=%.1f", (_OVERHEAD,))] if is_timed else []),
        *([] if limit is None else [(b"x-sluice-limit: " + _literal(limit), ())]),
        *rates[: 3 if may_reset else 2],
        *([] if said & _IETF else _ietf_lines(terms)),
        *[(name + _literal(told), ()) for name, told in named if told is not None],
        *([(b"x-sluice-reserved-usd: " + price, (_ROW + upto,))] if price else []),
    ]
    form, places = b"\r\n".join([line for line, _ in lines]), [at for _, places in lines for at in places]
    return form, upto, None if places == list(range(_ROW + upto + 1)) else itemgetter(*places)


def _ietf_lines(terms: Terms) -> list[Places]:
    """draft-ietf-httpapi-ratelimit-headers-11. Of `t` it asks: within so many seconds no more than `r` can be used; and beside a
    `retry-after` it should not be later than that (section 6). Money has no unit there."""
    policies: list[bytes] = []
    left: list[bytes] = []
    places: list[int] = []
    kinds = [(it.limit, it.kind) for it in terms.each if it.is_told]
    for it, at, until in zip(terms.each, terms.left, terms.until, strict=True):
        if not it.is_told:
            continue
        name = _quoted(it.limit, it.kind, it.window_s if kinds.count((it.limit, it.kind)) > 1 else 0).replace(b"%", b"%%")
        window, ends = (b";w=%d" % it.window_s, b";t=%d") if it.window_s else (b"", b"")
        policies.append(b"%b;q=%d%b%b" % (name, it.allowed, _UNITS[it.kind], window))
        left.append(name + b";r=%d" + ends)
        places += [_ROW + at] if until is None else [_ROW + at, _ROW + until]
    return [(b"ratelimit-policy: " + b", ".join(policies), ()), (b"ratelimit: " + b", ".join(left), tuple(places))] if left else []


def _literal(text: object) -> bytes:
    return field_value(text).replace(b"%", b"%%")


def _quoted(limit: str, kind: str, window_s: int) -> bytes:
    """`window_s` tells several windows of one limit apart."""
    said = f"{limit} {kind}" + (f" {window_s}s" if window_s else "")
    return b'"%b"' % field_value(said).replace(b"\\", b"?").replace(b'"', b"?")


def rare_lines(cost_nanousd: int | None, found: Mapping[tuple[str, str, str], int] | None, should_retry: bool | None) -> bytes:
    """What few replies tell: see `our_lines`, behind whose other lines they stand."""
    lines = b"" if cost_nanousd is None else b"\r\nx-sluice-cost-usd: %d.%09d" % divmod(cost_nanousd, NANO)
    if found:
        lines += b"\r\nx-sluice-guard: %b" % field_value(_guarded(found))
    if should_retry is not None:
        lines += b"\r\nx-should-retry: true" if should_retry else b"\r\nx-should-retry: false"
    return lines


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
