"""The wire formats Sluice reads, by the name a policy gives them. Holds no provider, no key and no state."""

from __future__ import annotations

from proxy.dialect.anthropic import ANTHROPIC
from proxy.dialect.azure import AZURE
from proxy.dialect.bilingual import Bilingual
from proxy.dialect.cohere import COHERE
from proxy.dialect.gemini import GEMINI, VERTEX
from proxy.dialect.openai import OPENAI
from proxy.dialect.wire import Dialect, Operation

DIALECTS: dict[str, Dialect] = {
    "openai": OPENAI,
    "azure-openai": AZURE,
    "anthropic": ANTHROPIC,
    "gemini": Bilingual(GEMINI, r"(?:/v1[^/]*)?/openai(?=/)"),
    "vertex": Bilingual(VERTEX, r"/v1[^/]*/projects/[^/]+/locations/[^/]+/endpoints/[^/]+(?=/)"),
    "cohere": Bilingual(COHERE, r"/compatibility(?=/)"),
}


def spoken(provider_dialect: str, op: Operation) -> str:
    """The wire format that this operation speaks: its provider's, or the one of a path of another format."""
    return op.speaks or provider_dialect


def dialect_of(name: str) -> Dialect:
    """Raises KeyError for a name that no wire format has."""
    return DIALECTS[name]
