"""What an admin request may ask for, and how it is told what is wrong."""

import pytest

from proxy.admin.asked import SpanAsked, read_rows_asked, read_span_asked
from proxy.admin.say import AdminProblem
from proxy.policy.plan_callers import CallerRules

RULES = CallerRules(tiers=frozenset({"free"}), teams=frozenset({"finance"}))
DIGEST = b"d" * 32


def test_without_parameters_the_newest_hundred_rows_are_asked_for():
    asked = read_rows_asked({})
    assert (asked.limit, asked.since_ns, asked.caller) == (100, None, None)


@pytest.mark.parametrize("limit", ["0", "-1", "100001", "1e3", "x", "", " 5", "٣", "9" * 5000])
def test_a_limit_that_is_no_number_of_rows_is_refused(limit):
    with pytest.raises(AdminProblem) as no:
        read_rows_asked({"limit": limit})
    assert no.value.status == 400 and "100000" in no.value.fix


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1790000000", 1_790_000_000),
        ("2026-09-21T14:13:20Z", 1_790_000_000),
        ("2026-09-21T16:13:20+02:00", 1_790_000_000),
        ("2026-09-21T14:13:20", 1_790_000_000),
        ("2026-09-21", 1_789_948_800),
        ("0", 0),
    ],
)
def test_since_is_an_instant_in_either_form(text, seconds):
    assert read_rows_asked({"since": text, "limit": "100000"}).since_ns == seconds * 10**9
    assert read_span_asked({"until": text}) == SpanAsked(until_ns=seconds * 10**9)


@pytest.mark.parametrize("text", ["yesterday", "", "1e9", "-1", "9" * 30, "2026-13-01", "0001-01-01T00:00:00+23:59"])
def test_a_since_that_is_no_instant_is_refused_or_lies_far_back(text):
    try:
        assert read_rows_asked({"since": text}).since_ns < 0
    except AdminProblem as no:
        assert no.status == 400 and "RFC 3339" in no.fix


@pytest.mark.parametrize(
    ("read", "query"),
    [
        (read_rows_asked, {"calller": "x"}),
        (read_rows_asked, {"until": "1"}),
        (read_rows_asked, {"format": "xml"}),
        (read_span_asked, {"limit": "1"}),
        (read_span_asked, {"by": "team"}),
        (lambda query: read_span_asked(query, "by"), {"by": "moon"}),
        (lambda query: read_span_asked(query, "limit"), {"limit": "1001"}),
    ],
)
def test_a_parameter_that_does_nothing_is_refused(read, query):
    with pytest.raises(AdminProblem) as no:
        read(query)
    assert (no.value.status, no.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("by", ["caller", "team", "model", "provider", "tier", "day"])
def test_usage_is_grouped_by(by):
    assert read_span_asked({"by": by, "format": "csv"}, "by") == SpanAsked(by=by, is_csv=True)
