"""What a caller sees beside the provider's answer: Sluice's headers, refusals in the asked dialect, and no more than is promised."""

import json
import re
import time

import pytest
import pytest_asyncio
from support.echo import echo
from support.world import world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers:
  openai: {url: A_URL}
  anthropic: {url: A_URL}
  gemini: {url: A_URL}
  cohere: {url: A_URL}
  away: {dialect: openai, url: B_URL, models: {gpt-4o: other-name}}
  dead: {dialect: openai, url: 'http://127.0.0.1:1'}
callers:
  anonymous: free
  keys: [{name: slow, hash: HASH(slow), tier: slow}, {name: rich, hash: HASH(rich), tier: paid}]
tiers: {free: {}, slow: {requests: 2/min}, paid: {spend: $100/day, tokens: 1M/hour}}
limits: [{name: closed, match: {'header:x-case': closed}, requests: 0/day, per: total}]
guard: {pii: {email: mask, phone: flag}}
retry: {attempts: 2, backoff: 1ms..1ms}
breaker: off
rules: [{match: {'header:x-case': moved}, send_to: away/gpt-4o}, {match: {'header:x-case': cheaper}, send_to: openai/gpt-4o-mini}]
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("replies"), POLICY, providers=2) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(here):
    here.forget()


def answering(*headers: tuple[str, str], status: int = 200):
    async def script(seen, reply):
        usage = {"prompt_tokens": 1, "completion_tokens": 1}
        await reply.json({"id": "c", "object": "chat.completion", "choices": [], "usage": usage}, status, list(headers))

    return script


async def test_the_request_id_is_the_callers_where_it_is_well_formed_else_ours(here):
    got = await here.chat(headers=[("X-Request-Id", "job-7:a.b_c")])
    assert got.header("x-sluice-request-id") == got.header("x-request-id") == "job-7:a.b_c"
    assert here.last.header("x-request-id") == "job-7:a.b_c"
    for bad in ("with blank", "x" * 129, "new{line}", "ü"):
        got = await here.chat(headers=[("X-Request-Id", bad)])
        id = got.header("x-sluice-request-id")
        assert id != bad and re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", id)
    got = await here.chat()
    assert here.last.header("x-request-id") is None  # sent on only where the caller sent one


async def test_the_providers_own_headers_pass_and_ours_stand_beside_them(here):
    own = [
        ("x-request-id", "req_1"),
        ("server-timing", "db;dur=5"),
        ("x-ratelimit-remaining-requests", "9"),
        ("Date", "then"),
        ("Server", "s"),
    ]
    here.provider.script = answering(*own)
    got = await here.chat()
    assert {name.lower(): value for name, value in own}.items() <= {n.lower(): v for n, v in reversed(got.headers)}.items()
    timings = [value for name, value in got.headers if name.lower() == "server-timing"]
    assert len(timings) == 2 and re.fullmatch(r"sluice;dur=\d+\.\d", timings[1])
    assert got.header("x-sluice-request-id") and (got.header("x-sluice-provider"), got.header("x-sluice-attempts")) == ("openai", "1")
    assert not [name for name, _ in got.headers if name.lower() in ("x-content-type-options", "set-cookie")]
    assert len([name for name, _ in got.headers if name.lower() == "date"]) == 1


async def test_sluice_adds_no_date_server_or_content_type_of_its_own(here):
    async def bare(seen, reply):
        await reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")

    here.provider.script = bare
    got = await here.ask("GET", "/openai/v1/anything")
    assert got.body == b"hi" and not {"date", "server", "content-type"} & {name.lower() for name, _ in got.headers}


async def test_cookies_are_stripped_both_ways(here):
    here.provider.script = answering(("Set-Cookie", "a=b"))
    got = await here.chat(headers=[("Cookie", "session=1")])
    assert here.last.header("cookie") is None and got.header("set-cookie") is None


async def test_another_model_or_provider_is_named(here):
    got = await here.chat(headers=[("x-case", "moved")])
    assert (got.header("x-sluice-provider"), got.header("x-sluice-model")) == ("away", None)
    assert here.providers[1].seen[-1].json["model"] == "other-name"
    got = await here.chat(headers=[("x-case", "cheaper")])
    assert (got.header("x-sluice-provider"), got.header("x-sluice-model")) == ("openai", "gpt-4o-mini")
    assert (await here.chat()).header("x-sluice-model") is None


async def test_what_the_guard_did_is_told_by_class_and_number_only(here):
    got = await here.chat(text="a@corp.test b@corp.test +1 415 555 2671")
    assert got.header("x-sluice-guard") == "masked email=2; flagged phone=1"


async def test_attempts_are_counted_and_the_sdk_is_told_not_to_multiply_them(here):
    here.provider.script = answering(status=503)
    got = await here.chat()
    assert (got.status, got.header("x-sluice-attempts"), got.header("x-should-retry")) == (503, "2", "false")
    here.provider.script = lambda seen, reply: (answering(status=503) if len(here.provider.seen) < 2 else echo)(seen, reply)
    here.provider.seen.clear()
    got = await here.chat()
    assert (got.status, got.header("x-sluice-attempts"), got.header("x-should-retry")) == (200, "2", None)


async def test_rate_limits_are_told_before_they_bite_and_the_wait_is_true(here):
    began = time.time()
    first, second, refused = [await here.chat("slow") for _ in range(3)]
    assert [one.header("x-ratelimit-remaining") for one in (first, second)] == ["1", "0"]
    assert first.header("x-sluice-limit") == "tier slow" and first.header("ratelimit-policy") == '"tier slow requests";q=2;w=60'
    assert began + 59 <= int(second.header("x-ratelimit-reset")) <= time.time() + 61
    assert (refused.status, refused.code, refused.header("x-should-retry")) == (429, "rate_limited", None)
    # the first of the two leaves the window a minute after it came: then there is room for one
    assert began + 59 <= time.time() + int(refused.header("retry-after")) <= began + 62
    assert 0 <= int(refused.header("retry-after")) * 1000 - int(refused.header("retry-after-ms")) < 1000


async def test_where_the_provider_says_its_rate_limits_ours_do_not_overwrite_them(here):
    here.provider.script = answering(("x-ratelimit-limit", "5000"), ("x-ratelimit-remaining", "4999"))
    got = await here.chat("rich")
    assert [value for name, value in got.headers if name.lower() == "x-ratelimit-limit"] == ["5000"]
    assert got.header("ratelimit-policy") == '"tier paid tokens";q=1000000;qu="tokens";w=3600'


async def test_the_reserved_money_is_told_and_is_the_hold_of_the_ledger(here):
    got = await here.chat("rich", max_tokens=100)
    row = await here.row(got)
    assert row["held_nanousd"] > 0 and got.header("x-sluice-reserved-usd") is not None
    assert float(got.header("x-sluice-reserved-usd")) == pytest.approx(row["held_nanousd"] / 1e9, rel=1e-6)


# --- refusals ---

TARGETS = {
    "openai": ("/openai/v1/chat/completions", {"model": "gpt-4o", "messages": []}),
    "anthropic": ("/anthropic/v1/messages", {"model": "claude-sonnet-4-5", "max_tokens": 5, "messages": []}),
    "gemini": ("/gemini/v1beta/models/gemini-2.5-flash:generateContent", {"contents": []}),
    "cohere": ("/cohere/v2/chat", {"model": "command-a-03-2025", "messages": []}),
}


def spoken(dialect: str, doc: dict) -> tuple[str, str | int | None]:
    """(message, the dialect's own word for the kind) of an error body."""
    match dialect:
        case "openai":
            assert set(doc["error"]) == {"message", "type", "param", "code"}
            return doc["error"]["message"], doc["error"]["type"]
        case "anthropic":
            assert doc["type"] == "error"
            return doc["error"]["message"], doc["error"]["type"]
        case "gemini":
            return doc["error"]["message"], doc["error"]["status"]
        case _:
            return doc["message"], None


KINDS = {
    401: ("authentication_error", "authentication_error", "UNAUTHENTICATED", None),
    429: ("rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED", None),
    400: ("invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT", None),
}


@pytest.mark.parametrize("dialect", TARGETS)
async def test_refusals_speak_the_asked_dialect_and_name_code_limit_and_request(here, dialect):
    target, doc = TARGETS[dialect]
    body = json.dumps(doc).encode()
    for status, code, got in (
        (401, "invalid_credentials", await here.ask("POST", target, body, "never-minted")),
        (429, "rate_limited", await here.ask("POST", target, body, headers=[("x-case", "closed")])),
        (400, "malformed_json", await here.ask("POST", target, b'{"model": ')),
        (400, "duplicate_key", await here.ask("POST", target, b'{"model":"a","model":"b"}')),
    ):
        assert (got.status, got.code) == (status, code), got.body
        message, kind = spoken(dialect, got.json)
        assert message.startswith(code) and len(message) > len(code) + 10
        assert kind == KINDS[status][list(TARGETS).index(dialect)]
        assert got.header("x-sluice-request-id") == got.header("x-request-id") and got.header("x-content-type-options") == "nosniff"
        assert (got.header("content-type") or "").startswith("application/json")
        assert (got.header("x-sluice-limit") == "limit closed") is (status == 429)
        assert (got.header("www-authenticate") is not None) is (status == 401)
    assert not here.provider.seen


async def test_a_provider_that_cannot_be_reached_is_named_and_costs_nothing(here):
    got = await here.chat(provider="dead")
    assert (got.status, got.code, got.header("x-should-retry")) == (502, "upstream_connect", "false")
    assert "dead" in got.json["error"]["message"]
    assert [row["cost_nanousd"] for row in await here.rows(got)] == [0, 0]


async def test_nothing_a_caller_sends_is_echoed_in_a_refusal(here):
    for got in (
        await here.chat("sk-very-secret-key-of-mine", provider="nowhere-at-all"),
        await here.ask("POST", "/openai/v1/chat/completions", b'{"model": "very-secret-word'),
        await here.chat("secret-name-of-a-key"),
        await here.chat(model="very-secret-word", max_tokens="very-secret-word"),
    ):
        assert got.status >= 400 and got.code and b"secret" not in got.body and "secret" not in str(got.headers)


async def test_an_unknown_provider_lists_those_that_are_served(here):
    got = await here.ask("GET", "/opnai/v2/models")
    assert (got.status, got.code) == (404, "unknown_provider") and b"/openai" in got.body
