from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.listen.target import route
from proxy.refusal import Refusal


@pytest.fixture
def at(providers):
    return lambda target, fields=None, default="openai": route(target, fields or {}, providers, default)


@pytest.mark.parametrize(
    ("target", "provider", "upstream"),
    [
        ("/openai/v1/chat/completions", "openai", "/v1/chat/completions"),
        ("/openai/v1/chat/completions?a=%2F..&b", "openai", "/v1/chat/completions?a=%2F..&b"),
        ("/openai/v1/brand/new?", "openai", "/v1/brand/new?"),
        ("/openai", "openai", "/"),
        ("/openai?x=1", "openai", "/?x=1"),
        ("/groq/openai/v1/chat/completions", "groq", "/openai/v1/chat/completions"),
        (
            "/azure-eu/openai/deployments/d/chat/completions?api-version=1",
            "azure-eu",
            "/openai/deployments/d/chat/completions?api-version=1",
        ),
        ("/azure/openai/deployments/d/embeddings", "azure-eu", "/openai/deployments/d/embeddings"),
        ("/gemini/v1/models/gemini-2.0-flash:generateContent", "gemini", "/v1/models/gemini-2.0-flash:generateContent"),
        ("/gemini/v1beta/openai/chat/completions", "gemini", "/v1beta/openai/chat/completions"),
        ("/cohere/v2/chat", "cohere", "/v2/chat"),
        ("/together/v1/models/meta-llama%2FLlama-3", "together", "/v1/models/meta-llama%2FLlama-3"),
        ("/openai/v1/files/a%20b", "openai", "/v1/files/a%20b"),
    ],
)
def test_a_provider_prefix_is_taken_off_and_the_rest_is_byte_identical(at, target, provider, upstream):
    found = at(target)
    assert (found.provider, found.target) == (provider, upstream)
    assert found.path + ("?" if "?" in upstream else "") + found.query == upstream


@pytest.mark.parametrize(
    ("target", "upstream"),
    [
        ("/openai/chat/completions", "/v1/chat/completions"),
        ("/openai/responses?x=1", "/v1/responses?x=1"),
        ("/openai/v1/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/v1/unknown", "/v1/unknown"),
        ("/together/v1/v1/completions", "/v1/completions"),
        ("/groq/v1/chat/completions", "/openai/v1/chat/completions"),
        ("/groq/chat/completions", "/openai/v1/chat/completions"),
        ("/openrouter/v1/chat/completions", "/api/v1/chat/completions"),
        ("/openrouter/api/v1/v1/chat/completions", "/api/v1/chat/completions"),
        ("/perplexity/v1/chat/completions", "/chat/completions"),
        ("/perplexity/chat/completions", "/chat/completions"),
        ("/perplexity/v1/responses", "/v1/responses"),
        ("/anthropic/messages", "/v1/messages"),
        ("/anthropic/messages/count_tokens?beta=true", "/v1/messages/count_tokens?beta=true"),
        ("/gemini/models/gemini-2.0-flash:generateContent", "/v1beta/models/gemini-2.0-flash:generateContent"),
        ("/azure-eu/chat/completions", "/openai/v1/chat/completions"),
        ("/azure-eu/v1/responses", "/openai/v1/responses"),
        ("/azure-eu/deployments/d/embeddings", "/openai/deployments/d/embeddings"),
        ("/openai/complete", "/complete"),
        ("/openai/api/chat", "/api/chat"),
        ("/openai/chat/completions-of-mine", "/chat/completions-of-mine"),
    ],
)
def test_a_missing_or_doubled_root_is_repaired_for_known_operations_only(at, target, upstream):
    assert at(target).target == upstream


@pytest.mark.parametrize(
    ("target", "fields", "provider", "upstream"),
    [
        ("/v1/chat/completions", {}, "openai", "/v1/chat/completions"),
        ("/chat/completions", {}, "openai", "/v1/chat/completions"),
        ("/v1/some/new/thing", {}, "openai", "/v1/some/new/thing"),
        ("/v1/messages?beta=true", {}, "anthropic", "/v1/messages?beta=true"),
        ("/messages", {}, "anthropic", "/v1/messages"),
        ("/v1beta/models/g:streamGenerateContent?alt=sse", {}, "gemini", "/v1beta/models/g:streamGenerateContent?alt=sse"),
        ("/v1/models/g:generateContent", {}, "gemini", "/v1/models/g:generateContent"),
        ("/v1beta/models", {}, "gemini", "/v1beta/models"),
        ("/v1/projects/p/locations/l/publishers/google/models/g:predict", {}, "vertex", None),
        ("/v1beta1/projects/p/locations/l/publishers/google/models/g:generateContent", {}, "vertex", None),
        ("/openai/deployments/d/chat/completions?api-version=1", {}, "azure-eu", None),
        ("/v2/chat", {}, "cohere", "/v2/chat"),
        ("/v1/chat", {}, "cohere", "/v1/chat"),
        ("/v1/rerank", {}, "cohere", "/v1/rerank"),
        ("/v1/models", {}, "openai", "/v1/models"),
        ("/v1/models", {"anthropic-version": "2023-06-01"}, "anthropic", "/v1/models"),
        ("/v1/models", {"x-goog-api-key": "k"}, "gemini", "/v1/models"),
        ("/v1/files/f", {"anthropic-version": "2023-06-01"}, "anthropic", "/v1/files/f"),
        ("/v1/responses", {"anthropic-version": "2023-06-01"}, "openai", "/v1/responses"),
        ("/v1/models/ft:gpt-4o:org::id", {}, "openai", "/v1/models/ft:gpt-4o:org::id"),
    ],
)
def test_without_a_prefix_the_shape_of_the_request_names_the_provider(at, target, fields, provider, upstream):
    found = at(target, fields)
    assert (found.provider, found.target) == (provider, upstream or target)


def test_the_default_provider_is_preferred_where_it_speaks_the_dialect(providers, at):
    providers["claude-eu"] = providers["anthropic"]
    assert at("/v1/messages", default="claude-eu").provider == "claude-eu"
    assert at("/v1/messages").provider == "anthropic"


def test_two_providers_of_a_dialect_without_a_built_in_name_are_not_guessed_between(providers, at):
    providers["azure-us"] = providers["azure-eu"]
    with pytest.raises(Refusal) as no:
        at("/azure/openai/deployments/d/chat/completions")
    assert (no.value.status, no.value.code) == (404, "unknown_provider")
    assert "providers.azure.url" in no.value.message


@pytest.mark.parametrize(
    "target", ["/", "/nothing", "/nothing/v1/chat/completions", "/model/some.model/converse", "/OpenAI/v1/models", "/?x"]
)
def test_an_unknown_provider_is_named_404_with_the_list_of_what_is_served(at, target):
    with pytest.raises(Refusal) as no:
        at(target)
    assert (no.value.status, no.value.code) == (404, "unknown_provider")
    assert "/anthropic" in no.value.message and "nothing" not in no.value.message.replace("nothing is", "")


HOSTILE = [
    "http://169.254.169.254/latest", "//evil.example/v1", "@127.0.0.1:1/x", "*", "", "openai/v1", "/\\evil", "/openai/v1/../admin/keys",
    "/openai/..", "/openai/./v1", "/openai/v1/%2e%2e/admin", "/openai/v1/.%2E/admin", "/openai/v1%2fadmin", "/openai/v1%5cadmin",
    "/openai/v1/%0d%0aX:1", "/openai/v1/%00", "/openai/v1/%7f", "/openai/v1/%zz", "/openai/v1/%", "/openai/v1/x?q=%4", "/openai/v1#frag",
    "/openai/v1?a#frag", "/openai/v1/a b", "/openai/v1/é", "/openai//v1", "/openai/v1/..;/admin", "/openai/v1/models/..%2f..%2fadmin",
    "/openai/v1/models/%2Fx", "/openai/v1/models/a%2f%2fb", "/openai\x00", "/openai/v1\x7f", "/openai/v1/\udce9",
]  # fmt: skip


@pytest.mark.parametrize("target", HOSTILE)
def test_a_target_that_can_be_read_in_two_ways_is_400_and_not_echoed(at, target):
    with pytest.raises(Refusal) as no:
        at(target)
    assert (no.value.status, no.value.code) == (400, "invalid_request")
    assert len(target) < 3 or target not in no.value.message


def test_a_target_above_8190_bytes_is_414(at):
    assert at("/openai/v1/" + "a" * 8000).provider == "openai"
    with pytest.raises(Refusal) as no:
        at("/openai/v1/" + "a" * 8190)
    assert (no.value.status, no.value.code) == (414, "target_too_long")


@given(tail=st.text(alphabet="abz019-_.:/%2eEfF5cC\\?#=&;@ é", max_size=40))
def test_whatever_follows_the_prefix_is_refused_or_travels_unchanged(tail):
    from proxy.policy.plan import Origin, Provider

    plain = Provider("plain", "cohere", "cohere", Origin("http", "h", 1, b"h"), "/v2")
    try:
        found = route("/plain/" + tail, {}, {"plain": plain}, "plain")
    except Refusal as no:
        assert no.status == 400
        return
    while tail.startswith("v1/v1/"):
        tail = tail[3:]
    assert found.target == "/" + tail
    assert not {".", ".."} & set(found.path.split("/"))


def test_every_recorded_target_travels_unchanged(at, providers):
    import json

    folder = Path(__file__).parents[2].parent / "shared" / "traffic"
    if not folder.exists():
        pytest.skip("recorded traffic skipped LOUDLY: shared/ is not here")
    homes = {"google": "gemini", "azure-openai": "azure-eu", "others": "openai", "bedrock": "openai", "mistral": "openai"}
    seen = 0
    for file in sorted(folder.glob("*.jsonl")):
        if file.stem == "realtime_ws":
            continue
        for line in file.read_text().splitlines():
            path = json.loads(line)["path"]
            assert at(f"/{homes.get(file.stem, file.stem)}{path}").target == path
            seen += 1
    assert seen > 600
