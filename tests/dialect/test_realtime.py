"""Realtime frames: when a turn begins and ends, what it used, and which model it is. OpenAI Realtime and Gemini Live."""

import json
from pathlib import Path

import pytest

from proxy.dialect import realtime

RECORDED = Path(__file__).parents[2].parent / "shared" / "traffic" / "realtime_ws.jsonl"
USAGE = {
    "input_tokens": 41, "output_tokens": 164,
    "input_token_details": {"text_tokens": 14, "audio_tokens": 27, "cached_tokens": 10, "cached_tokens_details": {"audio_tokens": 6}},
    "output_token_details": {"text_tokens": 28, "audio_tokens": 136, "reasoning_tokens": 17},
}  # fmt: skip


def test_a_turn_begins_with_the_clients_wish_or_the_servers_word():
    for begins in (
        {"type": "response.create"},
        {"type": "response.created", "response": {"id": "r"}},
        {"clientContent": {}},
        {"serverContent": {}},
    ):
        assert realtime.starts_response(begins)
    for other in ({"type": "session.update"}, {"type": "response.done"}, {"setup": {}}, {"setupComplete": {}}, {}):
        assert not realtime.starts_response(other)


def test_a_turn_ends_with_response_done_or_turn_complete():
    assert realtime.is_done({"type": "response.done"})
    assert realtime.is_done({"serverContent": {"turnComplete": True}})
    assert not realtime.is_done({"type": "response.output_text.done"})
    assert not realtime.is_done({"serverContent": {"generationComplete": True}})


def test_the_usage_of_a_turn_is_told_by_medium():
    usage = realtime.usage_of({"type": "response.done", "response": {"id": "r", "usage": USAGE}})
    assert (usage.input, usage.cached_input, usage.output, usage.reasoning, usage.source) == (41, 10, 164, 17, "provider")
    assert usage.units == {"input_audio": 27, "output_audio": 136, "cached_audio": 6}


def test_a_transcription_is_billed_by_its_duration():
    usage = realtime.usage_of(
        {"type": "conversation.item.input_audio_transcription.completed", "usage": {"type": "duration", "seconds": 3}}
    )
    assert usage.units == {"audio_ms": 3000}


def test_gemini_live_states_its_usage_beside_the_content():
    usage = realtime.usage_of({"serverContent": {"turnComplete": True}, "usageMetadata": {
        "promptTokenCount": 20, "responseTokenCount": 30, "responseTokensDetails": [{"modality": "AUDIO", "tokenCount": 25}]}})  # fmt: skip
    assert (usage.input, usage.output, usage.units) == (20, 30, {"output_audio": 25})


def test_a_frame_without_usage_has_none():
    for frame in (
        {"type": "response.done", "response": {"usage": None}},
        {"type": "response.done"},
        {"type": "session.created"},
        {"serverContent": {}},
        {},
    ):
        assert realtime.usage_of(frame) is None


def test_a_response_has_an_id_in_either_place():
    assert realtime.response_id({"response": {"id": "r"}}) == "r"
    assert realtime.response_id({"response_id": "r"}) == "r"
    assert realtime.response_id({"type": "session.created"}) is None


@pytest.mark.parametrize(
    ("query", "event", "model"),
    [
        ("model=gpt-realtime", None, "gpt-realtime"),
        ("api-version=1&deployment=rt", None, "rt"),
        ("", {"session": {"model": "gpt-realtime-mini"}}, "gpt-realtime-mini"),
        ("", {"setup": {"model": "models/gemini-live"}}, "gemini-live"),
        ("", {"setup": {"model": "projects/p/locations/l/publishers/google/models/gemini-live"}}, "gemini-live"),
        ("", {"type": "response.done"}, None),
        ("", None, None),
    ],
)
def test_the_model_is_named_by_the_query_or_by_a_frame(query, event, model):
    assert realtime.model_of("/v1/realtime", query, event) == model


@pytest.mark.parametrize(
    ("session", "model"),
    [
        ({"audio": {"input": {"transcription": {"model": "whisper-1"}}}}, "whisper-1"),
        ({"input_audio_transcription": {"model": "gpt-4o-transcribe"}}, "gpt-4o-transcribe"),
        ({"audio": {"input": {"transcription": None}}}, None),
        (None, None),
    ],
)
def test_the_model_that_transcribes_is_named_by_the_session(session, model):
    assert realtime.transcriber_of({"type": "session.update", "session": session}) == model


def test_every_recorded_session_gives_the_usage_it_states():
    if not RECORDED.exists():
        pytest.skip("recorded sessions skipped LOUDLY: shared/ is not here")
    for line in RECORDED.read_text().splitlines():
        session = json.loads(line)
        frames = [frame["data"] for frame in session["frames"] if isinstance(frame.get("data"), dict)]
        found = [(frame["type"], usage) for frame in frames if (usage := realtime.usage_of(frame)) is not None]
        assert [kind for kind, _ in found] == [event["event"] for event in session["usage_events"]]
        for (_, usage), event in zip(found, session["usage_events"], strict=True):
            raw = event["usage"]
            assert (usage.input, usage.output) == (raw.get("input_tokens", 0), raw.get("output_tokens", 0))
            assert usage.detail == raw
            assert usage.note == ""
        done = [frame for frame in frames if realtime.is_done(frame)]
        assert len(done) == sum(event["event"] == "response.done" for event in session["usage_events"])
        assert all(realtime.response_id(frame) for frame in done)
