"""Usage as the OpenAI family reports it, in all its spellings. Invents no figure; what it cannot read is left out."""

from __future__ import annotations

from dataclasses import replace

from proxy.dialect.fields import at, items, mapping, merged, noted, text
from proxy.dialect.figures import Figures, finished, milliseconds, nanousd
from proxy.dialect.openai_asked import tools_used
from proxy.dialect.openai_texts import said_of
from proxy.dialect.wire import NO_UNITS, Json, Operation
from proxy.exchange import Usage

INPUT, OUTPUT, TOTAL = ("prompt_tokens", "input_tokens"), ("completion_tokens", "output_tokens"), ("total_tokens",)
INPUT_DETAILS = ("prompt_tokens_details", "prompt_token_details", "input_tokens_details", "input_token_details")
OUTPUT_DETAILS = ("completion_tokens_details", "completion_token_details", "output_tokens_details", "output_token_details")
UNFINISHED = ("queued", "in_progress")


def of_details(places: tuple[str, ...], name: str) -> tuple[str, ...]:
    return tuple(f"{place}.{name}" for place in places)


CACHED = (*of_details(INPUT_DETAILS, "cached_tokens"), "prompt_cache_hit_tokens", "cached_tokens")  # DeepSeek, Moonshot
WRITTEN = of_details(INPUT_DETAILS, "cache_write_tokens")
REASONING = (*of_details(OUTPUT_DETAILS, "reasoning_tokens"), "reasoning_tokens")  # Perplexity
UNITS = {
    **{f"input_{kind}": of_details(INPUT_DETAILS, f"{kind}_tokens") for kind in ("audio", "image", "video")},
    **{f"output_{kind}": of_details(OUTPUT_DETAILS, f"{kind}_tokens") for kind in ("audio", "image")},
    **{f"cached_{kind}": of_details(INPUT_DETAILS, f"cached_tokens_details.{kind}_tokens") for kind in ("audio", "image")},
    "searches": ("server_tool_use_details.web_search_requests", "num_search_queries"),  # OpenRouter, Perplexity
}
FIGURES = Figures({"input": INPUT, "output": OUTPUT, "total": TOTAL, "cached": CACHED, "written": WRITTEN, "reasoning": REASONING, **UNITS})
SECONDS = ("seconds", "prompt_audio_seconds")
BESIDE = frozenset(("cost", *SECONDS))  # amounts that are no counts
THREE = ("prompt_tokens", "completion_tokens", "total_tokens")
DETAILS = frozenset((*INPUT_DETAILS, *OUTPUT_DETAILS))


def raw_usage(doc: Json) -> Json:
    """The usage object of a reply or event, wherever this provider puts it; a job that is not finished has none yet."""
    if doc.get("status") in UNFINISHED:
        return {}
    return mapping(doc.get("usage")) or mapping(at(doc, "x_groq", "usage"))


def whole_usage(op: Operation, doc: Json) -> Usage | None:
    """Of any answer."""
    if op.name == "count_tokens":
        return None
    raw = raw_usage(doc) or ({"seconds": doc.get("duration")} if op.name == "audio" else {})  # Whisper's verbose_json
    found = read_usage(op, raw, doc)
    if found is None and op.name == "images" and (made := len(items(doc.get("data")))):
        found = Usage(source="provider", units={"images": made}, detail={"images": made}, model=text(doc.get("model")), ended=True)
    return found


def says_no_more(raw: Json) -> bool:
    """Than three counts, and details that are nought."""
    for name, inside in raw.items():
        if name in DETAILS:
            if type(inside) is dict:
                for count in inside.values():
                    if count or (type(count) is not int and count is not None):
                        return False
            elif inside is not None:
                return False
        elif name not in THREE:
            return False
    return True


def folded(op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
    doc = mapping(event.get("response")) or event
    if str(event.get("object", "")).startswith("thread.run.step"):  # a share of the run's own, final figure
        return so_far
    raw = raw_usage(doc)
    if not raw:
        return so_far
    now = read_usage(op, merged(so_far.detail if so_far else {}, raw), doc)
    if now is None:
        return so_far
    if not _is_final(op, event):  # xAI, Perplexity: a running figure beside each piece
        now = replace(now, source="counted", ended=False)
    return noted(so_far, now)


def _is_final(op: Operation, event: Json) -> bool:
    return not said_of(op, event).deltas or any(at(c, "finish_reason") for c in items(event.get("choices")))


def read_usage(op: Operation, raw: Json, doc: Json) -> Usage | None:
    """None where the object states neither tokens, nor a duration, nor a cost."""
    found, is_odd = FIGURES.read(raw)
    asked, said, cost, audio_ms = found.pop("input", None), found.pop("output", None), None, 0
    if not BESIDE.isdisjoint(raw):
        cost, is_odd_cost = nanousd((raw.get("cost"), at(raw.get("cost"), "total_cost")))
        audio_ms, is_odd_time = milliseconds(map(raw.get, SECONDS))
        is_odd = is_odd or is_odd_cost or is_odd_time
    if asked is None and said is None and cost is None and not audio_ms:
        return None
    input, output, reasoning = asked or 0, said or 0, found.pop("reasoning", 0)
    cached, written = found.pop("cached", 0), found.pop("written", 0)
    beyond = found.pop("total", 0) - input - output
    if beyond > 0 and (beyond == reasoning or op.speaks):
        output += beyond  # it stands in the total alone: xAI counts reasoning apart, Gemini's compatible path does not list it at all
    units = tools_used(op, doc)
    for unit, number in found.items():
        if number:
            units[unit] = number
    if audio_ms:
        units["audio_ms"] = audio_ms
    if op.name == "images" and said:
        units.setdefault("output_image", said)  # what this operation puts out is images alone
    tier, model = text(doc.get("service_tier")), text(doc.get("model"))
    usage = Usage(input, cached, written, 0, output, reasoning, "provider", "", raw, units or NO_UNITS, tier, cost, model, True)
    return finished(usage, is_odd)
