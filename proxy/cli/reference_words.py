"""What docs/reference.md says of environment, headers and ledger fields: words that stand in no code. Renders nothing."""

from __future__ import annotations

from collections.abc import Mapping

ENVIRONMENT: Mapping[str, str] = {
    "SLUICE_POLICY": "`serve`: the policy file, where `--policy` is not given.",
    "SLUICE_LISTEN": "`serve`: what SDKs point at, where `--listen` is not given.",
    "SLUICE_ADMIN": "`serve`: the admin listener, where `--admin` is not given; `keys`, `usage`, `reconcile`: where to ask "
    "(HOST:PORT or a URL).",
    "SLUICE_STATE": "`serve`, `keys`, `usage`, `reconcile`: the state, where `--state` is not given.",
    "SLUICE_ADMIN_TOKEN": "`keys`, `usage`, `reconcile`: the bearer token of the admin API. "
    "`serve` reads it only where the policy says so.",
    "XDG_STATE_HOME": "Where the default state stands: `$XDG_STATE_HOME/sluice`, else `~/.local/state/sluice`.",
    "any other name": "Read where the policy says `env:NAME`, at load and at reload. `HTTP_PROXY` and its like are not read.",
}

REQUEST_HEADERS: Mapping[str, str] = {
    "authorization, x-api-key, api-key, x-goog-api-key": "The caller's one credential; also `?key=`. Ours never travels on.",
    "x-request-id": "If well-formed (1 to 128 of `A-Z a-z 0-9 . _ : -`) it names the call in replies, log and ledger, and travels on.",
    "x-stainless-retry-count": "Above 0: the SDK retries by itself, and Sluice does not retry on top of it.",
    "x-stainless-timeout, x-stainless-read-timeout": "Seconds the SDK waits: no attempt is begun that could not end in time.",
    "accept-encoding": "Narrowed to what the meter can read (gzip, deflate, identity), never widened.",
    "expect": "`100-continue` is answered once the caller is known; anything else is 417.",
    "cookie": "Stripped, as are hop-by-hop headers (RFC 9110, section 7.6.1).",
    "headers of `callers.end_user`": "Name the end user; kept only as keyed hashes.",
}

REPLY_HEADERS: Mapping[str, str] = {
    "x-sluice-request-id": "The call's id: in the log, and `request_id` in the ledger.",
    "x-sluice-error": "The code of Sluice's own no (below); absent where the provider's answer passes.",
    "x-sluice-provider": "The provider that answered.",
    "x-sluice-attempts": "How many attempts were sent.",
    "x-sluice-model": "The model that answered, where it is another than the one asked.",
    "x-sluice-guard": "What the guard did: `masked email=2 phone=1`. Never a value.",
    "x-sluice-reserved-usd": "What the attempt may cost at most, in dollars; held until it is settled.",
    "x-sluice-cost-usd": "What the call cost, in dollars, where that is known before the answer begins (a list of models).",
    "x-sluice-limit": "The limit that refused, else the tightest.",
    "x-ratelimit-limit, x-ratelimit-remaining, x-ratelimit-reset": (
        "Of the tightest rate that is the caller's own; reset in Unix seconds, not on a provider's error. The provider's own pass."
    ),
    "ratelimit, ratelimit-policy": "The same of every rate, as the IETF draft spells it.",
    "retry-after, retry-after-ms": "On refusals where waiting helps.",
    "x-should-retry": "`false` where waiting is no help, or where Sluice has retried already.",
    "server-timing": "`sluice;dur=…` appended: our own share in ms.",
    "x-request-id": "The call's id, where the provider sent none.",
    "www-authenticate": "On 401.",
}

LEDGER: Mapping[str, str] = {
    "request_id": "The caller's well-formed `x-request-id`, else ours.",
    "attempt": "1 for the first.",
    "kind": "`first`, `retry`, `fallback`, `turn` (of a realtime session), `refusal`.",
    "parent_id": "`request_id/attempt` of the first attempt, on those after it.",
    "at": "When it began: RFC 3339 in UTC.",
    "caller": "Who called.",
    "team": "The caller's team.",
    "tier": "The caller's tier.",
    "provider": "Where the attempt went.",
    "model": "Our name of the model.",
    "operation": "What kind of call it was (above).",
    "credential": "The name of the key that was used, never its value.",
    "status": "The provider's HTTP status; on a refusal ours.",
    "end": "`done`, `refused:<code>`, `upstream_cut`, `client_gone`, `stopped:<why>`; `crashed` after a kill -9.",
    "input_tokens": "Cache reads and writes included.",
    "cached_input_tokens": "Share of the input that was read from the provider's cache.",
    "cache_write_tokens": "Share of the input that was written to it.",
    "output_tokens": "Reasoning included.",
    "reasoning_tokens": "Share of the output.",
    "usage_detail": "Every billed unit as the provider reported it.",
    "usage_source": "`provider`: its own figures; `counted`: ours of what passed; `estimate`: what was held; `none`.",
    "usage_note": "Why the usage is what it is, where that is not plain.",
    "cost_nanousd": "Charged, in nano-dollars (10⁻⁹ $).",
    "held_nanousd": "Held before the first byte left.",
    "price_row": "Name, source, date and rates: enough to recompute the cost from the row alone.",
    "policy_generation": "Which generation of the policy decided.",
    "duration_ms": "Of the attempt.",
    "first_byte_ms": "Until the provider's first byte.",
    "overhead_ms": "Our own share of the call so far.",
    "streamed": "Whether the caller asked for a stream.",
}

OPERATIONS: Mapping[str, str] = {
    "chat": "OpenAI chat completions, Cohere v2 chat",
    "messages": "Anthropic messages",
    "responses": "OpenAI responses, responses/compact",
    "completions": "OpenAI legacy completions",
    "generate": "Gemini generateContent and streamGenerateContent, Cohere v1 chat and generate",
    "count_tokens": "Anthropic and Gemini token counts: free",
    "embeddings": "OpenAI embeddings, Gemini embedContent and batchEmbedContents, Cohere embed",
    "rerank": "Cohere rerank",
    "images": "OpenAI images",
    "audio": "OpenAI speech, transcriptions, translations",
    "moderations": "OpenAI moderations",
    "files": "Uploads and what is done with them",
    "batches": "Batches: no reply states their cost",
    "realtime": "WebSocket sessions; each turn is a row",
    "models": "Lists of models, filtered by `allow.models`",
    "other": "Every other path: forwarded, counted, guarded",
}
