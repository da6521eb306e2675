"""Which OpenAI operation a method and path are. Reads no body; the root before the operation (/v1, /api/v1, …) is anyone's."""

from __future__ import annotations

import re
from dataclasses import replace
from functools import lru_cache
from urllib.parse import parse_qs

from proxy.dialect.fields import plain_path
from proxy.dialect.wire import Operation

READS = ("GET", "HEAD", "OPTIONS")
FREE = (*READS, "DELETE")
SEND = ("POST",)
ANY = (*FREE, "POST", "PUT", "PATCH")

OTHER = Operation("other", body="stream", is_metered=False)
FREE_OTHER = Operation("other", body="none", is_billed=False)
FREE_FILES = Operation("files", body="none", is_billed=False)
REALTIME = Operation("realtime", body="none")


def free(op: Operation) -> Operation:
    """Looking at, cancelling or deleting what there is."""
    return replace(op, body="none", is_billed=False, is_metered=True)


def read_back(op: Operation) -> Operation:
    """The GET of a stored result."""
    return replace(free(op), is_read_back=True)


CHAT, RESPONSES, COMPLETIONS = Operation("chat"), Operation("responses", variant="responses"), Operation("completions")
ASSISTANTS = Operation("other", variant="assistants", is_metered=False)
BATCHES = Operation("batches", is_metered=False)
MODELS = Operation("models", body="none", is_billed=False)

# First match wins. The tail of the path stands behind any root of at most four segments.
TABLE: tuple[tuple[tuple[str, ...], str, Operation], ...] = (
    (SEND, r"(?:agents/|chat/)completions", CHAT),
    (READS, r"chat/completions/[^/]+", read_back(CHAT)),
    (FREE, r"chat/completions(?:/.+)?", free(CHAT)),
    (SEND, r"chat/completions/.+", replace(CHAT, is_billed=False, variant="stored")),
    (SEND, r"responses/compact", replace(RESPONSES, variant="compact")),
    (SEND, r"responses/input_tokens", Operation("count_tokens", is_billed=False, variant="responses")),
    (SEND, r"responses/[^/]+/cancel", read_back(RESPONSES)),
    (READS, r"responses/[^/]+", read_back(RESPONSES)),
    (FREE, r"responses/.+", free(RESPONSES)),
    (SEND, r"responses", RESPONSES),
    (SEND, r"(?:chat/|v1/)?moderations", Operation("moderations", is_billed=False)),
    (SEND, r"(?:fim/)?completions", COMPLETIONS),
    (SEND, r"embeddings", Operation("embeddings")),
    (SEND, r"rerank", Operation("rerank")),
    (SEND, r"images/generations", Operation("images")),
    (SEND, r"images/(?:edits|variations)", Operation("images", body="stream")),
    # speech: the reply is audio alone and states no cost
    (SEND, r"audio/speech", Operation("audio", variant="speech", is_metered=False)),
    (SEND, r"audio/(?:transcriptions|translations)", Operation("audio", body="stream")),
    (("GET",), r"realtime", REALTIME),
    # these hand out a secret with which the client spends past us
    (SEND, r"realtime/.+", replace(REALTIME, body="stream", is_metered=False)),
    (SEND, r"threads/runs|threads/[^/]+/runs|threads/[^/]+/runs/[^/]+/submit_tool_outputs", ASSISTANTS),
    (READS, r"threads/[^/]+/runs/[^/]+", read_back(ASSISTANTS)),
    (SEND, r"assistants(?:/[^/]+)?|threads(?:/[^/]+)?|threads/[^/]+/messages(?:/[^/]+)?", replace(free(ASSISTANTS), body="json")),
    (FREE, r"(?:files|uploads|vector_stores)(?:/.+)?", FREE_FILES),
    (ANY, r"(?:files|uploads|vector_stores)(?:/.+)?", replace(FREE_FILES, body="stream")),
    (SEND, r"batches|fine_tuning/jobs|fine-tunes", BATCHES),
    (ANY, r"(?:batches|fine_tuning/jobs|fine-tunes)/[^/]+/cancel", free(BATCHES)),
    (FREE, r"(?:batches|fine_tuning|fine-tunes)(?:/.+)?", free(BATCHES)),
    (SEND, r"(?:batches|fine_tuning|fine-tunes)/.+", replace(free(BATCHES), body="stream")),
    (FREE, r"models(?:/.+)?", MODELS),
)
PATTERNS = tuple((methods, re.compile(rf"(?:/[^/]+){{0,4}}?/(?:{tail})", re.IGNORECASE), op) for methods, tail, op in TABLE)


@lru_cache(maxsize=256)
def operation_of(method: str, path: str) -> Operation:
    """By method and raw path; percent-encoding, doubled slashes and letter case hide nothing."""
    plain = plain_path(path)
    for methods, pattern, op in PATTERNS:
        if method in methods and pattern.fullmatch(plain):
            return op
    return FREE_OTHER if method in FREE else OTHER


def with_query(op: Operation, query: str) -> Operation:
    """A realtime session names its model in the query: `model`, at Azure `deployment`."""
    if op is not REALTIME:
        return op
    asked = parse_qs(query)
    return replace(op, model=next((asked[name][0] for name in ("model", "deployment") if name in asked), None))
