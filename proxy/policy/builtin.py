"""The providers that Sluice knows by name: origin, wire format and habits. A policy entry of the same name changes what it names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

FAMILIES: Mapping[str, str] = MappingProxyType(
    {
        "openai": "openai",
        "azure-openai": "openai",
        "anthropic": "anthropic",
        "gemini": "gemini",
        "vertex": "gemini",
        "cohere": "cohere",
        "bedrock": "anthropic",
    }
)


@dataclass(frozen=True, slots=True)
class Known:
    """`url` None: the policy must name one before use. `price_id` is the provider's id in genai-prices ("" = look in all)."""

    dialect: str
    url: str | None
    root: str = "/v1"
    price_id: str = ""
    asks_stream_usage: bool = False  # sends no usage in chat streams unless asked


BUILT_IN: Mapping[str, Known] = MappingProxyType(
    {
        "openai": Known("openai", "https://api.openai.com", price_id="openai", asks_stream_usage=True),
        "anthropic": Known("anthropic", "https://api.anthropic.com", price_id="anthropic"),
        "gemini": Known("gemini", "https://generativelanguage.googleapis.com", "/v1beta", "google"),
        "vertex": Known("vertex", "https://aiplatform.googleapis.com", price_id="google"),
        "cohere": Known("cohere", "https://api.cohere.com", "/v2", "cohere"),
        "azure": Known("azure-openai", None, "/openai", "azure", asks_stream_usage=True),
        "mistral": Known("openai", "https://api.mistral.ai", price_id="mistral"),
        "groq": Known("openai", "https://api.groq.com", "/openai/v1", "groq"),
        "deepseek": Known("openai", "https://api.deepseek.com", price_id="deepseek"),
        "xai": Known("openai", "https://api.x.ai", price_id="x-ai"),
        "openrouter": Known("openai", "https://openrouter.ai", "/api/v1", "openrouter"),
        "together": Known("openai", "https://api.together.xyz", price_id="together"),
        "fireworks": Known("openai", "https://api.fireworks.ai", "/inference/v1", "fireworks"),
        "perplexity": Known("openai", "https://api.perplexity.ai", "", "perplexity"),
    }
)
OWN: Mapping[str, Known] = MappingProxyType(  # what an entry of the policy starts from, by its dialect
    {
        "openai": Known("openai", None, asks_stream_usage=True),
        "azure-openai": Known("azure-openai", None, "/openai", "azure", asks_stream_usage=True),
        "anthropic": Known("anthropic", None, price_id="anthropic"),
        "gemini": Known("gemini", None, "/v1beta", "google"),
        "vertex": Known("vertex", None, price_id="google"),
        "cohere": Known("cohere", None, "/v2", "cohere"),
    }
)


def known(name: str, dialect: str | None) -> Known | None:
    """What a provider entry starts from: its built-in name, else its dialect; None if neither is known."""
    return BUILT_IN.get(name) or OWN.get(dialect or "")
