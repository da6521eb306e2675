"""A call that is refused: by whom, in whose words, at what cost (none), and what no trick gets past."""

import asyncio
import gzip
import json

import pytest
from support.inside import Body, Sink, chat, completion, error, whole

from proxy.refusal import Refusal, UpstreamFailed

FORM = "multipart/form-data; boundary=b"
AUDIO = "/openai/v1/audio/transcriptions"


def part(name: str, value: str, more: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n{value}\r\n'.encode()


FILE = part("file", "x" * 100, '; filename="a.mp3"')


async def test_a_refusal_costs_nothing_reaches_nobody_and_has_its_row(path_with):
    path = await path_with("limits: [{name: poor, match: {caller: ann}, per: caller, spend: $0.0001/day}]")
    sink = await path.run(chat())
    assert (sink.status, sink.headers["x-sluice-error"]) == (400, "exceeds_limit")
    assert not path.upstream.sent
    (row,) = await path.rows()
    assert (row["kind"], row["end"], row["cost_nanousd"], row["usage_source"]) == ("refusal", "refused:exceeds_limit", 0, "none")
    await path.assert_nothing_is_left()


@pytest.mark.parametrize(
    ("target", "dialect"),
    [
        ("/openai/v1/chat/completions", "openai"),
        ("/anthropic/v1/messages", "anthropic"),
        ("/gemini/v1beta/models/gemini-2.5-flash:generateContent", "gemini"),
        ("/gemini/v1beta/openai/chat/completions", "openai"),
        ("/cohere/compatibility/v1/chat/completions", "openai"),
        ("/cohere/v2/chat", "cohere"),
    ],
)
async def test_a_refusal_is_worded_in_the_wire_format_of_the_path(path, target, dialect):
    sink = await path.run(b"{", target=target)
    assert (sink.dialect, sink.headers["x-sluice-error"]) == (dialect, "malformed_json")
    sink = await path.run(chat(), target=target, key="nobody")
    assert (sink.dialect, sink.headers["x-sluice-error"]) == (dialect, "invalid_credentials")


async def test_a_call_too_large_for_a_limit_takes_no_request_of_its_rate(path_with):
    path = await path_with("limits: [{name: few, match: {caller: ann}, per: caller, requests: 1/min, tokens: 5000/min, concurrency: 1}]")
    for _ in range(3):
        sink = await path.run(chat(max_tokens=6000))
        assert (sink.status, sink.headers["x-sluice-error"]) == (400, "exceeds_limit")
    assert (await path.run(chat(), completion())).status == 200
    assert (await path.run(chat())).status == 429
    await path.assert_nothing_is_left()


async def test_a_refused_rate_says_how_the_caller_stands(path_with):
    path = await path_with("limits: [{name: few, match: {caller: ann}, per: caller, requests: 1/min}]")
    assert (await path.run(chat(), completion())).status == 200
    sink = await path.run(chat())
    assert (sink.status, sink.headers["x-sluice-error"], sink.headers["x-sluice-limit"]) == (429, "rate_limited", "limit few")
    assert (sink.headers["x-ratelimit-limit"], sink.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert 1 <= int(sink.headers["retry-after"]) <= 60
    await path.assert_nothing_is_left()


async def test_what_was_held_for_a_request_that_cannot_be_shaped_goes_back(path_with, monkeypatch):
    path = await path_with("")

    def no(*_: object, **__: object):
        raise Refusal(415, "unsupported_encoding")

    monkeypatch.setattr("proxy.forward.shape.Shaping.shape", no)
    sink = await path.run(chat())
    assert sink.status == 415
    (row,) = await path.rows()
    assert (row["kind"], row["cost_nanousd"], row["held_nanousd"]) == ("refusal", 0, 0)
    await path.assert_nothing_is_left()


async def test_a_defect_of_ours_is_a_500_that_quotes_nothing(path, monkeypatch):
    monkeypatch.setattr("proxy.pipeline.plan_of", lambda *given: 1 / 0 if given else ())
    sink = await path.run(chat("my secret text"))
    assert (sink.status, sink.headers["x-sluice-error"]) == (500, "internal")
    assert not any(b"my secret" in line or b"slk-" in line for line in path.lines)
    await path.assert_nothing_is_left()


async def test_our_key_refused_is_no_401_of_the_callers_also_behind_an_open_breaker(path_with):
    path = await path_with("fallback: {gpt-4o: [spare/gpt-4o]}\nbreaker: {consecutive: 1}")
    path.upstream.script = [error(500)]
    sink = await path.run(chat(), error(401), error(500), error(500), error(500))
    assert (sink.status, sink.headers.get("x-sluice-error")) == (500, None)  # the spare's own answer
    sink = await path.run(chat(), error(401))  # by now the spare's breaker is open
    assert (sink.status, sink.headers["x-sluice-error"]) == (502, "upstream_auth")
    assert b"server_error" not in sink.body or b"refused the key" in sink.body
    await path.assert_nothing_is_left()


async def test_a_redirect_costs_nothing_and_is_not_followed(path):
    sink = await path.run(chat(), whole({}, 307, more=((b"location", b"http://127.0.0.1:9/v2"),)))
    assert (sink.status, sink.headers["x-sluice-error"]) == (502, "upstream_redirect")
    (row,) = await path.rows()
    assert (row["status"], row["end"], row["cost_nanousd"], row["kind"]) == (307, "refused:upstream_redirect", 0, "first")


async def test_nothing_of_a_call_shows_a_credential(path):
    call = path.call(target="/openai/v1/chat/completions?key=", key="ann")
    await path.run(chat("private words"), completion())
    texts = repr(call), repr(path.story), repr(path.upstream.sent[0])
    assert not any(secret in text for text in texts for secret in ("slk-", "sk-provider", "private words"))


# --- models that a caller may not use, whatever way it names them ---


@pytest.mark.parametrize(
    ("target", "body"),
    [
        ("/openai/v1/chat/completions", b'{"model":"o3","messages":[]}'),
        ("/openai/v1/chat/completions", b'{"messages":[]}'),
        ("/openai/v1/chat/completions", b'{"model":"gpt-4o","mo\\u0064el":"o3","messages":[]}'),
        ("/openai/v1/responses", b'{"prompt":{"id":"p"}}'),
        ("/openai/v1/batches", b'{"input_file_id":"f","endpoint":"/v1/chat/completions","completion_window":"24h"}'),
        ("/openai/v1/fine_tuning/jobs", b'{"model":"o3","training_file":"f"}'),
        ("/openai/v1/something/new", b'{"model":"o3"}'),
        ("/anthropic/v1/messages/batches", b'{"requests":[{"params":{"model":"gpt-4o"}},{"params":{"model":"o3"}}]}'),
        ("/gemini/v1beta/models/o3:batchGenerateContent", b"{}"),
        ("/gemini/v1beta/openai/chat/completions", b'{"model":"models/o3","messages":[]}'),
    ],
)
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "", "application/x-www-form-urlencoded"])
async def test_a_model_that_is_not_allowed_is_not_reached(path_with, target, body, kind):
    path = await path_with("unmetered: allow\nunknown_price: allow")
    sink = await path.run(body, completion(), target=target, key="bob", content_type=kind)
    assert sink.headers.get("x-sluice-error") in ("not_allowed", "duplicate_key"), sink.body
    assert not path.upstream.sent


@pytest.mark.parametrize(
    ("target", "body", "kind"),
    [
        ("/anthropic/v1/messages/batches", b'{"requests":[{"params":{"model":"gpt-4o"}}]}', "application/json"),
        ("/gemini/v1beta/openai/chat/completions", b'{"model":"models/gpt-4o","messages":[]}', "application/json"),
        (AUDIO, FILE + part("model", "gpt-4o") + b"--b--\r\n", FORM),
        ("/openai/v1/videos", part("model", "gpt-4o") + b"--b--\r\n", FORM),
        ("/openai/v1/files", FILE + b"--b--\r\n", FORM),
    ],
)  # fmt: skip
async def test_a_model_that_is_allowed_is_reached_the_same_ways(path_with, target, body, kind):
    path = await path_with("unmetered: allow\nunknown_price: allow")
    sink = await path.run(body, whole({}), target=target, key="bob", content_type=kind)
    assert sink.status == 200, sink.body
    assert path.upstream.bodies == [body]


@pytest.mark.parametrize("target", [AUDIO, "/openai/v1/videos"])
@pytest.mark.parametrize(
    ("form", "code"),
    [
        (FILE + part("model", "o3") + b"--b--\r\n", "not_allowed"),
        (part("model", "gpt-4o") + part("model", "o3") + b"--b--\r\n", "duplicate_key"),
        (part("model", "gpt-4o") + FILE * 2000 + part("model", "o3") + b"--b--\r\n", "duplicate_key"),
        (FILE * 2000 + part("model", "o3") + b"--b--\r\n", "not_allowed"),
        (FILE.replace(b'name="file"', b"name=model") + part("model", "gpt-4o") + b"--b--\r\n", "duplicate_key"),
    ],
)
async def test_a_form_cannot_name_one_model_to_us_and_another_to_the_provider(path_with, target, form, code):
    path = await path_with("unmetered: allow\nunknown_price: allow")
    pieces = [form[at : at + 50_000] for at in range(0, len(form), 50_000)]
    sink = await path.run(Body(*pieces), whole({}), target=target, key="bob", content_type=FORM)
    assert sink.headers.get("x-sluice-error") == code
    assert not path.upstream.bodies, "the provider had the whole of it"
    await path.assert_nothing_is_left()


async def test_a_form_that_names_no_model_within_what_may_be_held_is_refused_where_a_policy_goes_by_it(path_with):
    path = await path_with("server: {max_body: 64KB}\nunknown_price: allow")
    pieces = [b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n', *[b"x" * 60_000] * 3]
    sink = await path.run(Body(*pieces), target=AUDIO, key="bob", content_type=FORM)
    assert sink.headers["x-sluice-error"] == "too_large"


async def test_a_client_that_pauses_in_a_form_holds_up_nothing_that_does_not_go_by_its_model(path_with):
    path = await path_with("unknown_price: allow")
    stuck = asyncio.Event()

    class Slow(Body):
        async def stream(self, limit):
            yield FILE
            await stuck.wait()

    sink = Sink()
    task = asyncio.ensure_future(path.run(Slow(FILE, length=None), target=AUDIO, content_type=FORM, sink=sink))
    await asyncio.sleep(1.1)
    assert path.upstream.sent
    task.cancel()
    await asyncio.wait({task})
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == 1, "no read is left behind"
    await path.assert_nothing_is_left()


# --- text that must not leave, whatever it is dressed as ---


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        ("/openai/v1/chat/completions", "text/plain"),
        ("/openai/v1/chat/completions", ""),
        ("/openai/v1/something/new", "application/json"),
        ("/openai/v1/something/new", "text/plain"),
        ("/openai/v1/something/new", ""),
        ("/openai/v1/vector_stores/vs_1/search", "application/json"),
        ("/openai/v1/batches", "application/json"),
        ("/openai/v1/realtime/client_secrets", "application/json"),
    ],
)
@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_no_content_type_coding_or_path_hides_a_text(path_with, target, kind, coding):
    path = await path_with("guard: {pii: {default: mask}}\nunmetered: allow\nunknown_price: allow")
    doc = {"model": "gpt-4o", "messages": [{"role": "user", "content": "I am bob@example.org"}], "metadata": {}}
    if "chat" not in target:
        doc = {"query": "I am bob@example.org", "deep": [{"x": "4111111111111111", "n": 4111111111111111}]}
    raw = json.dumps(doc).encode()
    sink = await path.run(
        gzip.compress(raw) if coding else raw, whole({}), target=target, content_type=kind, content_encoding=coding
    )  # fmt: skip
    assert sink.status == 200, sink.body
    (body,) = path.upstream.bodies
    assert b"[EMAIL_1]" in body
    assert b"bob@example.org" not in body
    assert b"4111111111111111" not in body
    assert all(name.lower() != b"content-encoding" for name, _ in path.upstream.sent[0].headers)


@pytest.mark.parametrize(("coding", "body"), [("br", b"\x0b\x02\x80"), ("gzip", b"no gzip")])
async def test_what_cannot_be_read_passes_an_unknown_path_only_where_no_policy_must_read_it(path_with, coding, body):
    path = await path_with("guard: {pii: {default: mask}}\nunmetered: allow")
    sink = await path.run(body, target="/openai/v1/something/new", content_encoding=coding)
    assert sink.headers["x-sluice-error"] in ("unsupported_encoding", "invalid_request")
    assert not path.upstream.sent


async def test_connect_failures_cost_nothing(path):
    failures = [UpstreamFailed("upstream_connect", "connect", sent=False) for _ in range(3)]
    sink = await path.run(chat(), *failures)
    assert (sink.status, sink.headers["x-sluice-error"], sink.headers["x-should-retry"]) == (502, "upstream_connect", "false")
    rows = await path.rows()
    assert [(row["kind"], row["cost_nanousd"], row["end"]) for row in rows] == [
        (kind, 0, "refused:upstream_connect") for kind in ("first", "retry", "retry")
    ]
    await path.assert_nothing_is_left()
