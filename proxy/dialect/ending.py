"""How a stream can be brought to a good end before its provider does: what every wire format must remember for it. Ends nothing itself."""

from __future__ import annotations

from typing import Protocol

import orjson

from proxy.dialect.fields import mapping
from proxy.dialect.wire import Json
from proxy.exchange import Usage

MAX_TEXT = 4 * 1024 * 1024  # characters of an answer that are remembered, where its last event repeats them


class Ending(Protocol):
    """One per stream. It hears the payload of every event that has gone to the client."""

    def saw(self, data: bytes) -> None: ...

    @property
    def is_possible(self) -> bool:
        """Something has come that an end can be modelled on, and the stream has not said its own end yet."""
        ...

    def words(self, usage: Usage) -> bytes:
        """The events that a provider sends when the answer has reached its largest length, framed; `usage` goes into them."""
        ...


def sse(*events: Json, named: bool = False) -> bytes:
    """As server-sent events; `named`: each by its type."""
    heads = [f"event: {event.get('type')}\n".encode() if named else b"" for event in events]
    return b"".join([head + b"data: " + orjson.dumps(event) + b"\n\n" for head, event in zip(heads, events, strict=True)])


def read(data: bytes) -> Json:
    """An object; an empty one for anything else."""
    try:
        return mapping(orjson.loads(data))
    except orjson.JSONDecodeError:
        return {}
