"""The bound on what an attempt may use, before it is sent."""

from dataclasses import replace

import pytest

from proxy.admit.estimate import (
    CLAUDE_IMAGE,
    EDITED_TOKENS,
    FILE_TOKENS,
    FRAMED,
    GEMINI_IMAGE,
    LARGEST_IMAGE,
    LOW_DETAIL,
    MADE_IMAGE_TOKENS,
    MINI_IMAGE,
    MORE_TOKENS,
    PATCHED,
    TILED,
    USES,
    Bound,
    bound,
)
from proxy.dialect.wire import Asked, Media, Operation

CHAT = Operation("chat")
OPEN = {"sent_tokens": 500, "is_open": True}


@pytest.mark.parametrize(
    ("op", "asked", "most", "window", "expected"),
    [
        (CHAT, Asked(), None, None, Bound(500, 4096, **OPEN)),
        (CHAT, Asked(max_tokens=10), None, None, Bound(500, 10, sent_tokens=500)),
        (CHAT, Asked(max_tokens=10, choices=3), None, None, Bound(500, 30, sent_tokens=500)),
        (CHAT, Asked(choices=0), None, None, Bound(500, 4096, **OPEN)),
        (CHAT, Asked(max_tokens=2**53), 8192, None, Bound(500, 8192, sent_tokens=500)),  # no model puts out more than it can
        (CHAT, Asked(max_tokens=10), 8192, None, Bound(500, 10, sent_tokens=500)),
        (CHAT, Asked(), 1000, None, Bound(500, 1000, **OPEN)),
        (CHAT, Asked(), None, 8000, Bound(500, 4096, **OPEN)),
        (CHAT, Asked(), None, 300, Bound(300, 4096, sent_tokens=300, is_open=True)),  # nor reads more than its window
        (CHAT, Asked(added=50), None, None, Bound(550, 4096, sent_tokens=550, kind=2, is_open=True)),
        (CHAT, Asked(reads_more=True), None, None, Bound(500 + MORE_TOKENS, 4096, kind=4, **OPEN)),
        (CHAT, Asked(reads_more=True), None, 9000, Bound(9000, 4096, kind=4, **OPEN)),
        (CHAT, Asked(reads_more=True), None, 10**6, Bound(500 + MORE_TOKENS, 4096, kind=4, **OPEN)),
        (CHAT, Asked(reads_more=True, reads_stored=True), None, None, Bound(500 + MORE_TOKENS, 4096, kind=4, **OPEN)),
        (CHAT, Asked(reads_more=True, reads_stored=True), None, 10**6, Bound(10**6, 4096, kind=4, **OPEN)),  # a long conversation
        (CHAT, Asked(tools=(("searches", 3), ("containers", 0))), None, None,
         Bound(500, 4096, fees=(("searches", 3), ("containers", USES)), **OPEN)),
        (Operation("other", variant="assistants"), Asked(reads_more=True), None, None, Bound(500 + MORE_TOKENS, 4096, kind=4, **OPEN)),
        (Operation("embeddings"), Asked(), None, 100, Bound(500, 0, sent_tokens=500)),  # a batch: each of its texts has the window
        (Operation("rerank"), Asked(max_tokens=7), None, None, Bound(500, 0, sent_tokens=500)),
        (Operation("moderations"), Asked(), None, None, Bound(500, 0, sent_tokens=500)),
        (Operation("other"), Asked(), None, None, Bound(500, 0, sent_tokens=500)),
        (Operation("images"), Asked(images=4), None, None, Bound(500, 4 * MADE_IMAGE_TOKENS, 4, sent_tokens=500)),
        (Operation("images"), Asked(), None, None, Bound(500, MADE_IMAGE_TOKENS, sent_tokens=500)),
        (Operation("audio"), Asked(), None, None, Bound(500, 4096, sent_tokens=500)),
        (Operation("audio", body="stream"), Asked(), None, None, Bound(500, 4096, 0, 1)),  # bytes of a file are no tokens for rates
        (Operation("audio", body="stream"), Asked(), None, 300, Bound(300, 4096, 0, 1)),  # nor hears more than its window
        (Operation("realtime"), Asked(), None, None, Bound(500, 4096, **OPEN)),
    ],
)  # fmt: skip
def test_the_bound_of_a_call(op, asked, most, window, expected):
    assert bound(op, asked, 500, most, 4096, window=window) == expected


@pytest.mark.parametrize(
    ("family", "model", "image", "tokens"),
    [
        ("openai", "gpt-4o", Media("image", detail="low"), LOW_DETAIL),
        ("openai", "gpt-4o", Media("image"), PATCHED),  # by URL: its size is not known
        ("openai", "ft:gpt-4.1-2025-04-14:o::i", Media("image"), PATCHED),
        ("openai", "gpt-5", Media("image"), PATCHED),
        ("openai", "gpt-5.4", Media("image"), LARGEST_IMAGE),  # these no longer scale an image down
        ("openai", "gpt-6-sol", Media("image", width=1024, height=1024), PATCHED),
        ("openai", "gpt-6-sol", Media("image", width=100, height=100), TILED),
        ("openai", "gpt-6-sol", Media("image", width=2560, height=1440), 92 * 52),
        ("openai", "gpt-6-sol", Media("image", width=9000, height=9000), LARGEST_IMAGE),
        ("openai", "gpt-4o-mini", Media("image", width=10, height=10), MINI_IMAGE),  # bills a picture dearly, whatever its window
        ("openai", "gpt-4o-mini-2024-07-18", Media("image", detail="low"), 2_833),
        ("openai", "anybody's", Media("image"), LARGEST_IMAGE),
        ("anthropic", "claude-x", Media("image"), CLAUDE_IMAGE),
        ("anthropic", "claude-x", Media("image", width=280, height=280), FRAMED + 105),
        ("anthropic", "claude-x", Media("image", width=8000, height=8000), CLAUDE_IMAGE),
        ("gemini", "gemini-x", Media("image", width=10, height=10), GEMINI_IMAGE),
        ("gemini", "gemini-x", Media("audio", size=4_000_000), 32 * 3001),  # three million bytes at 8 kbit/s are 3,000 seconds
        ("gemini", "gemini-x", Media("audio"), FILE_TOKENS),
        ("gemini", "gemini-x", Media("pdf", size=100), FILE_TOKENS),
        ("gemini", "gemini-x", Media("file", size=2 * FILE_TOKENS), 2 * FILE_TOKENS),
    ],
)
def test_pictures_sound_and_files_are_bounded_one_by_one_and_their_bytes_are_no_text(family, model, image, tokens):
    asked = Asked(model=model, media=(image,), images=int(image.kind == "image"), files=int(image.kind != "image"), max_tokens=1)
    alone = bound(CHAT, asked, 500 + image.size, None, 4096, family=family)
    assert (alone.input_tokens, alone.sent_tokens, alone.kind) == (500 + tokens, 500 + tokens, 1)
    twice = bound(CHAT, replace(asked, media=(image, image)), 500 + 2 * image.size, None, 4096, family=family)
    assert twice.input_tokens == 500 + 2 * tokens


def test_the_window_bounds_pictures_too_but_where_they_are_billed_beyond_it():
    pictures = (Media("image"),) * 4
    assert bound(CHAT, Asked(model="gpt-4o", images=4, media=pictures), 500, None, 1, window=8000).input_tokens == 8000
    assert bound(CHAT, Asked(model="gpt-4o-mini", images=4, media=pictures), 500, None, 1, window=8000).input_tokens == 4 * MINI_IMAGE


def test_a_larger_picture_to_be_made_takes_more_in_proportion():
    sizes = 512 * 512, 3840 * 2160
    small, large = (bound(Operation("images"), Asked(images=2, pixels=size), 10, None, 1).output_tokens for size in sizes)
    assert small == 2 * MADE_IMAGE_TOKENS and large == 2 * 32_907


def test_long_speech_is_bounded_by_its_text():
    assert bound(Operation("audio"), Asked(), 10_000, None, 4096).output_tokens == 20_000


def test_the_form_of_an_image_edit_is_bounded_by_what_it_may_hold():
    edit = Operation("images", body="stream")
    assert bound(edit, Asked(images=1), 50_000_000, None, 4096).input_tokens == EDITED_TOKENS
    assert bound(edit, Asked(images=1), 500, None, 4096).input_tokens == 500
