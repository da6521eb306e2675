"""What the provider does wrong, by each SDK: the same exception and the same number of attempts, or a difference that is stated here."""

from __future__ import annotations

import pytest
from support.provider import Script
from support.sdk.clients import FLAVOURS
from support.sdk.dialects import SDKS, Sdk
from support.sdk.errors import RETRIES_BY_ITSELF, SPEAKS_STAINLESS, headers_of, typed
from support.sdk.policies import LIMITED, PLAIN, RETRYING
from support.sdk.scripts import SOON, first_then, reset, stream, whole
from support.sdk.ways import Ways

FINAL = (400, 401, 403, 404, 422)
TRANSIENT = (429, 500, 503, 529)
SECOND = {"x-stainless-retry-count": "1"}


def failing(sdk: Sdk, status: int) -> Script:
    return whole(sdk.error(status, f"the provider's own words for {status}"), status, SOON)


def broken(sdk: Sdk, *more: object, is_cut: bool = False, begun: int | None = None) -> Script:
    """The first half of a good stream, and then `more` or a reset or nothing."""
    return stream(*sdk.events[: sdk.begun if begun is None else begun], *more, newline=sdk.newline, is_cut=is_cut)


def good(sdk: Sdk) -> Script:
    return stream(*sdk.events, newline=sdk.newline)


# --- a status ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("status", [*FINAL, 409, *TRANSIENT])
@pytest.mark.parametrize("sdk", SDKS)
def test_a_providers_error_is_the_same_exception_after_as_many_attempts(ways: Ways, sdk: str, status: int, flavour: str) -> None:
    """Sluice's own retries off: every attempt is the SDK's."""
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.ask, failing(one, status))
    assert straight.error is not None and straight.error["(type)"] == typed(sdk, status)
    assert straight.attempts == (1 if status in FINAL else RETRIES_BY_ITSELF[sdk])
    assert ways.through(PLAIN, sdk, flavour, one.ask, failing(one, status)) == straight


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("status", [400, 429, 529])
@pytest.mark.parametrize("sdk", SDKS)
def test_so_it_is_for_a_call_that_wanted_a_stream(ways: Ways, sdk: str, status: int, flavour: str) -> None:
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.stream, failing(one, status))
    assert straight.error is not None and straight.error["(type)"] == typed(sdk, status)
    assert ways.through(PLAIN, sdk, flavour, one.stream, failing(one, status)) == straight


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("status", TRANSIENT)
@pytest.mark.parametrize("sdk", SDKS)
def test_with_retries_on_the_provider_sees_ours_and_then_not_the_sdks(ways: Ways, sdk: str, status: int, flavour: str) -> None:
    """A stated difference: `x-should-retry: false` ends it for the SDKs that heed it. cohere heeds nothing, and both multiply."""
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.ask, failing(one, status))
    through = ways.through(RETRYING, sdk, flavour, one.ask, failing(one, status))
    assert through.error == straight.error
    assert headers_of(through)["x-should-retry"] == "false" and "x-should-retry" not in headers_of(straight)
    assert through.attempts == (9 if sdk == "cohere" else 3)
    if sdk in SPEAKS_STAINLESS:
        assert [dict(one["headers"])["x-stainless-retry-count"] for one in through.seen] == ["0", "0", "0"]


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("status", FINAL)
@pytest.mark.parametrize("sdk", SDKS)
def test_with_retries_on_what_no_retry_can_mend_is_not_retried(ways: Ways, sdk: str, status: int, flavour: str) -> None:
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.ask, failing(one, status))
    assert ways.through(RETRYING, sdk, flavour, one.ask, failing(one, status)) == straight


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SPEAKS_STAINLESS)
def test_with_retries_on_a_retry_of_the_sdks_is_not_retried_again(ways: Ways, sdk: str, flavour: str) -> None:
    """The header is set here by hand: as it would be after an attempt that Sluice had refused."""
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, lambda c: one.ask(c, extra_headers=SECOND), failing(one, 500))
    through = ways.through(RETRYING, sdk, flavour, lambda c: one.ask(c, extra_headers=SECOND), failing(one, 500))
    assert straight.attempts == 3
    assert through == straight
    assert "x-should-retry" not in headers_of(through)


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SDKS)
def test_a_limit_that_is_far_away_lengthens_no_sdks_wait(ways: Ways, sdk: str, flavour: str) -> None:
    """cohere sleeps until `x-ratelimit-reset` where an error names no `retry-after`: a minute, for a limit that did not cause it."""
    one = SDKS[sdk]
    told = ways.through(LIMITED, sdk, flavour, one.ask, whole(one.error(400, "no"), 400))
    assert headers_of(told)["x-ratelimit-limit"] == "100000"
    assert "x-ratelimit-reset" not in headers_of(told)


# --- a failure that passes ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("failure", ["429", "500", "529", "reset", "an error event", "a cut before the first word"])
@pytest.mark.parametrize("sdk", SDKS)
def test_with_retries_on_an_application_does_not_notice_a_failure_that_passes(ways: Ways, sdk: str, failure: str, flavour: str) -> None:
    one = SDKS[sdk]
    script = {
        "reset": reset,
        "an error event": broken(one, one.error_event, begun=0),
        "a cut before the first word": broken(one, begun=0, is_cut=True),
    }.get(failure) or failing(one, int(failure))
    healthy = ways.straight(sdk, flavour, one.stream, good(one))
    through = ways.through(RETRYING, sdk, flavour, one.stream, first_then(script, good(one)))
    assert healthy.error is None and len(healthy.events) >= 3
    assert (through.value, through.events, through.error) == (healthy.value, healthy.events, None)
    assert through.seen == [*healthy.seen, *healthy.seen]


# --- in the middle of a stream ---


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("policy", [PLAIN, RETRYING], ids=["plain", "retrying"])
@pytest.mark.parametrize("sdk", SDKS)
def test_an_error_event_after_the_first_word_is_the_providers_own_and_never_retried(
    ways: Ways, sdk: str, policy: str, flavour: str
) -> None:
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.stream, broken(one, one.error_event))
    assert straight.attempts == 1 and straight.events
    raised = {
        "openai": "APIError",
        "anthropic": "APIStatusError",
        "gemini": "ServerError",
        "cohere": None,
        "mistral": "ResponseValidationError",
    }
    assert (straight.error and straight.error["(type)"]) == raised[sdk]
    assert ways.through(policy, sdk, flavour, one.stream, broken(one, one.error_event)) == straight


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("sdk", SDKS)
def test_an_error_event_before_the_first_word_passes_verbatim_in_the_end(ways: Ways, sdk: str, flavour: str) -> None:
    one = SDKS[sdk]
    script = broken(one, one.error_event, begun=0)
    straight = ways.straight(sdk, flavour, one.stream, script)
    assert straight.attempts == 1
    assert ways.through(PLAIN, sdk, flavour, one.stream, script) == straight
    retried = ways.through(RETRYING, sdk, flavour, one.stream, script)
    assert (retried.value, retried.events, retried.error) == (straight.value, straight.events, straight.error)
    assert retried.seen == straight.seen * 3


STRAIGHT_CUT = {"openai": ("APIConnectionError", "APIConnectionError"), "gemini": ("RemoteProtocolError", "ClientPayloadError")}
SLUICE_CUT = {"openai": "APIError", "anthropic": "APIStatusError", "gemini": "ServerError", "cohere": "RemoteProtocolError",
              "mistral": "ResponseValidationError"}  # fmt: skip


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("is_cut", [True, False], ids=["cut", "ended without its last event"])
@pytest.mark.parametrize("sdk", SDKS)
def test_a_stream_that_breaks_off_never_looks_whole(ways: Ways, sdk: str, is_cut: bool, flavour: str) -> None:
    """A stated difference: Sluice says what happened in the dialect's own error event and then cuts. It says so too where the provider
    ends without its last event, which every SDK takes for a good end (ecosystem.md, 12.5)."""
    one = SDKS[sdk]
    straight = ways.straight(sdk, flavour, one.stream, broken(one, is_cut=is_cut))
    through = ways.through(RETRYING, sdk, flavour, one.stream, broken(one, is_cut=is_cut))
    at_the_provider = STRAIGHT_CUT.get(sdk, ("RemoteProtocolError",) * 2)[FLAVOURS.index(flavour)]
    assert (straight.error and straight.error["(type)"]) == (at_the_provider if is_cut else None)
    assert through.error is not None and through.error["(type)"] == SLUICE_CUT[sdk]
    assert through.events[: len(straight.events)] == straight.events and straight.events
    assert through.seen == straight.seen
    told = through.events[-1]["delta"]["error"] if sdk == "cohere" else str(through.error)
    assert "upstream_cut" in told
