"""How each wire family names an error of a given status, and which failures mean exhausted credit. Words no message itself."""

from __future__ import annotations

from proxy.dialect.fields import at, text
from proxy.dialect.wire import Json

OPENAI_TYPES = {400: "invalid_request_error", 401: "authentication_error", 402: "insufficient_quota", 403: "permission_error",
                404: "not_found_error", 408: "timeout_error", 429: "rate_limit_error"}  # fmt: skip
ANTHROPIC_TYPES = {401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
                   413: "request_too_large", 429: "rate_limit_error", 503: "overloaded_error", 504: "timeout_error",
                   529: "overloaded_error"}  # fmt: skip
GOOGLE_STATUSES = {401: "UNAUTHENTICATED", 402: "RESOURCE_EXHAUSTED", 403: "PERMISSION_DENIED", 404: "NOT_FOUND",
                   408: "DEADLINE_EXCEEDED", 409: "ABORTED", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 501: "UNIMPLEMENTED",
                   502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"}  # fmt: skip
STREAM_STATUSES = {"stopped_money": 402, "stopped_drain": 503, "stopped_revoked": 401, "stopped_output": 400,
                   "upstream_idle_timeout": 504, "upstream_timeout": 504}  # fmt: skip
CREDIT_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "billing_error", "insufficient_balance",
                "quota_exceeded", "insufficient_credits", "credit_exhausted"}  # fmt: skip
CREDIT_WORDS = ("credit balance", "insufficient balance", "used all available credits", "insufficient credits",
                "monthly spending limit", "calls / month")  # fmt: skip


def openai_type(status: int, code: str = "") -> str:
    """Of a status; a spent budget is `insufficient_quota` whatever status the policy chose for it."""
    if code == "budget_exhausted":
        return "insufficient_quota"
    return OPENAI_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")


def anthropic_type(status: int) -> str:
    return ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")


def google_status(status: int) -> str:
    return GOOGLE_STATUSES.get(status, "UNKNOWN" if status >= 500 else "INVALID_ARGUMENT")


def stream_status(code: str) -> int:
    """The HTTP status that a code would have had, were the answer not under way."""
    return STREAM_STATUSES.get(code, 502)


def prefixed(code: str, message: str) -> str:
    """The message with its code in front, once."""
    return message if message.startswith(code) else f"{code}: {message}" if message else code


def error_name(error: object) -> str:
    """The type of an error object in the OpenAI manner, whatever of type, code and status it gives."""
    code = at(error, "code")
    if isinstance(code, int) and not isinstance(code, bool):
        return text(at(error, "type")) or openai_type(code)
    return text(at(error, "type")) or text(code) or "server_error"


def credit_failure(status: int, doc: Json | None) -> str | None:
    """ "credit" where quota or credit is exhausted, so that no retry with the same credential can help; else None.

    Sources: OpenAI error codes guide (429 insufficient_quota), Anthropic errors (402 billing_error; 400 with "credit balance
    is too low" on older accounts), DeepSeek 402, xAI 403, Gemini 429 whose QuotaFailure names a quota per day.
    """
    if status == 402:
        return "credit"
    if status not in (400, 403, 429) or doc is None:
        return None
    error = doc.get("error", doc)
    if any(at(error, field) in CREDIT_CODES for field in ("code", "type") if isinstance(at(error, field), str)):
        return "credit"
    message = (text(at(error, "message")) or text(error) or "").lower()
    return "credit" if any(words in message for words in CREDIT_WORDS) or _is_daily_quota(at(error, "details")) else None


def _is_daily_quota(details: object) -> bool:
    if not isinstance(details, list):
        return False
    violations = [v for detail in details for v in _list(at(detail, "violations"))]
    return any("PerDay" in (text(at(v, "quotaId")) or "") for v in violations)


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []
