"""A provider that also answers in OpenAI's format under a path of its own (Gemini, Vertex, Cohere). Translates neither way."""

from __future__ import annotations

import re
from dataclasses import replace

from proxy.dialect.ending import Ending
from proxy.dialect.fields import plain_path
from proxy.dialect.openai import OPENAI
from proxy.dialect.wire import Asked, Dialect, Json, Operation, Said, StreamFormat
from proxy.exchange import Usage


class Bilingual:
    """What an operation speaks is said by its path, once, in `Operation.speaks`."""

    stream_format: StreamFormat = "sse"

    def __init__(self, native: Dialect, compatible: str) -> None:
        """`compatible` is a pattern of the path before OpenAI's operation."""
        self.name, self.family = native.name, native.family
        self._native, self._compatible = native, re.compile(compatible, re.IGNORECASE)

    def _of(self, op: Operation) -> Dialect:
        return OPENAI if op.speaks else self._native

    def operation(self, method: str, path: str, query: str) -> Operation:
        found = self._compatible.match(plain_path(path))
        if found is None:
            return self._native.operation(method, path, query)
        return replace(OPENAI.operation(method, plain_path(path)[found.end() :], query), speaks=OPENAI.name)

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        asked = self._of(op).read_asked(op, doc)
        if op.speaks and asked.model is not None and op.model is None:
            return replace(asked, model=_bare(asked.model))
        return asked

    def surface(self, op: Operation) -> tuple[str, ...]:
        return self._of(op).surface(op)

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        return self._of(op).uninspected(op, asked)

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        return self._of(op).answer_surface(op)

    def said(self, op: Operation, event: Json) -> Said:
        return self._of(op).said(op, event)

    def is_preamble(self, op: Operation, event: Json) -> bool:
        return self._of(op).is_preamble(op, event)

    def error_of(self, op: Operation, event: Json) -> str | None:
        return self._of(op).error_of(op, event)

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        return self._of(op).is_terminal(op, data)

    def usage(self, op: Operation, doc: Json) -> Usage | None:
        return self._of(op).usage(op, doc)

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        return self._of(op).fold(op, so_far, event)

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        """In the provider's own shape; where the operation is known to speak OpenAI's, ask `dialect_of(op.speaks)`."""
        return self._native.error_body(status, code, message, request_id)

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        return self._of(op).error_event(op, code, message, request_id)

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        return self._of(op).ending(op, asked)

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        return self._native.auth(secret)

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        return self._native.failure_kind(status, doc)

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        listed = OPENAI.models_listed(doc)
        return self._native.models_listed(doc) or (listed and (listed[0], [_bare(name) for name in listed[1]]))


def _bare(model: str) -> str:
    """Google's names of the same model on the compatible paths: Gemini's, then Vertex's."""
    return model.removeprefix("models/").removeprefix("google/")
