"""The one entry for a request's JSON: parsed once, and refused where two readers could read it differently. Changes nothing."""

from __future__ import annotations

import re
from collections import Counter

import orjson

from proxy.refusal import Refusal
from proxy.stream.spans import has_unicode_escape, members

MAX_DEPTH = 64
# fmt: off
POLICY_FIELDS = frozenset({
    "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "max_output_tokens", "n", "best_of", "messages", "input",
    "prompt", "contents", "generationConfig", "generation_config", "system", "systemInstruction", "system_instruction", "instructions",
    "tools", "service_tier", "user", "message", "chat_history", "documents", "query", "texts", "background",
})
# fmt: on
_NAMED = re.compile(rb'"(%s)"[ \t\r\n]*+:' % "|".join(sorted(POLICY_FIELDS)).encode())
_IDENTIFIERS = ("model", "user")


def read_json(raw: bytes, *, max_depth: int = MAX_DEPTH) -> dict[str, object]:
    """A request body as its one object.

    Raises Refusal 400 `malformed_json` (no JSON, no object, NaN, BOM, UTF-16, lone surrogates, above `max_depth` levels),
    `duplicate_key` (a field that a policy reads stands twice: readers differ in which they take) and `invalid_request`.
    """
    try:
        doc = orjson.loads(raw)
    except orjson.JSONDecodeError:
        raise Refusal(400, "malformed_json", "the body is not valid JSON in UTF-8", should_retry=False) from None
    if not isinstance(doc, dict):
        raise Refusal(400, "malformed_json", "the body must be one JSON object", should_retry=False)
    if _opens_more_than(raw, max_depth) and is_deeper(doc, max_depth):
        raise Refusal(400, "malformed_json", f"the body is nested deeper than {max_depth} levels", should_retry=False)
    is_escaped = has_unicode_escape(raw)
    _refuse_duplicates(raw, doc, is_escaped)
    if is_escaped and any("\0" in str(doc.get(name, "")) for name in _IDENTIFIERS):
        raise Refusal(400, "invalid_request", "a NUL character in model or user", should_retry=False)
    return doc


def _opens_more_than(raw: bytes, most: int) -> bool:
    """More arrays and objects than that? Few are looked for, and `find` is ten times as fast as `count`."""
    for mark in (b"{", b"["):
        at = raw.find(mark)
        while at >= 0:
            most -= 1
            if most < 0:
                return True
            at = raw.find(mark, at + 1)
    return False


def is_deeper(value: object, levels: int) -> bool:
    """Is a value nested in more than so many arrays and objects?"""
    level = [value]
    for _ in range(levels):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent if isinstance(parent, list) else ())
            if type(child) in (dict, list)
        ]
        if not level:
            return False
    return True


def _refuse_duplicates(raw: bytes, doc: dict[str, object], is_escaped: bool) -> None:
    """A key may be spelt with escapes, so a `\\u` sends us to the exact count too."""
    named = [name for name in _NAMED.findall(raw) if name.decode() in doc]
    if not is_escaped and len(set(named)) == len(named):
        return
    for key, times in Counter(key for key, _, _ in members(raw, 0)).items():
        if times > 1 and key in POLICY_FIELDS:
            raise Refusal(400, "duplicate_key", f"the field {key} stands {times} times; send it once", should_retry=False)
