"""Usage out of an answer that is one JSON body. Changes nothing and keeps no more than a bound of it."""

from __future__ import annotations

import json
import re
from collections import deque

from orjson import JSONDecodeError, loads

from proxy.dialect.fields import texts_at
from proxy.dialect.openai_usage import UNFINISHED
from proxy.dialect.wire import Dialect, Json, Operation
from proxy.exchange import Usage
from proxy.meter.counting import BYTES_PER_TOKEN, text_at

MAX_WHOLE = 4 * 1024 * 1024  # bytes of a JSON answer that are parsed; of a longer one only its end is looked at
LONGEST = 2 * MAX_WHOLE  # that are kept meanwhile
_USAGE_BYTES = 16 * 1024  # of a usage object, at most
_TAIL_USAGE = re.compile(rb'(?<!\\)"(usage|usageMetadata|meta)"\s*:\s*(?=\{)')


class WholeReading:
    """One JSON body."""

    usage: Usage | None = None
    error: str | None = None
    is_whole = False
    _is_long = _is_tail = False  # longer than MAX_WHOLE; its beginning was dropped
    _doc: Json | None = None
    _body: bytes | bytearray = b""  # in one piece, as most answers come, or put together

    def __init__(self, dialect: Dialect, op: Operation) -> None:
        self._dialect, self._op = dialect, op

    def take(self, data: bytes) -> None:
        body = self._body
        if body:
            body = body if isinstance(body, bytearray) else bytearray(body)
            body += data
        else:
            body = data
        if len(body) > MAX_WHOLE:
            self._is_long = True
            if len(body) > LONGEST:
                body, self._is_tail = bytearray(body[-MAX_WHOLE:]), True
        self._body = body

    def look(self) -> None:
        body = self._body
        if self._is_long:
            self.is_whole = body.rstrip().endswith((b"}", b"]"))
            doc = _usage_at_the_end(bytes(body[-MAX_WHOLE:]))
        else:
            try:
                doc = loads(body)
            except JSONDecodeError:
                doc = None
            if type(doc) is not dict:
                doc = None
            self.is_whole = doc is not None
        self._doc = doc
        if doc is not None:
            dialect, op = self._dialect, self._op
            self.usage, self.error = dialect.usage(op, doc), dialect.error_of(op, doc)

    @property
    def is_odd(self) -> bool:
        return self._doc is None

    def doc(self) -> Json | None:
        return None if self._is_tail else self._doc

    def counted(self) -> int | None:
        if self._doc is None or self._is_long:
            return None
        if self._doc.get("status") in UNFINISHED:  # it goes on in the background: what it says so far is not what it will cost
            return None
        found = texts_at(self._dialect.answer_surface(self._op), self._doc)
        return -(-sum(len(text_at(self._doc, path)) for path, _ in found) // BYTES_PER_TOKEN)


def stated(dialect: Dialect, op: Operation, body: bytes) -> tuple[Usage, str | None] | None:
    """Usage and error of a whole answer in which its provider says what it used; None: it takes more to tell."""
    if len(body) <= MAX_WHOLE:
        try:
            doc = loads(body)
            if type(doc) is dict:
                usage = dialect.usage(op, doc)
                if usage is not None and (usage.is_plain or (usage.source == "provider" and usage.ended)):
                    return usage, dialect.error_of(op, doc)
        except Exception:  # whatever it is, a watch has to judge it
            return None
    return None


def _usage_at_the_end(tail: bytes) -> Json | None:
    """Of a body too long to parse: its last usage object, as all providers write it behind the content."""
    last = deque(_TAIL_USAGE.finditer(tail), maxlen=1)
    if not last:
        return None
    try:
        found, _ = json.JSONDecoder().raw_decode(tail[last[0].end() : last[0].end() + _USAGE_BYTES].decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return {last[0].group(1).decode(): found}
