"""`stop_streams`: an answer that costs more than was held gets more, or ends where the money ends: well formed, charged for what passed."""

import asyncio
import contextlib
import gzip
import json
import zlib

import pytest
from support.inside import FINISH, USAGE, Sink, chat, completion, delta, event, talk

NANO = 1_000_000_000
PIECE = "twelve bytes "  # of a word more than four tokens, as they are counted
PRICE = 10_000  # nano-dollars of a token of output
ASKED = json.dumps({"model": "gpt-4o", "stream": True, "messages": [{"role": "user", "content": "hi"}]}).encode()  # names no max_tokens


def limited(dollars: str, at_limit: str = "{stop_streams: true}", more: str = "") -> str:
    return f"""
    default_max_tokens: 100
    limits: [{{name: purse, spend: {dollars}/day, at_limit: {at_limit}}}]
    {more}
    """


def long(pieces: int, **more):
    """An answer of so many pieces, in chunks of eight events."""
    chunks = [b"".join([delta(PIECE)] * 8) for _ in range(pieces // 8)]
    return talk(*chunks, FINISH, event({"choices": [], "usage": {**USAGE, "completion_tokens": pieces * 4}}), event(b"[DONE]"), **more)


def said(sink: Sink) -> list:
    lines = [line[6:] for line in sink.body.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


async def the_row(path) -> dict:
    (row,) = await path.rows()
    return row


async def used(path) -> int:
    return path.store.held_spend(["limit purse"]).get("limit purse", 0)


async def test_a_stream_ends_well_formed_where_the_money_ends(path_with):
    path = await path_with(limited("$0.005"))
    sink = await path.run(ASKED, long(4000))
    *chunks, finish, done = said(sink)
    assert done == "[DONE]" and sink.is_finished and not sink.is_aborted
    assert finish["choices"] == [{"index": 0, "delta": {}, "logprobs": None, "finish_reason": "length"}]
    assert all(chunk["choices"][0]["delta"]["content"] == PIECE for chunk in chunks)
    row = await the_row(path)
    assert (row["end"], path.story.end, path.story.limit) == ("stopped:money", "stopped:money", "limit purse")
    assert row["usage_source"] == "counted" and row["output_tokens"] * 3 >= len(chunks) * len(PIECE), "never less than was received"
    assert row["cost_nanousd"] == row["output_tokens"] * PRICE + row["input_tokens"] * 2_500
    assert path.upstream.given[0].passed < 500, "the provider is not listened to any longer"
    assert any(b'"stopped_money"' in line for line in path.lines)
    await path.assert_nothing_is_left()


async def test_what_goes_beyond_the_budget_is_one_look_at_most(path_with):
    path = await path_with(limited("$0.02"))
    await path.run(ASKED, long(8000))
    over = await used(path) - NANO * 2 // 100
    assert 0 < over < 4096 * PRICE // 8


async def test_a_stream_goes_on_while_the_account_has_money_and_the_hold_grows_with_it(path_with):
    path = await path_with(limited("$1"))
    held = []
    answer = long(4000)
    answer.after = lambda passed: held.append(sum(one.nanousd for one in path.store.holds.values()))
    sink = await path.run(ASKED, answer)
    assert said(sink)[-2]["choices"][0]["finish_reason"] == "stop"
    row = await the_row(path)
    assert (row["end"], row["usage_source"], row["output_tokens"]) == ("done", "provider", 16_000)
    assert held[0] < 2 * 1024 * PRICE and max(held) >= 16_000 * PRICE and row["held_nanousd"] == max(held)
    assert await used(path) == row["cost_nanousd"]
    await path.assert_nothing_is_left()


async def test_nothing_is_stopped_where_the_policy_does_not_say_so(path_with):
    path = await path_with(limited("$0.005", "{status: 402}"))
    sink = await path.run(ASKED, long(4000))
    assert said(sink)[-2]["choices"][0]["finish_reason"] == "stop"
    assert (await the_row(path))["end"] == "done"


async def test_a_limit_that_stops_nothing_does_not_end_what_another_one_would_let_go_on(path_with):
    path = await path_with("""
    default_max_tokens: 100
    limits:
      - {name: purse, spend: $0.005/day}
      - {name: other, spend: $5/day, at_limit: {stop_streams: true}}
    """)
    assert said(await path.run(ASKED, long(4000)))[-2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize(("rule", "end"), [("true", "stopped:money"), ("false", "done")])
async def test_a_rule_may_say_otherwise(path_with, rule, end):
    policy = limited("$0.005", "{stop_streams: %s}" % ("false" if rule == "true" else "true"))
    path = await path_with(policy + f"rules: [{{match: {{caller: ann}}, at_limit: {{stop_streams: {rule}}}}}]\n")
    await path.run(ASKED, long(4000))
    assert (await the_row(path))["end"] == end


async def test_a_call_that_stays_within_what_it_asked_for_is_never_stopped(path_with):
    """Long words make counts too high: 1,000 tokens of 12 bytes count as 4,000."""
    path = await path_with(limited("$0.0105"))
    last = event({"choices": [], "usage": USAGE | {"completion_tokens": 1000}})
    answer = talk(*[delta("telephonists") for _ in range(1000)], FINISH, last, event(b"[DONE]"))
    sink = await path.run(chat(stream=True, max_tokens=1000), answer)
    assert said(sink)[-2]["choices"][0]["finish_reason"] == "stop"
    assert (await the_row(path))["end"] == "done"


async def test_a_provider_that_writes_far_more_than_was_asked_for_is_stopped(path_with):
    path = await path_with(limited("$0.002"))
    await path.run(chat(stream=True, max_tokens=100), long(4000))
    row = await the_row(path)
    assert row["end"] == "stopped:money" and 100 * 8 < row["output_tokens"] < 8000


async def test_what_a_provider_states_at_the_start_counts(path_with):
    """The input of a conversation that is stored at the provider: nobody could foresee it."""
    path = await path_with(limited("$0.005"))
    start = {"type": "message_start", "message": {"id": "m", "role": "assistant", "usage": {"input_tokens": 4_000_000, "output_tokens": 1}}}
    text = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": PIECE}}
    begin = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    chunks = [b"event: %b\n" % one["type"].encode() + event(one) for one in (start, begin, *[text] * 400)]
    body = b'{"model":"claude-sonnet-4-5","max_tokens":9,"stream":true,"messages":[]}'
    sink = await path.run(body, talk(*chunks), target="/anthropic/v1/messages")
    kinds = [one["type"] for one in said(sink)]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert (await the_row(path))["input_tokens"] == 4_000_000


async def test_usage_comes_before_the_end_where_the_caller_asked_for_it(path_with):
    path = await path_with(limited("$0.005"))
    asked = json.dumps({**json.loads(ASKED), "stream_options": {"include_usage": True}}).encode()
    *_, finish, usage, done = said(await path.run(asked, long(4000)))
    assert (finish["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    row = await the_row(path)
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == row["output_tokens"]
    assert usage["usage"]["total_tokens"] == row["output_tokens"] + row["input_tokens"]


async def test_each_choice_that_is_not_over_is_ended(path_with):
    path = await path_with(limited("$0.02"))
    asked = json.dumps({**json.loads(ASKED), "n": 3}).encode()
    over = event({"id": "c", "model": "gpt-4o", "choices": [{"index": 1, "delta": {}, "finish_reason": "stop"}]})
    answer = talk(over, *[b"".join([delta(PIECE)] * 8)] * 2000)
    chunks = said(await path.run(asked, answer))[:-1]
    finished = {choice["index"]: choice["finish_reason"] for one in chunks for choice in one["choices"] if choice["finish_reason"]}
    assert finished == {0: "length", 1: "stop", 2: "length"}


@pytest.mark.parametrize("cut", [1, 7, 100, 4096])
async def test_the_end_stands_between_two_events_wherever_the_provider_cuts_them(path_with, cut):
    path = await path_with(limited("$0.005"))
    body = b"".join([delta(PIECE)] * 1000)
    sink = await path.run(ASKED, talk(*[body[at : at + cut] for at in range(0, len(body), cut)]))
    *chunks, finish, done = said(sink)
    assert all(chunk["choices"][0]["delta"] == {"content": PIECE} for chunk in chunks), "every event is whole"
    assert (finish["choices"][0]["finish_reason"], done) == ("length", "[DONE]")


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_compressed_stream_is_ended_too(path_with, coding):
    path = await path_with(limited("$0.005"))
    plain = b"".join([delta(f"{n} {PIECE}") for n in range(4000)])
    packed = gzip.compress(plain) if coding == "gzip" else zlib.compress(plain)
    chunks = [packed[at : at + 512] for at in range(0, len(packed), 512)]
    sink = await path.run(ASKED, talk(*chunks, more=((b"content-encoding", coding.encode()),)), accept_encoding="gzip, deflate")
    *_, finish, done = said(sink)
    assert "content-encoding" not in sink.headers
    assert (finish["choices"][0]["finish_reason"], done) == ("length", "[DONE]")
    assert (await the_row(path))["end"] == "stopped:money"


async def test_what_was_held_back_for_unmasking_comes_out_before_the_end(path_with):
    path = await path_with(limited("$0.005", more="guard: {pii: {default: mask}, restore: true}"))
    text = json.dumps({**json.loads(ASKED), "messages": [{"role": "user", "content": "I am bob@example.org"}]}).encode()
    pieces = [delta("see [EMAIL_1] and [EMAIL_")] * 500
    sink = await path.run(text, talk(*pieces))
    *chunks, finish, done = said(sink)
    told = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    assert told.startswith("see bob@example.org and [EMAIL_see bob") and told.endswith("[EMAIL_")
    assert (finish["choices"][0]["finish_reason"], done) == ("length", "[DONE]")


async def test_an_answer_that_is_no_stream_is_never_stopped(path_with):
    path = await path_with(limited("$0.005"))
    sink = await path.run(ASKED.replace(b"true", b"false"), completion("word " * 5000, completion_tokens=5000))
    assert sink.json["usage"]["completion_tokens"] == 5000
    assert (await the_row(path))["end"] == "done"


async def test_a_stream_that_has_said_its_own_end_is_left_alone(path_with):
    path = await path_with(limited("$0.005"))
    late = [event({"choices": [], "x": "y" * 5000})] * 4
    sink = await path.run(
        ASKED, talk(b"".join([delta(PIECE)] * 30), FINISH, *late, event({"choices": [], "usage": USAGE}), event(b"[DONE]"))
    )
    assert (await the_row(path))["end"] == "done" and said(sink)[-1] == "[DONE]"


async def test_the_next_call_is_refused_and_the_day_after_is_not_charged(path_with):
    path = await path_with(limited("$0.005"))
    await path.run(ASKED, long(4000))
    sink = await path.run(ASKED)
    assert (sink.status, sink.no.code) == (402, "budget_exhausted")


@pytest.mark.parametrize("is_gone", [True, False])
async def test_a_call_that_is_cancelled_while_more_is_asked_for_is_settled_once(path_with, is_gone):
    path = await path_with(limited("$5"))
    asked, sink = asyncio.Event(), Sink()

    async def never(*_: object) -> bool:
        asked.set()
        await asyncio.Event().wait()
        return True

    path.store.extend = never
    task = asyncio.ensure_future(path.run(ASKED, long(4000), sink=sink))
    await asked.wait()
    sink.is_gone = is_gone
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    row = await the_row(path)
    assert row["end"] == ("client_gone" if is_gone else "stopped:drain")
    assert row["cost_nanousd"] == await used(path) > 100 * PRICE
    await path.assert_nothing_is_left()


async def test_where_more_cannot_be_written_down_the_answer_ends(path_with):
    path = await path_with(limited("$5"))

    async def no(*_: object) -> bool:
        return False

    path.store.extend = no
    sink = await path.run(ASKED, long(4000))
    assert said(sink)[-1] == "[DONE]" and (await the_row(path))["end"] == "stopped:money"


async def test_a_share_that_a_running_answer_crosses_is_told(path_with):
    path = await path_with(limited("$0.02") + "alerts: {at: [50%, 100%]}\n")
    await path.run(ASKED, long(8000))
    told = [json.loads(line)["share"] for line in path.lines if json.loads(line)["event"] == "alert"]
    assert told == ["50%", "100%"]
