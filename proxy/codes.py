"""Every code of `x-sluice-error`: its status, what causes it, what to do about it. The docs are generated from it; it decides nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True, slots=True)
class Code:
    status: int | None  # None: only inside a stream that has begun
    cause: str
    fix: str


_TABLE = {
    # the request
    "invalid_request": Code(400, "the request line, a header or a field that a policy must read is malformed or ambiguous", "correct it"),
    "malformed_json": Code(400, "the body of a JSON operation is no JSON document", "send valid UTF-8 JSON"),
    "duplicate_key": Code(400, "a key stands twice in one JSON object, so two readers could see two requests", "send each key once"),
    "ambiguous_credentials": Code(
        400, "more than one credential, and they disagree or are repeated", "send exactly one credential, in one place"
    ),
    "content_blocked": Code(400, "the text holds something that the policy does not let out", "remove it, or ask for another `guard:`"),
    "exceeds_limit": Code(400, "this one call is larger than the whole limit", "lower max_tokens or shorten the prompt"),
    "missing_end_user": Code(
        400, "a limit counts per end user and the call names none", "send the header or body field of `callers.end_user`"
    ),
    "unpriced_model": Code(
        400,
        "no price is known for the model, or for a tool that it lets the provider run, and the policy denies such calls",
        "add the model to `prices:`, leave the tool out, or set `unknown_price`",
    ),
    "unmetered_operation": Code(400, "no reply states what this operation costs and the policy denies such calls", "set `unmetered:`"),
    "uninspected_content": Code(
        400, "the call carries content that no text rule can read and the policy blocks it", "set `guard.uninspected`"
    ),
    # who
    "missing_credentials": Code(401, "no credential, and anonymous calls are denied", "send a Sluice key where the SDK puts its API key"),
    "invalid_credentials": Code(401, "an unknown or malformed credential", "send a key or token that the policy or the state knows"),
    "expired_credentials": Code(401, "the key or token has expired", "ask for a new one"),
    "budget_exhausted": Code(
        402, "what the call may cost does not fit what is left of the budget", "wait for the reset, lower max_tokens, ask for more"
    ),
    "bad_signature": Code(403, "the signature of a token is wrong", "sign with the key that the issuer publishes"),
    "not_allowed": Code(403, "the policy does not allow this model, provider or region to the caller", "use one that `allow:` names"),
    "unknown_team": Code(403, "the caller belongs to a team that the policy does not declare", "declare it under `teams:`"),
    "unknown_tier": Code(403, "the caller has a tier that the policy does not declare", "declare it under `tiers:`"),
    "network_denied": Code(403, "the caller's address is not allowed", "call from an allowed network"),
    # where and how
    "unknown_provider": Code(404, "the path names no provider and has no known shape", "begin the path with a provider that is served"),
    "method_not_allowed": Code(405, "the method is none that a provider serves", "use the method of the provider's API"),
    "request_timeout": Code(408, "the head or the body of the request came too slowly", "send faster, or look for the network's fault"),
    "too_large": Code(413, "the body is larger than the policy lets in", "send less, or raise `server.max_body` or `server.max_upload`"),
    "target_too_long": Code(414, "the request target is too long", "send the data in the body"),
    "unsupported_encoding": Code(415, "the body is compressed in a way that cannot be read", "send gzip, deflate or no Content-Encoding"),
    "expectation_failed": Code(417, "an Expect other than 100-continue", "leave it out"),
    "wrong_host": Code(421, "the Host header is not in `server.hosts`", "call by a listed name, or list the name"),
    "rate_limited": Code(429, "a limit of requests or tokens is reached", "wait as `retry-after` says"),
    "too_many_in_flight": Code(429, "a limit of concurrent calls is reached", "wait for one of your calls to end"),
    "headers_too_large": Code(431, "a header line, their number or their sum is too large", "send fewer or shorter headers"),
    # ourselves
    "internal": Code(500, "a defect of Sluice", "report it with the request id"),
    "overloaded": Code(503, "more connections or work than this process takes", "retry; add replicas or raise the limit of open files"),
    "draining": Code(503, "this process is shutting down", "retry: another replica, or the next process, answers"),
    "ledger_unavailable": Code(503, "the ledger cannot be written and the call must be accounted", "free the disk, check its permissions"),
    "state_unavailable": Code(503, "a store or key set that the decision needs cannot be reached", "retry; check the state and the issuer"),
    "version_not_supported": Code(505, "an HTTP version other than 1.0 and 1.1", "speak HTTP/1.1"),
    # the provider
    "upstream_dns": Code(502, "the provider's name does not resolve", "check `url:` and the DNS"),
    "upstream_connect": Code(502, "the provider does not accept connections", "check `url:` and the network"),
    "upstream_tls": Code(
        502, "the provider's certificate is not valid for its name", "check `url:`, the clock and the authorities (`SSL_CERT_FILE`)"
    ),
    "upstream_reset": Code(502, "the provider closed the connection before it answered", "retry"),
    "upstream_protocol": Code(502, "the provider's answer is not valid HTTP", "report it to the provider"),
    "upstream_auth": Code(502, "the provider rejects the key that the policy configures", "check the provider's key"),
    "upstream_redirect": Code(502, "the provider redirects, and redirects are not followed", "correct `url:`"),
    "breaker_open": Code(503, "the provider failed too often of late", "wait as `retry-after` says, or name a `fallback:`"),
    "upstream_pool_exhausted": Code(503, "all connections to the provider are busy", "raise `max_connections`, or send less at once"),
    "upstream_connect_timeout": Code(
        504, "the provider did not accept a connection in time", "check the network, or raise `timeouts.connect`"
    ),
    "upstream_first_byte_timeout": Code(504, "the provider did not begin its answer in time", "raise `timeouts.first_byte`"),
    "upstream_idle_timeout": Code(504, "the provider fell silent in the middle of its answer", "raise `timeouts.idle`"),
    "upstream_timeout": Code(504, "the whole call took too long", "raise `timeouts.total`"),
    # in a stream that has begun
    "upstream_cut": Code(None, "the provider broke off in the middle of its answer", "retry the call"),
    "stopped_money": Code(None, "the budget ended while the answer ran", "wait for the reset, ask for more"),
    "stopped_drain": Code(None, "this process shut down while the answer ran", "retry the call"),
    "stopped_revoked": Code(None, "the key was revoked while the answer ran", "ask for a new key"),
    "stopped_output": Code(None, "the answer held something that the policy does not let through", "ask for another `guard:`"),
}
CODES: Mapping[str, Code] = MappingProxyType(_TABLE)
