"""Work that a provider bills after its reply: which job a reply speaks of, whether it is over, and what it used. Reads documents alone.

Sources: OpenAI (Responses, background mode; Batch; Fine-tuning; Videos), Anthropic (Message Batches), Gemini (Batch Mode).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace

import orjson

from proxy.dialect.anthropic import read_usage as anthropic_usage
from proxy.dialect.fields import at, items, mapping, text
from proxy.dialect.figures import whole
from proxy.dialect.gemini_usage import read_usage as gemini_usage
from proxy.dialect.openai_usage import UNFINISHED, whole_usage
from proxy.dialect.wire import Json, Operation
from proxy.exchange import Usage, value

MOST_ID = 256  # characters; a longer name is no provider's
OVER = ("completed", "failed", "cancelled", "incomplete", "expired", "succeeded")
GOES_ON = ("validating", "validating_files", "finalizing", "cancelling", "running", "paused", *UNFINISHED)
GEMINI_OVER = ("SUCCEEDED", "FAILED", "CANCELLED", "EXPIRED")
RESULTS = "results"  # the variant of an operation whose reply is one line for each request of a batch
TIER = "batch"
WORK_UNITS = frozenset({"trained_tokens", "seconds"})  # what fine-tunes and videos are billed by: no price row has a rate for these


@value(frozen=True, slots=True)
class Job:
    """What a reply says of a job. `usages`: one for each model, none where it states none; `is_free`: nothing was used."""

    id: str
    is_over: bool
    usages: tuple[Usage, ...] = ()
    is_free: bool = False


def job_of(dialect: str, op: Operation, doc: Json) -> Job | None:
    """The job that a whole JSON answer, or the last `response` of a stream, speaks of; None where it speaks of none."""
    id = text(doc.get("name") if dialect in ("gemini", "vertex") and not op.speaks else doc.get("id"))
    if id is None or len(id) > MOST_ID or not id.isprintable():
        return None
    if op.name == "responses":
        return _response(op, id, doc)
    if op.name != "batches" and doc.get("object") != "video":
        return None
    if dialect == "anthropic":
        return _message_batch(id, doc)
    return _operation(op, id, doc) if "metadata" in doc and id == doc.get("name") else _openai(op, id, doc)


def _response(op: Operation, id: str, doc: Json) -> Job | None:
    """Only one that was asked for in the background goes on when its answer is over."""
    if doc.get("background") is not True:
        return None
    status = doc.get("status")
    if status not in OVER:
        return Job(id, is_over=False) if status in GOES_ON else None
    usage = whole_usage(op, doc)
    is_free = usage is None and status in ("failed", "cancelled") and not items(doc.get("output"))
    return Job(id, True, () if usage is None else (usage,), is_free)


def _openai(op: Operation, id: str, doc: Json) -> Job | None:
    """A batch, a fine-tuning job, a video."""
    status, kind = doc.get("status"), doc.get("object")
    if status not in OVER:
        return Job(id, is_over=False) if status in GOES_ON else None
    usage: Usage | None = None
    if kind == "fine_tuning.job":
        usage = _counted(doc, "trained_tokens")
    elif kind == "video":
        usage = _counted(doc, "seconds") if status == "completed" else None
    else:
        usage = whole_usage(op, doc)
        usage = None if usage is None else replace(usage, tier=TIER)
    counts = mapping(doc.get("request_counts"))
    nothing_done = counts.get("completed") == 0 if counts else status in ("failed", "cancelled")
    return Job(id, True, () if usage is None else (usage,), usage is None and nothing_done)


def _counted(doc: Json, name: str) -> Usage | None:
    """What is billed by one figure that is no token of a call; a text where the API writes numbers so."""
    stated = doc.get(name)
    figure = int(stated) if isinstance(stated, str) and stated.isdecimal() and len(stated) < 9 else stated
    count = whole(figure)
    if count is None:
        return None
    return Usage(source="provider", detail={name: stated}, units={name: count}, model=text(doc.get("model")), ended=True)


def _message_batch(id: str, doc: Json) -> Job | None:
    """Its own object states no usage: where anything succeeded, the results say what it used."""
    if doc.get("type") != "message_batch":
        return None
    is_free = doc.get("processing_status") == "ended" and at(doc, "request_counts", "succeeded") == 0
    return Job(id, is_over=is_free, is_free=is_free)


def _operation(op: Operation, id: str, doc: Json) -> Job:
    """A long-running operation of Google's."""
    state = text(at(doc, "metadata", "state")) or ""
    if doc.get("done") is not True and not state.endswith(GEMINI_OVER):
        return Job(id, is_over=False)
    sums = Sums()
    model = (text(at(doc, "metadata", "model")) or "").removeprefix("models/") or None
    for entry in items(at(doc, "response", "inlinedResponses", "inlinedResponses")):
        answer = mapping(at(entry, "response"))
        sums.add(gemini_usage(op, answer), model)
    usages = sums.usages()
    is_free = not usages and (bool(doc.get("error")) or state.endswith(GEMINI_OVER[1:]))
    return Job(id, True, usages, is_free)


# -- results, line by line ---------------------------------------------------------------------------------------------------


class Sums:
    """Usages of one batch, added up by model. Keeps a bounded number of models."""

    MOST = 50

    def __init__(self) -> None:
        self._by_model: dict[str | None, Usage] = {}

    def add(self, usage: Usage | None, model: str | None = None) -> None:
        if usage is None:
            return
        name = usage.model or model
        if name not in self._by_model and len(self._by_model) >= self.MOST:
            name = next(iter(self._by_model))
        before = self._by_model.get(name)
        self._by_model[name] = replace(usage, model=name, tier=TIER) if before is None else _sum(before, usage)

    def usages(self) -> tuple[Usage, ...]:
        return tuple(self._by_model.values())


def _sum(one: Usage, other: Usage) -> Usage:
    counts = ("input", "cached_input", "cache_write", "cache_write_1h", "output", "reasoning")
    units = {unit: one.units.get(unit, 0) + other.units.get(unit, 0) for unit in (*one.units, *other.units)}
    figures = {name: getattr(one, name) + getattr(other, name) for name in counts}
    detail = {"input_tokens": figures["input"], "output_tokens": figures["output"], "summed": True}
    return replace(one, **figures, units=units, detail=detail, note=one.note or other.note)


def add_results(sums: Sums, lines: Iterable[Json]) -> None:
    """Of Anthropic's results: `{"custom_id": …, "result": {"type": "succeeded", "message": {…}}}`. What failed costs nothing."""
    for line in lines:
        message = mapping(at(line, "result", "message"))
        if message:
            sums.add(anthropic_usage(mapping(message.get("usage")), message))


def dumped(job: Job) -> bytes:
    """A job that is over, for another process."""
    usages = [{it.name: getattr(usage, it.name) for it in fields(usage) if it.init} for usage in job.usages]
    return orjson.dumps({"id": job.id, "usages": usages, "is_free": job.is_free}, default=dict)


def loaded(data: bytes) -> Job | None:
    """What `dumped` wrote; None for anything else."""
    try:
        doc = orjson.loads(data)
        usages = tuple([Usage(**it) for it in doc["usages"]])
        job = Job(doc["id"], True, usages, doc["is_free"] is True)
    except (ValueError, TypeError, KeyError):
        return None
    figures = [getattr(usage, it.name) for usage in usages for it in fields(usage) if it.type == "int"]
    return job if isinstance(job.id, str) and all(type(it) is int and it >= 0 for it in figures) else None
