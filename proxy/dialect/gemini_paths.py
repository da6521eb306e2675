"""Which Gemini or Vertex operation a method and path are: `…/models/MODEL:verb`. Reads no body."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from urllib.parse import parse_qsl

from proxy.dialect.fields import plain_path
from proxy.dialect.wire import Operation

FREE = ("GET", "HEAD", "OPTIONS", "DELETE")
VERB = re.compile(r"(?:/[^/]+)*?/(?P<kind>models|tunedModels|endpoints)/(?P<model>[^/:]+):(?P<verb>\w+)")
LIVE = re.compile(r"/ws/.+BidiGenerateContent(?:Constrained)?")
FILES = re.compile(r"(?:/upload|/download)?/v[^/]+/(?:files|fileSearchStores)(?:[/:].+)?")
BATCHES = re.compile(r"/v[^/]+/batches(?:/[^/:]+)?")
CACHED = re.compile(r"(?:/[^/]+)*?/cachedContents")
MODELS = re.compile(r"(?:/[^/]+)*?/models(?:/[^/:]+)?")
OTHER = Operation("other", body="stream", is_metered=False)
VERBS = {
    "generateContent": Operation("generate"),
    "streamGenerateContent": Operation("generate", variant="array"),
    "embedContent": Operation("embeddings"),
    "batchEmbedContents": Operation("embeddings"),
    "countTokens": Operation("count_tokens", is_billed=False),
    "computeTokens": Operation("count_tokens", is_billed=False),
    "batchGenerateContent": Operation("batches", is_metered=False),
    "asyncBatchEmbedContent": Operation("batches", is_metered=False),
}
PLAIN: tuple[tuple[tuple[str, ...], re.Pattern[str], Operation], ...] = (
    (("GET",), LIVE, Operation("realtime", body="none")),
    (FREE, BATCHES, Operation("batches", body="none", is_billed=False)),
    (FREE, FILES, Operation("files", body="none", is_billed=False)),
    (("POST", "PUT"), FILES, Operation("files", body="stream", is_billed=False)),
    (("POST",), CACHED, Operation("other", variant="cached", is_metered=False)),  # billed by the hour it is kept
    (("GET", "HEAD"), MODELS, Operation("models", body="none", is_billed=False)),
)


@lru_cache(maxsize=256)
def operation_of(method: str, path: str, query: str) -> Operation:
    plain = plain_path(path)
    found = VERB.fullmatch(plain) if method == "POST" else None
    if found is not None:
        return replace(_of_verb(found["verb"], found["model"], found["kind"], query), model=found["model"])
    for methods, pattern, op in PLAIN:
        if method in methods and pattern.fullmatch(plain):
            return op
    return Operation("other", body="none", is_billed=False) if method in FREE else OTHER


def _of_verb(verb: str, model: str, kind: str, query: str) -> Operation:
    if verb == "predict" and kind == "models":  # Vertex: Imagen, else the text and multimodal embeddings
        return Operation("images" if "image" in model else "embeddings", variant="predict")
    op = VERBS.get(verb, OTHER)
    return replace(op, variant="sse") if op.variant == "array" and _wants_sse(query) else op


def _wants_sse(query: str) -> bool:
    return any(name.lstrip("$") == "alt" and value.partition(";")[0] == "sse" for name, value in parse_qsl(query))
