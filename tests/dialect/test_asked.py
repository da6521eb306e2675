"""What a request body asks for. A wrong output limit is refused; every other oddity passes and is left to the provider."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect import DIALECTS, dialect_of
from proxy.dialect.openai import LONGEST_SHAPE, MOST_SHAPES, SHAPES, USUAL
from proxy.dialect.wire import NAME, Asked, usual
from proxy.refusal import Refusal

PATHS = {
    "openai": "/v1/chat/completions",
    "azure-openai": "/openai/deployments/d/chat/completions",
    "anthropic": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
    "vertex": "/v1/projects/p/locations/l/publishers/google/models/m:generateContent",
    "cohere": "/v2/chat",
}
MORE = {"openai": ["/v1/responses", "/v1/completions", "/v1/embeddings", "/v1/images/generations"], "cohere": ["/v1/chat", "/v1/generate"]}


def asked(dialect, body, path=None):
    spoken = dialect_of(dialect)
    return spoken.read_asked(spoken.operation("POST", path or PATHS[dialect], ""), body)


def limited(dialect, value):
    return {"generationConfig": {"maxOutputTokens": value}} if dialect in ("gemini", "vertex") else {"max_tokens": value}


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("value", [True, False, "100", 1000.0, 1.5, [], {}, 2.0**64])
def test_an_output_limit_of_a_wrong_type_is_refused(dialect, value):
    with pytest.raises(Refusal) as no:
        asked(dialect, limited(dialect, value))
    assert (no.value.status, no.value.code) == (400, "invalid_request")
    assert str(value) not in no.value.message


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("value", [0, -1, -(2**53)])
def test_an_output_limit_that_bounds_nothing_passes_and_counts_as_what_models_write_at_most(dialect, value):
    assert asked(dialect, limited(dialect, value)).max_tokens >= 1_000_000


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_null_is_absent(dialect):
    assert asked(dialect, limited(dialect, None)).max_tokens is None
    assert asked(dialect, limited(dialect, 7)).max_tokens == 7


@pytest.mark.parametrize(
    ("dialect", "path", "body", "limit"),
    [
        ("openai", None, {"max_tokens": 5, "max_completion_tokens": 9}, 9),
        ("openai", None, {"max_tokens": 9, "max_completion_tokens": None}, 9),
        ("openai", "/v1/responses", {"max_output_tokens": 11}, 11),
        ("anthropic", "/v1/complete", {"max_tokens_to_sample": 12}, 12),
        ("gemini", None, {"generation_config": {"max_output_tokens": 13}}, 13),
        ("gemini", None, {"generationConfig": {"maxOutputTokens": 5}, "generation_config": {"maxOutputTokens": 13}}, 13),
    ],
)
def test_the_limit_is_found_under_every_name(dialect, path, body, limit):
    assert asked(dialect, body, path).max_tokens == limit


@pytest.mark.parametrize(
    ("dialect", "path", "body", "choices"),
    [
        ("openai", None, {"n": 3}, 3),
        ("openai", None, {"n": 0}, 1),
        ("openai", None, {"n": "3"}, 3),  # as lenient providers read it: else it multiplies what is paid, and not what is held
        ("openai", None, {"n": 3.0}, 3),
        ("openai", None, {"n": 2.5}, 1),
        ("openai", None, {"n": "many"}, 1),
        ("openai", None, {"n": True}, 1),
        ("openai", None, {"n": 10**6}, 10**6),
        ("openai", "/v1/completions", {"n": 2, "best_of": 5}, 5),
        ("openai", "/v1/completions", {"n": 2, "prompt": ["a", "b", "c"]}, 6),
        ("openai", "/v1/completions", {"prompt": [[1, 2], [3, 4]]}, 2),
        ("openai", "/v1/completions", {"prompt": [1, 2, 3]}, 1),
        ("gemini", None, {"generationConfig": {"candidateCount": 4}}, 4),
        ("gemini", None, {"generation_config": {"candidate_count": "2"}}, 2),  # protobuf takes numbers as texts
        ("cohere", "/v1/generate", {"num_generations": 3}, 3),
    ],
)
def test_several_answers_multiply_the_bound(dialect, path, body, choices):
    assert asked(dialect, body, path).choices == choices


def test_the_other_wishes_are_read():
    found = asked(
        "openai", {"model": "gpt-4o", "stream": True, "stream_options": {"include_usage": True}, "user": "u", "service_tier": "flex"}
    )
    assert (found.model, found.stream, found.wants_usage, found.user, found.tier) == ("gpt-4o", True, True, "u", "flex")
    assert asked("openai", {"safety_identifier": "s"}).user == "s"
    assert asked("anthropic", {"metadata": {"user_id": "u"}, "stream": True}).user == "u"
    assert asked("azure-openai", {"model": "gpt-4o"}).model == "d", "the deployment in the path is the model"
    assert asked("openai", {"n": 2, "prompt": "a cat"}, "/v1/images/generations").images == 2
    assert asked("vertex", {"parameters": {"sampleCount": 3}}, PATHS["vertex"].replace("m:generateContent", "imagen-4:predict")).images == 3


def test_only_true_is_a_wish_to_stream():
    for odd in ("true", 1, None, [], {}):
        assert not asked("openai", {"stream": odd}).stream


MESSAGE = st.fixed_dictionaries({"role": st.just("user"), "content": st.sampled_from(["hi", "", None, 1, [{"type": "text", "text": "hi"}],
    [{"type": "image_url", "image_url": {"url": "https://a"}}], [{"type": "image", "source": {"data": "aa"}}]])},
    optional={"type": st.sampled_from(["message", "item_reference"]), "output": st.just("x"), "id": st.just("i")})  # fmt: skip
TURNS = st.lists(MESSAGE | st.sampled_from([None, "text", 7, [], {"role": "user"}, {"id": "i"}]), max_size=3) | st.sampled_from([None, "x"])
LIMIT = st.sampled_from([None, 0, -1, 7, 2**64 - 1])
ASKED = st.fixed_dictionaries({"model": st.sampled_from(["m", "gpt-4o-search-preview", "", None, 3, "m" * 257])}, optional={
    "messages": TURNS, "input": TURNS, "contents": st.sampled_from([[{"parts": [{"text": "hi"}]}], [{"parts": [{"inlineData": {}}]}], "x"]),
    "max_tokens": LIMIT, "max_completion_tokens": LIMIT, "max_output_tokens": LIMIT, "max_tokens_to_sample": LIMIT,
    "generationConfig": st.fixed_dictionaries({}, optional={"maxOutputTokens": LIMIT, "candidateCount": st.just(2), "topK": st.just(1)}),
    "stream": st.sampled_from([True, False, 1]), "stream_options": st.sampled_from([{"include_usage": True}, {}, None]),
    "temperature": st.just(0.5), "n": st.just(2), "user": st.just("u"), "tools": st.just([{"type": "web_search_20250305"}]),
    "previous_response_id": st.just("r"), "prompt": st.just({"id": "p"}), "requests": st.just([]),
    "metadata": st.just({"user_id": "u"})})  # fmt: skip
EACH = [(name, path) for name in ("openai", "azure-openai", "anthropic", "gemini", "vertex") for path in (PATHS[name], *MORE.get(name, []))]


@pytest.mark.parametrize(("dialect", "path"), EACH)
@given(body=ASKED)
def test_what_most_calls_ask_told_straight_is_what_the_thorough_way_tells(dialect, path, body):
    found, thorough = asked(dialect, body, path), asked(dialect, body | {"service_tier": None}, path)
    assert not thorough.is_usual and replace(found, is_usual=False) == thorough
    if found.is_usual:
        assert replace(thorough, model=None, stream=False, wants_usage=False, max_tokens=None) == Asked()


@pytest.mark.parametrize(
    ("dialect", "path", "body"),
    [
        ("openai", None, {"model": "m", "max_completion_tokens": 9}),
        ("openai", None, {"model": "m", "stream": True, "stream_options": {"include_usage": True}}),
        ("openai", "/v1/responses", {"model": "m", "input": "hi", "max_output_tokens": 9}),
        ("openai", "/v1/responses", {"model": "m", "input": [{"role": "user", "content": "hi"}], "instructions": "be kind"}),
        ("anthropic", None, {"model": "m", "max_tokens": 9, "system": "be kind"}),
        ("gemini", None, {"contents": [{"parts": [{"text": "hi"}]}], "generationConfig": {"maxOutputTokens": 9}}),
    ],
)
def test_a_call_for_text_from_text_is_usual_and_alike_ones_share_what_they_ask(dialect, path, body):
    found = asked(dialect, body, path)
    assert found.is_usual and asked(dialect, dict(body), path) is found
    for differing in ({"model": "n"}, {"stream": not body.get("stream")}, {"max_tokens": 10, "max_output_tokens": 10}):
        if dialect != "gemini":  # its path says these
            assert asked(dialect, body | differing, path) != found
    assert usual.cache_info().maxsize == 1024


def test_bodies_of_the_same_names_are_told_apart_from_those_with_another_one_and_few_are_remembered():
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(2):
        assert asked("openai", chat).max_tokens is None
        assert asked("openai", {**chat, "max_tokens": 3}).max_tokens == 3
        assert asked("openai", {**chat, "max_completion_tokens": 4}).max_tokens == 4
        assert asked("openai", {**chat, "max_tokens": 3, "n": 2}).choices == 2
        assert not asked("openai", {**chat, "tools": [{"type": "web_search"}]}).is_usual
    for number in range(2 * MOST_SHAPES):
        assert asked("openai", {**chat, f"odd_{number}": 1}).is_usual
    assert len(SHAPES) <= MOST_SHAPES
    assert asked("openai", {**chat, "x" * LONGEST_SHAPE: 1}).is_usual
    assert all(sum(map(len, names)) <= LONGEST_SHAPE for names in SHAPES)


def test_values_that_are_equal_and_no_less_different_are_told_apart_and_few_are_remembered():
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
    for _ in range(2):
        assert asked("openai", {**chat, "max_tokens": 1, "stream": True}).stream
        assert not asked("openai", {**chat, "max_tokens": 1, "stream": 1}).stream
        for odd in (True, 1.0):
            with pytest.raises(Refusal):
                asked("openai", {**chat, "max_tokens": odd, "stream": True})
        assert asked("openai", {**chat, "model": ["m"]}).model is None
    for number in range(2 * MOST_SHAPES):
        assert asked("openai", {**chat, "model": f"m{number}"}).model == f"m{number}"
        assert asked("openai", {**chat, "model": "m" * (NAME + number)}).model == "m" * (NAME + number)
    assert len(USUAL) <= MOST_SHAPES
    assert all(len(said) <= NAME for _, said, *_ in USUAL)


def test_what_is_not_billed_or_read_back_is_never_usual():
    for path in ("/v1/chat/completions/chatcmpl-1", "/v1/responses/input_tokens", "/v1/embeddings", "/v1/moderations"):
        assert not asked("openai", {"model": "m", "messages": [], "input": "hi"}, path).is_usual
    assert not asked("anthropic", {"model": "m"}, "/v1/messages/count_tokens").is_usual
    assert not asked("gemini", {}, "/v1beta/models/m:countTokens").is_usual


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner,
    max_size=3) | st.dictionaries(
    st.sampled_from(["messages", "input", "content", "type", "image_url", "file", "contents", "parts", "inlineData", "generationConfig",
        "stream_options", "n",
                     "model", "metadata", "prompt", "usage", "choices", "delta", "tool_calls", "error", "response", "item", "candidates",
                         "index", "text"]),
    inner, max_size=4), max_leaves=12)  # fmt: skip


@given(
    doc=st.dictionaries(
        st.sampled_from(["messages", "input", "contents", "system", "choices", "usage", "type", "error", "response", "delta", "message"]),
        JSON,
        max_size=5,
    )
)
def test_no_shape_of_json_makes_a_dialect_fail(doc):
    for name, paths in ((name, [PATHS[name], *MORE.get(name, [])]) for name in DIALECTS):
        spoken = dialect_of(name)
        for path in paths:
            op = spoken.operation("POST", path, "")
            try:
                spoken.uninspected(op, spoken.read_asked(op, doc))
            except Refusal as no:
                assert no.status == 400
            said = spoken.said(op, doc)
            spoken.is_preamble(op, doc)
            spoken.error_of(op, doc)
            spoken.usage(op, doc)
            spoken.fold(op, None, doc)
            spoken.failure_kind(429, doc)
            spoken.models_listed(doc)
            spoken.is_terminal(op, json.dumps(doc).encode())
            for path_to in [p for _, p, _ in said.deltas] + [p for p, _ in said.wholes]:
                value = doc
                for key in path_to:
                    value = value[key]
                assert isinstance(value, str)


@pytest.mark.parametrize("kind", ["error", "message_start", "message_delta", "content_block_delta", "content_block_start", "completion",
    "message-end",
    "content-delta", "tool-call-delta", "content-start", "response.completed", "response.failed", "response.output_text.delta",
        "response.output_item.done"])  # fmt: skip
@given(
    rest=st.dictionaries(
        st.sampled_from(["error", "delta", "message", "usage", "index", "content_block", "response", "item", "part", "code", "completion"]),
        JSON,
        max_size=4,
    )
)
def test_no_event_of_a_known_type_makes_a_dialect_fail(kind, rest):
    event = {**rest, "type": kind}
    for name in DIALECTS:
        spoken = dialect_of(name)
        for path in [PATHS[name], *MORE.get(name, [])]:
            op = spoken.operation("POST", path, "")
            spoken.said(op, event)
            spoken.fold(op, None, event)
            assert isinstance(spoken.error_of(op, event), str | None)
            assert isinstance(spoken.is_preamble(op, event), bool)
            assert isinstance(spoken.is_terminal(op, json.dumps(event).encode()), bool)


@pytest.mark.parametrize(
    ("dialect", "path", "named"),
    [
        ("gemini", "/v1beta/openai/chat/completions", "models/g"),
        ("vertex", "/v1/projects/p/locations/l/endpoints/openapi/chat/completions", "google/g"),
    ],
)
def test_a_model_goes_by_one_name_whichever_way_it_is_asked_for(dialect, path, named):
    assert asked(dialect, {"model": named}, path).model == asked(dialect, {"model": "g"}, path).model == "g"


SEARCH = {"type": "web_search_20250305", "name": "web_search"}


@pytest.mark.parametrize(
    ("dialect", "path", "body", "tools", "reads_more"),
    [
        ("openai", "/v1/responses", {"tools": [{"type": "web_search"}, {"type": "file_search"}], "max_tool_calls": 4},
         (("searches", 4), ("storage_searches", 4)), True),
        ("openai", "/v1/responses", {"tools": [{"type": "code_interpreter", "container": {"memory_limit": "16g"}}]},
         (("containers", 16),), True),
        ("openai", "/v1/responses", {"tools": [{"type": "code_interpreter", "container": "cntr_1"}]}, (("containers", 1),), True),
        ("openai", "/v1/responses", {"tools": [{"type": "function", "name": "f"}, {"type": "custom"}]}, (), False),
        ("openai", "/v1/responses", {"model": "gpt-4.1", "tools": [{"type": "web_search_preview_2025_03_11"}]},
         (("preview_searches", 0),), True),
        ("openai", "/v1/responses", {"model": "gpt-5", "tools": [{"type": "web_search_preview"}]}, (("searches", 0),), True),
        ("openai", "/v1/responses", {"tools": [{"type": "mcp"}]}, (), True),
        ("openai", "/v1/responses", {"previous_response_id": "resp_1"}, (), True),
        ("openai", "/v1/responses", {"prompt": {"id": "pmpt_1"}}, (), True),
        ("openai", "/v1/completions", {"prompt": "text"}, (), False),
        ("openai", None, {"model": "gpt-4o-search-preview", "web_search_options": {}}, (("searches", 1),), True),
        ("openai", None, {"tools": [{"type": "openrouter:web_search", "parameters": {"max_uses": 2}}]}, (("searches", 2),), True),
        ("anthropic", None, {"tools": [{**SEARCH, "max_uses": 3}]}, (("searches", 3),), True),
        ("anthropic", None, {"tools": [SEARCH]}, (("searches", 0),), True),
        ("anthropic", None, {"tools": [{"type": "code_execution_20260120", "name": "c"}]}, (), True),
        ("anthropic", None, {"tools": [{"name": "f", "input_schema": {}}, {"type": "bash_20250124", "name": "bash"}]}, (), False),
        ("anthropic", None, {"mcp_servers": [{"url": "https://x"}]}, (), True),
        ("gemini", None, {"tools": [{"googleSearch": {}}]}, (("searches", 0),), True),
        ("gemini", None, {"tools": {"functionDeclarations": []}}, (), False),
        ("gemini", None, {"cachedContent": "cachedContents/1"}, (), True),
        ("cohere", "/v2/rerank", {"query": "q", "documents": ["a"] * 100}, (("searches", 1),), False),
        ("cohere", "/v2/rerank", {"query": "q", "documents": ["a" * 600] * 100}, (("searches", 2),), False),
    ],
)  # fmt: skip
def test_tools_for_a_fee_and_input_from_elsewhere_are_known_before_a_call_is_sent(dialect, path, body, tools, reads_more):
    found = asked(dialect, body, path)
    assert (found.tools, found.reads_more) == (tools, reads_more)


@pytest.mark.parametrize(
    ("dialect", "path", "body", "is_stored"),
    [
        ("openai", "/v1/responses", {"previous_response_id": "resp_1"}, True),
        ("openai", "/v1/responses", {"conversation": {"id": "conv_1"}}, True),
        ("openai", "/v1/responses", {"input": [{"type": "item_reference", "id": "msg_1"}]}, True),
        ("openai", "/v1/responses", {"input": [{"id": "msg_1"}]}, True),  # the type may be left out
        ("openai", "/v1/responses", {"input": [{"id": "msg_1", "role": "user", "content": "hi"}]}, False),
        (
            "openai",
            "/v1/responses",
            {"input": [{"type": "function_call", "id": "fc_1", "call_id": "c", "name": "f"}]},
            False,
        ),
        ("openai", "/v1/responses", {"input": "hi", "tools": [{"type": "web_search"}]}, False),
        ("gemini", None, {"cached_content": "cachedContents/1"}, True),
        ("gemini", None, {"tools": [{"googleSearch": {}}]}, False),
        ("cohere", "/v1/chat", {"conversation_id": "c"}, True),
    ],
)
def test_what_the_provider_has_stored_of_a_conversation_is_known_to_be_read(dialect, path, body, is_stored):
    found = asked(dialect, body, path)
    assert found.reads_stored is is_stored
    assert found.reads_more or not is_stored


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize(
    "tools", [None, 7, "x", {}, [None, 7, "x", [], {}], [{"type": 5, "max_uses": -1, "container": 3, "parameters": []}]]
)
def test_odd_tools_pass(dialect, tools):
    found = asked(dialect, {"tools": tools, "max_tool_calls": "many", "documents": tools})
    assert all(uses >= 0 for _, uses in found.tools)


@pytest.mark.parametrize(("size", "pixels"), [("1024x1536", 1024 * 1536), ("auto", 0), (None, 0), (7, 0), ("9" * 40 + "x1", 0)])
def test_the_size_of_a_picture_to_be_made_is_read(size, pixels):
    found = asked("openai", {"prompt": "x", "size": size, "n": 3}, "/v1/images/generations")
    assert (found.pixels, found.images) == (pixels, 3)
