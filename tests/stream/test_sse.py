"""Any split of an event stream gives the same events, and their bytes join up to what came in."""

import itertools
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.refusal import UpstreamCut
from proxy.stream.event import MAX_EVENT
from proxy.stream.sse import SseDecoder, event_of

SHARED = Path(__file__).parents[2].parent / "shared" / "traffic"


def decoded(pieces):
    decoder = SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.end()


def payloads(events):
    return [event.data for event in events if event.data]


def cut(raw, places):
    edges = [0, *sorted(places), len(raw)]
    return [raw[a:b] for a, b in itertools.pairwise(edges)]


def reference(raw):
    """The rules of WHATWG HTML 9.2.6, line by line, and one more: a last event without its blank line counts."""
    text = raw.decode().removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    events, data = [], []
    for line in [*text.split("\n"), ""]:
        if not line:
            events += ["\n".join(data)] if data else []
            data = []
        elif line.partition(":")[0] == "data":
            data.append(line.partition(":")[2].removeprefix(" "))
    return [event.encode() for event in events if event]


LINES = st.sampled_from(
    [
        "data: é€😀",
        "data:tight",
        "data: ",
        "data",
        "data:  two",
        ": comment",
        "",
        "",
        "",
        "id: 7",
        "event: x",
        "retry: 5",
        "dataset: no",
        "x",
        "data: a: b",
    ]
)
STREAMS = st.tuples(
    st.sampled_from(["", "\ufeff"]), st.lists(st.tuples(LINES, st.sampled_from(["\n", "\r\n", "\r"])), max_size=12), st.booleans()
).map(lambda parts: (parts[0] + "".join(line + end for line, end in parts[1]) + ("data: unended" if parts[2] else "")).encode())


@given(STREAMS, st.data())
def test_any_split_keeps_every_byte_and_finds_the_events_of_the_standard(raw, data):
    events = decoded(cut(raw, data.draw(st.lists(st.integers(0, len(raw)), max_size=6))))
    assert b"".join(event.raw for event in events) == raw
    assert payloads(events) == reference(raw)


@given(STREAMS)
def test_byte_by_byte_is_no_different(raw):
    events = decoded([raw[at : at + 1] for at in range(len(raw))])
    assert b"".join(event.raw for event in events) == raw
    assert payloads(events) == reference(raw)


@pytest.mark.parametrize("raw", [b"data: x\n\n", b"data: x\r\n\r\n", b"data: x\r\r", b": ping\n", b"\n", b"\r", b"event: a\rdata: x\n\r\n"])
def test_an_event_goes_out_with_its_last_byte(raw):
    decoder = SseDecoder()
    decoder.feed(b"data: before\n\n")
    for at in range(len(raw) - 1):
        decoder.feed(raw[at : at + 1])
    assert b"".join(event.raw for event in decoder.feed(raw[-1:])).endswith(raw[-1:])
    assert decoder.end() == []


@pytest.mark.parametrize(
    ("raw", "changed"),
    [
        (b"event: delta\nid: 3\ndata: {}\n\n", b"event: delta\nid: 3\ndata: NEW\n\n"),
        (b"\xef\xbb\xbfdata:{}\r\n\r\n", b"\xef\xbb\xbfdata:NEW\r\n\r\n"),
        (b"data: {}\rid: 9\r\r", b"data: NEW\rid: 9\r\r"),
        (b"event: e\r\ndata: {\r\nid: 1\r\ndata: }\r\n\r\n", b"event: e\r\nid: 1\r\ndata: NEW\r\n\r\n"),
        (b"data: {\ndata: }\nid: 1", b"id: 1\ndata: NEW\n"),
        (b"data: {\ndata: }", b"data: NEW\n"),
        (b"data: {}", b"data: NEW"),
    ],
)
def test_a_changed_event_keeps_its_other_lines_and_line_ends(raw, changed):
    assert event_of(raw).with_data(b"NEW").raw == changed


def test_a_line_break_in_new_data_is_framed_as_two_lines():
    assert event_of(b"data: x\r\n\r\n").with_data(b"[1,\n2]").raw == b"data: [1,\r\ndata: 2]\r\n\r\n"


def test_an_event_above_4_mib_cuts_the_stream():
    decoder = SseDecoder()
    with pytest.raises(UpstreamCut, match="sse line too long"):
        for _ in range(MAX_EVENT // 65536 + 1):
            decoder.feed(b"d" * 65536)
    assert decoder.end() == []


def test_recorded_streams_come_out_as_they_are():
    if not SHARED.is_dir():
        pytest.skip("recorded streams skipped LOUDLY: shared/ is not here")
    seen = 0
    for name in ("openai", "anthropic", "google", "openrouter"):
        for line in (SHARED / f"{name}.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["stream_format"] == "sse" and row["response_body_encoding"] == "utf-8":
                raw = row["response_body"].encode()
                events = decoded([raw[at : at + 97] for at in range(0, len(raw), 97)])
                assert b"".join(event.raw for event in events) == raw
                assert payloads(events) == reference(raw)
                seen += 1
    assert seen > 50


@given(STREAMS, st.data())
def test_what_is_called_whole_leaves_nothing_under_way(raw, data):
    decoder = SseDecoder()
    decoder.feed(raw[: (at := data.draw(st.integers(0, len(raw))))])
    rest = raw[at:]
    if decoder.is_whole(rest):
        assert b"".join(event.raw for event in decoder.feed(rest)) == rest
        assert decoder.is_whole(b"\n\n")
