"""Usage as Gemini and Vertex report it: usageMetadata, and the statistics of `predict`. Adds thoughts and tool prompts in."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.dialect.fields import Figures, at, items, mapping, text
from proxy.dialect.wire import Json, Operation
from proxy.exchange import Usage

MODALITIES: dict[object, str] = {
    "AUDIO": "audio",
    "IMAGE": "image",
    "VIDEO": "video",
    4: "audio",
    2: "image",
    3: "video",
}  # enum-encoding=int
DETAILS = {
    "input": ("promptTokensDetails", "promptTokenDetails", "toolUsePromptTokensDetails"),
    "output": ("candidatesTokensDetails", "responseTokensDetails"),
    "cached": ("cacheTokensDetails",),
}


def read_usage(op: Operation, doc: Json) -> Usage | None:
    raw = mapping(doc.get("usageMetadata"))
    if not raw and op.variant == "predict":
        return _predicted(op, doc)
    figures = Figures(raw)
    asked = figures.first("promptTokenCount")
    said = figures.first("candidatesTokenCount", "responseTokenCount")  # the latter: Live API
    thought, tools = figures.first("thoughtsTokenCount"), figures.count("toolUsePromptTokenCount")
    if asked is None and said is None and thought is None:
        return None
    return figures.finish(
        Usage(
            input=(asked or 0) + tools,
            cached_input=figures.count("cachedContentTokenCount"),
            output=(said or 0) + (thought or 0),
            reasoning=thought or 0,
            source="provider",
            detail=dict(raw),
            units=_units(figures) | searches_of(doc),
            tier=text(raw.get("serviceTier")),
            model=text(doc.get("modelVersion")),
            ended=True,
        )
    )


def _units(figures: Figures) -> dict[str, int]:
    units: dict[str, int] = {}
    for side, names in DETAILS.items():
        for modality, tokens in (pair for name in names for pair in _modal(figures.raw.get(name))):
            n = Figures({"n": tokens}).count("n")
            units[f"{side}_{modality}"] = units.get(f"{side}_{modality}", 0) + n
    return units


def searches_of(doc: Json) -> dict[str, int]:
    """Grounding is billed by the prompt before Gemini 3, by the query since (Google, Gemini API pricing)."""
    queries = [query for c in items(doc.get("candidates")) for query in items(at(c, "groundingMetadata", "webSearchQueries"))]
    if not queries:
        return {}
    is_by_prompt = (text(doc.get("modelVersion")) or "").startswith(("gemini-1", "gemini-2"))
    return {"searches": 1 if is_by_prompt else len(queries)}


def _modal(details: object) -> Iterator[tuple[str, object]]:
    for entry in items(details):
        name = at(entry, "modality")
        if isinstance(name, str | int) and name in MODALITIES:
            yield MODALITIES[name], at(entry, "tokenCount")


def _predicted(op: Operation, doc: Json) -> Usage | None:
    predictions = items(doc.get("predictions"))
    if op.name == "images":
        made = len(predictions)
        return Usage(source="provider", units={"images": made}, detail={"images": made}, ended=True) if made else None
    counts = [at(p, "embeddings", "statistics", "token_count") for p in predictions]
    figures = Figures({str(n): tokens for n, tokens in enumerate(counts) if tokens is not None})
    if not figures.raw:
        return None
    total = sum(figures.count(name) for name in figures.raw)
    return figures.finish(Usage(input=total, source="provider", detail={"token_count": total}, ended=True))
