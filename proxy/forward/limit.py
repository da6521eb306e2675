"""`inject_max_tokens`: writes the limit that the estimate assumes into a request that names none. Lowers and raises nobody's own."""

from __future__ import annotations

from proxy.dialect.wire import Asked, Operation
from proxy.policy.plan import Pricing, Provider
from proxy.stream.spans import edit, insert_key, top_level

OPENAIS_OWN = ("openai", "azure")  # price ids: there newer models refuse `max_tokens`; compatible servers know no other name
Field = tuple[str, ...]  # the path in the body; of alternatives in spelling see `with_limit`
SNAKE = {"generationConfig": "generation_config"}  # both are Google's


def field_for(pricing: Pricing, provider: Provider, op: Operation, asked: Asked, path: str) -> Field | None:
    """Where a limit is to be written; None where the policy wants none, the caller named one, or nothing is generated.

    Not into Anthropic's requests, which are invalid without one, and not where the provider's own default is a few tokens
    (OpenAI's completions 16, Cohere's generate 20): a limit would make those answers longer.
    """
    if not pricing.inject_max_tokens or asked.max_tokens is not None or op.body != "json":
        return None
    match op.speaks or provider.family, op.name:
        case "openai", "chat":
            is_own = provider.family == "openai" and provider.price_id in OPENAIS_OWN
            return ("max_completion_tokens",) if is_own else ("max_tokens",)
        case "openai", "completions" if "/fim/" in path:
            return ("max_tokens",)
        case "openai", "responses" if op.variant == "responses":
            return ("max_output_tokens",)
        case "gemini", "generate":
            return ("generationConfig", "maxOutputTokens")
        case "cohere", "chat":
            return ("max_tokens",)
    return None


def with_limit(text: bytes, field: Field, most: int) -> bytes:
    """The JSON object `text` with `most` at `field`; a null there is replaced, all other bytes stay."""
    name, *rest = field
    said = top_level(text)
    name = SNAKE[name] if SNAKE.get(name) in said else name
    at = said.get(name)
    inner = b"" if at is None else text[slice(*at)]
    if rest and inner.startswith(b"{"):
        value = with_limit(inner, tuple(rest), most)
    else:
        value = str(most).encode()
        for key in reversed(rest):
            value = b'{"' + key.encode() + b'":' + value + b"}"
    return insert_key(text, name, value) if at is None else edit(text, [(*at, value)])
