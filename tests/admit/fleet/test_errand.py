"""What is done beside the calls: again and again, at once when it is hurried, and no longer once it is stopped."""

import asyncio

from support.fleet import until

from proxy.admit.fleet.errand import Errand

NEVER_S = 3600.0


async def test_an_errand_is_done_at_once_and_again_and_again():
    done = []

    async def once():
        done.append(1)

    errand = Errand("test", 0.01, once)
    errand.start()
    await until(lambda: len(done) >= 3)
    await errand.stop()
    before = len(done)
    await asyncio.sleep(0.05)
    assert len(done) == before


async def test_a_hurry_is_never_lost_not_even_one_that_comes_while_it_is_done():
    gate, begun = asyncio.Event(), []

    async def once():
        begun.append(1)
        await gate.wait()

    errand = Errand("test", NEVER_S, once)
    errand.start()
    await until(lambda: len(begun) == 1)
    errand.hurry()
    errand.hurry()
    gate.set()
    await until(lambda: len(begun) == 2)
    await asyncio.sleep(0.05)
    assert len(begun) == 2, "two hurries are one"
    errand.hurry()
    await until(lambda: len(begun) == 3)
    await errand.stop()


async def test_a_stop_breaks_off_what_is_being_done_and_may_come_twice_or_before_the_start():
    ends = []

    async def once():
        try:
            await asyncio.sleep(NEVER_S)
        finally:
            ends.append("broken off")

    errand = Errand("test", NEVER_S, once)
    await errand.stop()
    errand.start()
    await asyncio.sleep(0.01)
    await errand.stop()
    await errand.stop()
    assert ends == ["broken off"]
