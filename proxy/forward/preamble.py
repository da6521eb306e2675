"""What the first bytes of an answer say, while nothing of it has reached the client. Consumes none of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import orjson

from proxy.dialect.wire import Dialect, Operation, stream_format_of
from proxy.ports import Answer
from proxy.refusal import UpstreamCut
from proxy.stream.coding import READABLE, Inflater
from proxy.stream.sse import SseDecoder, is_usual

MAX_TEXT = 1 << 20  # bytes that a coded beginning may decode to
STEP = 1024  # bytes of events that are split at a time


def _plain(answer: Answer, data: bytes) -> bytes:
    if answer.said.coding in READABLE:
        try:
            return Inflater(answer.said.coding, MAX_TEXT).feed(data)
        except UpstreamCut:
            return b""
    return data


async def said_first(answer: Answer, limit: int, wait_s: float) -> Mapping[str, object] | None:
    """The body of an error answer as its JSON object, if it is one and comes within `limit` bytes and `wait_s` seconds."""
    try:
        data = await answer.preamble(lambda held: False, limit, wait_s)
        doc = orjson.loads(_plain(answer, data))
    except (UpstreamCut, orjson.JSONDecodeError):
        return None
    if isinstance(doc, list) and doc and isinstance(doc[0], dict):  # Gemini's array form
        return doc[0]
    return doc if isinstance(doc, dict) else None


async def first_error(answer: Answer, dialect: Dialect, op: Operation, limit: int, wait_s: float) -> str | None:
    """The type of an error event that comes before any content of an event stream; None: content came, or time is up.

    Raises UpstreamCut where the provider dies before any content.
    """
    if stream_format_of(op.variant, answer.said.kind) != "sse":
        return None

    told: str | None = None

    def is_decided(held: bytes) -> bool:
        nonlocal told
        told = _reading(dialect, op, _plain(answer, held))
        return told is not None

    await answer.preamble(is_decided, limit, wait_s)
    return told or None


def _payloads(text: bytes) -> Iterable[bytes]:
    """Of its events."""
    return (text[6:-2],) if is_usual(text) else _of_many(text)


def _of_many(text: bytes) -> Iterator[bytes]:
    """A few at a time: all but the first are rarely asked for."""
    decoder = SseDecoder()
    for at in range(0, len(text), STEP):
        for event in decoder.feed(text[at : at + STEP]):
            yield event.data


def _reading(dialect: Dialect, op: Operation, text: bytes) -> str | None:
    """None: undecided; "": content; else the type of an error."""
    for data in _payloads(text):
        try:
            doc = orjson.loads(data)
        except orjson.JSONDecodeError:
            if data:
                return ""
            continue  # a comment
        if not isinstance(doc, dict):
            return ""
        if (error := dialect.error_of(op, doc)) is not None:
            return error
        if not dialect.is_preamble(op, doc):
            return ""
    return None
