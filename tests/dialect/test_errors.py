"""Errors: Sluice's own in each provider's shape, providers' own in a stream, exhausted credit, keys and model lists."""

import json

import pytest

from proxy.dialect import DIALECTS, dialect_of

GEMINI = "/v1beta/models/m:streamGenerateContent"
FAMILIES = {
    "openai": "openai",
    "azure-openai": "openai",
    "anthropic": "anthropic",
    "gemini": "gemini",
    "vertex": "gemini",
    "cohere": "cohere",
}


def op_of(dialect, path, query=""):
    return dialect_of(dialect).operation("POST", path, query)


def test_each_dialect_knows_its_name_and_its_wire_family():
    assert {name: dialect.family for name, dialect in DIALECTS.items()} == FAMILIES
    assert all(dialect.name == name for name, dialect in DIALECTS.items())


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (402, "insufficient_quota"), (403, "permission_error"),
     (404, "not_found_error"), (413, "invalid_request_error"), (429, "rate_limit_error"), (500, "server_error"), (503, "server_error")],
)  # fmt: skip
def test_openai_errors_have_message_type_and_code(status, kind):
    for name in ("openai", "azure-openai"):
        error = json.loads(dialect_of(name).error_body(status, "some_code", "what to do", "req-1"))["error"]
        assert error == {"message": "some_code: what to do", "type": kind, "param": None, "code": "some_code"}


def test_a_spent_budget_is_a_quota_in_openais_words_whatever_its_status():
    assert json.loads(dialect_of("openai").error_body(429, "budget_exhausted", "", "r"))["error"]["type"] == "insufficient_quota"


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (401, "authentication_error"), (402, "billing_error"), (403, "permission_error"), (404,
        "not_found_error"),
     (413, "request_too_large"), (429, "rate_limit_error"), (500, "api_error"), (503, "overloaded_error"), (504, "timeout_error")],
)  # fmt: skip
def test_anthropic_errors_have_type_message_and_request_id(status, kind):
    body = json.loads(dialect_of("anthropic").error_body(status, "some_code", "what to do", "req-1"))
    assert body == {"type": "error", "error": {"type": kind, "message": "some_code: what to do"}, "request_id": "req-1"}


@pytest.mark.parametrize(("status", "word"), [(400, "INVALID_ARGUMENT"), (401, "UNAUTHENTICATED"), (402, "RESOURCE_EXHAUSTED"), (403,
    "PERMISSION_DENIED"),
                                              (429, "RESOURCE_EXHAUSTED"), (503, "UNAVAILABLE"), (505, "UNKNOWN")])  # fmt: skip
def test_google_errors_have_code_message_and_status(status, word):
    error = json.loads(dialect_of("gemini").error_body(status, "some_code", "what to do", "req-1"))["error"]
    assert (error["code"], error["message"], error["status"]) == (status, "some_code: what to do", word)
    assert error["details"][0]["reason"] == "SOME_CODE"


def test_cohere_errors_have_message_and_id():
    assert json.loads(dialect_of("cohere").error_body(429, "rate_limited", "wait", "req-1")) == {
        "message": "rate_limited: wait",
        "id": "req-1",
    }


def test_a_code_is_never_repeated_and_never_missing():
    for dialect in DIALECTS.values():
        assert dialect.error_body(402, "budget_exhausted", "budget_exhausted: limit x", "r").count(b"budget_exhausted: ") == 1
        assert b"budget_exhausted" in dialect.error_body(402, "budget_exhausted", "", "r")


def test_errors_of_an_openai_compatible_path_in_a_stream_are_openais():
    op = op_of("gemini", "/v1beta/openai/chat/completions")
    assert op.speaks == "openai"
    assert dialect_of("gemini").error_event(op, "upstream_cut", "gone", "r") == dialect_of("openai").error_event(
        op, "upstream_cut", "gone", "r"
    )


@pytest.mark.parametrize(
    ("dialect", "path", "query", "begins", "ends"),
    [
        ("openai", "/v1/chat/completions", "", b'data: {"error":{"message":"upstream_cut: gone"', b"}}\n\n"),
        ("openai", "/v1/responses", "", b'event: error\ndata: {"type":"error","code":"upstream_cut"', b"}}\n\n"),
        ("anthropic", "/v1/messages", "", b'event: error\ndata: {"type":"error","error":{"type":"api_error"', b"}\n\n"),
        ("gemini", GEMINI, "alt=sse", b'data: {"error":{"code":502', b"}\r\n\r\n"),
        ("gemini", GEMINI, "", b',\r\n{"error":{"code":502', b"}]"),
        ("cohere", "/v2/chat", "", b'event: message-end\ndata: {"type":"message-end"', b"}\n\n"),
        ("cohere", "/v1/chat", "", b'{"is_finished":true,"event_type":"stream-end","finish_reason":"ERROR"', b"}\n"),
    ],
)
def test_a_broken_stream_ends_with_an_event_its_own_dialect_reads_as_an_error(dialect, path, query, begins, ends):
    spoken, op = dialect_of(dialect), op_of(dialect, path, query)
    event = spoken.error_event(op, "upstream_cut", "gone", "req-1")
    assert event.startswith(begins)
    assert event.endswith(ends)
    data = event[event.index(b"{") : event.rindex(b"}") + 1]
    assert spoken.error_of(op, json.loads(data)) is not None
    assert spoken.is_terminal(op, data)


def test_the_status_in_a_stream_is_the_one_the_code_would_have_had():
    op = op_of("gemini", GEMINI, "alt=sse")
    for code, status in (
        ("stopped_money", 402),
        ("stopped_drain", 503),
        ("stopped_output", 400),
        ("upstream_idle_timeout", 504),
        ("upstream_cut", 502),
    ):
        assert f'"code":{status}'.encode() in dialect_of("gemini").error_event(op, code, "", "r")


STREAMED = [
    ("openai", "/v1/chat/completions", {"error": {"type": "server_error", "message": "x"}}, "server_error"),
    ("openai", "/v1/chat/completions", {"error": {"code": "tool_use_failed"}}, "tool_use_failed"),
    (
        "openai",
        "/v1/chat/completions",
        {"error": {"code": 400, "message": "Token limit reached"}, "choices": []},
        "invalid_request_error",
    ),  # OpenRouter
    ("openai", "/v1/chat/completions", {"error": {"code": 502}}, "server_error"),
    ("openai", "/v1/chat/completions", {"error": "sorry"}, "server_error"),
    ("openai", "/v1/chat/completions", {"error": None, "choices": []}, None),
    ("openai", "/v1/responses", {"type": "error", "code": "rate_limit_exceeded", "message": "x"}, "rate_limit_exceeded"),
    ("openai", "/v1/responses", {"type": "error", "error": {"type": "server_error"}}, "server_error"),
    ("openai", "/v1/responses", {"type": "response.failed", "response": {"error": {"code": "server_error"}}}, "server_error"),
    ("openai", "/v1/responses", {"type": "response.completed", "response": {"error": None}}, None),
    ("anthropic", "/v1/messages", {"type": "error", "error": {"type": "overloaded_error"}}, "overloaded_error"),
    ("anthropic", "/v1/messages", {"type": "error"}, "api_error"),
    ("anthropic", "/v1/messages", {"type": "ping"}, None),
    ("gemini", GEMINI, {"error": {"code": 503, "status": "UNAVAILABLE"}}, "server_error"),
    ("gemini", GEMINI, {"error": {"code": 429}}, "rate_limit_error"),
    ("gemini", GEMINI, {"error": {"status": "INTERNAL"}}, "INTERNAL"),
    ("gemini", GEMINI, {"error": "x"}, "server_error"),
    ("gemini", GEMINI, {"candidates": []}, None),
    ("cohere", "/v2/chat", {"type": "message-end", "delta": {"finish_reason": "ERROR"}}, "ERROR"),
    ("cohere", "/v2/chat", {"type": "message-end", "delta": {"error": "boom"}}, "server_error"),
    ("cohere", "/v2/chat", {"type": "message-end", "delta": {"finish_reason": "COMPLETE"}}, None),
    ("cohere", "/v1/chat", {"event_type": "stream-end", "finish_reason": "ERROR_TOXIC"}, "ERROR_TOXIC"),
]


@pytest.mark.parametrize(("dialect", "path", "event", "kind"), STREAMED)
def test_a_providers_error_in_a_stream_is_named(dialect, path, event, kind):
    assert dialect_of(dialect).error_of(op_of(dialect, path), event) == kind


DAILY = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota",
        "details": [{"violations": [{"quotaId": "GenerateRequestsPerDayPerProject"}]}],
    }
}
MINUTE = {
    "error": {
        "code": 429,
        "message": "You exceeded your current quota",
        "details": [{"violations": [{"quotaId": "GenerateRequestsPerMinute"}]}],
    }
}


@pytest.mark.parametrize(
    ("dialect", "status", "doc", "kind"),
    [
        ("openai", 402, None, "credit"),
        ("openai", 429, {"error": {"code": "insufficient_quota", "type": "insufficient_quota"}}, "credit"),
        ("openai", 429, {"error": {"code": "rate_limit_exceeded", "type": "tokens"}}, None),
        ("openai", 403, {"error": "Your team has used all available credits"}, "credit"),
        ("openai", 429, None, None),
        ("openai", 500, {"error": {"code": "insufficient_quota"}}, None),
        ("openai", 429, {"error": {"code": 5, "message": 7, "details": 3}}, None),
        (
            "anthropic",
            400,
            {"type": "error", "error": {"type": "invalid_request_error", "message": "Your credit balance is too low to access"}},
            "credit",
        ),
        ("anthropic", 403, {"error": {"type": "permission_error", "message": "no"}}, None),
        ("gemini", 429, DAILY, "credit"),
        ("gemini", 429, MINUTE, None),
        ("cohere", 429, {"message": "You are using a Trial key, which is limited to 1000 API calls / month."}, "credit"),
        ("cohere", 429, {"message": "limited to 20 API calls / minute"}, None),
    ],
)
def test_exhausted_credit_is_told_from_a_rate_limit(dialect, status, doc, kind):
    assert dialect_of(dialect).failure_kind(status, doc) == kind


@pytest.mark.parametrize(
    ("dialect", "header"),
    [
        ("openai", (b"Authorization", b"Bearer k")),
        ("azure-openai", (b"api-key", b"k")),
        ("anthropic", (b"x-api-key", b"k")),
        ("gemini", (b"x-goog-api-key", b"k")),
        ("vertex", (b"Authorization", b"Bearer k")),
        ("cohere", (b"Authorization", b"Bearer k")),
    ],
)
def test_a_provider_key_goes_where_the_provider_looks_for_it(dialect, header):
    assert dialect_of(dialect).auth("k") == header


@pytest.mark.parametrize(
    ("dialect", "doc", "listed"),
    [
        ("openai", {"object": "list", "data": [{"id": "gpt-4o"}, {"id": 5}, "x"]}, ("data", ["gpt-4o", "", ""])),
        ("anthropic", {"data": [{"id": "claude"}], "has_more": False}, ("data", ["claude"])),
        ("gemini", {"models": [{"name": "models/gemini-2.5-flash"}]}, ("models", ["gemini-2.5-flash"])),
        ("gemini", {"object": "list", "data": [{"id": "models/gemini"}]}, ("data", ["gemini"])),
        ("vertex", {"object": "list", "data": [{"id": "google/gemini"}]}, ("data", ["gemini"])),
        ("vertex", {"publisherModels": [{"name": "publishers/google/models/gemini"}]}, ("publisherModels", ["gemini"])),
        ("cohere", {"models": [{"name": "command-a"}]}, ("models", ["command-a"])),
        ("openai", {"id": "gpt-4o", "object": "model"}, None),
        ("anthropic", {"data": {}}, None),
        ("gemini", {"name": "models/x"}, None),
        ("cohere", {"name": "command-a"}, None),
    ],
)
def test_a_list_of_models_is_read_in_order(dialect, doc, listed):
    assert dialect_of(dialect).models_listed(doc) == listed
