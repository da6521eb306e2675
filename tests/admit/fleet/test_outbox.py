"""Whatever is lost on the way, Redis hears every operation once and in order; and when it is trusted is no matter of luck."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.admit.fleet.mode import BLINK_S, MOST_SLOW, Health, Mode
from proxy.admit.fleet.outbox import LEAP, MOST, Outbox


@given(st.lists(st.tuples(st.integers(0, 200), st.sampled_from(["arrives", "is lost", "reply is lost"])), max_size=30))
def test_every_operation_arrives_once_and_in_order_whatever_is_lost(steps):
    outbox, heard, stored, number = Outbox(), [], 0, 0
    for puts, luck in [*steps, *[(0, "arrives")] * 200]:
        for _ in range(puts):
            outbox.put(number)
            number += 1
        seq, ops = outbox.batch()
        assert len(ops) <= MOST
        if luck != "is lost" and seq > stored:
            heard, stored = heard + list(ops), seq
        if luck == "arrives":
            outbox.is_acked(seq)
    assert heard == list(range(number)) and outbox.is_empty and len(outbox) == 0


def test_a_new_process_leaves_room_for_what_of_the_old_one_is_still_on_its_way():
    outbox = Outbox()
    outbox.begin_after(41)
    assert outbox.batch()[0] > 41 + LEAP - 1


def shared():
    return Health(Mode.SHARED)


def test_one_failure_ends_the_trust_and_two_quick_answers_and_a_full_report_bring_it_back():
    health = shared().failed(100.0, "timeout")
    assert (health.mode, health.why, health.since) == (Mode.LOCAL, "timeout", 100.0)
    health = health.answered(101.0, 0.001)
    assert health.caught_up().mode is Mode.LOCAL
    health = health.answered(101.1, 0.001).caught_up()
    assert health.mode is Mode.SHARED


def test_slow_answers_are_no_good_ones():
    health = shared()
    for turn in range(MOST_SLOW):
        assert health.is_shared, turn
        health = health.answered(100.0, 0.09)
    assert health.mode is Mode.LOCAL
    assert not health.answered(101.0, 0.001).answered(102.0, 0.09).caught_up().is_shared
    assert shared().answered(1.0, 0.09).answered(1.0, 0.09).answered(1.0, 0.001).answered(1.0, 0.09).is_shared, "not in a row"


def test_a_state_that_forgot_is_recovering_until_it_is_told():
    health = shared().forgot(100.0)
    assert health.mode is Mode.RECOVERING
    assert health.failed(101.0, "refused").mode is Mode.LOCAL
    assert health.answered(101.0, 0.001).answered(101.1, 0.001).caught_up().is_shared


def test_a_dead_server_is_asked_ever_less_and_only_a_fresh_failure_is_waited_for():
    health = shared().failed(100.0, "refused")
    waits = []
    for _ in range(5):
        waits.append(health.probe_after_s())
        health = health.failed(101.0, "refused")
    assert waits == sorted(waits) and waits[-1] == 0.5
    assert health.is_blink(100.0 + BLINK_S / 2) and not health.is_blink(100.0 + BLINK_S)
