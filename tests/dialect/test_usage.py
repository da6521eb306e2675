"""Usage of whole answers and of streams in every dialect, from small fixtures of our own (the recordings are in tests/contract)."""

from dataclasses import replace

import pytest

from proxy.dialect import dialect_of
from proxy.dialect.openai_usage import folded, whole_usage
from proxy.exchange import Usage

PATHS = {"anthropic": "/v1/messages", "gemini": "/v1beta/models/m:streamGenerateContent", "cohere": "/v2/chat"}


def op_of(dialect, path=None):
    return dialect_of(dialect).operation("POST", path or PATHS.get(dialect, "/v1/chat/completions"), "")


def whole(dialect, doc, path=None):
    return dialect_of(dialect).usage(op_of(dialect, path), doc)


def streamed(dialect, events, path=None):
    usage = None
    for event in events:
        usage = dialect_of(dialect).fold(op_of(dialect, path), usage, event)
    return usage


def figures(usage):
    return (usage.input, usage.cached_input, usage.cache_write, usage.output, usage.reasoning)


def chat(**usage):
    return {"model": "m-1", "usage": usage}


WHOLE = [  # dialect, path, answer, (input, cached, written, output, reasoning), units
    ("openai", None, chat(prompt_tokens=10, completion_tokens=5, prompt_tokens_details={"cached_tokens": 4, "audio_tokens": 2},
        completion_tokens_details={"reasoning_tokens": 3, "audio_tokens": 1}),
     (10, 4, 0, 5, 3), {"input_audio": 2, "output_audio": 1}),
    ("openai", "/v1/responses", chat(input_tokens=10, output_tokens=5, input_tokens_details={"cached_tokens": 4,
        "cache_write_tokens": 3}, output_tokens_details={"reasoning_tokens": 3}),
     (10, 4, 3, 5, 3), {}),
    ("openai", None, chat(prompt_tokens=10, completion_tokens=5, prompt_cache_hit_tokens=6), (10, 6, 0, 5, 0), {}),  # DeepSeek
    ("openai", None, {"x_groq": {"usage": {"prompt_tokens": 10, "completion_tokens": 5}}}, (10, 0, 0, 5, 0), {}),
    ("openai", None, chat(prompt_tokens=10, completion_tokens=5, total_tokens=22, completion_tokens_details={"reasoning_tokens": 7}),
        (10, 0, 0, 12, 7), {}),  # xAI
    ("openai", None, chat(prompt_tokens=10, completion_tokens=5, total_tokens=22), (10, 0, 0, 5, 0), {}),
    ("gemini", "/v1beta/openai/chat/completions", chat(prompt_tokens=10, completion_tokens=5, total_tokens=22), (10, 0, 0, 12, 0), {}),
    ("openai", None, chat(prompt_tokens=10, completion_tokens=5, num_search_queries=2), (10, 0, 0, 5, 0), {"searches": 2}),
    ("openai", "/v1/responses", {**chat(input_tokens=10, output_tokens=5),
        "tools": [{"type": "code_interpreter", "container": {"memory_limit": "4g"}}],
        "output": [{"type": "web_search_call", "action": {"type": "search"}}, {"type": "web_search_call", "action": {"type": "open_page"}},
                   {"type": "web_search_call"}, {"type": "file_search_call"}, {"type": "code_interpreter_call", "container_id": "a"},
                   {"type": "code_interpreter_call", "container_id": "b"}, {"type": "message"}, 7]},
     (10, 0, 0, 5, 0), {"searches": 2, "storage_searches": 1, "containers": 8}),
    ("openai", None, {**chat(prompt_tokens=10, completion_tokens=5), "model": "gpt-4o-search-preview"}, (10, 0, 0, 5, 0), {"searches": 1}),
    ("openai", "/v1/embeddings", chat(prompt_tokens=9, total_tokens=9), (9, 0, 0, 0, 0), {}),
    ("openai", "/v1/images/generations", {"data": [{}], "usage": {"input_tokens": 8, "output_tokens": 272,
        "input_tokens_details": {"image_tokens": 3}}}, (8, 0, 0, 272, 0),
     {"input_image": 3, "output_image": 272}),
    ("openai", "/v1/images/generations", {"data": [{}, {}]}, (0, 0, 0, 0, 0), {"images": 2}),
    ("openai", "/v1/audio/transcriptions", {"text": "x", "usage": {"type": "tokens", "input_tokens": 30, "output_tokens": 5,
        "input_token_details": {"audio_tokens": 26}}}, (30, 0, 0, 5, 0), {"input_audio": 26}),
    ("openai", "/v1/audio/transcriptions", {"text": "x", "usage": {"type": "duration", "seconds": 3}}, (0, 0, 0, 0, 0), {"audio_ms": 3000}),
    ("openai", "/v1/audio/transcriptions", {"text": "x", "duration": 2.0004}, (0, 0, 0, 0, 0), {"audio_ms": 2001}),
    ("anthropic", None, {"model": "c", "usage": {"input_tokens": 7, "cache_read_input_tokens": 20, "cache_creation_input_tokens": 100,
        "output_tokens": 5,
      "cache_creation": {"ephemeral_5m_input_tokens": 60, "ephemeral_1h_input_tokens": 40},
          "server_tool_use": {"web_search_requests": 2}}}, (127, 20, 100, 5, 0), {"searches": 2}),
    ("anthropic", None, {"usage": {"input_tokens": 1, "output_tokens": 1, "cache_creation": {"ephemeral_5m_input_tokens": 6,
        "ephemeral_1h_input_tokens": 4}}}, (11, 0, 10, 1, 0), {}),
    ("gemini", None, {"modelVersion": "g", "usageMetadata": {"promptTokenCount": 10, "toolUsePromptTokenCount": 5,
        "candidatesTokenCount": 3, "thoughtsTokenCount": 4, "cachedContentTokenCount": 6,
      "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 2}], "cacheTokensDetails": [{"modality": 4, "tokenCount": 1}],
          "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 3}]}},
     (15, 6, 0, 7, 4), {"input_audio": 2, "cached_audio": 1, "output_image": 3}),
    ("vertex", "/v1/projects/p/locations/l/publishers/google/models/text-embedding-005:predict",
     {"predictions": [{"embeddings": {"statistics": {"token_count": 4}}}, {"embeddings": {"statistics": {"token_count": 5.0}}}]}, (9, 0,
         0, 0, 0), {}),
    ("vertex", "/v1/projects/p/locations/l/publishers/google/models/imagen-4:predict", {"predictions": [{}, {}]}, (0, 0, 0, 0, 0),
        {"images": 2}),
    ("cohere", None, {"usage": {"billed_units": {"input_tokens": 1.0, "output_tokens": 9}, "tokens": {"input_tokens": 496,
        "output_tokens": 11}, "cached_tokens": 4}}, (496, 4, 0, 11, 0),
     {"billed_input": 1, "billed_output": 9}),
    ("cohere", "/v2/rerank", {"meta": {"billed_units": {"search_units": 1}}}, (0, 0, 0, 0, 0), {"searches": 1}),
    ("cohere", "/v2/embed", {"meta": {"billed_units": {"image_tokens": 64, "input_tokens": 0}}}, (64, 0, 0, 0, 0), {"input_image": 64}),
]  # fmt: skip


@pytest.mark.parametrize(("dialect", "path", "answer", "expected", "units"), WHOLE)
def test_a_whole_answer_is_read_as_billed(dialect, path, answer, expected, units):
    usage = whole(dialect, answer, path)
    assert (figures(usage), dict(usage.units), usage.source, usage.ended, usage.note) == (expected, units, "provider", True, "")


def test_an_hour_of_cache_a_model_and_a_tier_are_kept():
    answer = {
        "model": "claude",
        "usage": {
            "input_tokens": 1,
            "cache_creation_input_tokens": 9,
            "cache_creation": {"ephemeral_1h_input_tokens": 9},
            "service_tier": "batch",
        },
    }
    usage = whole("anthropic", answer)
    assert (usage.cache_write_1h, usage.model, usage.tier) == (9, "claude", "batch")
    assert whole("openai", {**chat(prompt_tokens=1), "service_tier": "flex"}).tier == "flex"
    assert whole("gemini", {"modelVersion": "g", "usageMetadata": {"promptTokenCount": 1, "serviceTier": "standard"}}).tier == "standard"


@pytest.mark.parametrize(
    ("cost", "nano"),
    [(0.00183, 1_830_000), (4.1400000000000003e-05, 41_401), (0, 0), (1, 10**9), (1e-12, 1), (0.1 + 0.2, 300_000_001)],
)
def test_a_stated_cost_is_exact_to_its_decimal_text(cost, nano):
    assert whole("openai", chat(prompt_tokens=1, completion_tokens=1, cost=cost)).cost_nanousd == nano
    assert whole("openai", chat(prompt_tokens=1, cost={"total_cost": cost})).cost_nanousd == nano  # Perplexity


@pytest.mark.parametrize("cost", [True, "1", -1, float("inf"), float("nan"), 1e300, []])
def test_an_odd_stated_cost_is_left_out_and_noted(cost):
    usage = whole("openai", chat(prompt_tokens=1, cost=cost))
    assert (usage.cost_nanousd, usage.note) == (None, "usage_odd")


@pytest.mark.parametrize("odd", [-5, True, "12", 1.5, 2.0**60, 10**400, [], {}])
def test_an_odd_count_is_absent_and_noted(odd):
    for dialect, answer in (
        ("openai", chat(prompt_tokens=odd, completion_tokens=3)),
        ("anthropic", {"usage": {"input_tokens": odd, "output_tokens": 3}}),
        ("gemini", {"usageMetadata": {"promptTokenCount": odd, "candidatesTokenCount": 3}}),
        ("cohere", {"usage": {"tokens": {"input_tokens": odd, "output_tokens": 3}}}),
    ):
        usage = whole(dialect, answer)
        assert (usage.input, usage.output, usage.note) == (0, 3, "usage_odd")


def test_an_absurd_count_is_kept_and_noted():
    usage = whole("openai", chat(prompt_tokens=2_000_000_000, completion_tokens=3))
    assert (usage.input, usage.note) == (2_000_000_000, "usage_odd")


def test_a_share_larger_than_its_whole_is_cut_and_noted():
    usage = whole("openai", chat(prompt_tokens=10, prompt_tokens_details={"cached_tokens": 50, "cache_write_tokens": 50}))
    assert (figures(usage), usage.note) == ((10, 10, 0, 0, 0), "usage_odd")
    odd = {"prompt_audio_seconds": "3", "prompt_tokens": 1}
    assert whole("openai", chat(**odd)).note == "usage_odd"


@pytest.mark.parametrize(
    ("dialect", "path", "answer"),
    [
        ("openai", None, {"choices": []}),
        ("openai", None, {"usage": None}),
        ("openai", None, {"usage": {"prompt_tokens": None}}),
        ("openai", "/v1/responses", {"status": "queued", "usage": None}),
        ("openai", "/v1/responses", {"status": "in_progress", "usage": {"input_tokens": 3, "output_tokens": 0}}),
        ("openai", "/v1/responses/input_tokens", {"usage": {"input_tokens": 11}}),
        ("anthropic", "/v1/messages/count_tokens", {"input_tokens": 11}),
        ("anthropic", "/v1/complete", {"completion": "x"}),
        ("gemini", "/v1beta/models/m:countTokens", {"totalTokens": 11}),
        ("gemini", None, {"usageMetadata": {"trafficType": "ON_DEMAND"}}),
        ("vertex", "/v1/projects/p/locations/l/publishers/google/models/text-embedding-005:predict", {"predictions": [{}]}),
        ("vertex", "/v1/projects/p/locations/l/publishers/google/models/imagen-4:predict", {"predictions": []}),
        ("cohere", "/v1/tokenize", {"tokens": [1], "meta": {"billed_units": {"input_tokens": 1}}}),
        ("cohere", None, {"usage": {}}),
    ],
)
def test_an_answer_that_states_no_usage_has_none(dialect, path, answer):
    assert whole(dialect, answer, path) is None


def test_anthropics_first_output_figure_is_a_placeholder():
    start = {
        "type": "message_start",
        "message": {"model": "claude", "usage": {"input_tokens": 17, "output_tokens": 1, "service_tier": "standard"}},
    }
    delta = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 100}}
    cut = streamed("anthropic", [start, {"type": "ping"}])
    assert (cut.input, cut.output, cut.source, cut.ended) == (17, 0, "counted", False)
    done = streamed("anthropic", [start, {"type": "ping"}, delta, {"type": "message_stop"}])
    assert (done.input, done.output, done.source, done.ended, done.model, done.tier) == (17, 100, "provider", True, "claude", "standard")


def test_anthropics_last_figure_wins_per_field_and_is_never_added():
    start = {"type": "message_start", "message": {"usage": {"input_tokens": 702, "cache_read_input_tokens": 5, "output_tokens": 1}}}
    deltas = [
        {"type": "message_delta", "usage": {"input_tokens": 1591, "output_tokens": n, "cache_read_input_tokens": None}} for n in (50, 175)
    ]
    assert figures(streamed("anthropic", [start, *deltas])) == (1596, 5, 0, 175, 0)
    assert streamed("anthropic", [start, {"type": "message_delta", "delta": {}}]).source == "counted"
    assert streamed("anthropic", [{"type": "message_start", "message": {}}, {"type": "ping"}]) is None


def test_openai_usage_comes_in_the_chunk_without_choices():
    said = {"model": "m", "choices": [{"index": 0, "delta": {"content": "Hi"}}], "usage": None}
    last = {"model": "m", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    assert streamed("openai", [said]) is None
    usage = streamed("openai", [said, last])
    assert (figures(usage), usage.source, usage.ended, usage.model) == ((3, 0, 0, 2, 0), "provider", True, "m")


def test_a_running_figure_beside_each_piece_is_final_only_with_the_finish_reason():
    def chunk(n, finish=None):
        return {
            "choices": [{"index": 0, "delta": {"content": "x"}, "finish_reason": finish}],
            "usage": {"prompt_tokens": 3, "completion_tokens": n},
        }

    running = streamed("openai", [chunk(1), chunk(2)])
    assert (running.output, running.source, running.ended) == (2, "counted", False)
    done = streamed("openai", [chunk(1), chunk(2), chunk(3, "stop")])
    assert (done.output, done.source, done.ended) == (3, "provider", True)


def test_a_responses_stream_states_its_usage_in_its_last_event():
    response = {"model": "gpt-5", "status": "completed", "service_tier": "default", "usage": {"input_tokens": 22, "output_tokens": 6}}
    begun = {"type": "response.created", "response": {"status": "in_progress", "usage": None}}
    usage = streamed("openai", [begun, {"type": "response.completed", "response": response}], "/v1/responses")
    assert (figures(usage), usage.model, usage.tier) == ((22, 0, 0, 6, 0), "gpt-5", "default")


def test_a_step_of_an_assistants_run_is_only_a_share_of_it():
    step = {"object": "thread.run.step", "usage": {"prompt_tokens": 154, "completion_tokens": 62}}
    run = {"object": "thread.run", "usage": {"prompt_tokens": 381, "completion_tokens": 89}}
    assert streamed("openai", [step], "/v1/threads/t/runs") is None
    assert figures(streamed("openai", [step, run], "/v1/threads/t/runs")) == (381, 0, 0, 89, 0)


def test_geminis_figures_are_cumulative_and_final_with_the_finish_reason():
    def chunk(finish=None, **usage):
        return {"modelVersion": "g", "candidates": [{"finishReason": finish}] if finish else [], "usageMetadata": usage}

    running = [
        chunk(promptTokenCount=34, thoughtsTokenCount=68),
        chunk(promptTokenCount=34, candidatesTokenCount=10, thoughtsTokenCount=70),
    ]
    cut = streamed("gemini", running)
    assert (figures(cut), cut.source, cut.ended) == ((34, 0, 0, 80, 70), "counted", False)
    done = streamed(
        "gemini", [*running, chunk("STOP", promptTokenCount=34, candidatesTokenCount=20), {"usageMetadata": {"trafficType": "ON_DEMAND"}}]
    )
    assert (figures(done), done.source, done.ended, done.note) == ((34, 0, 0, 90, 70), "provider", True, "")
    assert streamed("gemini", [{"usageMetadata": {"trafficType": "ON_DEMAND"}}]) is None


def test_a_cumulative_figure_that_goes_down_is_taken_and_noted():
    usage = streamed("gemini", [{"usageMetadata": {"promptTokenCount": 169}}, {"usageMetadata": {"promptTokenCount": 79}}])
    assert (usage.input, usage.note) == (79, "usage_decreased")


def test_cohere_states_its_usage_at_the_end_in_both_versions():
    units = {"billed_units": {"input_tokens": 7, "output_tokens": 9}, "tokens": {"input_tokens": 69, "output_tokens": 10}}
    ends = (
        {"type": "message-end", "delta": {"finish_reason": "COMPLETE", "usage": units}},
        {"event_type": "stream-end", "is_finished": True, "response": {"meta": units}},
    )
    for end in ends:
        assert figures(streamed("cohere", [{"type": "message-start"}, end])) == (69, 0, 0, 10, 0)
    assert streamed("cohere", [{"type": "message-start"}]) is None


def test_what_the_provider_reported_is_kept_as_it_was():
    reported = {"prompt_tokens": 3, "completion_tokens": 2, "their_own": {"deep": [1]}}
    assert whole("openai", {"usage": reported}).detail == reported
    assert isinstance(whole("openai", {"usage": reported}), Usage)


def grounded(model, *queries, **more):
    return {"modelVersion": model, "candidates": [{"groundingMetadata": {"webSearchQueries": list(queries)}, **more}],
            "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 4}}  # fmt: skip


@pytest.mark.parametrize(("model", "searches"), [("gemini-2.5-flash", 1), ("gemini-3-flash-preview", 2)])
def test_grounding_is_counted_by_the_prompt_before_gemini_3_and_by_the_query_since(model, searches):
    found = whole("gemini", grounded(model, "a", "b"), "/v1beta/models/m:generateContent")
    assert found.units == {"searches": searches}
    assert whole("gemini", grounded(model), "/v1beta/models/m:generateContent").units == {}


def test_queries_that_one_chunk_of_a_stream_names_are_not_forgotten():
    events = [grounded("gemini-3-pro", "a", "b"), {**grounded("gemini-3-pro"), "candidates": [{"finishReason": "STOP"}]}]
    found = streamed("gemini", events)
    assert (found.units, found.source) == ({"searches": 2}, "provider")


def test_fast_mode_is_a_tier_of_its_own():
    used = {"input_tokens": 1, "output_tokens": 1}
    assert whole("anthropic", {"usage": {**used, "speed": "fast", "service_tier": "standard"}}).tier == "fast"
    assert whole("anthropic", {"usage": {**used, "service_tier": "batch"}}).tier == "batch"


def test_tools_of_a_streamed_response_are_counted_from_its_last_event():
    done = {"model": "m", "output": [{"type": "web_search_call"}], "usage": {"input_tokens": 3, "output_tokens": 2}}
    begun = {"type": "response.created", "response": {"status": "in_progress", "usage": None}}
    preview = {**done, "model": "gpt-4o-2024-08-06", "tools": [{"type": "function"}, {"type": "web_search_preview"}]}
    assert whole("openai", preview, "/v1/responses").units == {"preview_searches": 1}
    assert streamed("openai", [begun, {"type": "response.completed", "response": done}], "/v1/responses").units == {"searches": 1}


@pytest.mark.parametrize(
    ("more", "doc", "is_plain"),
    [
        ({}, {}, True),
        ({}, {"service_tier": "flex"}, True),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, {}, True),
        ({"prompt_tokens_details": {"cached_tokens": 2}}, {}, False),
        ({"completion_tokens_details": {"reasoning_tokens": 1}}, {}, False),
        ({"completion_tokens_details": {"audio_tokens": 1}}, {}, False),
        ({"cost": 0.5}, {}, False),
        ({"total_tokens": 99}, {}, False),
        ({"prompt_tokens": -9, "total_tokens": -5}, {}, False),
        ({"prompt_tokens": True, "total_tokens": 5}, {}, False),
    ],
)
def test_a_usage_is_plain_only_where_it_is_tokens_in_and_out_and_no_more(more, doc, is_plain):
    raw = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13} | more
    doc = {"model": "m", "choices": [], "usage": raw} | doc
    op = op_of("openai")
    usage = dialect_of("openai").usage(op, doc)
    assert usage == whole_usage(op, doc), "however it is read"
    assert usage.is_plain is is_plain
    assert not replace(usage, cached_input=1).is_plain, "what is changed is not plain any more"
    if is_plain:
        assert usage == Usage(9, output=4, source="provider", detail=raw, tier=doc.get("service_tier"), model="m", ended=True)


@pytest.mark.parametrize(
    ("more", "event", "is_plain"),
    [
        ({}, {}, True),
        ({"prompt_tokens_details": {"cached_tokens": 0}}, {}, True),
        ({"prompt_tokens_details": {"cached_tokens": 3}}, {}, False),
        ({"prompt_tokens_details": {"cached_tokens": None}}, {}, False),
        ({"prompt_tokens_details": None}, {}, False),
        ({"total_tokens": 9}, {}, False),
        ({}, {"object": "thread.run.step"}, False),
        ({}, {"response": {"usage": {"input_tokens": 1, "output_tokens": 1}}}, False),
        ({}, {"model": "gpt-4o-search-preview"}, False),
        ({}, {"choices": [{"index": 0, "delta": {"content": "hi"}}]}, False),
    ],
)
def test_the_usage_chunk_of_a_stream_is_the_same_however_it_is_read(more, event, is_plain):
    raw = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7} | more
    doc = {"object": "chat.completion.chunk", "model": "gpt-4o", "choices": [], "usage": raw} | event
    op = op_of("openai")
    usage = dialect_of("openai").fold(op, None, doc)
    assert usage == folded(op, None, doc)
    assert (usage is not None and usage.is_plain) is is_plain
    later = doc | {"usage": raw | {"completion_tokens": 4, "total_tokens": 9}}
    assert dialect_of("openai").fold(op, usage, later) == folded(op, usage, later), "of more than one, the last wins name by name"
