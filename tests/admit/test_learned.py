"""Tokens a model takes of its bound: learned from settled calls, kept over a restart, bounded, and harmless to others."""

import random
from dataclasses import replace

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admit import EmbeddedState
from proxy.admit.learned import CLASSES, EACH, ENOUGH, FLOOR, MODELS, OFTEN, RECENT, Learned, Spread
from proxy.admit.lessons import FILE, Lessons
from proxy.exchange import Usage

MODEL = ("openai", "gpt-4o")


def used(input=0, output=0):
    return Usage(input=input, output=output, source="provider", ended=True)


def taught(times=ENOUGH, sent=4000, tokens=1000, output=0, answers=None, name=MODEL):
    learned = Learned()
    for _ in range(times):
        learned.saw(name, 0, sent, used(tokens, output), answers)
    return learned


def test_it_starts_at_a_token_a_byte_and_believes_calls_when_there_are_enough():
    assert Learned().of(MODEL).like(0, 4000).tokens(4000) == 4000
    assert taught(ENOUGH - 1).of(MODEL).like(0, 4000).tokens(4000) == 4000
    assert 1000 <= taught().of(MODEL).like(0, 4000).tokens(4000) <= 1050
    assert 1100 <= taught().of(MODEL).like(0, 4400).tokens(4400) <= 1155  # it is a share, not a number


def test_calls_of_another_kind_or_size_or_model_or_provider_are_not_shrunk_by_these():
    learned = taught()
    assert learned.of(MODEL).like(1, 4000).tokens(4000) == 4000
    assert learned.of(MODEL).like(0, 400_000).tokens(400_000) == 400_000
    assert learned.of(("openai", "other")).like(0, 4000).tokens(4000) == learned.of(("azure", "gpt-4o")).like(0, 4000).tokens(4000) == 4000


def test_a_call_that_read_more_than_it_sent_is_learned_as_well():
    assert taught(sent=300, tokens=30_000).of(MODEL).like(0, 300).tokens(300) >= 30_000


def test_answers_start_at_the_default_and_become_the_95th_percentile_never_above_the_models_own_most():
    learned = Learned()
    assert learned.of(MODEL).output_tokens(4096, None) == 4096 and learned.of(MODEL).output_tokens(4096, 1000) == 1000
    lengths = [10 * n for n in range(1, 101)]
    random.Random(1).shuffle(lengths)
    for length in lengths:
        learned.saw(MODEL, 0, 10, used(1, 2 * length), 2)  # two answers of that length
    assert 950 <= learned.of(MODEL).output_tokens(4096, None) <= 1000
    assert learned.of(MODEL).output_tokens(4096, 800) == 800
    learned.saw(MODEL, 0, 10, used(1, 10**9), None)  # max_tokens was named: it says nothing of the others
    assert learned.of(MODEL).output_tokens(4096, None) <= 1000


def test_the_tier_that_calls_get_which_name_none_is_what_the_last_reply_to_one_stated():
    learned = Learned()
    for said, is_tierless, known in (("priority", False, None), ("flex", True, "flex"), ("default", False, "flex"), (None, True, None)):
        learned.saw(MODEL, 0, 4000, replace(used(1000), tier=said), None, is_tierless)
        assert learned.of(MODEL).tier == known
    assert learned.of(("openai", "other")).tier is None


def test_longer_answers_than_the_default_are_learned_too():
    assert taught(output=9000, answers=1).of(MODEL).output_tokens(4096, None) >= 9000


def test_who_pads_his_calls_shrinks_what_others_are_held_for_no_further_than_the_floor():
    learned = taught(10 * RECENT, sent=1_000_000, tokens=1)
    assert learned.of(MODEL).like(0, 1_000_000).tokens(1_000_000) == 1_000_000 * FLOOR


def test_what_changes_is_learned_anew():
    learned = taught(RECENT)
    for _ in range(RECENT):
        learned.saw(MODEL, 0, 4000, used(2000), None)
    assert learned.of(MODEL).like(0, 4000).tokens(4000) >= 2000
    for _ in range(20 * RECENT):
        learned.saw(MODEL, 0, 4000, used(500), None)
    assert learned.of(MODEL).like(0, 4000).tokens(4000) <= 525


def test_names_from_outside_are_bounded_and_the_forgotten_start_safely():
    learned = taught()
    for number in range(MODELS + 5):
        learned.saw(("openai", f"made-up-{number}"), 0, 10, used(1), None)
    assert len(learned.as_json()) == MODELS
    assert learned.of(MODEL).like(0, 4000).tokens(4000) == 4000


def test_what_is_forgotten_says_so_to_whoever_kept_it():
    learned = Learned()
    assert learned.of(MODEL).is_forgotten  # nothing is known yet: what will be is another's
    learned.saw(MODEL, 0, 10, used(1), None)
    kept = learned.of(MODEL)
    for number in range(MODELS):
        assert not kept.is_forgotten and learned.of(MODEL) is kept
        learned.saw(("openai", f"made-up-{number}"), 0, 10, used(1), None)
    assert kept.is_forgotten and learned.of(MODEL) is not kept
    learned.saw(MODEL, 0, 10, used(1), None)
    assert not learned.of(MODEL).is_forgotten and kept.is_forgotten


def test_kinds_and_sizes_of_one_model_are_bounded():
    learned = Learned()
    for number in range(10 * CLASSES):
        learned.saw(MODEL, number % 8, 4**(number // 8), used(1), None)  # fmt: skip
    assert len(learned._models[MODEL].inputs) <= CLASSES


@given(st.lists(st.floats(0.001, 1000), min_size=ENOUGH, max_size=400))
def test_no_more_than_five_in_a_hundred_were_above_what_is_told(values):
    spread = Spread()
    for value in values:
        spread.add(value)
    told = spread.quantile
    assert sum(value > told * (1 + 1e-9) for value in values) <= len(values) * 5 // 100
    assert told <= max(values) * 2 ** (1 / 16) * (1 + 1e-9)


def test_of_a_loop_of_calls_that_is_well_known_each_turn_goes_on_being_learned():
    spread = Spread()
    for number in range(RECENT + 20 * 4 * EACH):
        spread.add(2.0 ** (number % 4))
    assert len(spread.counts) == 4
    assert all(abs(count / spread.total - 1 / 4) < 0.05 for count in spread.counts.values())


def test_what_is_well_known_fades_as_fast_by_calls_as_what_is_not():
    spread = Spread()
    for _ in range(RECENT):
        spread.add(1000.0)
    for calls in range(RECENT):  # noqa: B007 - how many it took
        spread.add(2000.0)
        if spread.quantile >= 2000:
            break
    assert calls < RECENT // 10
    assert abs(spread.total - (RECENT + calls + 1)) < EACH


def lessons(path):
    written = []

    def later(work):
        written.append(work)
        work(None)

    return Lessons(path, later), written


def test_it_is_kept_in_the_state_as_it_goes_and_at_the_end(tmp_path):
    first, written = lessons(tmp_path)
    for _ in range(OFTEN):
        first.saw(MODEL, 0, 4000, used(1000, 50), 1)
    assert len(written) == 1  # killed now, it knows all of them
    again, _ = lessons(tmp_path)
    assert again.of(MODEL).like(0, 4000).tokens(4000) == first.of(MODEL).like(0, 4000).tokens(4000) < 1100
    assert again.of(MODEL).output_tokens(4096, None) == first.of(MODEL).output_tokens(4096, None) < 60
    for _ in range(ENOUGH):
        again.saw(("openai", "new"), 0, 4000, replace(used(1000), tier="priority" * 100), None, True)
    again.keep()
    assert (lessons(tmp_path)[0].of(("openai", "new")).tier or "").startswith("priority")
    assert (again.of(MODEL).tier, again.of(("openai", "never heard of")).tier) == (None, None)
    assert (tmp_path / FILE).stat().st_size < 4000
    assert lessons(tmp_path)[0].of(("openai", "new")).like(0, 4000).tokens(4000) < 1100
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_without_a_directory_nothing_is_kept_and_all_else_works():
    memory, written = lessons(None)
    for _ in range(2 * OFTEN):
        memory.saw(MODEL, 0, 4000, used(1000), None)
    memory.keep()
    assert not written and memory.of(MODEL).like(0, 4000).tokens(4000) < 1100


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b'{"version":1,"models":[]}', b'{"version":2,"models":[["a"]]}',
     b'{"version":2,"models":[["a","b",[[0,0,[[1,-5]]]],[],null]]}',
     b'{"version":2,"models":[["a","b",[],[[99999999,1]],null]]}'],
)  # fmt: skip
def test_a_damaged_file_teaches_nothing_and_stops_no_start(tmp_path, text):
    (tmp_path / FILE).write_bytes(text)
    one, _ = lessons(tmp_path)
    assert one.of(MODEL).like(0, 4000).tokens(4000) == 4000
    one.saw(MODEL, 0, 4000, used(1000), None)
    one.keep()
    assert orjson.loads((tmp_path / FILE).read_bytes())["version"] == 2


def test_a_directory_that_cannot_be_written_costs_the_lessons_alone(tmp_path):
    one, _ = lessons(tmp_path / "gone")
    one.saw(MODEL, 0, 4000, used(1000), None)
    one.keep()


async def test_the_state_remembers_over_a_restart(tmp_path, clock):
    async def opened():
        return await EmbeddedState.open(tmp_path / "state", clock=clock, time_zone="UTC", max_keys=10)

    state = await opened()
    for _ in range(ENOUGH):
        state.lessons.saw(MODEL, 0, 4000, used(1000), None)
    await state.close()
    again = await opened()
    assert again.lessons.of(MODEL).like(0, 4000).tokens(4000) < 1100
    await again.close()
