"""A share is spent once: through Redis in full, without it by what a call cost in the end; and a restart spends no more than was left."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.fleet.shares import USED_S, Key, Shares, is_denied, localised
from proxy.policy.plan import Claim, Limit, OnStateDown, Rate, Spend

KEY = Key("team finance", "team=finance", "2026-11")


def told(nanousd, *, live=4, at=100.0):
    shares = Shares()
    shares.asks()
    shares.told({KEY: nanousd}, live, at)
    return shares


def test_every_hold_uses_the_share_up_in_full_and_nobody_elses():
    shares = told(1000)
    shares.spent([KEY], 400)
    shares.spent([Key("team sales", "team=sales", "2026-11")], 400)
    assert shares.left(KEY, 101.0) == 600


def test_what_is_held_while_the_question_is_on_its_way_counts_against_the_answer():
    shares = told(1000)
    shares.asks()
    shares.spent([KEY], 300)
    shares.told({KEY: 900}, 4, 101.0)
    assert shares.left(KEY, 101.0) == 600


def test_what_surely_was_not_taken_comes_back_once_and_only_to_the_share_it_was_taken_from():
    shares = told(1000)
    mark = shares.spent([KEY], 300)
    shares.came_back([KEY], 300, mark)
    assert shares.left(KEY, 101.0) == 1000
    mark = shares.spent([KEY], 300)
    shares.asks()
    shares.told({KEY: 700}, 4, 101.0)  # by one who knew whether it was taken
    shares.came_back([KEY], 300, mark)
    assert shares.left(KEY, 101.0) == 700


def test_a_share_that_is_told_no_more_is_none_and_the_others_hear_so_soon():
    shares = told(1000)
    shares.asks()
    assert shares.told({KEY: 0}, 4, 101.0), "given back"
    assert shares.left(KEY, 101.0) == 0
    shares.asks()
    assert not shares.told({}, 4, 102.0)


def test_nobody_spends_a_share_that_may_have_been_freed_meanwhile():
    shares = told(1000, at=100.0)
    assert shares.left(KEY, 100.0 + USED_S - 1) == 1000
    assert shares.left(KEY, 100.0 + USED_S) == 0
    assert not shares.is_known(100.0 + USED_S)


@given(st.lists(st.tuples(st.sampled_from(["told", "hold", "back"]), st.integers(0, 1000)), max_size=40))
def test_what_the_file_says_is_never_more_than_what_is_left(steps):
    shares, marks, file = told(1000), [], b""
    file = shares.written(0, 100.0)
    for what, amount in steps:
        if what == "told":
            shares.asks()
            shares.told({KEY: amount}, 4, 100.0)
        elif what == "hold":
            marks.append((amount, shares.spent([KEY], amount)))
        elif marks:
            nanousd, mark = marks.pop()
            shares.came_back([KEY], nanousd, mark)
        if shares.is_overstated:
            file = shares.written(0, 100.0)
        assert Shares.read(file, 0, 100.0).left(KEY, 100.0) <= shares.left(KEY, 100.0)


def test_a_restart_knows_what_was_left_how_many_there_are_and_until_when():
    shares = told(1000, at=100.0)
    again = Shares.read(shares.written(5_000_000_000, 110.0), 65_000_000_000, 3.0)  # 60 s later, by another clock
    assert (again.left(KEY, 3.0), again.live) == (900, 4)
    assert abs(again.until - (3.0 + USED_S - 70)) < 0.001
    assert not again.is_overstated


def test_a_damaged_old_or_future_file_is_no_share():
    shares = told(1000)
    for data, wall in (
        (b"", 0),
        (b"{}", 0),
        (b"[1]", 0),
        (b'{"live":1,"until":"x","left":[]}', 0),
        (b'{"live":1,"until":9,"left":[[1]]}', 0),
    ):
        assert not Shares.read(data, wall, 0.0).is_known(0.0)
    data = shares.written(10**18, 100.0)
    assert not Shares.read(data, 10**18 + int(USED_S * 1e9), 0.0).is_known(0.0)
    assert not Shares.read(data, 10**18 - 10**9, 0.0).is_known(0.0), "the clock was put back"


LIMIT = Limit("l", ("total",), (Rate(10, 60),), (Rate(1000, 60),), (Spend(50, "day"),), 2)
CLAIM = Claim(LIMIT, "total")


def test_rates_are_divided_and_never_to_nothing():
    part = localised(CLAIM, OnStateDown(), 4).limit
    assert (part.requests[0].count, part.tokens[0].count, part.concurrency, part.spend) == (2, 250, 1, LIMIT.spend)
    assert localised(Claim(Limit("none", ("total",), requests=(Rate(0, 60),)), "total"), OnStateDown(), 4).limit.requests[0].count == 0


def test_allow_counts_all_the_same():
    part = localised(CLAIM, OnStateDown("allow", "allow"), 4).limit
    assert part.spend[0].period == "day" and part.spend[0].nanousd == part.requests[0].count == part.concurrency == 2**53


def test_deny_and_the_want_of_a_share_refuse_what_they_are_about():
    money, rates = Claim(Limit("m", ("total",), spend=(Spend(50, "day"),)), "total"), Claim(Limit("r", ("total",), concurrency=2), "total")
    assert [is_denied([it], OnStateDown("deny", "local"), has_share=True) for it in (money, rates)] == [True, False]
    assert [is_denied([it], OnStateDown("local", "deny"), has_share=True) for it in (money, rates)] == [False, True]
    assert [is_denied([it], OnStateDown("local", "local"), has_share=False) for it in (money, rates)] == [True, True]
    assert not is_denied([money, rates], OnStateDown("allow", "allow"), has_share=False)
