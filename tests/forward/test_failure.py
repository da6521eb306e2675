"""The table of faults.md, section 5: what each end of an attempt means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.forward.failure import OK, of_answer, of_breaker, of_cut, of_error_event, of_failure, retry_after_of
from proxy.refusal import UpstreamCut, UpstreamFailed

NOW_NS = 1_800_000_000_000_000_000  # 2027-01-15T08:00:00Z


def facts(outcome):
    return outcome.is_failure_for_breaker, outcome.worth_another_try, outcome.error, outcome.fallback


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dns", (True, True, "connect", "error")),
        ("connect", (True, True, "connect", "error")),
        ("reset", (True, True, "connect", "error")),
        ("tls", (True, False, "", "error")),
        ("protocol", (True, False, "", "error")),
        ("first_byte_timeout", (True, False, "", "error")),
        ("timeout", (True, False, "", "")),
        ("pool", (None, False, "", "error")),
        ("something new", (True, False, "", "error")),
    ],
)
def test_an_attempt_without_an_answer(kind, expected):
    assert facts(of_failure(UpstreamFailed("x", kind, sent=False))) == expected


@pytest.mark.parametrize("sent", [True, False])
def test_a_request_that_may_have_arrived_is_repeated_once_at_most(sent):
    outcome = of_failure(UpstreamFailed("upstream_reset", "reset", sent=sent))
    assert (outcome.is_once, outcome.is_sent) == (sent, sent)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, (False, False, "", "")),
        (304, (False, False, "", "")),
        (302, (None, False, "", "")),
        *((status, (False, False, "", "")) for status in (400, 404, 413, 422, 501)),
        *((status, (True, True, "5xx", "error")) for status in (500, 502, 503, 504, 524, 529)),
        *((status, (None, True, "once", "error")) for status in (408, 409, 425)),
        (429, (None, True, "429", "rate_limit")),
        (401, (None, False, "", "error")),
        (403, (None, False, "", "error")),
        (402, (None, False, "", "rate_limit")),
    ],
)
def test_an_answer_by_its_status(status, expected):
    assert facts(of_answer(status, (), None, is_our_key=True, now_ns=NOW_NS)) == expected


@pytest.mark.parametrize(
    ("status", "credit", "kind"), [(401, None, "auth"), (403, None, "auth"), (402, None, "credit"), (429, "credit", "credit")]
)
def test_a_refused_key_is_the_keys_fault_if_it_is_ours_and_the_callers_business_if_not(status, credit, kind):
    ours = of_answer(status, (), credit, is_our_key=True, now_ns=NOW_NS)
    theirs = of_answer(status, (), credit, is_our_key=False, now_ns=NOW_NS)
    assert (ours.kind, ours.credential_fault, ours.is_failure_for_breaker) == (kind, True, None)
    assert (theirs.kind, theirs.credential_fault, theirs.worth_another_try, theirs.fallback) == (kind, False, False, "")


def test_a_provider_that_says_no_to_retries_gets_none():
    assert not of_answer(503, ((b"X-Should-Retry", b"false"),), None, is_our_key=True, now_ns=NOW_NS).worth_another_try


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        ("overloaded_error", (True, True, "5xx", "error")),
        ("api_error", (True, True, "5xx", "error")),
        ("UNAVAILABLE", (True, True, "5xx", "error")),
        ("rate_limit_error", (None, True, "429", "rate_limit")),
        ("insufficient_quota", (None, False, "", "rate_limit")),
        ("invalid_request_error", (False, False, "", "")),
        ("content_filter", (False, False, "", "")),
    ],
)
def test_an_error_event_by_its_type(type_, expected):
    assert facts(of_error_event(type_)) == expected


def test_a_cut_before_the_first_content_may_be_tried_once_more_unless_the_time_is_over():
    assert facts(of_cut(UpstreamCut("upstream_cut"))) == (True, True, "connect", "error")
    assert of_cut(UpstreamCut("upstream_idle_timeout")).is_once
    assert not of_cut(UpstreamCut("upstream_timeout")).worth_another_try


def test_an_open_breaker_lets_another_target_try():
    assert facts(of_breaker(3.0)) == (None, False, "", "breaker")
    assert of_breaker(3.0).retry_after_s == 3.0
    assert not of_breaker(3.0).is_sent


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ((), None),
        (((b"Retry-After", b"7"),), 7.0),
        (((b"retry-after", b"1.5"),), 1.5),
        (((b"Retry-After", b"9"), (b"Retry-After-Ms", b"250")), 0.25),
        (((b"Retry-After", b"Fri, 15 Jan 2027 08:00:30 GMT"),), 30.0),
        (((b"Retry-After", b"Fri, 15 Jan 2027 07:00:00 GMT"),), 0.0),
        *(((((b"Retry-After", value),), None)) for value in (b"", b"soon", b"-1", b"nan", b"inf", b"9" * 40, b"\xff", b"32 Jan 9999999")),
        (((b"Retry-After", b"4"), (b"Retry-After-Ms", b"x")), 4.0),
    ],
)
def test_how_long_the_provider_asks_us_to_wait(headers, seconds):
    assert retry_after_of(headers, NOW_NS) == seconds


@given(st.binary(max_size=60))
def test_no_retry_after_breaks_anything(value):
    seconds = retry_after_of(((b"Retry-After", value),), NOW_NS)
    assert seconds is None or seconds >= 0


def test_a_good_answer_costs_no_new_object():
    assert of_answer(200, ((b"Retry-After", b"1"),), None, is_our_key=True, now_ns=NOW_NS) is OK
