import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import values
from proxy.policy.plan import Rate, Spend


@pytest.mark.parametrize(
    ("read", "said", "meant"),
    [
        (values.count, 7, 7),
        (values.count, "10k", 10_000),
        (values.count, "1.5k", 1500),
        (values.count, "1_000", 1000),
        (values.count, Decimal("3"), 3),
        (values.rate, "10/min", Rate(10, 60)),
        (values.rate, "10k / hour", Rate(10_000, 3600)),
        (values.rate, "2M/day", Rate(2_000_000, 86400)),
        (values.rate, 0, Rate(0, 60)),
        (values.spend, "$5/day", Spend(5_000_000_000, "day")),
        (values.spend, "5 USD/day", Spend(5_000_000_000, "day")),
        (values.spend, "$0.1/month", Spend(100_000_000, "month")),
        (values.spend, "$0.000000001/total", Spend(1, "total")),
        (values.spend, "$2k/month", Spend(2_000_000_000_000, "month")),
        (values.spend, "$9007199/total", Spend(9_007_199_000_000_000, "total")),
        (values.spend, "$0/day", Spend(0, "day")),
        (values.dollars, 5, 5_000_000_000),
        (values.dollars, Decimal("0.15"), 150_000_000),
        (values.dollars, "$2.50", 2_500_000_000),
        (values.duration, "500ms", 0.5),
        (values.duration, "400d", 400 * 86400.0),
        (values.timeout, "off", values.NEVER_S),
        (values.timeout, False, values.NEVER_S),
        (values.timeout, "10m", 600.0),
        (values.span, "0.5s..8s", (0.5, 8.0)),
        (values.span, "5s", (5.0, 5.0)),
        (values.size, "64MB", 64_000_000),
        (values.size, "1MiB", 1 << 20),
        (values.parts_per_million, "12%", 120_000),
        (values.share, "50%", 0.5),
        (values.fraction, Decimal("0.7"), 0.7),
        (values.weight, 95, 95.0),
        (values.flag, True, True),
        (values.flag, "off", False),
        (values.date, "2027-03-01", "2027-03-01"),
        (values.zone, "Europe/Berlin", "Europe/Berlin"),
        (values.reference, "env:OPENAI_API_KEY", values.Ref("env", "OPENAI_API_KEY")),
        (values.reference, "file:/run/secrets/a b", values.Ref("file", "/run/secrets/a b")),
        (values.text_or_reference, "plain", "plain"),
        (values.text_or_reference, "env:X", values.Ref("env", "X")),
    ],
)
def test_a_value_means_what_the_language_says(read, said, meant):
    assert read(said) == meant


@pytest.mark.parametrize(
    ("read", "said", "says"),
    [
        (values.count, -1, "from 0"),
        (values.count, True, "whole number"),
        (values.count, "ten", "whole number"),
        (values.count, "1.0001k", "whole number"),
        (values.count, 10**16, "10^15"),
        (values.positive, 0, "at least 1"),
        (values.rate, "10", "period"),
        (values.rate, 10, "period"),
        (values.rate, "10/sec", "per min, hour or day"),
        (values.rate, "10/month", "per min, hour or day"),
        (values.rate, "$5/day", "money is `spend`"),
        (values.rate, "-5/min", "whole number"),
        (values.spend, 5, "currency"),
        (values.spend, "5/day", "currency"),
        (values.spend, "€5/day", "currency"),
        (values.spend, "$-5/day", "not negative"),
        (values.spend, "$5", "period"),
        (values.spend, "$5/hour", "day, month or total"),
        (values.spend, "$9007200/day", "$9,007,199"),
        (values.spend, "$0.0000000001/day", "9 decimals"),
        (values.spend, "$1e400/day", "currency"),
        (values.dollars, True, "per million"),
        (values.dollars, Decimal("-1"), "$0"),
        (values.dollars, "5 EUR", "per million"),
        (values.duration, 5, "unit"),
        (values.duration, "5", "unit"),
        (values.duration, "5 parsecs", "unit"),
        (values.duration, "9999d", "three years"),
        (values.timeout, "0s", "more than 0s"),
        (values.span, "8s..1s", "smaller"),
        (values.span, 3, "unit"),
        (values.size, 64, "unit"),
        (values.size, "0B", "at least 1B"),
        (values.size, "1.5B", "whole number of bytes"),
        (values.share, "0.2", "percentage"),
        (values.share, "101%", "0% to 100%"),
        (values.fraction, 2, "0 to 1"),
        (values.weight, -1, "0 or more"),
        (values.flag, values.Trap("yes"), "true or false, not yes"),
        (values.flag, "true", "true or false"),
        (values.date, "2027-02-30", "2027-03-01"),
        (values.date, "tomorrow", "2027-03-01"),
        (values.zone, "Mars/Olympus", "IANA"),
        (values.reference, "my-password", "env:NAME"),
        (values.reference, "env:1X", "env:NAME"),
        (values.reference, "file:", "env:NAME"),
        (values.reference, None, "env:NAME"),
        (values.text, values.Trap("no"), "quotes"),
        (values.text, 5, "quotes"),
        (values.text, "a\nb", "control"),
        (values.text, "", "1 to 1,000"),
        (values.text, " a", "blanks"),
    ],
)
def test_a_wrong_value_is_refused_with_the_fix(read, said, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        read(said)


@given(st.integers(0, values.MAX_DOLLARS - 1), st.integers(0, 999_999_999))
def test_money_is_exact_to_the_nano_dollar(whole, nano):
    assert values.spend(f"${whole}.{nano:09d}/day").nanousd == whole * 10**9 + nano


@given(st.text(max_size=30))
def test_no_text_breaks_a_reader(said):
    for read in (
        values.count,
        values.rate,
        values.spend,
        values.duration,
        values.span,
        values.size,
        values.share,
        values.reference,
        values.zone,
    ):
        try:
            read(said)
        except ValueError as error:
            assert len(said) < 8 or said not in str(error)
