"""The counts of a usage object: the quick way and the thorough one read the same, whatever a provider writes."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect import anthropic, cohere, gemini_usage, openai_usage
from proxy.dialect.figures import ABSURD, finished
from proxy.exchange import Usage

FORMATS = [openai_usage.FIGURES, anthropic.FIGURES, cohere.FIGURES, gemini_usage.FIGURES]
NAMES = sorted({part for figures in FORMATS for names in figures._names.values() for name in names for part in name.split(".")})
COUNTS = st.none() | st.integers(-2, 9) | st.sampled_from([ABSURD, ABSURD + 1, 2**53, True, 3.0, 1.5, "4", [1]])
KEYS = st.sampled_from([*NAMES, "else", "prompt_tokens_details.cached_tokens", ""])
OBJECTS = st.dictionaries(KEYS, COUNTS | st.dictionaries(KEYS, COUNTS | st.dictionaries(KEYS, COUNTS, max_size=3), max_size=4), max_size=6)


@given(st.sampled_from(FORMATS), OBJECTS)
def test_what_is_read_is_what_a_thorough_look_finds(figures, raw):
    assert figures.read(raw) == figures._chosen(raw)


def test_of_several_names_the_first_that_holds_a_count_is_the_figure():
    read = openai_usage.FIGURES.read
    assert read({"input_tokens": 5, "prompt_tokens": 7}) == ({"input": 7}, False)
    assert read({"input_tokens": 5, "prompt_tokens": "7"}) == ({"input": 5}, True)
    assert read({"prompt_tokens_details.cached_tokens": 5, "prompt_tokens_details": {"cached_tokens_details": 5}}) == ({}, False)


def test_a_share_beyond_its_whole_is_cut_and_noted():
    usage = finished(Usage(input=5, cached_input=4, cache_write=3, cache_write_1h=2), False)
    assert (usage.cached_input, usage.cache_write, usage.cache_write_1h, usage.note) == (4, 1, 1, "usage_odd")
    plain = Usage(input=5, cached_input=4)
    assert finished(plain, False) is plain
