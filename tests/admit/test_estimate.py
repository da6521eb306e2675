"""The bound on what an attempt may use, before it is sent."""

import pytest

from proxy.admit.estimate import EDITED_TOKENS, FILE_TOKENS, IMAGE_TOKENS, MADE_IMAGE_TOKENS, Bound, bound
from proxy.dialect.wire import Asked, Operation

CHAT = Operation("chat")


@pytest.mark.parametrize(
    ("op", "asked", "most", "window", "expected"),
    [
        (CHAT, Asked(), None, None, Bound(500, 4096)),
        (CHAT, Asked(max_tokens=10), None, None, Bound(500, 10)),
        (CHAT, Asked(max_tokens=10, choices=3), None, None, Bound(500, 30)),
        (CHAT, Asked(choices=0), None, None, Bound(500, 4096)),
        (CHAT, Asked(max_tokens=2**53), 8192, None, Bound(500, 8192)),  # no model puts out more than it can
        (CHAT, Asked(max_tokens=10), 8192, None, Bound(500, 10)),
        (CHAT, Asked(), 1000, None, Bound(500, 1000)),
        (CHAT, Asked(images=2, files=1), None, None, Bound(500 + 2 * IMAGE_TOKENS + FILE_TOKENS, 4096, 2, 1)),
        (CHAT, Asked(files=1), None, 8000, Bound(8000, 4096, 0, 1)),  # nor reads more than its window
        (CHAT, Asked(), None, 8000, Bound(500, 4096)),
        (Operation("embeddings"), Asked(), None, 100, Bound(500, 0)),  # a batch: each of its texts has the window
        (Operation("rerank"), Asked(max_tokens=7), None, None, Bound(500, 0)),
        (Operation("moderations"), Asked(), None, None, Bound(500, 0)),
        (Operation("other"), Asked(), None, None, Bound(500, 0)),
        (Operation("images"), Asked(images=4), None, None, Bound(500, 4 * MADE_IMAGE_TOKENS, 4)),
        (Operation("images"), Asked(), None, None, Bound(500, MADE_IMAGE_TOKENS)),
        (Operation("audio"), Asked(), None, None, Bound(500, 4096)),
        (Operation("audio", body="stream"), Asked(), None, None, Bound(500, 4096, 0, 1)),
        (Operation("audio", body="stream"), Asked(), None, 300, Bound(300, 4096, 0, 1)),  # nor hears more than its window
        (Operation("realtime"), Asked(), None, None, Bound(500, 4096)),
    ],
)
def test_the_bound_of_a_call(op, asked, most, window, expected):
    assert bound(op, asked, 500, most, 4096, window=window) == expected


def test_long_speech_is_bounded_by_its_text():
    assert bound(Operation("audio"), Asked(), 10_000, None, 4096) == Bound(10_000, 20_000)


def test_the_form_of_an_image_edit_is_bounded_by_what_it_may_hold():
    assert bound(Operation("images", body="stream"), Asked(images=1), 50_000_000, None, 4096).input_tokens == EDITED_TOKENS
    assert bound(Operation("images", body="stream"), Asked(images=1), 500, None, 4096).input_tokens == 500


def test_tokens_are_input_and_output():
    assert Bound(3, 4, 1, 1).tokens == 7
