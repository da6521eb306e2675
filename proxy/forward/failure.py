"""What became of one attempt, and what that allows next: the table of faults.md, section 5. Decides nothing about time or budgets."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from typing import Literal

from proxy.exchange import NANO, RawHeaders
from proxy.refusal import UpstreamCut, UpstreamFailed

ErrorClass = Literal["connect", "429", "5xx", "once", ""]
FallbackOn = Literal["error", "breaker", "rate_limit", ""]


@dataclass(frozen=True, slots=True)
class Outcome:
    """`error` says which of the policy's `on_errors` covers a retry on the same target ("once": none needed)."""

    kind: str  # the error class, for logs and the ledger
    is_failure_for_breaker: bool | None  # None: nobody's fault
    worth_another_try: bool = False
    retry_after_s: float | None = None  # what the provider asked for
    credential_fault: bool = False  # our key was refused or has no credit: the next of `keys:` may do
    error: ErrorClass = ""
    fallback: FallbackOn = ""  # which of the policy's `fallback_on` covers another target
    is_once: bool = False  # at most one retry: it may be billed twice
    is_immediate: bool = False  # the first retry need not wait
    is_free: bool = False  # the first repeat counts neither as a retry nor against a budget (faults.md U8)
    is_sent: bool = True  # a byte of the request may have reached the provider


OK = Outcome("ok", False)
_REDIRECT = Outcome("redirect", None)
_RATE = Outcome("429", None, True, error="429", fallback="rate_limit")
_CREDIT = Outcome("credit", None, credential_fault=True, fallback="rate_limit")
_AUTH = Outcome("auth", None, credential_fault=True, fallback="error")
_SERVER = Outcome("5xx", True, True, error="5xx", fallback="error")
_NOT_OURS = Outcome("auth", False)
_NOT_THERE = frozenset({501, 505})  # the provider will never do this, and is not ill for that
_ONCE = frozenset({408, 409, 425})

_FAILED = {
    "dns": Outcome("dns", True, True, error="connect", fallback="error", is_immediate=True),
    "connect": Outcome("connect", True, True, error="connect", fallback="error", is_immediate=True),
    "tls": Outcome("tls", True, fallback="error"),
    "reset": Outcome("reset", True, True, error="connect", fallback="error", is_immediate=True),
    "stale": Outcome("stale", None, True, error="connect", fallback="error", is_immediate=True, is_free=True),  # nobody's fault
    "protocol": Outcome("protocol", True, fallback="error"),
    "first_byte_timeout": Outcome("first_byte_timeout", True, fallback="error"),  # no retry: it may be billed twice
    "timeout": Outcome("timeout", True),
    "pool": Outcome("pool", None, fallback="error"),
}


def of_failure(failed: UpstreamFailed) -> Outcome:
    """No answer came."""
    outcome = _FAILED.get(failed.kind, _FAILED["protocol"])
    return replace(outcome, is_sent=failed.sent, is_once=failed.sent)


def of_cut(cut: UpstreamCut) -> Outcome:
    """The answer broke. `worth_another_try` is meant for a cut before the first content; after it nothing is ever repeated."""
    if cut.code == "upstream_timeout":
        return _FAILED["timeout"]
    return Outcome(cut.code, True, True, error="connect", fallback="error", is_once=True)


def of_breaker(retry_after_s: float) -> Outcome:
    """The target was not even asked."""
    return Outcome("breaker_open", None, retry_after_s=retry_after_s, fallback="breaker", is_sent=False)


def of_error_event(type_: str) -> Outcome:
    """An error event inside a 200 stream, by the type that `dialect.error_of` names."""
    name = type_.lower()
    if any(word in name for word in ("quota", "billing", "credit")):
        return _CREDIT
    if any(word in name for word in ("rate_limit", "resource_exhausted", "too_many")):
        return _RATE
    if any(
        word in name for word in ("invalid", "not_found", "permission", "authentication", "too_large", "content", "failed_precondition")
    ):
        return Outcome(type_, False)
    return replace(_SERVER, kind=type_)


def of_answer(status: int, headers: RawHeaders, credit: str | None, *, is_our_key: bool, now_ns: int) -> Outcome:
    """An answer by its status. `credit`: what `dialect.failure_kind` says of its body; `is_our_key`: not the caller's own key was used."""
    if status < 400:
        return _REDIRECT if 300 <= status != 304 else OK
    if credit is not None or status in (401, 402, 403):
        if not is_our_key:
            return replace(_NOT_OURS, kind="credit") if credit is not None or status == 402 else _NOT_OURS
        return _CREDIT if credit is not None or status == 402 else _AUTH
    if status == 429:
        outcome = _RATE
    elif status in _ONCE:
        outcome = Outcome(str(status), None, True, error="once", fallback="error", is_once=True)
    elif status < 500 or status in _NOT_THERE:
        return Outcome(str(status), False)
    else:
        outcome = replace(_SERVER, kind=str(status))
    said_no = _field(headers, b"x-should-retry") == "false"
    return replace(outcome, retry_after_s=retry_after_of(headers, now_ns), worth_another_try=not said_no)


def retry_after_of(headers: RawHeaders, now_ns: int) -> float | None:
    """Seconds to wait, by `retry-after-ms` or Retry-After (RFC 9110, 10.2.3: seconds or a date). Garbage is as if absent."""
    if (ms := _number(_field(headers, b"retry-after-ms"))) is not None:
        return ms / 1000
    value = _field(headers, b"retry-after")
    if (seconds := _number(value)) is not None or value is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_ns / NANO)
    except (ValueError, OverflowError):
        return None


def _field(headers: RawHeaders, name: bytes) -> str | None:
    return next((value.decode("latin-1") for spelt, value in headers if spelt.lower() == name), None)


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None and len(text) < 32 else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) and number >= 0 else None
