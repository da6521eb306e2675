"""`inject_max_tokens`: into which requests a limit is written, under which name, and that no other byte changes."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.wire import Asked, Operation
from proxy.forward.limit import field_for, with_limit
from proxy.policy.plan import Origin, Pricing, Provider

ON = Pricing(inject_max_tokens=True, default_max_tokens=77)
HERE = Origin("https", "x.example", 443, b"x.example")
OPENAI = Provider("openai", "openai", "openai", HERE, price_id="openai")
AZURE = Provider("azure-eu", "azure-openai", "openai", HERE, price_id="azure")
VLLM = Provider("vllm", "openai", "openai", HERE)
MISTRAL = Provider("mistral", "openai", "openai", HERE, price_id="mistral")
CLAUDE = Provider("anthropic", "anthropic", "anthropic", HERE, price_id="anthropic")
GEMINI = Provider("gemini", "gemini", "gemini", HERE, price_id="google")
COHERE = Provider("cohere", "cohere", "cohere", HERE, price_id="cohere")
CHAT = Operation("chat")


@pytest.mark.parametrize(
    ("provider", "op", "path", "field"),
    [
        (OPENAI, CHAT, "/v1/chat/completions", ("max_completion_tokens",)),
        (AZURE, CHAT, "/openai/deployments/d/chat/completions", ("max_completion_tokens",)),
        (VLLM, CHAT, "/v1/chat/completions", ("max_tokens",)),
        (MISTRAL, CHAT, "/v1/chat/completions", ("max_tokens",)),
        (OPENAI, Operation("responses", variant="responses"), "/v1/responses", ("max_output_tokens",)),
        (OPENAI, Operation("responses", variant="compact"), "/v1/responses/compact", None),
        (OPENAI, Operation("completions"), "/v1/completions", None),  # 16 tokens unless told more
        (MISTRAL, Operation("completions"), "/v1/fim/completions", ("max_tokens",)),
        (GEMINI, Operation("generate"), "/v1beta/models/m:generateContent", ("generationConfig", "maxOutputTokens")),
        (GEMINI, Operation("chat", speaks="openai"), "/v1beta/openai/chat/completions", ("max_tokens",)),
        (COHERE, CHAT, "/v2/chat", ("max_tokens",)),
        (COHERE, Operation("generate"), "/v1/generate", None),  # 20 tokens unless told more
        (CLAUDE, Operation("messages"), "/v1/messages", None),
        (OPENAI, Operation("embeddings"), "/v1/embeddings", None),
        (OPENAI, Operation("audio", body="stream"), "/v1/audio/transcriptions", None),
    ],
)
def test_each_dialect_has_its_own_field(provider, op, path, field):
    assert field_for(ON, provider, op, Asked(), path) == field
    assert field_for(ON, provider, op, Asked(max_tokens=9), path) is None
    assert field_for(Pricing(), provider, op, Asked(), path) is None


@pytest.mark.parametrize(
    ("before", "field", "after"),
    [
        (b'{"model":"m"}', ("max_tokens",), {"model": "m", "max_tokens": 77}),
        (b"{}", ("max_tokens",), {"max_tokens": 77}),
        (b'{"max_tokens": null, "a":1}', ("max_tokens",), {"max_tokens": 77, "a": 1}),
        (b"{}", ("generationConfig", "maxOutputTokens"), {"generationConfig": {"maxOutputTokens": 77}}),
        (b'{"generationConfig":null}', ("generationConfig", "maxOutputTokens"), {"generationConfig": {"maxOutputTokens": 77}}),
        (b'{"generation_config":{"topK":1}}', ("generationConfig", "maxOutputTokens"),
         {"generation_config": {"topK": 1, "maxOutputTokens": 77}}),
        (b'{"generationConfig":{"maxOutputTokens":null,"n":[{}]}}', ("generationConfig", "maxOutputTokens"),
         {"generationConfig": {"maxOutputTokens": 77, "n": [{}]}}),
    ],
)  # fmt: skip
def test_it_is_written_once_and_a_null_is_replaced(before, field, after):
    assert orjson.loads(with_limit(before, field, 77)) == after


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5
)


@given(st.dictionaries(st.text(max_size=6), JSON, max_size=4), st.sampled_from([None, 1]))
def test_nothing_else_of_the_body_changes(doc, indent):
    body = orjson.dumps(doc, option=orjson.OPT_INDENT_2 if indent else 0)
    said = orjson.loads(with_limit(body, ("max_output_tokens",), 77))
    assert said == {**doc, "max_output_tokens": 77}
