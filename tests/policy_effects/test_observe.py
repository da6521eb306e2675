"""What operators see: every metric moves, labels hold only known names, one log line per call, names hashed where the policy says so."""

import asyncio
import json
import re

import pytest
import pytest_asyncio
from support.caller import Caller
from support.chat import asked, delta, stream_end
from support.echo import echo
from support.world import CHAT, slk, world

pytestmark = pytest.mark.asyncio(loop_scope="module")

POLICY = """
providers: {openai: {url: A_URL}, second: {dialect: openai, url: A_URL}}
callers:
  pass_through: free
  keys: [{name: bot, hash: HASH(bot), tier: free, team: finance}, {name: capped, hash: HASH(capped), tier: tight}]
tiers: {free: {spend: $100/day}, tight: {requests: 4/day, tokens: 100k/day, spend: $10/day, concurrency: 3}}
teams: {finance: {}}
retry: {attempts: 2, backoff: 1ms..2ms}
breaker: {consecutive: 2, open: 60s..60s}
fallback: {gpt-4.1: [second/gpt-4.1-mini]}
unknown_price: flag
guard: {pii: {email: mask}}
observe: {logs: {level: info}, identities: plain}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def here(tmp_path_factory):
    async with world(tmp_path_factory.mktemp("observe"), POLICY) as one:
        yield one


@pytest.fixture(autouse=True)
def _quiet(request):
    if "here" in request.fixturenames:
        request.getfixturevalue("here").forget()


WHO = {"provider": "openai", "model": "gpt-4o", "caller": "bot", "team": "finance", "tier": "free"}


async def test_requests_tokens_cost_and_times_move_with_each_call(here):
    names = (
        "requests_total",
        "tokens_total",
        "cost_usd_total",
        "request_duration_seconds_count",
        "first_byte_seconds_count",
        "overhead_seconds_count",
    )
    before = {name: await here.metric(name) for name in names}
    assert (await here.chat("bot", headers=[("x-usage", "100,20,40")])).status == 200
    after = {name: await here.metric(name) - before[name] for name in names}
    assert after["requests_total"] == 1 and after["tokens_total"] == 100 + 40 + 20
    assert after["cost_usd_total"] == pytest.approx((60 * 2.5 + 40 * 1.25 + 20 * 10) / 1e6)
    assert all(after[name] == 1 for name in names[3:])
    assert await here.metric("requests_total", **WHO, operation="chat", end="done", status="200") >= 1
    for kind in ("input", "cached_input", "output"):
        assert await here.metric("tokens_total", **WHO, kind=kind) > 0
    assert await here.metric("cost_usd_total", **WHO) > 0
    assert await here.metric("first_byte_seconds_count", provider="openai", operation="chat") >= 1


async def test_refusals_are_counted_by_code(here):
    before = await here.metric("refusals_total", code="invalid_credentials")
    assert (await here.chat("never-minted")).status == 401
    assert (await here.ask("GET", "/no/such/thing")).status == 404
    assert await here.metric("refusals_total", code="invalid_credentials") == before + 1
    assert await here.metric("refusals_total", code="unknown_provider") >= 1


async def test_calls_under_way_are_counted(here):
    began, may_end = asyncio.Event(), asyncio.Event()

    async def slow(seen, reply):
        began.set()
        await may_end.wait()
        await echo(seen, reply)

    here.provider.script = slow
    call = asyncio.ensure_future(here.chat("bot"))
    await began.wait()
    assert await here.metric("in_flight") == 1
    may_end.set()
    await call
    assert await here.metric("in_flight") == 0


async def test_retries_fallbacks_and_breakers_show(here):
    async def script(seen, reply):
        if seen.json["model"] == "gpt-4.1":
            await reply.json({"error": {"message": "no", "type": "server_error"}}, 503)
        else:
            await echo(seen, reply)

    here.provider.script = script
    got = await here.chat("bot", model="gpt-4.1")
    assert got.header("x-sluice-model") == "gpt-4.1-mini"
    assert await here.metric("retries_total", provider="openai", model="gpt-4.1", error="503") == 1
    assert await here.metric("fallbacks_total", provider="second", model="gpt-4.1-mini") == 1
    assert await here.metric("breaker_state", provider="openai", model="gpt-4.1") == 2
    line = next(line for line in await logged(here, "retry") if line["request_id"] == got.header("x-sluice-request-id"))
    assert (line["error"], line["provider"], line["model"], line["attempt"]) == ("503", "openai", "gpt-4.1", 1)


async def test_limits_show_how_full_they_are(here):
    assert (await here.chat("capped", max_tokens=100)).status == 200
    for kind in ("requests", "tokens", "spend", "concurrency"):
        assert 0 < await here.metric("limit_used_ratio", limit="tier tight", kind=kind) <= 1, kind
    assert await here.metric("limit_used_ratio", limit="tier tight", kind="requests") == 0.25


async def test_findings_show_by_entity_direction_and_action(here):
    await here.chat("bot", text="a@corp.test b@corp.test")
    assert await here.metric("pii_found_total", entity="email", direction="in", action="mask") >= 2


async def test_estimated_usage_and_unpriced_models_show_and_unknown_names_are_other(here):
    async def silent(seen, reply):
        await reply.json({"id": "c", "object": "chat.completion", "choices": []})

    here.provider.script = silent
    row = await here.row(await here.chat("sk-of-a-stranger", model="made-up-by-a-client"))
    assert row["usage_source"] in ("counted", "estimate")
    assert await here.metric("estimated_usage_total", provider="openai", model="other") == 1
    assert await here.metric("unpriced_total", provider="openai", model="other") == 1
    assert await here.metric("requests_total", model="other", caller="other", tier="free") == 1
    said = await here.sluice.metrics()
    assert "made-up-by-a-client" not in said and "pass-through:" not in said


async def test_the_generation_of_the_policy_and_failed_reloads_show(here):
    before = await here.metric("policy_generation"), await here.metric("policy_reload_failed_total")
    await here.reload(POLICY + "\n# the same again\n")
    assert await here.metric("policy_generation") == before[0] + 1
    text = here.sluice.policy.read_text()
    here.sluice.policy.write_text(text + "nonsense: true\n")
    async with asyncio.timeout(20):  # noticed without a signal
        while await here.metric("policy_reload_failed_total") == before[1]:
            await asyncio.sleep(0.05)
    assert await here.metric("policy_generation") == before[0] + 1 and (await here.chat("bot")).status == 200
    here.sluice.policy.write_text(text)


async def test_every_metric_of_the_issue_is_exposed_with_a_help_text(here):
    said = await here.sluice.metrics()
    for name in (
        "requests_total", "refusals_total", "tokens_total", "cost_usd_total", "request_duration_seconds", "first_byte_seconds",
        "overhead_seconds", "in_flight", "retries_total", "fallbacks_total", "breaker_state", "limit_used_ratio", "pii_found_total",
        "estimated_usage_total", "unpriced_total", "policy_generation", "policy_reload_failed_total",
    ):  # fmt: skip
        assert re.search(rf"^# HELP sluice_{name} \S", said, re.MULTILINE), name


# --- the log ---


async def logged(here, event: str) -> list[dict]:
    await asyncio.sleep(0.25)  # it is written every 100 ms
    return [line for line in here.sluice.log_lines() if line["event"] == event]


async def test_each_call_is_one_line_of_json_without_body_or_key(here):
    got = await here.chat("bot", text="the-body-of-the-call", headers=[("x-usage", "12,5"), ("x-request-id", "my-own.id:7")])
    assert got.header("x-sluice-request-id") == "my-own.id:7"
    (line,) = [line for line in await logged(here, "call") if line["request_id"] == "my-own.id:7"]
    expected = {"level": "info", "caller": "bot", "team": "finance", "tier": "free", "provider": "openai", "model": "gpt-4o", "end": "done",
                "operation": "chat", "status": 200, "attempts": 1, "input_tokens": 12, "output_tokens": 5, "usage_source": "provider",
                "cost_nanousd": 12 * 2_500 + 5 * 10_000, "streamed": False}  # fmt: skip
    assert {name: line[name] for name in expected} == expected
    assert line["duration_ms"] >= line["upstream_ms"] > 0 and line["first_byte_ms"] > 0
    assert "the-body-of-the-call" not in here.sluice.logged() and slk("bot") not in here.sluice.logged()


async def test_a_stream_and_a_refusal_have_their_line_too(here):
    async def stream(seen, reply):
        await reply.start()
        await reply.event(delta("x"))
        await stream_end(reply)

    here.provider.script = stream
    async with Caller(here.sluice.port) as caller:
        headers = [("content-type", "application/json"), ("authorization", f"Bearer {slk('bot')}"), ("x-request-id", "streamed-1")]
        await caller.ask("POST", f"/openai{CHAT}", headers, asked(stream=True))
    await here.chat("bot", model="gpt-4o", max_tokens="many", headers=[("x-request-id", "refused-1")])
    lines = {line["request_id"]: line for line in await logged(here, "call")}
    assert lines["streamed-1"]["streamed"] is True and lines["streamed-1"]["usage_source"] == "provider"
    assert lines["refused-1"]["end"] == "refused:invalid_request" and lines["refused-1"]["status"] == 400


async def test_who_is_turned_away_at_the_door_finds_the_id_of_the_reply_in_the_log(here):
    got = await here.ask("GET", "/nowhere?secret-looking-query", None, "bot")
    assert (got.status, got.code) == (404, "unknown_provider")
    (line,) = [line for line in await logged(here, "turned away") if line["request_id"] == got.header("x-sluice-request-id")]
    assert (line["level"], line["code"]) == ("info", "unknown_provider")
    assert "secret-looking-query" not in here.sluice.logged()


LEVELS = {"debug": (True, True), "info": (True, True), "warning": (False, True), "error": (False, False)}


async def test_the_level_of_the_policy_is_the_least_that_is_written(tmp_path):
    policy = "providers: {openai: {url: A_URL}}\nretry: {attempts: 2, backoff: 1ms..1ms}\nbreaker: off\nobserve: {logs: {level: LEVEL}}"
    async with world(tmp_path, policy.replace("LEVEL", "error")) as one:
        for level, (calls, retries) in LEVELS.items():
            await one.reload(policy.replace("LEVEL", level))
            id = f"at-{level}"
            await one.chat(headers=[("x-status", "503"), ("x-request-id", id)])
            lines = await logged(one, "call"), await logged(one, "retry")
            assert [any(line.get("request_id") == id for line in some) for some in lines] == [calls, retries], level


async def test_names_are_hashed_everywhere_where_the_policy_says_so(tmp_path):
    policy = """
    providers: {openai: {url: A_URL}}
    callers: {keys: [{name: anna.smith, hash: HASH(anna.smith), team: t}]}
    teams: {t: {}}
    limits: [{name: each, per: caller, requests: 1/day}]
    observe: {identities: hashed}
    """
    async with world(tmp_path, policy) as one:
        got = await one.chat("anna.smith")
        assert (await one.chat("anna.smith")).status == 429
        row = await one.row(got)
        assert re.fullmatch(r"id:[0-9a-f]{12}", row["caller"])
        assert {line["caller"] for line in await logged(one, "call")} == {row["caller"]}
        assert await one.metric("requests_total", caller=row["caller"]) == 2
        usage = await one.sluice.get("/admin/usage?by=caller")
        filtered = await one.sluice.get("/admin/ledger?caller=anna.smith")
        assert len(filtered["rows"]) == 2
        said = [json.dumps(await one.sluice.rows()), await one.sluice.metrics(), one.sluice.logged(), json.dumps(usage)]
        assert not any("anna.smith" in text for text in said)
        await one.reload(policy.replace("hashed", "plain").replace("1/day", "5/day"))
        assert (await one.row(await one.chat("anna.smith")))["caller"] == "anna.smith"
