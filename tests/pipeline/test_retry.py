"""Attempt after attempt: each is paid for and booked on its own, and the last answer is the provider's."""

from dataclasses import replace

from support.inside import STREAM, Answer, Body, Sink, chat, completion, error, event, talk

from proxy.policy.plan import Credential
from proxy.refusal import UpstreamCut, UpstreamFailed

NO_CREDIT = b'{"error":{"type":"insufficient_quota","code":"insufficient_quota","message":"no"}}'
OVERLOADED = event({"error": {"type": "overloaded_error", "message": "no"}})


async def costs(path):
    return [(row["kind"], row["status"], row["cost_nanousd"] > 0) for row in await path.rows()]


async def test_a_failure_costs_nothing_and_the_answer_that_follows_its_usage(path):
    sink = await path.run(chat(), error(503), error(500), completion())
    assert (sink.status, sink.headers["x-sluice-attempts"], sink.headers.get("x-should-retry")) == (200, "3", None)
    assert await costs(path) == [("first", 503, False), ("retry", 500, False), ("retry", 200, True)]
    assert len(set(path.upstream.bodies)) == 1
    await path.assert_nothing_is_left()


async def test_after_the_last_attempt_the_providers_own_answer_passes_and_says_not_to_retry(path):
    sink = await path.run(chat(), error(503), error(503), error(529, more=((b"retry-after", b"3"),)))
    assert (sink.status, sink.headers["retry-after"], sink.headers["x-should-retry"]) == (529, "3", "false")
    assert b"server_error" in sink.body
    await path.assert_nothing_is_left()


async def test_what_may_have_been_billed_is_charged_at_its_estimate(path):
    await path.run(chat(), UpstreamFailed("upstream_reset", "reset", sent=True), completion())
    first, second = await path.rows()
    assert (first["usage_source"], first["cost_nanousd"], first["usage_note"]) == ("estimate", first["held_nanousd"], "unconfirmed")
    assert second["usage_source"] == "provider"
    await path.assert_nothing_is_left()


async def test_a_stream_that_broke_before_its_content_has_read_its_input(path):
    sink = await path.run(chat(stream=True), talk(b": hello\n\n", breaks=UpstreamCut()), talk())
    assert sink.is_finished
    first, second = await path.rows()
    assert first["usage_source"] == "counted"
    assert first["input_tokens"] > 0 == first["output_tokens"]
    assert second["kind"] == "retry"
    await path.assert_nothing_is_left()


async def test_an_error_event_before_the_content_is_never_seen(path):
    sink = await path.run(chat(stream=True), Answer(200, (OVERLOADED,), STREAM), talk())
    assert b"overloaded" not in sink.body
    assert await costs(path) == [("first", 200, False), ("retry", 200, True)]
    await path.assert_nothing_is_left()


async def test_no_budget_for_a_second_attempt_means_the_first_answer(path_with):
    path = await path_with("limits: [{name: tight, match: {caller: ann}, per: caller, tokens: 200/min}]")
    sink = await path.run(chat(), error(503))
    assert (sink.status, sink.headers.get("x-sluice-error")) == (503, None)
    assert await costs(path) == [("first", 503, False)]
    await path.assert_nothing_is_left()


async def test_a_fallback_is_an_attempt_on_another_provider_with_that_ones_key(path_with):
    path = await path_with("fallback: {gpt-4o: [spare/gpt-4o-mini]}\nretry: {attempts: 1}")
    sink = await path.run(chat(), error(503), completion())
    assert (sink.headers["x-sluice-provider"], sink.headers["x-sluice-model"]) == ("spare", "gpt-4o-mini")
    assert [row["kind"] for row in await path.rows()] == ["first", "fallback"]
    keys = [dict(request.headers)[b"Authorization"] for request in path.upstream.sent]
    assert keys == [b"Bearer sk-provider-secret-1", b"Bearer sk-provider-secret-2"]
    assert b'"gpt-4o-mini"' in path.upstream.bodies[1]
    await path.assert_nothing_is_left()


async def test_calls_alike_begin_with_the_same_key_but_while_it_rests(path):
    provider = path.rooms.generation.rules.providers["openai"]
    object.__setattr__(provider, "credentials", (Credential("A", "sk-a"), Credential("B", "sk-b")))
    kept: dict[object, object] = {}

    async def begun_with(*script):
        path.upstream.script, before = list(script), len(path.upstream.sent)
        await path.pipeline.run(replace(path.call(), kept=kept), Body(chat()), Sink())
        await path.assert_nothing_is_left()
        keys = [dict(request.headers)[b"Authorization"].removeprefix(b"Bearer sk-") for request in path.upstream.sent[before:]]
        assert [row["credential"] for row in await path.rows()] == [key.decode().upper() for key in keys]
        return keys

    assert [await begun_with(completion()) for _ in range(4)] == [[b"a"]] * 4
    assert await begun_with(Answer(429, (NO_CREDIT,), length=len(NO_CREDIT)), completion()) == [b"a", b"b"]
    assert await begun_with(completion()) == [b"b"]
    path.pipeline._forwarding._credentials.strikes.clear()  # the rest is over
    assert [await begun_with(completion()) for _ in range(2)] == [[b"a"]] * 2


async def test_a_credit_that_is_used_up_passes_and_is_not_to_be_retried(path):
    sink = await path.run(chat(), Answer(429, (NO_CREDIT,), length=len(NO_CREDIT)))
    assert (sink.status, sink.body, sink.headers["x-should-retry"]) == (429, NO_CREDIT, "false")
    await path.assert_nothing_is_left()


async def test_the_row_of_a_callers_own_key_names_none_of_ours(path_with):
    path = await path_with("")
    await path.run(chat(), error(401), key="Bearer sk-callers-own")
    (row,) = await path.rows()
    assert (row["credential"], row["status"]) == (None, 401)
