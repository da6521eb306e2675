"""Every metric of Sluice: name, type, labels, help. Data alone; the docs are generated from it. Counts nothing itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "sluice_"
WHO = ("provider", "model", "caller", "team", "tier")
CALL_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
OVERHEAD_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)


@dataclass(frozen=True, slots=True)
class Figure:
    """`name` without the prefix, as it is exposed. `buckets` (seconds) make a histogram."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


FIGURES = (
    Figure(
        "requests_total",
        "counter",
        (*WHO, "operation", "end", "status"),
        "Calls that are over. end: done, refused, upstream_cut, client_gone, stopped. status: as sent to the client, none if nothing was.",
    ),
    Figure("refusals_total", "counter", ("code",), "Calls that Sluice itself refused, by x-sluice-error."),
    Figure(
        "tokens_total",
        "counter",
        (*WHO, "kind"),
        "Tokens. kind: input (cached_input and cache_write are shares of it), output (reasoning is a share of it).",
    ),
    Figure("cost_usd_total", "counter", WHO, "Dollars, as charged to the ledger."),
    Figure(
        "request_duration_seconds",
        "histogram",
        ("provider", "operation"),
        "From the request's head to the answer's last byte.",
        CALL_BUCKETS,
    ),
    Figure(
        "first_byte_seconds",
        "histogram",
        ("provider", "operation"),
        "From the request's head to the provider's first byte.",
        CALL_BUCKETS,
    ),
    Figure("overhead_seconds", "histogram", ("provider", "operation"), "Duration less the wait for the provider.", OVERHEAD_BUCKETS),
    Figure("in_flight", "gauge", (), "Calls under way."),
    Figure("retries_total", "counter", ("provider", "model", "error"), "Attempts that failed and were repeated, by error class."),
    Figure("fallbacks_total", "counter", ("provider", "model"), "Attempts at a fallback, by where they went."),
    Figure("breaker_state", "gauge", ("provider", "model"), "0 closed, 1 probing, 2 open."),
    Figure(
        "limit_used_ratio",
        "gauge",
        ("limit", "kind"),
        "The fullest account of a limit, seen in the last one to two minutes. kind: requests, tokens, spend, concurrency.",
    ),
    Figure("alerts_total", "counter", ("limit", "share"), "Shares of money limits that were reached, each once per account and period."),
    Figure("alert_posts_total", "counter", ("outcome",), "Alerts for the webhook. outcome: sent, failed after all attempts, dropped."),
    Figure("pii_found_total", "counter", ("entity", "direction", "action"), "Personal data found, and what was done about it."),
    Figure(
        "estimated_usage_total",
        "counter",
        ("provider", "model", "source", "reason"),
        "Attempts charged without the provider's own usage. source: counted, estimate. reason: usage_missing, usage_unparsed, "
        "unconfirmed (sent, and no answer), crashed (found open at the start, without provider and model), or how the attempt ended.",
    ),
    Figure(
        "unpriced_total",
        "counter",
        ("provider", "model", "reason"),
        "Attempts with no known price for some or all of it. reason: fallback_price, unpriced, unmetered, unpriced_units (of a tool, "
        "an image), unpriced_tier (priority or fast, as the reply names it).",
    ),
    Figure("policy_generation", "gauge", (), "Which generation of the policy is live; 1 at the start."),
    Figure("policy_reload_failed_total", "counter", (), "Policy files that were refused; the last good one stayed."),
    Figure(
        "state_mode",
        "gauge",
        (),
        "Of a shared state: 0 shared, or nothing is shared; 1 local, it is out of reach; 2 recovering, it forgot something.",
    ),
    Figure("state_waiting", "gauge", (), "Closes of attempts and calls that the shared state does not know of yet."),
    Figure("state_live", "gauge", (), "Sidecars that share the state, as last told; 0 where nothing is shared."),
    Figure("build_info", "gauge", ("version",), "Always 1."),
    Figure("loop_lag_seconds", "gauge", (), "How late the event loop was, at worst, of late."),
    Figure("log_lines_dropped_total", "counter", (), "Log lines lost because their reader was too slow."),
    Figure(
        "refusal_rows_dropped_total", "counter", (), "Refusals without a ledger row: of one caller, beyond 1,000 at once and 10 a second."
    ),
    Figure("ledger_pending_rows", "gauge", (), "Ledger rows that are safe in the journal and not yet in the index."),
    Figure("ledger_stream_lag_rows", "gauge", (), "Ledger rows in the index that the Redis stream of `observe.ledger_stream` has not got."),
    Figure("ledger_pruned_rows_total", "counter", (), "Rows that left the ledger for its archive, by age or size."),
    Figure("ledger_prune_failed_total", "counter", (), "Times that nothing could be pruned: archive or ledger cannot be written."),
    Figure("jwks_failed_total", "counter", (), "Fetches of a JWT issuer's keys that failed; the last good ones serve on."),
)


def documented() -> list[tuple[str, str, tuple[str, ...], str]]:
    """(full name, type, labels, help) of every metric, for the generated docs."""
    return [(PREFIX + figure.name, figure.type, figure.labels, figure.help) for figure in FIGURES]
