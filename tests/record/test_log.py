"""The log: one line per call, no key in it, and no reader so slow that a call would wait."""

import json
import os
import time
import tracemalloc

import pytest
from support.also import also

from proxy.exchange import Caller, Try, Usage
from proxy.record.log import MAX_PENDING, MAX_SORTS, Log, Pipe
from proxy.record.rows import rfc3339


@pytest.fixture
def lines():
    return []


@pytest.fixture
def log(lines, clock):
    return Log(lambda line: lines.append(json.loads(line)), clock)


def test_a_call_is_one_line_with_its_figures(log, lines, tell):
    log.told(tell(limit="tier free", found={("email", "request", "masked"): 2}))
    (line,) = lines
    assert line == {
        "at": "2026-09-21T14:13:20.123Z", "level": "info", "event": "call", "request_id": "req-1", "caller": "bot", "team": "finance",
        "tier": "premium", "provider": "openai", "model": "gpt-4o", "operation": "chat", "end": "done", "status": 200, "attempts": 1,
        "errors": [], "input_tokens": 10, "output_tokens": 5, "usage_source": "provider", "cost_nanousd": 500, "limit": "tier free",
        "found": {"email request masked": 2}, "streamed": True, "duration_ms": 2000.0, "first_byte_ms": 1000.0, "upstream_ms": 1500.0,
        "policy_generation": 7,
    }  # fmt: skip


def test_each_line_says_its_own_instant(log, lines, clock, tell):
    for ms in (123, 1007, 1007, 60_000, 999):
        clock.at_ns = (1_790_000_000_000 + ms) * 1_000_000 + 999_999
        clock.at += 0.001
        log.told(tell())
        log.event("info", "another")
    said = ["2026-09-21T14:13:20.123Z", "2026-09-21T14:13:21.007Z", "2026-09-21T14:13:21.007Z",
            "2026-09-21T14:14:20.000Z", "2026-09-21T14:13:20.999Z"]  # fmt: skip
    assert [line["at"] for line in lines[::2]] == [line["at"] for line in lines[1::2]] == said


def test_a_call_that_never_left_has_a_line_too(log, lines, tell):
    log.told(tell(tries=[], end="refused:rate_limited", status=429, model=None))
    assert (lines[0]["provider"], lines[0]["attempts"], lines[0]["first_byte_ms"]) == ("openai", 0, None)


def test_keys_that_stray_into_ids_and_models_are_not_logged(log, lines, tell):
    log.told(tell(request_id="sk-proj-abcdefgh12345", tries=[], model="slk-" + "a" * 43))
    assert lines[0]["request_id"] == lines[0]["model"] == "[redacted]"


def test_hashed_identities_show_no_name(lines, clock, tell):
    Log(lambda line: lines.append(json.loads(line)), clock, shown=lambda name: "id:" + name[::-1]).told(tell())
    assert lines[0]["caller"] == "id:tob"


def test_each_retry_names_its_error_class(log, lines):
    log.retried("req-1", also(Try(2, "retry", "openai", "gpt-4o", None), error="connect"))
    assert lines[0] | {"at": ""} == {
        "at": "", "level": "warning", "event": "retry", "request_id": "req-1", "attempt": 2, "provider": "openai", "model": "gpt-4o",
        "status": None, "error": "connect",
    }  # fmt: skip


@pytest.mark.parametrize(("level", "events"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_keeps_what_is_below_it_out(log, lines, tell, level, events):
    log.set_level(level)
    log.event("debug", "detail")
    log.told(tell())
    log.retried("r", also(Try(1, "first", "openai", None, None), error="429"))
    log.event("error", "reload failed", path="policy.yaml")
    assert len(lines) == events


def test_a_flood_of_one_event_is_cut_and_counted(log, lines, clock):
    for _ in range(1000):
        log.event("warning", "state slow")
    assert len(lines) == 20
    log.event("error", "another")
    clock.at += 10
    log.event("warning", "state slow")
    assert len(lines) == 22
    assert lines[-1]["held_back"] == 980


def test_a_flood_of_bad_credentials_is_cut_but_each_call_of_somebody_has_its_line(log, lines, tell):
    for _ in range(100):
        log.told(tell(caller=None, tries=[], end="refused:invalid_credentials", status=401))
    assert len(lines) == 20
    for _ in range(100):
        log.told(tell())
    assert len(lines) == 120


def test_events_of_ever_new_names_take_no_memory(log, lines):
    for number in range(1000):
        log.event("error", f"event {number}")
    assert len(log._bursts) <= 257


def test_an_unforeseen_error_is_named_without_its_text(log, lines):
    try:
        raise ValueError("body: my secret is hunter2")
    except ValueError as error:
        log.failure("req-1", error)
    assert lines[0]["error"] == "ValueError"
    assert lines[0]["where"][-1].startswith("test_log.py:")
    assert "hunter2" not in json.dumps(lines)


@pytest.mark.parametrize("odd", ["\ud800", "a\nb", 10**30, object(), {"k": ["sk-proj-abcdefgh12345"]}, ("x",)])
def test_whatever_is_logged_is_one_line_of_json(clock, odd):
    raw = []
    Log(raw.append, clock).event("error", "odd", value=odd)
    assert raw[0].count(b"\n") == 1 and json.loads(raw[0])["event"] == "odd"
    assert b"sk-proj" not in raw[0]


def test_a_hostile_figure_of_a_provider_loses_no_line(log, lines, tell):
    story = tell()
    story.tries[0].usage = Usage(input=10**40, source="provider")
    log.told(story)
    assert lines[0]["input_tokens"] == str(10**40)


def test_calls_that_differ_are_told_apart_and_as_they_are_told_at_length(log, lines, tell):
    def changed_try(**changes):
        story = tell()
        for name, value in changes.items():
            setattr(story.tries[0], name, value)
        return story

    stories = [
        tell(), tell(caller=Caller("ann", "key", "premium", "finance")), tell(caller=Caller("bot", "key", "free", "finance")),
        tell(caller=Caller("bot", "key", "premium", None)), tell(operation="other"), tell(end="client_gone"), tell(status=500),
        tell(limit="tier free"), tell(streamed=False), tell(generation=8), tell(found={("email", "request", "masked"): 2}),
        changed_try(model=None), changed_try(provider="azure"), changed_try(first_byte=None), changed_try(kind="refusal"),
        changed_try(usage=Usage(input=1, source="estimate")), changed_try(error="connect"), tell(request_id="req-2"), tell(tries=[]),
        tell(caller=Caller("100%d", "key", '%s"', "%%")), tell(status=None),
    ]  # fmt: skip
    for story in stories + stories[::-1]:
        log.told(story)
        log._told_at_length(story)
    assert lines[::2] == lines[1::2]
    assert len({json.dumps(line) for line in lines}) == len(stories)


def test_keys_that_stray_into_what_calls_have_in_common_are_not_logged(log, lines, tell):
    story = tell(request_id="sk-proj-abcdefgh12345", caller=Caller("Bearer abcd.efgh", "jwt", "slk-" + "a" * 43))
    story.tries[0].model = "gsk_abcdefgh1234"
    for _ in range(2):
        log.told(story)
    for line in lines:
        assert [line[name] for name in ("request_id", "caller", "tier", "model")] == ["[redacted]"] * 4


def test_names_show_as_the_policy_says_from_its_reload_on(lines, clock, tell):
    is_hidden = False
    log = Log(lambda line: lines.append(json.loads(line)), clock, shown=lambda name: "id:0" if is_hidden else name)
    log.told(tell())
    is_hidden = True
    log.set_level("info")
    log.told(tell())
    assert [line["caller"] for line in lines] == ["bot", "id:0"]


def test_each_line_has_its_own_instant_also_when_the_clock_goes_back(log, lines, clock, tell):
    begin = clock.at_ns // 10**9 * 10**9
    instants = [0, 999_999, 1_000_000, 1_000_000, 999_000_000, 1_000_000_000, 7_000_000]
    for since in instants:
        clock.at_ns = begin + since
        clock.at += 0.001
        log.told(tell())
    assert [line["at"] for line in lines] == [rfc3339(begin + since) for since in instants]


def test_lines_of_one_millisecond_say_the_same_and_of_the_next_the_next(log, lines, clock, tell):
    clock.at_ns += 50_000
    said = []
    for _ in range(20):
        log.told(tell())
        said.append(rfc3339(clock.at_ns))
        clock.at_ns, clock.at = clock.at_ns + 300_000, clock.at + 0.0003
    assert [line["at"] for line in lines] == said and 5 < len(set(said)) < 10


def test_calls_of_ever_new_models_take_no_memory(log, lines, tell):
    for number in range(3 * MAX_SORTS):
        story = tell()
        story.tries[0].model = f"m{number}"
        log.told(story)
    assert [line["model"] for line in lines] == [f"m{number}" for number in range(3 * MAX_SORTS)]
    assert len(log._forms) <= MAX_SORTS


def test_the_name_of_a_caller_takes_up_little_more_than_its_letters(log, lines, tell):
    log.told(tell())
    lines.clear()
    tracemalloc.start()
    for number in range(1000):
        log.told(tell(caller=Caller(f"caller-{number}", "key", "premium", "finance")))
        lines.clear()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1000 * 400


def test_lines_come_out_in_order_and_all_at_the_end():
    read, write = os.pipe()
    pipe = Pipe(write)
    for number in range(1000):
        pipe.write(b"%d\n" % number)
    pipe.close()
    os.close(write)
    with os.fdopen(read, "rb") as out:
        assert out.read().split() == [b"%d" % number for number in range(1000)]
    assert pipe.dropped == 0


def test_lines_come_out_without_a_close_within_a_moment():
    read, write = os.pipe()
    pipe = Pipe(write)
    pipe.write(b"x\n")
    assert os.read(read, 10) == b"x\n"
    pipe.close()
    os.close(write)
    os.close(read)


@pytest.mark.parametrize("is_blocking", [True, False])
def test_a_reader_that_never_reads_holds_up_nobody(is_blocking):
    read, write = os.pipe()
    os.set_blocking(write, is_blocking)
    pipe, line = Pipe(write), b"x" * 99_999 + b"\n"
    began = time.monotonic()
    for _ in range(2 * MAX_PENDING // len(line)):
        pipe.write(line)
    assert time.monotonic() - began < 10
    assert pipe.dropped > 0
    began = time.monotonic()
    pipe.close(0.2)
    assert time.monotonic() - began < 10
    os.close(read)  # the writer gets EPIPE and goes home
    pipe._thread.join(5)
    assert not pipe._thread.is_alive()
    os.close(write)


def test_a_pipe_that_broke_counts_what_it_lost():
    read, write = os.pipe()
    os.close(read)
    pipe = Pipe(write)
    pipe.write(b"x\n")
    pipe.close()
    os.close(write)
    assert pipe.dropped == 1
