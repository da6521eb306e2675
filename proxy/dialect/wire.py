"""What a provider's wire format must be able to say, as one Protocol and its values. Does no I/O and holds no state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from proxy.exchange import Usage, value

if TYPE_CHECKING:
    from proxy.dialect.ending import Ending

Json = Mapping[str, object]
Path = tuple[str | int, ...]  # keys and indexes that lead to one value of a JSON document
StreamFormat = Literal["sse", "ndjson", "json-array"]

JOBS = frozenset({"responses", "batches", "other"})  # operations whose work may go on after their answer
TALKS = frozenset({"chat", "messages", "responses", "completions", "generate"})  # operations
NAME = 256  # characters of a model's name that is remembered
OperationName = Literal[
    "chat", "messages", "responses", "completions", "generate", "count_tokens", "embeddings", "rerank", "images", "audio",
    "moderations", "files", "batches", "realtime", "models", "other",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Operation:
    """One kind of call, recognised by method and path alone."""

    name: OperationName
    body: Literal["json", "stream", "none"] = "json"  # json: held and read; stream: passes through unheld (multipart, audio, unknown)
    is_billed: bool = True  # False: the provider charges nothing (models, count_tokens, moderations, files GET …)
    is_metered: bool = True  # False: no reply states what it costs (batches, fine-tunes, unknown paths): `unmetered:` decides
    is_read_back: bool = False  # GET of a stored result: tokens in the row, cost 0
    variant: str = ""  # the dialect's own business: "v2", "array", "azure" …
    model: str | None = None  # where the path names it
    speaks: str = ""  # a path in another wire format than its provider's (Gemini's and Cohere's OpenAI-compatible paths: "openai")
    is_talk: bool = field(init=False, compare=False)  # text in, text out, billed by what its reply states
    is_one_talk: bool = field(init=False, compare=False)  # that is over with its reply

    def __post_init__(self) -> None:
        is_usual = self.body == "json" and self.is_billed and self.is_metered and not self.is_read_back
        object.__setattr__(self, "is_talk", is_usual and self.name in TALKS)
        object.__setattr__(self, "is_one_talk", self.is_talk and self.name not in JOBS)


@value(frozen=True, slots=True)
class Media:
    """One part of a request that no text rule can read."""

    kind: str  # image | audio | video | pdf | file
    size: int = 0  # bytes of the body that it takes; 0: it is referred to, and stands elsewhere
    width: int = 0  # pixels of an image, where its first bytes say them
    height: int = 0
    detail: str = ""  # as asked: low, high, auto …


@value(frozen=True, slots=True)
class Asked:
    """What the request body asks for. `max_tokens` None: not named. Raises nothing: types were checked by `read_asked`."""

    model: str | None = None
    stream: bool = False
    wants_usage: bool = False  # the caller itself asked for usage in the stream
    max_tokens: int | None = None
    choices: int = 1  # n, best_of, candidateCount
    images: int = 0  # image parts sent, or images asked for
    pixels: int = 0  # of each image asked for, where the request says
    files: int = 0  # PDF, audio and other parts whose text we cannot read
    tier: str | None = None  # service tier asked for
    user: str | None = None  # the body's own end-user field
    media: tuple[Media, ...] = ()  # those parts, one by one
    tools: tuple[tuple[str, int], ...] = ()  # tools that the provider runs for a fee: unit of the price row, uses at most (0: not named)
    added: int = 0  # tokens that the provider puts in front by itself: its prompt for tools
    reads_more: bool = False  # the model may read what is not in this body: results of the provider's tools, a stored conversation
    reads_stored: bool = False  # the latter: it may fill the model's window
    is_usual: bool = False  # a billed call for one answer from text: nothing but the first four fields differs from the defaults


@lru_cache(maxsize=1024)  # names come from outside, whole numbers too; each name is short
def usual(model: str | None, stream: bool, wants_usage: bool, max_tokens: int | None) -> Asked:
    """What most calls ask for: many ask for the same. The operation `is_talk`, and `model` has at most NAME characters."""
    return Asked(model, stream, wants_usage, max_tokens, is_usual=True)


@value(frozen=True, slots=True)
class Said:
    """The texts of one streamed event, for counting and for restoring.

    deltas: (channel, path, is_json): a piece of a longer text; pieces of one channel join up. path leads to the string.
    wholes: (path, is_json): complete texts (a final event that repeats all). is_json: the text is JSON source (tool arguments).
    ends: channels whose text is over now (block stop, finish reason); "*" = all. An event with neither deltas nor ends
    leaves held-back text alone (ping, usage). Within one event a channel's deltas come before its end (a finish reason
    beside the last words), and its end before the wholes (a `done` event that repeats all).
    """

    deltas: tuple[tuple[str, Path, bool], ...] = ()
    wholes: tuple[tuple[Path, bool], ...] = ()
    ends: tuple[str, ...] = ()


NOTHING_SAID = Said()


class Dialect(Protocol):
    """One provider wire format. All methods are pure."""

    name: str
    family: str
    stream_format: StreamFormat  # as a rule; of one answer: `stream_format_of`

    def operation(self, method: str, path: str, query: str) -> Operation: ...

    def read_asked(self, op: Operation, doc: Json) -> Asked:
        """Raises Refusal 400 `invalid_request` for a `max_tokens` that is no positive int (design.md section 9: values)."""
        ...

    def surface(self, op: Operation) -> tuple[str, ...]:
        """Where a request body holds text: dotted paths, `*` any one key or index, `**` any depth (none included; also in the
        middle: `tools.**.description`), `!json` at the end = JSON inside a string, whose string leaves are the text; `!text` = a
        string that is base64 elsewhere."""
        ...

    def uninspected(self, op: Operation, asked: Asked) -> tuple[str, ...]:
        """What of this body no text rule can read: "image", "audio", "pdf", "file" …; `asked`: as `read_asked` found it."""
        ...

    def answer_surface(self, op: Operation) -> tuple[str, ...]:
        """Where a whole JSON answer holds text, in the grammar of `surface`."""
        ...

    def said(self, op: Operation, event: Json) -> Said: ...

    def is_preamble(self, op: Operation, event: Json) -> bool:
        """True while an event carries no content yet (message_start, ping, a role-only first chunk, response.created …)."""
        ...

    def error_of(self, op: Operation, event: Json) -> str | None:
        """The error type of a mid-stream error event ("overloaded_error", "server_error"), None for any other event."""
        ...

    def is_terminal(self, op: Operation, data: bytes) -> bool:
        """Does this event's data end the stream for good ([DONE], message_stop, finishReason …)?"""
        ...

    def usage(self, op: Operation, doc: Json) -> Usage | None:
        """Of a whole JSON answer. None where it states none."""
        ...

    def fold(self, op: Operation, so_far: Usage | None, event: Json) -> Usage | None:
        """Of a stream: the figures so far and one more event give the figures now. Cumulative: last wins per field, never added.

        `source` is "provider" once the figures are the provider's final word. Until then it is "counted": the input side is
        known, the output side is a lower bound or a placeholder and wants counting should the stream end here.
        """
        ...

    def error_body(self, status: int, code: str, message: str, request_id: str) -> bytes:
        """JSON of Sluice's own refusal, so that the SDK raises its own typed exception."""
        ...

    def error_event(self, op: Operation, code: str, message: str, request_id: str) -> bytes:
        """The in-band error that ends a broken stream, framed for the wire."""
        ...

    def ending(self, op: Operation, asked: Asked) -> Ending | None:
        """For one stream: how to end it well before its provider does. None: there is no such end."""
        ...

    def auth(self, secret: str) -> tuple[bytes, bytes]:
        """The header that carries a provider key."""
        ...

    def failure_kind(self, status: int, doc: Json | None) -> str | None:
        """ "credit" for a 402/403/429 that means quota or credit exhausted (never retried), else None."""
        ...

    def models_listed(self, doc: Json) -> tuple[str, list[str]] | None:
        """For GET models: the key of the list and each entry's model name, in order. None if this is no list."""
        ...


@lru_cache(maxsize=64)  # the headers come from outside
def stream_format_of(variant: str, content_type: str) -> StreamFormat | None:
    """How an answer streams, by the variant of its operation and its Content-Type; None: it is one whole body."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return "sse"
    if kind in ("application/stream+json", "application/x-ndjson", "application/ndjson"):  # Cohere v1
        return "ndjson"
    return "json-array" if kind == "application/json" and variant == "array" else None


NO_UNITS: Mapping[str, int] = MappingProxyType({})
