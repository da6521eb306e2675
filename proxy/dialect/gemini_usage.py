"""Usage as Gemini and Vertex report it: usageMetadata, and the statistics of `predict`. Adds thoughts and tool prompts in."""

from __future__ import annotations

from typing import Literal

from proxy.dialect.fields import at, items, mapping, text
from proxy.dialect.figures import ABSURD, Figures, finished, whole
from proxy.dialect.wire import NO_UNITS, Json, Operation
from proxy.exchange import Usage

MODALITIES: dict[object, str] = {
    "AUDIO": "audio",
    "IMAGE": "image",
    "VIDEO": "video",
    4: "audio",
    2: "image",
    3: "video",
}  # enum-encoding=int
FIGURES = Figures(
    {
        "input": ("promptTokenCount",),
        "output": ("candidatesTokenCount", "responseTokenCount"),  # the latter: Live API
        "thought": ("thoughtsTokenCount",),
        "tools": ("toolUsePromptTokenCount",),
        "cached": ("cachedContentTokenCount",),
    }
)
SIDES = {
    "promptTokensDetails": "input",
    "promptTokenDetails": "input",
    "toolUsePromptTokensDetails": "input",
    "candidatesTokensDetails": "output",
    "responseTokensDetails": "output",
    "cacheTokensDetails": "cached",
}


def read_usage(op: Operation, doc: Json) -> Usage | None:
    raw = mapping(doc.get("usageMetadata"))
    if not raw and op.variant == "predict":
        return _predicted(op, doc)
    return stated(raw, doc)


def stated(raw: Json, doc: Json, is_over: bool = True) -> Usage | None:
    """`is_over`: these are the last figures. Until then they are what was counted so far."""
    found, is_odd = FIGURES.read(raw)
    figure = found.get
    asked, said, thought = figure("input"), figure("output"), figure("thought")
    if asked is None and said is None and thought is None:
        return None
    input, cached = (asked or 0) + figure("tools", 0), figure("cached", 0)
    reasoning = thought or 0
    output = (said or 0) + reasoning
    units = {unit: number for unit, number in (_units(raw) | searches_of(doc)).items() if number} or NO_UNITS
    tier, model = text(raw.get("serviceTier")), text(doc.get("modelVersion"))
    source: Literal["provider", "counted"] = "provider" if is_over else "counted"
    return finished(Usage(input, cached, 0, 0, output, reasoning, source, "", raw, units, tier, None, model, is_over), is_odd)


def _units(raw: Json) -> dict[str, int]:
    units: dict[str, int] = {}
    for name, side in SIDES.items():
        for entry in items(raw[name]) if name in raw else ():
            modality = at(entry, "modality")
            if modality != "TEXT" and isinstance(modality, str | int) and modality in MODALITIES:
                unit = f"{side}_{MODALITIES[modality]}"
                units[unit] = units.get(unit, 0) + (whole(at(entry, "tokenCount")) or 0)
    return units


def searches_of(doc: Json) -> dict[str, int]:
    """Grounding is billed by the prompt before Gemini 3, by the query since (Google, Gemini API pricing)."""
    queries = 0
    for candidate in items(doc.get("candidates")):
        if isinstance(candidate, dict) and "groundingMetadata" in candidate:
            queries += len(items(at(candidate, "groundingMetadata", "webSearchQueries")))
    if not queries:
        return {}
    is_by_prompt = (text(doc.get("modelVersion")) or "").startswith(("gemini-1", "gemini-2"))
    return {"searches": 1 if is_by_prompt else queries}


def _predicted(op: Operation, doc: Json) -> Usage | None:
    predictions = items(doc.get("predictions"))
    if op.name == "images":
        made = len(predictions)
        return Usage(source="provider", units={"images": made}, detail={"images": made}, ended=True) if made else None
    counts = [at(p, "embeddings", "statistics", "token_count") for p in predictions]
    stated = [tokens for tokens in counts if tokens is not None]
    if not stated:
        return None
    usable = [whole(tokens) for tokens in stated]
    total = sum(tokens or 0 for tokens in usable)
    is_odd = any(tokens is None or tokens > ABSURD for tokens in usable)
    return finished(Usage(input=total, source="provider", detail={"token_count": total}, ended=True), is_odd)
