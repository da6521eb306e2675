"""What an admin request may ask for, and how it is told what is wrong."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.asked import read_key_asked, read_rows_asked, read_usage_asked, rfc3339, shown_row
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
    assert read_usage_asked({"since": text}) == ("caller", seconds * 10**9)


@pytest.mark.parametrize("text", ["yesterday", "", "1e9", "-1", "9" * 30, "2026-13-01", "0001-01-01T00:00:00+23:59"])
def test_a_since_that_is_no_instant_is_refused_or_lies_far_back(text):
    try:
        assert read_rows_asked({"since": text}).since_ns < 0
    except AdminProblem as no:
        assert no.status == 400 and "RFC 3339" in no.fix


@pytest.mark.parametrize(
    ("read", "query"), [(read_rows_asked, {"calller": "x"}), (read_usage_asked, {"limit": "1"}), (read_usage_asked, {"by": "moon"})]
)
def test_a_parameter_that_does_nothing_is_refused(read, query):
    with pytest.raises(AdminProblem) as no:
        read(query)
    assert (no.value.status, no.value.code) == (400, "invalid_request")


@pytest.mark.parametrize("by", ["caller", "model", "team", "day"])
def test_usage_is_grouped_by(by):
    assert read_usage_asked({"by": by}) == (by, None)


def test_a_key_needs_a_name_alone():
    record = read_key_asked(b'{"name":"ci"}', DIGEST, RULES, "UTC")
    assert (record.name, record.digest, record.tier, record.team, record.expires_ns) == ("ci", DIGEST, None, None, None)


def test_a_key_expires_with_the_first_instant_of_the_day_in_the_policys_zone():
    body = b'{"name":"ci","tier":"free","team":"finance","expires":"2027-03-28"}'
    record = read_key_asked(body, DIGEST, RULES, "Europe/Berlin")
    assert (record.tier, record.team) == ("free", "finance")
    assert rfc3339(record.expires_ns) == "2027-03-27T23:00:00.000Z"
    assert ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b'"x"', b"{}", b'{"name":""}', b'{"name":7}', b'{"name":"a b"}', b'{"name":"a\\n"}', b'{"name":null}', b"\xff",
        b'{"name":"' + b"a" * 65 + b'"}', b'{"name":"a","tier":"gold"}', b'{"name":"a","team":"sales"}', b'{"name":"a","teir":"free"}',
        b'{"name":"a","expires":"soon"}', b'{"name":"a","expires":"2027-02-30"}', b'{"name":"a","expires":"20270301"}',
        b'{"name":"a","expires":1}',
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_made_is_refused_with_the_fix(body):
    with pytest.raises(AdminProblem) as no:
        read_key_asked(body, DIGEST, RULES, "UTC")
    assert no.value.status == 400 and no.value.fix


@given(st.binary(max_size=60))
def test_no_body_makes_a_crash(body):
    with pytest.raises(AdminProblem):
        read_key_asked(body, DIGEST, CallerRules(), "UTC")


def test_a_row_shows_its_instant_in_words_and_no_internal_id():
    assert shown_row({"id": "slu-1/1", "at": 1_790_000_000_123_456_789, "caller": "bot"}) == {
        "at": "2026-09-21T14:13:20.123Z",
        "caller": "bot",
    }
    assert shown_row({"at": "already"}) == {"at": "already"}
