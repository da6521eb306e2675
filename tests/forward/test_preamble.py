"""What comes before any content of a stream is looked at event by event, as far as the first that decides."""

import asyncio

import pytest

from proxy.dialect import dialect_of
from proxy.exchange import Spoken
from proxy.forward.preamble import STEP, first_error

OPENAI = dialect_of("openai")
OP = OPENAI.operation("POST", "/v1/responses", "")
BEGUN = b'data: {"type":"response.created","response":{"id":"r"}}\n\n'
FAILED = b'data: {"type":"error","code":"server_error"}\n\n'
CONTENT = b'data: {"type":"response.output_text.delta","delta":"a"}\n\n'


class Answer:
    def __init__(self, pieces):
        self.said, self.pieces, self.held = Spoken("text/event-stream"), pieces, b""

    async def preamble(self, is_decided, limit, wait_s):
        for piece in self.pieces:
            self.held += piece
            if is_decided(self.held):
                break
        return self.held


def first(pieces):
    return asyncio.run(first_error(Answer(pieces), OPENAI, OP, 1 << 16, 1.0))


@pytest.mark.parametrize("before", [0, 1, STEP // len(BEGUN), 3 * STEP // len(BEGUN)])
@pytest.mark.parametrize(
    ("then", "told"), [(FAILED + CONTENT, "server_error"), (CONTENT + FAILED, None), (b"", None), (b": ping\n\n", None)]
)
def test_the_first_event_that_decides_is_found_however_far_behind_it_stands(before, then, told):
    whole = BEGUN * before + then
    assert first([whole]) == told
    assert first([whole[at : at + 50] for at in range(0, len(whole), 50)]) == told


def test_a_flood_of_content_is_not_decoded_to_find_its_beginning(monkeypatch):
    split = []
    plain = OPENAI.error_of
    monkeypatch.setattr(type(OPENAI), "error_of", lambda self, op, event: split.append(event) or plain(op, event))
    assert first([BEGUN + CONTENT * 2000]) is None
    assert len(split) < 10
