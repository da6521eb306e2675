import asyncio
import time

from proxy.listen.watchdog import Watchdog


class Hands:
    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now


def test_a_delay_above_a_quarter_of_a_second_is_reported():
    seen = []
    dog = Watchdog(seen.append, Hands().monotonic)
    dog.saw(0.2)
    dog.saw(0.3)
    assert seen == [0.3]


def test_readiness_goes_after_five_seconds_and_liveness_after_thirty_and_both_come_back():
    hands = Hands()
    dog = Watchdog(lambda lag: None, hands.monotonic)
    assert dog.is_ready and dog.is_live
    dog.saw(6.0)
    assert (dog.is_ready, dog.is_live, dog.lag_s) == (False, True, 6.0)
    dog.saw(0.0)
    assert not dog.is_ready
    dog.saw(31.0)
    assert not dog.is_live
    hands.now += 10.1
    assert dog.is_ready and dog.is_live
    dog.saw(0.0)
    assert dog.lag_s == 0.0


async def test_a_blocked_loop_is_seen_even_while_it_is_blocked():
    seen = []
    dog = Watchdog(seen.append, time.monotonic)
    dog.start()
    time.sleep(0.4)  # noqa: ASYNC251 — blocking the loop is the point
    assert dog.lag_s >= 0.25
    await asyncio.sleep(0.01)
    dog.stop()
    dog.stop()
    assert len(seen) == 1 and seen[0] >= 0.25
