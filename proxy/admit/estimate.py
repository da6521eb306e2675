"""What one attempt may use at most, in tokens and in tools, before it is sent. Knows no prices and reads no text."""

from __future__ import annotations

import re

from proxy.dialect.wire import TALKS, Asked, Media, Operation
from proxy.exchange import value

# Of one image (OpenAI, Images and vision; Anthropic, Vision; Google, Understand and count tokens; read in November 2026).
LOW_DETAIL = 1_024  # 70 to 85 where tiles are counted, up to 16 x 16 patches times 2.46 where patches are
TILED, PATCHED = 1_445, 4_096  # 85 + 8 tiles of 170; 1,536 patches of 32 pixels times 2.46, Pixtral's 64 x 64
LARGEST_IMAGE = 16_384  # GPT-6 takes 14,364 for 12 megapixels, Qwen never more than this
MINI_LOW, MINI_IMAGE = 2_833, 48_169  # gpt-4o-mini: 2,833 + 8 tiles of 5,667
CLAUDE_IMAGE, GEMINI_IMAGE = 4_784, 6_192  # of high resolution; 24 tiles of 258, as many as 3,072 pixels by a third of it make
FRAMED = 96  # tokens that Anthropic takes for an image beside its patches

FILE_TOKENS = 258_000  # of a PDF or any other part that we cannot read: Google takes 1,000 pages of 258, others less
SOUND_PER_S, SOUND_BYTES_PER_S = 32, 1_000  # tokens (Google; OpenAI takes 10), and bytes of speech at 8 kbit/s
MORE_TOKENS = 131_072  # of what the provider's tools find: OpenAI lets web search fill 128,000. What it has stored may fill the window
USES = 10  # of a tool that the provider runs, where the request bounds it nowhere
MOST_USES = 10_000  # more are no bound, but a number
EDITED_TOKENS = 16 * 8_192 + 32_000  # of an image edit's form: at most 16 images and 32,000 characters (OpenAI's reference)
MADE_IMAGE_TOKENS, MADE_PIXELS = (
    6_240,
    1024 * 1536,
)  # of an image made, high quality (OpenAI); larger ones in proportion
SPOKEN_TOKENS_PER_BYTE = 2  # of speech made: 20 tokens a second, at least 12 characters a second

_GENERATING = TALKS | {"realtime"}
_WINDOWED = _GENERATING | {"audio"}
_MINI = re.compile(r"(?:ft:)?gpt-4o-mini")
_OF_OLD = re.compile(r"(?:ft:)?(?:gpt-(?:4|5(?:$|-|\.[0-3]))|chatgpt-4o|o[134])")  # these scale an image down before they count it


@value(frozen=True, slots=True)
class Bound:
    """What one attempt may use at most; `images` and `files` say that dearer input rates may apply.

    `sent_tokens` is the part of the input that this request itself brings: rates count that much ahead, and the provider's own
    additions when it has told them. `fees`: (unit of the price row, how many). `is_open`: the request names no max_tokens.
    """

    input_tokens: int
    output_tokens: int
    images: int = 0
    files: int = 0
    sent_tokens: int = 0
    fees: tuple[tuple[str, int], ...] = ()
    kind: int = 0  # what else than text is in it, for those who learn: media 1, tools 2, input from elsewhere 4
    is_open: bool = False


def bound(
    op: Operation,
    asked: Asked,
    body_len: int,
    model_max_output: int | None,
    default_max_tokens: int,
    *,
    window: int | None = None,
    family: str = "openai",
) -> Bound:
    """An upper bound in tokens (faults.md 4.2): byte-level BPE makes at most one token of a UTF-8 byte.

    `body_len` is the body's length in bytes, decoded. `window` is the model's context window in tokens: one generating or
    listening call cannot read more at a time. `family`: the wire family, whose providers count images each in their way.
    """
    media, is_stream = asked.media, op.body == "stream"
    if op.name in _GENERATING and not (is_stream or media or asked.tools or asked.added or asked.reads_more or asked.reads_stored):
        sent = body_len if window is None or body_len < window else window  # text alone, as most calls
        output, is_open = _output(op, asked, body_len, model_max_output, default_max_tokens)
        return Bound(sent, output, asked.images, asked.files, sent, (), 0, is_open)
    sent = given = body_len + asked.added
    if media:
        sent = given = sent + sum(_tokens(one, family, asked.model or "") - one.size for one in media)
    if asked.reads_stored:
        given += max(MORE_TOKENS, window or 0)
    elif asked.reads_more:
        given += MORE_TOKENS
    if window is not None and given > window and op.name in _WINDOWED:
        sent, given = min(sent, window), window
    if media and _MINI.match(asked.model or ""):  # its images are billed beyond its window too
        given = max(given, sum(_image(one, family, asked.model or "") for one in media if one.kind == "image"))
    if is_stream and op.name == "images":  # there `asked.images` are those to be made
        given = min(given, EDITED_TOKENS)
    if is_stream:
        sent = 0  # bytes of a file are no tokens
    files = max(1, asked.files) if is_stream else asked.files  # an upload that nobody reads: sound, pictures
    fees = tuple([(unit, min(uses, MOST_USES) or USES) for unit, uses in asked.tools]) if asked.tools else ()
    kind = (1 if media else 0) | (2 if asked.added else 0) | (4 if asked.reads_more else 0)
    output, is_open = _output(op, asked, body_len, model_max_output, default_max_tokens)
    return Bound(given, output, asked.images, files, sent, fees, kind, is_open)


def _tokens(one: Media, family: str, model: str) -> int:
    """Of one part that is no text."""
    match one.kind:
        case "image":
            return _image(one, family, model)
        case "audio" if one.size:
            return SOUND_PER_S * (1 + one.size * 3 // 4 // SOUND_BYTES_PER_S)
    return max(FILE_TOKENS, one.size)


def _image(one: Media, family: str, model: str) -> int:
    if family == "anthropic" and one.width:
        return min(CLAUDE_IMAGE, FRAMED + max(_patches(one, 28), one.width * one.height // 750 + 1))
    if family in ("anthropic", "gemini"):
        return CLAUDE_IMAGE if family == "anthropic" else GEMINI_IMAGE
    if _MINI.match(model):
        return MINI_LOW if one.detail == "low" else MINI_IMAGE
    if one.detail == "low":
        return LOW_DETAIL
    if one.width:
        return min(LARGEST_IMAGE, max(TILED, min(PATCHED, _patches(one, 16)), _patches(one, 28)))
    return PATCHED if _OF_OLD.match(model) else LARGEST_IMAGE


def _patches(one: Media, side: int) -> int:
    return -(-one.width // side) * -(-one.height // side)


def _output(op: Operation, asked: Asked, body_len: int, model_max_output: int | None, default_max_tokens: int) -> tuple[int, bool]:
    """And whether the request could name a most, and names none."""
    if op.name in _GENERATING or op.variant == "assistants":
        each = default_max_tokens if asked.max_tokens is None else asked.max_tokens
        if model_max_output is not None and each > model_max_output:
            each = model_max_output
        return each if asked.choices <= 1 else each * asked.choices, asked.max_tokens is None
    if op.name == "images":
        return -(-MADE_IMAGE_TOKENS * max(MADE_PIXELS, asked.pixels) // MADE_PIXELS) * max(1, asked.images), False
    if op.name == "audio":
        return max(default_max_tokens, SPOKEN_TOKENS_PER_BYTE * body_len) if op.body == "json" else default_max_tokens, False
    return 0, False
