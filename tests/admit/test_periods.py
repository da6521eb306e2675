from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.periods import NS, TOTAL, Calendar

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Sao_Paulo", "Asia/Beirut", "Australia/Lord_Howe", "Pacific/Apia",
         "America/Havana", "Asia/Kolkata", "America/St_Johns"]  # fmt: skip


def ns(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold).timestamp()) * NS


@given(zone=st.sampled_from(ZONES), second=st.integers(946_684_800, 1_893_456_000))
def test_every_instant_lies_in_one_day_and_one_month_and_they_follow_without_a_gap(zone: str, second: int) -> None:
    calendar = Calendar(zone)
    now = calendar.at(second * NS)
    for span, of in ((now.day, "day"), (now.month, "month")):
        assert span.start_ns <= second * NS < span.end_ns
        after = Calendar(zone).at(span.end_ns).span(of)
        assert (after.start_ns, after.id > span.id) == (span.end_ns, True)
    assert calendar.day_of(second * NS) == now.day.id


@pytest.mark.parametrize(
    ("zone", "at", "hours"),
    [("Europe/Berlin", "2026-03-29T12:00", 23), ("Europe/Berlin", "2026-10-25T12:00", 25), ("Europe/Berlin", "2026-06-01T12:00", 24),
     ("America/Sao_Paulo", "2018-11-04T12:00", 23), ("America/Havana", "2024-11-03T12:00", 25)],
)  # fmt: skip
def test_a_day_with_a_clock_change_has_its_true_length(zone: str, at: str, hours: int) -> None:
    day = Calendar(zone).at(ns(at, zone)).day
    assert (day.end_ns - day.start_ns) // NS == hours * 3600
    assert day.id == at[:10]


def test_the_day_ends_at_local_midnight() -> None:
    calendar = Calendar("America/New_York")
    assert calendar.at(ns("2026-11-22T04:59:59")).day.id == "2026-11-21"
    assert calendar.at(ns("2026-11-22T05:00:00")).day.id == "2026-11-22"
    assert calendar.at(ns("2026-12-01T04:59:59")).month.id == "2026-11"
    assert calendar.at(ns("2026-12-01T05:00:00")).month.id == "2026-12"


def test_a_midnight_that_happens_twice_ends_the_day_once() -> None:
    """St. John's put its clocks back at 00:01 until 2011: 2010-11-07 began, was left, and began again."""
    first = Calendar("America/St_Johns").at(ns("2010-11-07T00:00", "America/St_Johns"))
    again = Calendar("America/St_Johns").at(ns("2010-11-06T23:30", "America/St_Johns", fold=1))
    assert first.day == again.day
    assert again.day.id == "2010-11-07"
    november = Calendar("America/St_Johns").at(ns("2009-10-31T23:30", "America/St_Johns", fold=1))
    assert (november.day.id, november.month.id) == ("2009-11-01", "2009-11")


def test_a_day_that_an_island_skipped_never_was() -> None:
    before = Calendar("Pacific/Apia").at(ns("2011-12-29T12:00", "Pacific/Apia")).day
    assert Calendar("Pacific/Apia").at(before.end_ns).day.id == "2011-12-31"


def test_a_total_never_ends() -> None:
    periods = Calendar("UTC").at(ns("2026-11-21T12:00"))
    assert periods.span("total") is TOTAL
    assert not periods.is_past("total")


def test_counters_outlive_their_period_by_a_day_in_case_the_clock_is_put_back() -> None:
    periods = Calendar("UTC").at(ns("2026-12-01T12:00"))
    assert [periods.is_past(id) for id in ("2026-12-01", "2026-11-30", "2026-11-29", "2026-12", "2026-11", "2026-10")] == [
        False, False, True, False, False, True,
    ]  # fmt: skip


def test_the_day_of_another_instant_does_not_move_the_present() -> None:
    calendar = Calendar("UTC")
    now = calendar.at(ns("2026-12-01T12:00"))
    assert calendar.day_of(ns("2020-01-01T00:00")) == "2020-01-01"
    assert calendar.at(ns("2026-12-01T13:00")) is now


def test_the_calendar_agrees_with_utc() -> None:
    at = datetime(2026, 2, 28, 23, 59, 59, tzinfo=UTC)
    periods = Calendar("UTC").at(int(at.timestamp()) * NS)
    assert (periods.day.id, periods.month.id) == ("2026-02-28", "2026-02")
