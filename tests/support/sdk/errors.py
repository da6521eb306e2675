"""Which exception each SDK raises for a status, and how often it tries by itself: by its source and by ecosystem.md, section 12."""

from __future__ import annotations

from support.sdk.ways import Told

TYPES: dict[str, dict[int | None, str]] = {  # None: any other status
    "openai": {400: "BadRequestError", 401: "AuthenticationError", 403: "PermissionDeniedError", 404: "NotFoundError", 409: "ConflictError",
               422: "UnprocessableEntityError", 429: "RateLimitError", 500: "InternalServerError", 502: "InternalServerError",
               503: "InternalServerError", 504: "InternalServerError", 505: "InternalServerError", 529: "InternalServerError",
               None: "APIStatusError"},
    "anthropic": {400: "BadRequestError", 401: "AuthenticationError", 402: "PaymentRequiredError", 403: "PermissionDeniedError",
                  404: "NotFoundError", 408: "RequestTimeoutError", 409: "ConflictError", 413: "ContentTooLargeError",
                  422: "UnprocessableEntityError", 429: "RateLimitError", 431: "RequestHeaderFieldsTooLargeError",
                  500: "InternalServerError", 502: "InternalServerError", 503: "ServiceUnavailableError", 504: "GatewayTimeoutError",
                  505: "InternalServerError", 529: "OverloadedError", None: "APIStatusError"},
    "gemini": {500: "ServerError", 502: "ServerError", 503: "ServerError", 504: "ServerError", 505: "ServerError", 529: "ServerError",
               None: "ClientError"},
    "cohere": {400: "BadRequestError", 401: "UnauthorizedError", 403: "ForbiddenError", 404: "NotFoundError",
               422: "UnprocessableEntityError", 429: "TooManyRequestsError", 500: "InternalServerError", 503: "ServiceUnavailableError",
               504: "GatewayTimeoutError", None: "ApiError"},
    "mistral": {422: "HTTPValidationError", None: "SDKError"},
}  # fmt: skip
RETRIES_BY_ITSELF = {"openai": 3, "anthropic": 3, "cohere": 3, "gemini": 1, "mistral": 1}  # attempts, the first included
SPEAKS_STAINLESS = ("openai", "anthropic")  # says which retry of its own a request is, and heeds x-should-retry


def typed(sdk: str, status: int) -> str:
    return TYPES[sdk].get(status) or TYPES[sdk][None]


def status_of(told: Told) -> int:
    assert told.error is not None
    return int(told.error.get("status_code") or told.error["code"])


def headers_of(told: Told) -> dict[str, str]:
    """Of the answer that raised, names in lower case."""
    assert told.raised is not None
    response = getattr(told.raised, "response", None) or getattr(told.raised, "raw_response", None)
    headers = getattr(response, "headers", None) or getattr(told.raised, "headers", None) or {}
    return {name.lower(): value for name, value in dict(headers).items()}
