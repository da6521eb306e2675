"""How many tokens one attempt may use at most, before it is sent. Knows no prices and reads no text."""

from __future__ import annotations

from proxy.dialect.wire import Asked, Operation
from proxy.exchange import value

IMAGE_TOKENS = 8_192  # of an image sent: most models bill 85 to 4,800; one that arrives by URL has no bytes in the body
FILE_TOKENS = 131_072  # of a PDF, audio or other part that we cannot read: about a hundred pages with pictures
EDITED_TOKENS = 16 * IMAGE_TOKENS + 32_000  # of an image edit's form: at most 16 images and 32,000 characters (OpenAI's reference)
MADE_IMAGE_TOKENS = 6_240  # of an image made: OpenAI's figure for high quality at 1024 by 1536
SPOKEN_TOKENS_PER_BYTE = 2  # of speech made: 20 tokens a second, at least 12 characters a second

_GENERATING = frozenset({"chat", "messages", "responses", "completions", "generate", "realtime"})
_WINDOWED = _GENERATING | {"audio"}


@value(frozen=True, slots=True)
class Bound:
    """What one attempt may use at most; `images` and `files` say that dearer input rates may apply."""

    input_tokens: int
    output_tokens: int
    images: int = 0
    files: int = 0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


def bound(
    op: Operation, asked: Asked, body_len: int, model_max_output: int | None, default_max_tokens: int, *, window: int | None = None
) -> Bound:
    """An upper bound in tokens (faults.md 4.2): byte-level BPE makes at most one token of a UTF-8 byte.

    `body_len` is the body's length in bytes, decoded. `window` is the model's context window in tokens: one generating or
    listening call cannot read more. What a provider adds by itself is not foreseen: stored conversations, results of its own tools.
    """
    images = 0 if op.name == "images" else asked.images  # there `images` are those to be made
    given = body_len + images * IMAGE_TOKENS + asked.files * FILE_TOKENS
    if window is not None and op.name in _WINDOWED:
        given = min(given, window)
    if op.name == "images" and op.body == "stream":
        given = min(given, EDITED_TOKENS)
    files = max(1, asked.files) if op.body == "stream" else asked.files  # an upload that nobody reads: sound, pictures
    return Bound(given, _output(op, asked, body_len, model_max_output, default_max_tokens), asked.images, files)


def _output(op: Operation, asked: Asked, body_len: int, model_max_output: int | None, default_max_tokens: int) -> int:
    if op.name == "images":
        return MADE_IMAGE_TOKENS * max(1, asked.images)
    if op.name == "audio":
        return max(default_max_tokens, SPOKEN_TOKENS_PER_BYTE * body_len) if op.body == "json" else default_max_tokens
    if op.name not in _GENERATING:
        return 0
    each = default_max_tokens if asked.max_tokens is None else asked.max_tokens
    if model_max_output is not None:
        each = min(each, model_max_output)
    return each * max(1, asked.choices)
