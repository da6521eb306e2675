"""What kind of call a method and a path are, in every dialect, under every root that providers and SDKs use."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect import DIALECTS, dialect_of

VERTEX = "/v1beta1/projects/p/locations/l/publishers/google/models"

# dialect, method, path, name, body, flags: b billed, m metered, r read-back
TABLE = [
    ("openai", "POST", "/v1/chat/completions", "chat", "json", "bm"),
    ("openai", "POST", "/openai/v1/chat/completions", "chat", "json", "bm"),  # Groq
    ("openai", "POST", "/api/v1/chat/completions", "chat", "json", "bm"),  # OpenRouter
    ("openai", "POST", "/inference/v1/chat/completions", "chat", "json", "bm"),  # Fireworks
    ("openai", "POST", "/chat/completions", "chat", "json", "bm"),  # Perplexity, DeepSeek
    ("openai", "POST", "/v1/chat/completions/", "chat", "json", "bm"),
    ("openai", "POST", "/v1//chat/completions", "chat", "json", "bm"),
    ("openai", "POST", "/v1/chat/%63ompletions", "chat", "json", "bm"),
    ("openai", "POST", "/v1/Chat/Completions", "chat", "json", "bm"),
    ("openai", "GET", "/v1/chat/completions", "chat", "none", "m"),
    ("openai", "GET", "/v1/chat/completions/chatcmpl-1", "chat", "none", "mr"),
    ("openai", "GET", "/v1/chat/completions/chatcmpl-1/messages", "chat", "none", "m"),
    ("openai", "POST", "/v1/chat/completions/chatcmpl-1", "chat", "json", "m"),
    ("openai", "POST", "/v1/agents/completions", "chat", "json", "bm"),
    ("openai", "POST", "/v1/responses", "responses", "json", "bm"),
    ("openai", "POST", "/v1/responses/compact", "responses", "json", "bm"),
    ("openai", "POST", "/v1/responses/input_tokens", "count_tokens", "json", "m"),
    ("openai", "GET", "/v1/responses/resp_1", "responses", "none", "mr"),
    ("openai", "POST", "/v1/responses/resp_1/cancel", "responses", "none", "mr"),
    ("openai", "GET", "/v1/responses/resp_1/input_items", "responses", "none", "m"),
    ("openai", "DELETE", "/v1/responses/resp_1", "responses", "none", "m"),
    ("openai", "POST", "/v1/completions", "completions", "json", "bm"),
    ("openai", "POST", "/v1/fim/completions", "completions", "json", "bm"),
    ("openai", "POST", "/v1/embeddings", "embeddings", "json", "bm"),
    ("openai", "POST", "/v1/rerank", "rerank", "json", "bm"),
    ("openai", "POST", "/v1/images/generations", "images", "json", "bm"),
    ("openai", "POST", "/v1/images/edits", "images", "stream", "bm"),
    ("openai", "POST", "/v1/images/variations", "images", "stream", "bm"),
    ("openai", "POST", "/v1/audio/speech", "audio", "json", "b"),
    ("openai", "POST", "/v1/audio/transcriptions", "audio", "stream", "bm"),
    ("openai", "POST", "/v1/moderations", "moderations", "json", "m"),
    ("openai", "POST", "/v1/files", "files", "stream", "m"),
    ("openai", "GET", "/v1/files/file-1/content", "files", "none", "m"),
    ("openai", "POST", "/v1/uploads/u/parts", "files", "stream", "m"),
    ("openai", "POST", "/v1/vector_stores/vs/files", "files", "stream", "m"),
    ("openai", "POST", "/v1/batches", "batches", "json", "b"),
    ("openai", "GET", "/v1/batches/b", "batches", "none", "m"),
    ("openai", "POST", "/v1/batches/b/cancel", "batches", "none", "m"),
    ("openai", "POST", "/v1/fine_tuning/jobs", "batches", "json", "b"),
    ("openai", "GET", "/v1/fine_tuning/jobs/j/events", "batches", "none", "m"),
    ("openai", "GET", "/v1/models", "models", "none", "m"),
    ("openai", "GET", "/v1/models/gpt-4o", "models", "none", "m"),
    ("openai", "DELETE", "/v1/models/ft:gpt-4o:x", "models", "none", "m"),
    ("openai", "GET", "/v1/realtime", "realtime", "none", "bm"),
    ("openai", "POST", "/v1/realtime/client_secrets", "realtime", "stream", "b"),
    ("openai", "POST", "/v1/threads/t/runs", "other", "json", "b"),
    ("openai", "POST", "/v1/threads", "other", "json", "m"),
    ("openai", "POST", "/v1/fine_tuning/jobs/j/pause", "batches", "stream", "m"),
    ("openai", "GET", "/v1/threads/t/runs/r", "other", "none", "mr"),
    ("openai", "POST", "/v1/something/new", "other", "stream", "b"),
    ("openai", "GET", "/v1/something/new", "other", "none", "m"),
    ("openai", "POST", "/v1/models/meta/llama/predictions", "other", "stream", "b"),
    ("azure-openai", "POST", "/openai/deployments/gpt-4o/chat/completions", "chat", "json", "bm"),
    ("azure-openai", "POST", "/openai/v1/responses", "responses", "json", "bm"),
    ("azure-openai", "POST", "/openai/responses", "responses", "json", "bm"),
    ("azure-openai", "POST", "/openai/deployments/d/audio/transcriptions", "audio", "stream", "bm"),
    ("anthropic", "POST", "/v1/messages", "messages", "json", "bm"),
    ("anthropic", "POST", "/messages", "messages", "json", "bm"),
    ("anthropic", "POST", "/v1/messages/count_tokens", "count_tokens", "json", "m"),
    ("anthropic", "POST", "/v1/messages/batches", "batches", "json", "b"),
    ("anthropic", "GET", "/v1/messages/batches/b/results", "batches", "none", "m"),
    ("anthropic", "POST", "/v1/messages/batches/b/cancel", "batches", "none", "m"),
    ("anthropic", "POST", "/v1/complete", "completions", "json", "bm"),
    ("anthropic", "GET", "/v1/models", "models", "none", "m"),
    ("anthropic", "POST", "/v1/files", "files", "stream", "m"),
    ("anthropic", "DELETE", "/v1/files/f", "files", "none", "m"),
    ("anthropic", "POST", "/v1/skills", "other", "stream", "b"),
    ("anthropic", "GET", "/v1/skills", "other", "none", "m"),
    ("gemini", "POST", "/v1beta/models/gemini-2.5-flash:generateContent", "generate", "json", "bm"),
    ("gemini", "POST", "/v1/models/gemini-2.5-flash%3AgenerateContent", "generate", "json", "bm"),
    ("gemini", "POST", "/models/gemini-2.5-flash:streamGenerateContent", "generate", "json", "bm"),
    ("gemini", "POST", "/v1beta/models/m:embedContent", "embeddings", "json", "bm"),
    ("gemini", "POST", "/v1beta/models/m:batchEmbedContents", "embeddings", "json", "bm"),
    ("gemini", "POST", "/v1beta/models/m:countTokens", "count_tokens", "json", "m"),
    ("gemini", "POST", "/v1beta/models/m:batchGenerateContent", "batches", "json", "b"),
    ("gemini", "POST", "/v1beta/models/veo:predictLongRunning", "other", "stream", "b"),
    ("gemini", "POST", "/v1beta/cachedContents", "other", "json", "b"),
    ("gemini", "POST", "/upload/v1beta/files", "files", "stream", "m"),
    ("gemini", "DELETE", "/v1beta/files/f", "files", "none", "m"),
    ("gemini", "GET", "/v1beta/models", "models", "none", "m"),
    ("gemini", "GET", "/v1beta/operations/o", "other", "none", "m"),
    ("gemini", "GET", "/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent", "realtime", "none", "bm"),
    ("gemini", "POST", "/v1beta/openai/chat/completions", "chat", "json", "bm"),
    ("gemini", "POST", "/v1beta/openai/embeddings", "embeddings", "json", "bm"),
    ("gemini", "GET", "/v1beta/openai/models", "models", "none", "m"),
    ("vertex", "POST", f"{VERTEX}/gemini-2.5-flash:generateContent", "generate", "json", "bm"),
    ("vertex", "POST", f"{VERTEX}/text-embedding-005:predict", "embeddings", "json", "bm"),
    ("vertex", "POST", f"{VERTEX}/imagen-4:predict", "embeddings", "json", "bm"),
    ("vertex", "POST", "/v1/projects/p/locations/l/endpoints/123:predict", "other", "stream", "b"),
    ("vertex", "POST", "/v1/projects/p/locations/l/publishers/anthropic/models/claude:rawPredict", "other", "stream", "b"),
    ("vertex", "POST", "/v1beta1/projects/p/locations/l/endpoints/openapi/chat/completions", "chat", "json", "bm"),
    ("cohere", "POST", "/v2/chat", "chat", "json", "bm"),
    ("cohere", "POST", "/v1/chat", "chat", "json", "bm"),
    ("cohere", "POST", "/v1/generate", "generate", "json", "bm"),
    ("cohere", "POST", "/v2/embed", "embeddings", "json", "bm"),
    ("cohere", "POST", "/v1/rerank", "rerank", "json", "bm"),
    ("cohere", "POST", "/v1/tokenize", "count_tokens", "json", "m"),
    ("cohere", "POST", "/v1/classify", "other", "json", "b"),
    ("cohere", "POST", "/v1/embed-jobs", "batches", "stream", "b"),
    ("cohere", "POST", "/v1/datasets", "files", "stream", "m"),
    ("cohere", "GET", "/v1/models", "models", "none", "m"),
    ("cohere", "GET", "/v1/datasets", "other", "none", "m"),
    ("cohere", "POST", "/v3/imagine", "other", "stream", "b"),
    ("cohere", "POST", "/", "other", "stream", "b"),
    ("cohere", "POST", "/compatibility/v1/chat/completions", "chat", "json", "bm"),
]


@pytest.mark.parametrize(("dialect", "method", "path", "name", "body", "flags"), TABLE)
def test_an_operation_is_known_by_its_method_and_path(dialect, method, path, name, body, flags):
    op = dialect_of(dialect).operation(method, path, "")
    said = "".join(flag for flag, on in (("b", op.is_billed), ("m", op.is_metered), ("r", op.is_read_back)) if on)
    if "imagen" in path:
        name = "images"
    assert (op.name, op.body, said) == (name, body, flags)


@pytest.mark.parametrize(
    ("dialect", "path", "query", "model"),
    [
        ("azure-openai", "/openai/deployments/prod-gpt4o-eu/chat/completions", "api-version=1", "prod-gpt4o-eu"),
        ("azure-openai", "/openai/deployments/my%20own/embeddings", "", "my own"),
        ("azure-openai", "/openai/realtime", "api-version=1&deployment=rt", "rt"),
        ("openai", "/v1/realtime", "model=gpt-realtime", "gpt-realtime"),
        ("openai", "/v1/realtime", "", None),
        ("openai", "/v1/chat/completions", "model=ignored", None),
        ("gemini", "/v1beta/models/gemini-2.5-flash:generateContent", "", "gemini-2.5-flash"),
        ("gemini", "/v1beta/tunedModels/mine-1:generateContent", "", "mine-1"),
        ("vertex", f"{VERTEX}/gemini-2.5-pro:countTokens", "", "gemini-2.5-pro"),
    ],
)
def test_a_model_in_the_path_is_found(dialect, path, query, model):
    method = "GET" if "realtime" in path else "POST"
    assert dialect_of(dialect).operation(method, path, query).model == model


@pytest.mark.parametrize(
    ("query", "variant"),
    [("alt=sse", "sse"), ("key=k&alt=sse", "sse"), ("%24alt=sse%3Benum-encoding%3Dint", "sse"), ("", "array"), ("alt=json", "array")],
)
def test_a_gemini_stream_is_an_event_stream_only_where_asked(query, variant):
    op = dialect_of("gemini").operation("POST", "/v1beta/models/m:streamGenerateContent", query)
    assert op.variant == variant
    assert dialect_of("gemini").read_asked(op, {}).stream


@given(
    dialect=st.sampled_from(sorted(DIALECTS)),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=st.text(max_size=60),
    query=st.text(max_size=20),
)
def test_any_path_is_some_operation(dialect, method, path, query):
    op = dialect_of(dialect).operation(method, "/" + path, query)
    assert (op.name, op.body) != ("other", "json") or "/" in path  # what is not known is never held


def test_a_name_that_no_wire_format_has_is_an_error():
    with pytest.raises(KeyError):
        dialect_of("bedrock")
