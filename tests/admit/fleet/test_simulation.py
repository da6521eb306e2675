"""The simulation behind docs/fleet.md agrees with the theory of queues where there is one."""

import pytest

from tests.bench.queueing import Costs, most_calls, simulate

HOLDS_ONLY = Costs(take=100.0, send=0.0, op=0.0, beat=0.0, poll=0.0)
AT_ONCE = (0.0, 0.0)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_holds_alone_wait_as_pollaczek_and_khinchine_say_of_a_queue_with_constant_service(load):
    service_ms = HOLDS_ONLY.take / 1e3
    found = simulate(HOLDS_ONLY, load * 1e6 / HOLDS_ONLY.take, sidecars=10, seconds=25, rtt=AT_ONCE, call_s=0.01)
    assert found.utilisation == pytest.approx(load, rel=0.02)
    assert found.mean_wait == pytest.approx(load * service_ms / (2 * (1 - load)), rel=0.06)


def test_a_second_kind_of_work_counts_by_its_square_as_the_theory_says():
    """M/G/1: heartbeats of very many processes come as if at random, and cost ten holds each."""
    beats, calls = 400, 3000
    costs = Costs(take=100.0, send=0.0, op=0.0, beat=1000.0, poll=0.0)
    found = simulate(costs, calls, sidecars=beats, seconds=40, rtt=AT_ONCE, call_s=0.01)
    busy = calls * 100e-6 + beats * 1000e-6
    expected_ms = 1e3 * (calls * 100e-6**2 + beats * 1000e-6**2) / (2 * (1 - busy))
    assert found.utilisation == pytest.approx(busy, rel=0.02)
    assert found.mean_wait == pytest.approx(expected_ms, rel=0.15)  # beats of one phase each are less bunched than random ones


def test_every_hold_is_followed_by_its_two_closes_in_as_few_batches_as_there_are_sidecars_to_send_them():
    costs = Costs(take=50.0, send=50.0, op=5.0, beat=0.0, poll=0.0)
    few, many = (simulate(costs, 2000, sidecars=number, seconds=5) for number in (4, 1000))
    for found in (few, many):
        assert found.batches * found.ops == pytest.approx(4000, rel=0.05)
    assert few.batches < 1000 < many.batches


def test_one_node_carries_less_when_its_scripts_cost_more():
    cheap = Costs(take=250.0, send=250.0, op=25.0, beat=40.0, poll=10.0)
    dear = Costs(take=500.0, send=500.0, op=50.0, beat=80.0, poll=20.0)
    assert 0 < most_calls(dear, 20.0, sidecars=100) < 0.6 * most_calls(cheap, 20.0, sidecars=100)
