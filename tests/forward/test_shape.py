"""One request for one target: what changes, and that nothing else does."""

from contextlib import suppress
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.wire import Asked, Operation
from proxy.exchange import Call, Caller, Route
from proxy.forward.shape import MAX_NAME, MOST_FORMS, Shaping
from proxy.policy.plan import BreakerRules, Credential, GuardRules, Origin, Plan, Pricing, Provider, RetryRules, Target, Timeouts
from proxy.ports import Outgoing
from proxy.refusal import Refusal


def origin(name):
    return Origin("https", f"{name}.example", 443, name.encode())


OPENAI = Provider("openai", "openai", "openai", origin("openai"), asks_stream_usage=True)
GROQ = Provider("groq", "openai", "openai", origin("groq"), root="/openai/v1")
BARE = Provider("perplexity", "openai", "openai", origin("perplexity"), root="")
AZURE = Provider("azure-eu", "azure-openai", "openai", origin("azure"), root="/openai", api_version="2025-04-01-preview")
AZURE_V1 = Provider("azure-v1", "azure-openai", "openai", origin("azure"), root="/openai")
GEMINI = Provider("gemini", "gemini", "gemini", origin("gemini"), root="/v1beta")
VERTEX = Provider("vertex", "vertex", "gemini", origin("vertex"))
CLAUDE = Provider("anthropic", "anthropic", "anthropic", origin("anthropic"))
KEY = Credential("K", "sk-ours")
CHAT = Operation("chat")
OURS = Caller("bot", "key")


def shape(shaping, call, *more):
    """The request as it leaves, and its form."""
    form, body, asks = shaping.shape(*more)
    return Outgoing(form.to, form.head.of(call.headers), body, asks), form


def shaped(
    body=b'{"model":"m"}', path="/v1/chat/completions", query="", source=OPENAI, provider=None, theirs="m", op=CHAT, asked=None, **more
):
    target = path + ("?" + query if query else "")
    headers = more.pop("headers", ())
    caller = more.pop("caller", Caller("bot", "key"))
    credential = more.pop("credential", KEY)
    call = Call("u", "u", False, "POST", Route(source.name, path, query, target), headers, {}, "127.0.0.1", 0, 0.0)
    target = Target(provider or source, "m", theirs)
    plan = Plan(1, caller, op.name, "m", (target,), (), GuardRules(), RetryRules(), BreakerRules(), Timeouts(), Pricing())
    shaping = Shaping(call, op, source, headers, more.pop("accept_encoding", None))
    plain = more.pop("plain", None if (b"Content-Encoding", b"gzip") in headers else body)
    request, form = shape(shaping, call, plan, target, credential, asked or Asked(model=None if op.model else "m"), body, plain)
    assert not more and form.key == (b"" if credential is None else credential.secret.encode())
    return request


def test_what_need_not_change_does_not():
    body = b' {"model" : "m","messages":[ ] } '
    out = shaped(body, path="/v1/chat/completions", query="a=%2F&&b", headers=((b"X-A", b"1"), (b"x-a", b"2")), provider=OPENAI)
    assert out.body is body
    assert out.to.target == "/v1/chat/completions?a=%2F&&b"
    assert out.headers == ((b"X-A", b"1"), (b"x-a", b"2"), (b"Authorization", b"Bearer sk-ours"))
    assert (out.to.origin, out.to.pool, out.to.method, out.asked_usage) == (OPENAI.origin, "openai", "POST", False)


# --- credentials ---

CARRIED = (
    (b"Authorization", b"Bearer slk-x"),
    (b"X-Api-Key", b"slk-x"),
    (b"api-key", b"slk-x"),
    (b"x-goog-api-key", b"slk-x"),
    (b"B", b"1"),
)


@pytest.mark.parametrize("query", ["key=slk-x", "a=1&key=slk-x&b=2", "%6bey=slk-x", "key=slk-x&key=slk-x"])
def test_the_callers_sluice_key_never_leaves(query):
    out = shaped(headers=CARRIED, query=query)
    assert out.headers == ((b"B", b"1"), (b"Authorization", b"Bearer sk-ours"))
    assert "slk-x" not in out.to.target
    assert out.to.target.endswith("/completions" if "&b=2" not in query else "/completions?a=1&b=2")


def test_without_a_key_of_ours_none_is_sent():
    assert shaped(headers=CARRIED, credential=None).headers == ((b"B", b"1"),)


@pytest.mark.parametrize("caller", [Caller("pass-through:1", "pass_through"), Caller("ci", "own_key", own_provider="openai")])
def test_a_callers_own_key_is_never_swapped_and_never_goes_to_another_provider(caller):
    out = shaped(headers=CARRIED, query="key=AIza", caller=caller)
    assert out.headers == CARRIED
    assert out.to.target.endswith("?key=AIza")
    with pytest.raises(Refusal) as no:
        shaped(headers=CARRIED, caller=caller, provider=GROQ)
    assert (no.value.status, no.value.code) == (403, "not_allowed")


def test_the_header_of_the_dialect_carries_our_key():
    assert shaped(source=CLAUDE).headers == ((b"x-api-key", b"sk-ours"),)
    compatible = Operation("chat", speaks="openai")
    assert shaped(source=GEMINI).headers == ((b"x-goog-api-key", b"sk-ours"),)
    assert shaped(source=GEMINI, op=compatible).headers == ((b"Authorization", b"Bearer sk-ours"),)


def test_a_provider_sets_and_removes_headers():
    provider = Provider(
        "openai", "openai", "openai", origin("o"), set_headers=((b"OpenAI-Project", b"p"),), remove_headers=frozenset({"x-user-id"})
    )
    out = shaped(headers=((b"X-User-Id", b"7"), (b"openai-project", b"theirs"), (b"A", b"b")), source=provider)
    assert out.headers == ((b"A", b"b"), (b"Authorization", b"Bearer sk-ours"), (b"OpenAI-Project", b"p"))


def test_a_set_header_wins_over_our_key():
    provider = Provider("openai", "openai", "openai", origin("o"), set_headers=((b"authorization", b"Basic x"),))
    assert shaped(source=provider).headers == ((b"authorization", b"Basic x"),)


def test_accept_encoding_is_replaced_in_place_and_never_added():
    headers = ((b"Accept-Encoding", b"gzip, br"), (b"A", b"b"))
    assert shaped(headers=headers, accept_encoding=b"gzip", credential=None).headers == (
        (b"Accept-Encoding", b"gzip"),
        (b"A", b"b"),
    )
    assert shaped(accept_encoding=b"gzip", credential=None).headers == ()


# --- where it goes ---

AT = "2025-04-01-preview"
IN_VERTEX = "/v1/projects/p/locations/l/publishers/google"


@pytest.mark.parametrize(
    ("source", "path", "query", "provider", "theirs", "op_model", "expected"),
    [
        (OPENAI, "/v1/chat/completions", "a=1", GROQ, "m", None, "/openai/v1/chat/completions?a=1"),
        (GROQ, "/openai/v1/chat/completions", "", OPENAI, "m", None, "/v1/chat/completions"),
        (BARE, "/chat/completions", "", GROQ, "m", None, "/openai/v1/chat/completions"),
        (OPENAI, "/v1/chat/completions", "", BARE, "m", None, "/chat/completions"),
        (OPENAI, "/v1/chat/completions", "", AZURE, "prod eu", None, f"/openai/deployments/prod%20eu/chat/completions?api-version={AT}"),
        (OPENAI, "/v1/responses", "", AZURE, "prod", None, "/openai/v1/responses"),
        (OPENAI, "/v1/chat/completions", "", AZURE_V1, "prod", None, "/openai/v1/chat/completions"),
        (AZURE, "/openai/deployments/d/chat/completions", "api-version=1&b=2", OPENAI, "m", "d", "/v1/chat/completions?b=2"),
        (AZURE, "/openai/v1/chat/completions", "", GROQ, "m", None, "/openai/v1/chat/completions"),
        (AZURE, "/openai/deployments/d/embeddings", "", AZURE, "d", "d", f"/openai/deployments/d/embeddings?api-version={AT}"),
        (AZURE, "/openai/deployments/d/embeddings", "api-version=1", AZURE, "e", "d", "/openai/deployments/e/embeddings?api-version=1"),
        (AZURE_V1, "/openai/deployments/d/embeddings", "", AZURE_V1, "d", "d", "/openai/deployments/d/embeddings"),
        (GEMINI, "/v1beta/models/g:streamGenerateContent", "alt=sse", GEMINI, "g", "g", "/v1beta/models/g:streamGenerateContent?alt=sse"),
        (GEMINI, "/v1/models/g:generateContent", "", GEMINI, "h", "g", "/v1/models/h:generateContent"),
        (VERTEX, IN_VERTEX + "/models/g:generateContent", "", GEMINI, "h", "g", "/v1beta/models/h:generateContent"),
        (CLAUDE, "/v1/messages", "beta=true", Provider("b", "anthropic", "anthropic", origin("b")), "m", None, "/v1/messages?beta=true"),
    ],
)  # fmt: skip
def test_the_target_is_rewritten_where_the_provider_or_the_model_differs(source, path, query, provider, theirs, op_model, expected):
    op = Operation("chat", model=op_model)
    assert shaped(b"{}", path, query, source, provider, theirs, op).to.target == expected


def test_a_path_without_a_counterpart_is_refused():
    with pytest.raises(Refusal) as no:
        shaped(b"{}", "/v1beta/models/g:generateContent", "", GEMINI, VERTEX, "g", Operation("generate", model="g"))
    assert no.value.status == 400


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_path_or_query_ever_changes_the_origin(path, query):
    for provider in (OPENAI, GROQ, AZURE):
        with suppress(Refusal):  # of a control character
            assert shaped(path=f"/v1/{path}", query=query, provider=provider).to.origin is provider.origin


# --- the body ---


def test_a_model_is_renamed_by_its_bytes_alone():
    body = b'{ "messages":[{"model":"m"}], "model" : "m" ,"x":1.0 }'
    out = shaped(body, provider=GROQ, theirs="n")
    assert out.body == b'{ "messages":[{"model":"m"}], "model" : "n" ,"x":1.0 }'


def test_a_model_that_is_called_the_same_elsewhere_keeps_its_bytes():
    body = b'{"model":"\\u006d"}'
    assert shaped(body, provider=GROQ, theirs="m").body == body


def test_a_model_that_stood_in_the_path_is_put_into_the_body():
    op = Operation("chat", model="d")
    azure = dict(path="/openai/deployments/d/chat/completions", source=AZURE, provider=GROQ, theirs="n", op=op)
    assert shaped(b'{"messages":[]}', **azure).body == b'{"model":"n","messages":[]}'
    assert shaped(b'{"model":"d"}', **azure).body == b'{"model":"n"}'


def test_a_gemini_model_keeps_the_form_of_its_name():
    op = Operation("embeddings", model="g")
    out = shaped(b'{"model":"models/g"}', "/v1beta/models/g:embedContent", "", GEMINI, GEMINI, "h", op)
    assert (out.body, out.to.target) == (b'{"model":"models/h"}', "/v1beta/models/h:embedContent")


def test_a_model_of_vertexs_compatible_path_keeps_its_publisher_and_one_of_another_provider_loses_it():
    path = "/v1/projects/p/locations/l/endpoints/openapi/chat/completions"
    op = Operation("chat", speaks="openai")
    body = b'{"model":"google/g"}'
    assert shaped(body, path, "", VERTEX, VERTEX, "h", op).body == b'{"model":"google/h"}'
    assert shaped(body, "/v1/chat/completions", "", OPENAI, OPENAI, "h", Operation("chat")).body == b'{"model":"h"}'


STREAM = Asked(model="m", stream=True)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"m"}', b'{"stream_options":{"include_usage":true},"model":"m"}'),
        (b'{"stream_options":null,"a":1}', b'{"stream_options":{"include_usage":true},"a":1}'),
        (b'{"stream_options":{}}', b'{"stream_options":{"include_usage":true}}'),
        (b'{"stream_options":{"include_usage":false,"b":1}}', b'{"stream_options":{"include_usage":true,"b":1}}'),
        (b'{"stream_options":{"b":1}}', b'{"stream_options":{"include_usage":true,"b":1}}'),
    ],
)
def test_usage_is_asked_for_where_the_caller_did_not(body, expected):
    out = shaped(body, asked=STREAM)
    assert (out.body, out.asked_usage) == (expected, True)


@pytest.mark.parametrize(
    "changes",
    [
        {"asked": Asked(model="m")},
        {"asked": Asked(model="m", stream=True, wants_usage=True)},
        {"asked": STREAM, "op": Operation("responses")},
        {"asked": STREAM, "source": GROQ, "path": "/openai/v1/chat/completions"},
        {"asked": STREAM, "body": b'{"model":"m","stream_options":"x"}'},
    ],
)
def test_usage_is_not_asked_for_elsewhere(changes):
    body = changes.pop("body", b'{"model":"m"}')
    out = shaped(body, **changes)
    assert (out.body, out.asked_usage) == (body, False)


CODED = ((b"Content-Encoding", b"gzip"),)


def test_a_coded_body_travels_as_it_came_unless_it_must_change():
    out = shaped(b"gz", headers=CODED, credential=None, plain=b'{"model":"m"}')
    assert (out.body, out.headers) == (b"gz", CODED)
    out = shaped(b"gz", headers=CODED, credential=None, plain=b'{"model":"m"}', provider=GROQ, theirs="n")
    assert (out.body, out.headers) == (b'{"model":"n"}', ())
    out = shaped(b"gz", headers=CODED, credential=None, plain=b'{"model":"m","stream_options":1}', asked=STREAM)
    assert (out.body, out.headers) == (b"gz", CODED)
    with pytest.raises(Refusal) as no:
        shaped(b"gz", headers=CODED, provider=GROQ, theirs="n")
    assert no.value.code == "unsupported_encoding"


@given(
    st.dictionaries(
        st.text(max_size=8), st.none() | st.booleans() | st.text(max_size=8) | st.lists(st.integers(0, 9), max_size=3), max_size=5
    )
)
def test_what_was_asked_for_is_all_that_differs_in_the_parsed_body(doc):
    doc = {key: value for key, value in doc.items() if key not in ("model", "stream_options")} | {"model": "m"}
    out = shaped(orjson.dumps(doc), asked=STREAM, source=OPENAI, theirs="n")
    assert orjson.loads(out.body) == doc | {"model": "n", "stream_options": {"include_usage": True}}


# --- what is worked out once ---

SAID = ((b"A", b"b"), (b"X-Request-Id", b"1"), (b"Authorization", b"Bearer slk-x"))


def shaping_of(source=OPENAI):
    lines = ((b"A", b"b"), (b"X-Request-Id", 1), (b"Authorization", 2))  # by their place: what varies from call to call
    call = Call("u", "u", False, "POST", Route("openai", "/v1/x", "", "/v1/x"), SAID, {}, "127.0.0.1", 0, 0.0)
    return Shaping(call, CHAT, source, lines, None), call


def planned(target, caller=OURS):
    return Plan(1, caller, "chat", "m", (target,), (), GuardRules(), RetryRules(), BreakerRules(), Timeouts(), Pricing())


def test_a_form_is_worked_out_once_and_what_varies_is_of_this_call():
    shaping, call = shaping_of()
    plan = planned(Target(OPENAI, "m", "m"))
    first, form = shape(shaping, call, plan, plan.targets[0], KEY, Asked(model="m"), b"{}", b"{}")
    said = (SAID[0], (b"X-Request-Id", b"2"), SAID[2])
    second, again = shape(shaping, replace(call, headers=said), plan, plan.targets[0], KEY, Asked(model="m"), b"{}", b"{}")
    assert again is form and second.to is first.to
    assert [dict(it.headers)[b"X-Request-Id"] for it in (first, second)] == [b"1", b"2"]
    assert b"slk-x" not in first.head


def test_what_a_form_rests_on_is_told_apart():
    shaping, call = shaping_of()
    own = Caller("pass-through:1", "pass_through")
    other = Credential("K", "sk-other")  # of the same name
    ways = [
        (OPENAI, KEY, "m", OURS),
        (OPENAI, other, "m", OURS),
        (GROQ, KEY, "m", OURS),
        (OPENAI, None, "m", own),
        (OPENAI, None, "m", OURS),
    ]
    for _ in range(2):
        heads = []
        for provider, credential, model, caller in ways:
            plan = planned(Target(provider, model, model), caller)
            heads.append(shape(shaping, call, plan, plan.targets[0], credential, Asked(model=model), b"{}", b"{}")[0].head)
        assert len(set(heads)) == len(ways)
        assert [b"slk-x" in head for head in heads] == [False, False, False, True, False]


def test_a_callers_own_key_is_kept_nowhere():
    shaping, call = shaping_of()
    plan = planned(Target(OPENAI, "m", "m"), Caller("pass-through:1", "pass_through"))
    request, form = shape(shaping, call, plan, plan.targets[0], None, Asked(model="m"), b"{}", b"{}")
    assert b"slk-x" in request.head
    assert not any(b"slk-x" in piece for piece in form.head._pieces)


def test_forms_are_bounded_whatever_models_are_called():
    shaping, call = shaping_of()
    for number in range(3 * MOST_FORMS):
        name = f"m{number}" if number % 2 else "m" * (MAX_NAME + 1)
        target = Target(OPENAI, name, name)
        shape(shaping, call, planned(target), target, KEY, Asked(model=name), b"{}", b"{}")
    assert 0 < len(shaping._forms) <= MOST_FORMS
    assert all(len(key[1]) <= MAX_NAME for key in shaping._forms)


def test_no_secret_shows_in_a_credential():
    assert "sk-ours" not in repr(KEY)
