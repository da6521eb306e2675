"""The texts of a JSON document, at any depth of JSON inside strings, each with its way back to the bytes. Decides nothing."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from proxy.stream.spans import Text, decode, has_hiding_escape, strings

EVERYTHING = ("**",)
MAX_NESTED = 4  # JSON inside a string inside JSON …: deeper is read as plain text


def texts(raw: bytes, surface: tuple[str, ...], outer: Text | None = None, depth: int = 0) -> Iterator[tuple[Text, int]]:
    """Each text that the surface reaches, and how many times its source is quoted as JSON (1 = a plain string value).

    A plain text that is JSON with `\\u` or `\\/` in it (a tool's result) is read as such: an escape must hide nothing.
    """
    for span in strings(raw, surface):
        text = decode(raw, span.start, span.end, outer)
        text.is_number = span.is_number
        is_source = span.is_json or (text.text.lstrip()[:1] in (b"{", b"[") and has_hiding_escape(text.text))
        if is_source and depth < MAX_NESTED and _holds_json(text.text):
            yield from texts(text.text, EVERYTHING, text, depth + 1)
        else:
            yield text, depth + 1


def _holds_json(source: bytes) -> bool:
    try:
        return isinstance(orjson.loads(source), (dict, list))
    except orjson.JSONDecodeError:
        return False
