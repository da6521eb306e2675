"""A provider's list of models, without those that the caller may not use. Asks nobody, and adds none."""

from __future__ import annotations

import orjson

from proxy.dialect.wire import Dialect
from proxy.ports import Answer
from proxy.refusal import Refusal
from proxy.rooms import Ready
from proxy.stream.coding import decode

MAX_LIST = 4 * 1024 * 1024  # bytes
LIST_S = 10.0


async def listed(ready: Ready, dialect: Dialect, answer: Answer) -> bytes | None:
    """The list, uncoded; None where all may stay, or it is none that we can read."""
    data = await answer.preamble(lambda held: False, MAX_LIST, LIST_S)
    try:
        doc = orjson.loads(decode(answer.said.coding, data, MAX_LIST))
    except (orjson.JSONDecodeError, Refusal):
        return None
    found = dialect.models_listed(doc) if isinstance(doc, dict) else None
    if found is None:
        return None
    key, names = found
    may_list = ready.common.generation.rules.may_list
    may = [may_list(ready.plan.caller, name) for name in names]
    if all(may):
        return None
    doc[key] = [entry for entry, is_allowed in zip(doc[key], may, strict=True) if is_allowed]
    return orjson.dumps(doc)
