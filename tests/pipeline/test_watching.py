"""A glance at an answer says what a watch says of it, and a watch is made where a glance does not do."""

import json
from types import SimpleNamespace

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Spoken
from proxy.meter import whole
from proxy.meter.tap import Watch
from proxy.watching import Glance, watch_of, watching

CHAT = Operation("chat")
USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
SAYS = {"id": "c", "model": "m", "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello there"}}]}
ANTHROPIC = {"type": "message", "model": "c", "content": [{"type": "text", "text": "a"}], "usage": {"input_tokens": 3, "output_tokens": 2}}
BODIES = [
    json.dumps(doc).encode()
    for doc in (
        SAYS | {"usage": USAGE}, SAYS | {"usage": USAGE, "service_tier": "flex"}, SAYS, SAYS | {"usage": USAGE | {"total_tokens": 99}},
        SAYS | {"usage": USAGE, "error": {"type": "server_error"}}, {"error": {"type": "overloaded_error"}}, SAYS | {"usage": None},
        SAYS | {"usage": USAGE | {"prompt_tokens": True}}, SAYS | {"usage": USAGE | {"prompt_tokens": -9}}, SAYS | {"model": ["m"]},
        SAYS | {"usage": {"prompt_tokens": 9}}, SAYS | {"usage": USAGE, "model": ""}, {"usage": USAGE}, [], 7, None, ANTHROPIC,
        SAYS | {"usage": USAGE, "type": "error"}, SAYS | {"usage": USAGE, "status": "queued"}, SAYS | {"usage": USAGE, "error": None},
    )
] + [b"", b"{", b"\xff", b"  ", json.dumps(SAYS | {"usage": USAGE}).encode()[:-1]]  # fmt: skip


def attempt(op=CHAT, dialect="openai", kind="application/json", coding="", stream=None, status=200):
    """An answer, and the call that it belongs to."""
    answer, try_ = SimpleNamespace(said=Spoken(kind, coding), status=status), SimpleNamespace(held_usage=(70, 90, 0, False))
    sent = SimpleNamespace(answer=answer, try_=try_, form=SimpleNamespace(dialect=dialect_of(dialect)), stream=stream)
    return sent, SimpleNamespace(common=SimpleNamespace(op=op), asked=Asked(), upload=None)


def said_by(line, pieces):
    for piece in pieces:
        assert line.feed(piece) is piece
    assert line.end() == b""
    return line.told(), line.usage(), line.error, line.ended, line.is_cut_short, line.job("/v1/chat/completions")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize(("dialect", "op"), [("openai", CHAT), ("anthropic", Operation("messages"))])
def test_a_glance_says_what_a_watch_says(body, status, dialect, op):
    at = attempt(op, dialect, status=status)
    for pieces in ([body], [body[:5], body[5:]], [b"", body], []):
        seen = said_by(watch_of(*at), pieces)
        glance = watching(*at)
        assert type(glance) is Glance
        assert said_by(glance, pieces) == seen
        assert glance.told() == seen[0]  # may be asked again


@pytest.mark.parametrize("read", ["usage", "error_of"])
def test_a_meter_that_fails_costs_an_estimate(monkeypatch, read):
    sent, ready = attempt()
    monkeypatch.setattr(type(sent.form.dialect), read, lambda *_: 1 / 0)
    glance = watching(sent, ready)
    glance.feed(BODIES[0])
    usage, error = glance.told()
    assert (usage.source, usage.note, usage.input, usage.output, error) == ("estimate", "usage_unparsed", 70, 90, None)


def test_an_answer_beyond_the_bound_is_not_parsed_whole(monkeypatch):
    monkeypatch.setattr(whole, "MAX_WHOLE", 100)
    assert len(BODIES[0]) > 100
    assert whole.stated(dialect_of("openai"), CHAT, BODIES[0]) is None


@pytest.mark.parametrize(
    "other",
    [
        {"kind": "text/event-stream", "stream": "sse"}, {"kind": "application/json", "stream": "json-array"}, {"coding": "gzip"},
        {"kind": "text/plain"}, {"op": Operation("responses")}, {"op": Operation("images")}, {"op": Operation("other", is_metered=False)},
    ],
)  # fmt: skip
def test_what_is_no_plain_json_answer_of_a_talk_has_a_watch_at_once(other):
    assert type(watching(*attempt(**other))) is Watch
