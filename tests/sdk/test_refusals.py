"""Every refusal of Sluice, by each SDK: its own typed exception, after one attempt, with the code where a program can read it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from support.provider import Reply, Script, Seen
from support.sdk.clients import FLAVOURS
from support.sdk.dialects import MODELS, SDKS, Sdk, costly
from support.sdk.errors import headers_of, status_of, typed
from support.sdk.house import House, refusals
from support.sdk.policies import AS_OPENAI_DOES, BREAKING, DEAD, REFUSING, SLOW, key, token
from support.sdk.scripts import silence, whole
from support.sdk.ways import Told, Ways


@dataclass(frozen=True)
class Refused:
    """`credential` and `origin` may hold `{sdk}`. `may_help`: waiting may, so the SDKs are told to, and would."""

    status: int
    code: str
    credential: str = key("open")
    ask: dict[str, str] = field(default_factory=dict)
    policy: str = REFUSING
    origin: str = "http://127.0.0.1:{port}/{sdk}"
    script: Callable[[Sdk], Script] = lambda sdk: whole(sdk.good)
    reaches_the_provider: int = 0
    may_help: bool = False


REFUSALS = {
    "no credential": Refused(401, "missing_credentials", "sluice"),
    "an unknown key": Refused(401, "invalid_credentials", key("nobody's")),
    "a malformed key": Refused(401, "invalid_credentials", "slk-short"),
    "an expired key": Refused(401, "expired_credentials", key("dead")),
    "an expired token": Refused(401, "expired_credentials", token(exp=1)),
    "a token signed by somebody else": Refused(403, "bad_signature", token("another secret, as long as it must be")),
    "a team that is not declared": Refused(403, "unknown_team", token(org="nobodys")),
    "a tier that is not declared": Refused(403, "unknown_tier", token(plan="platinum")),
    "a model that is not allowed": Refused(403, "not_allowed", key("few-models")),
    "a card number": Refused(400, "content_blocked", ask={"text": "Bezahle mit 4111 1111 1111 1111."}),
    "no end user": Refused(400, "missing_end_user", key("crowd")),
    "a model without a price": Refused(400, "unpriced_model", key("priced"), ask={"model": "nobodys-model"}),
    "a call larger than the whole budget": Refused(400, "exceeds_limit", key("small")),
    "a body larger than the policy holds": Refused(413, "too_large", ask={"text": "x" * 70_000}),
    "a path of no provider": Refused(404, "unknown_provider", origin="http://127.0.0.1:{port}/nonesuch"),
    "a host that is not listed": Refused(421, "wrong_host", origin="http://localhost:{port}/{sdk}"),
    "a key of ours that the provider rejects": Refused(
        502, "upstream_auth", script=lambda sdk: whole(sdk.error(401, "no such key"), 401), reaches_the_provider=1
    ),
    "a provider that is not there": Refused(502, "upstream_connect", "sk-own", policy=DEAD),
    "a provider that is silent": Refused(
        504, "upstream_first_byte_timeout", "sk-own", policy=SLOW, script=lambda sdk: silence, reaches_the_provider=1, may_help=True
    ),
}


def refused(ways: Ways, house: House, sdk: str, flavour: str, no: Refused) -> Told:
    """The call, its code counted by Sluice's own metric: one more, so there was one attempt."""
    one, sluice = SDKS[sdk], house.sluice(no.policy)
    origin = no.origin.format(port=sluice.port, sdk=sdk)
    before = refusals(sluice, no.code)
    told = ways.at(origin, sdk, flavour, _impatient(one, no), no.script(one), no.credential.format(sdk=sdk))
    assert refusals(sluice, no.code) == before + 1
    return told


def _impatient(one: Sdk, no: Refused) -> Callable[[Any], Any]:
    """Without the SDK's retries where it would wait and call again: for what may help, and for cohere's after any 429 and 5xx."""
    if one.name == "cohere" and no.status >= 429:
        return lambda client: one.ask(client, **no.ask, request_options={"max_retries": 0})
    if one.name in ("openai", "anthropic") and no.may_help:
        return lambda client: one.ask(client.with_options(max_retries=0), **no.ask)
    return lambda client: one.ask(client, **no.ask)


def assert_is(told: Told, sdk: str, no: Refused) -> None:
    assert told.error is not None, "not refused"
    assert (told.error["(type)"], status_of(told)) == (typed(sdk, no.status), no.status)
    assert told.attempts == no.reaches_the_provider
    headers = headers_of(told)
    assert headers["x-sluice-error"] == no.code
    assert ("retry-after" in headers) == ("retry-after-ms" in headers)
    assert no.code in str(told.error.get("body") or told.error.get("details"))
    if sdk in ("openai", "anthropic"):
        assert told.error["request_id"] == headers["x-sluice-request-id"]
    if sdk == "openai":
        assert told.error["code"] == no.code
    if sdk == "cohere" and no.status != 404:  # where no provider is known, the words are OpenAI's
        assert told.error["body"]["id"] == headers["x-sluice-request-id"]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("why", REFUSALS)
@pytest.mark.parametrize("sdk", SDKS)
def test_a_refusal_is_the_sdks_own_exception_after_one_attempt(ways: Ways, house: House, sdk: str, why: str, flavour: str) -> None:
    no = REFUSALS[why]
    assert_is(refused(ways, house, sdk, flavour, no), sdk, no)


# --- what is used up first ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("sdk", SDKS)
def test_a_spent_budget_is_402_which_no_sdk_repeats(ways: Ways, house: House, sdk: str, is_stream: bool, flavour: str) -> None:
    one, no = SDKS[sdk], Refused(402, "budget_exhausted", key(f"spent-{sdk}"))
    ways.through(REFUSING, sdk, flavour, one.ask, whole(costly(one)), no.credential)
    before = refusals(house.sluice(REFUSING), no.code)
    told = ways.through(REFUSING, sdk, flavour, one.stream if is_stream else one.ask, whole(one.good), no.credential)
    assert_is(told, sdk, no)
    assert refusals(house.sluice(REFUSING), no.code) == before + 1


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "gemini", "mistral"])
def test_a_spent_budget_may_be_429_and_is_not_repeated_either(ways: Ways, house: House, sdk: str, flavour: str) -> None:
    """cohere alone would: it heeds no `x-should-retry`."""
    one, no = SDKS[sdk], Refused(429, "budget_exhausted", "sk-own", policy=AS_OPENAI_DOES)
    ways.through(AS_OPENAI_DOES, sdk, flavour, one.ask, whole(costly(one)), no.credential)
    told = refused(ways, house, sdk, flavour, no)
    assert_is(told, sdk, no)
    assert headers_of(told)["x-should-retry"] == "false"


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SDKS)
def test_a_rate_limit_is_429_and_says_how_long_to_wait(ways: Ways, house: House, sdk: str, flavour: str) -> None:
    no = Refused(429, "rate_limited", key(f"slow-{sdk}"), may_help=True)
    ways.through(REFUSING, sdk, flavour, _impatient(SDKS[sdk], no), whole(SDKS[sdk].good), no.credential)
    told = refused(ways, house, sdk, flavour, no)
    assert_is(told, sdk, no)
    headers = headers_of(told)
    assert 0 < int(headers["retry-after-ms"]) <= 60_000
    assert int(headers["retry-after"]) == -(-int(headers["retry-after-ms"]) // 1000)


@contextmanager
def one_under_way(ways: Ways, house: House, sdk: str) -> Iterator[Callable[[float], None]]:
    """A call holds the one slot of the caller; gives what lets it end, so many seconds later."""
    one, release = SDKS[sdk], asyncio.Event()
    client = ways.client(f"{house.sluice(REFUSING).url}/{sdk}", sdk, "async", key(f"narrow-{sdk}"))

    async def held(seen: Seen, reply: Reply) -> None:
        await release.wait()
        await reply.json(one.good)

    async def ask() -> None:
        await one.ask(client)

    with house.answering(held) as seen:
        call = asyncio.run_coroutine_threadsafe(ask(), house.loop)
        until = time.monotonic() + 5
        while not seen and time.monotonic() < until:
            time.sleep(0.005)
        assert seen, "the first call never arrived"
    try:
        yield lambda seconds: house.loop.call_soon_threadsafe(house.loop.call_later, seconds, release.set)
    finally:
        house.loop.call_soon_threadsafe(release.set)
        call.result(10)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SDKS)
def test_too_many_at_once_is_429(ways: Ways, house: House, sdk: str, flavour: str) -> None:
    no = Refused(429, "too_many_in_flight", key(f"narrow-{sdk}"), may_help=True)
    with one_under_way(ways, house, sdk):
        told = refused(ways, house, sdk, flavour, no)
    assert_is(told, sdk, no)
    assert int(headers_of(told)["retry-after-ms"]) > 0


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "cohere"])
def test_an_sdk_that_retries_waits_out_a_short_refusal(ways: Ways, house: House, sdk: str, flavour: str) -> None:
    one, sluice = SDKS[sdk], house.sluice(REFUSING)
    before = refusals(sluice, "too_many_in_flight")
    with one_under_way(ways, house, sdk) as let_go:
        let_go(0.2)
        told = ways.through(REFUSING, sdk, flavour, one.ask, whole(one.good), key(f"narrow-{sdk}"))
    assert told.error is None and told.attempts == 1
    assert refusals(sluice, "too_many_in_flight") == before + 1


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SDKS)
def test_an_open_breaker_is_503_which_is_not_repeated_while_it_is_open(ways: Ways, house: House, sdk: str, flavour: str) -> None:
    one, no = SDKS[sdk], Refused(503, "breaker_open", "sk-own", policy=BREAKING)
    for _ in range(2):
        ways.through(BREAKING, sdk, flavour, _impatient(one, Refused(503, "", may_help=True)), whole(one.error(500, "down"), 500), "sk-own")
    told = refused(ways, house, sdk, flavour, no)
    assert_is(told, sdk, no)
    assert headers_of(told)["x-should-retry"] == "false"


# --- refusals that only some SDKs can meet ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", ["openai", "anthropic"])
@pytest.mark.parametrize("code", ["ambiguous_credentials", "headers_too_large", "unsupported_encoding"])
def test_a_refusal_for_a_header_is_typed_too(ways: Ways, house: House, sdk: str, code: str, flavour: str) -> None:
    headers = {
        "ambiguous_credentials": {"x-api-key": key("priced")},
        "headers_too_large": {"x-long": "x" * 70_000},
        "unsupported_encoding": {"content-encoding": "zstd"},
    }[code]
    no = Refused({"headers_too_large": 431, "unsupported_encoding": 415}.get(code, 400), code, ask={"extra_headers": headers})
    told = refused(ways, house, sdk, flavour, no)
    assert told.error is not None and told.error["(type)"] == typed(sdk, no.status)
    assert (status_of(told), headers_of(told)["x-sluice-error"], told.attempts) == (no.status, code, 0)


IMAGE = "data:image/png;base64,iVBORw0KGgo="
PICTURED: dict[str, Callable[[Any], Any]] = {
    "openai": lambda c: c.chat.completions.create(
        model=MODELS["openai"], messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": IMAGE}}]}]
    ),
    "anthropic": lambda c: c.messages.create(
        model=MODELS["anthropic"],
        max_tokens=9,
        messages=[{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}}]}],
    ),
    "gemini": lambda c: c.models.generate_content(
        model=MODELS["gemini"], contents=[{"inline_data": {"mime_type": "image/png", "data": b"x"}}]
    ),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", PICTURED)
def test_a_picture_that_cannot_be_inspected_is_400(ways: Ways, sdk: str, flavour: str) -> None:
    no = Refused(400, "uninspected_content", key("blind"))
    assert_is(ways.through(REFUSING, sdk, flavour, PICTURED[sdk], whole(SDKS[sdk].good), no.credential), sdk, no)


BATCHED: dict[str, Callable[[Any], Any]] = {
    "openai": lambda c: c.batches.create(input_file_id="file-1", endpoint="/v1/chat/completions", completion_window="24h"),
    "anthropic": lambda c: c.messages.batches.create(
        requests=[
            {"custom_id": "a", "params": {"model": MODELS["anthropic"], "max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}}
        ]
    ),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", BATCHED)
def test_a_batch_under_a_budget_is_400(ways: Ways, sdk: str, flavour: str) -> None:
    no = Refused(400, "unmetered_operation", key("priced"))
    assert_is(ways.through(REFUSING, sdk, flavour, BATCHED[sdk], whole({}), no.credential), sdk, no)


# --- and what is not refused ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("credential", [key("open"), token()], ids=["key", "token"])
@pytest.mark.parametrize("sdk", SDKS)
def test_a_good_credential_of_ours_is_swapped_for_the_providers_key(ways: Ways, sdk: str, credential: str, flavour: str) -> None:
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.ask, whole(one.good))
    through = ways.through(REFUSING, sdk, flavour, one.ask, whole(one.good), credential)
    assert (through.value, through.error) == (straight.value, None)
    (sent,) = through.seen
    assert credential not in str(sent) and "sk-the-providers-own-key" in str(sent["headers"])


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", ["openai", "anthropic", "mistral"])
def test_the_list_of_models_names_only_those_that_the_caller_may_use(ways: Ways, sdk: str, flavour: str) -> None:
    def entry(name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "type": "model", "created": 1, "owned_by": "x", "display_name": name, "lifecycle": "active",
                "created_at": "2026-05-01T00:00:00Z"}  # fmt: skip

    listed = {
        "object": "list",
        "data": [entry(n) for n in ("gpt-4o", "gpt-4o-mini", "claude-sonnet-5", "claude-haiku-5-5")],
        "has_more": False,
    }
    if sdk == "mistral":
        listed["data"] = [{**one, "type": "base", "capabilities": {}} for one in listed["data"]]
    told = ways.through(REFUSING, sdk, flavour, lambda c: c.models.list(), whole(listed), key("few-models"))
    assert told.error is None
    assert [one["id"] for one in told.value["data"]] == ["gpt-4o-mini", "claude-haiku-5-5"]
