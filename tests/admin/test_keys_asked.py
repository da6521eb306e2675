"""What is asked of the keys over the admin API, in the words of the policy."""

from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.keys_asked import read_key_asked, read_overlap_asked
from proxy.admin.say import AdminProblem
from proxy.admit.keyring import Kept, dumped, loaded
from proxy.exchange import Allow
from proxy.policy.plan import Rate, Spend
from proxy.policy.plan_callers import CallerRules
from proxy.record.rows import rfc3339

DIGEST = b"d" * 32
RULES = CallerRules(tiers=frozenset({"free"}), teams=frozenset({"finance"}))


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
        b'{"name":"a","expires":1}', b'{"name":"anonymous"}',
        b'{"name":"a","overrides":{"requests":"10"}}', b'{"name":"a","overrides":{"rpm":"10/min"}}',
        b'{"name":"a","overrides":' + b"[" * 900 + b"]" * 900 + b"}", b"[" * 900 + b"]" * 900,
        b'{"name":"a","allow":{"model":"x"}}', b'{"name":"a","hash":"sha256:00"}', b'{"name":"a","key":"env:HOME"}',
    ],
)  # fmt: skip
def test_a_key_that_cannot_be_made_is_refused_with_the_fix(body):
    with pytest.raises(AdminProblem) as no:
        read_key_asked(body, DIGEST, RULES, "UTC")
    assert no.value.status == 400 and no.value.fix


def test_a_key_that_would_be_dead_at_once_is_refused():
    with pytest.raises(AdminProblem) as no:
        read_key_asked(b'{"name":"a","expires":"2026-11-21"}', DIGEST, RULES, "UTC", 1_795_219_200 * 10**9)
    assert no.value.status == 400 and "over already" in no.value.message


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "America/New_York"])
@pytest.mark.parametrize("day", ["0001-01-01", "1970-01-01", "2262-04-12", "9999-12-31"])
def test_a_day_far_away_makes_a_key_that_can_be_kept(day, zone):
    record = read_key_asked(b'{"name":"a","expires":"%b"}' % day.encode(), DIGEST, RULES, zone)
    assert loaded(DIGEST, dumped(Kept(record, 1))) == Kept(record, 1)
    assert record.expires_ns == (1 if day < "2000" else 2**63 - 1)
    assert rfc3339(record.expires_ns)


@given(st.binary(max_size=60))
def test_no_body_makes_a_crash(body):
    with pytest.raises(AdminProblem):
        read_key_asked(body, DIGEST, CallerRules(), "UTC")


def test_a_key_may_have_numbers_and_an_allowance_of_its_own():
    body = b"""{"name":"ci","overrides":{"requests":["10/min","100/hour"],"spend":"$5/day","tokens":"off","concurrency":2},
               "allow":{"models":["gpt-4o*"],"regions":"eu"}}"""
    record = read_key_asked(body, DIGEST, RULES, "UTC")
    assert dict(record.overrides) == {
        "requests": (Rate(10, 60), Rate(100, 3600)), "spend": (Spend(5_000_000_000, "day"),), "tokens": (), "concurrency": 2,
    }  # fmt: skip
    assert record.allow == Allow(models=("gpt-4o*",), regions=("eu",))


@pytest.mark.parametrize(("body", "hours"), [(b"", 24), (b"{}", 24), (b'{"overlap":"0s"}', 0), (b'{"overlap":"30m"}', 0.5)])
def test_old_and_new_are_both_valid_for_a_day_or_as_long_as_is_asked(body, hours):
    assert read_overlap_asked(body) == hours * 3600 * 10**9


@pytest.mark.parametrize("body", [b"[]", b'{"overlap":"soon"}', b'{"overlap":-1}', b'{"overlap":"91d"}', b'{"for":"1h"}'])
def test_an_overlap_that_is_none_is_refused_with_the_fix(body):
    with pytest.raises(AdminProblem) as no:
        read_overlap_asked(body)
    assert no.value.status == 400 and no.value.fix
