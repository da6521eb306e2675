"""The counts of a usage object: the quick way and the thorough one read the same, whatever a provider writes."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect import anthropic, cohere, dialect_of, gemini_usage, openai_usage
from proxy.dialect.figures import ABSURD, finished
from proxy.exchange import Usage

FORMATS = [openai_usage.FIGURES, anthropic.FIGURES, cohere.FIGURES, gemini_usage.FIGURES]
NAMES = sorted({part for figures in FORMATS for names in figures._names.values() for name in names for part in name.split(".")})
COUNTS = st.none() | st.integers(-2, 9) | st.sampled_from([ABSURD, ABSURD + 1, 2**53, True, 3.0, 1.5, "4", [1]])
KEYS = st.sampled_from([*NAMES, "else", "prompt_tokens_details.cached_tokens", ""])
COUNT = st.sampled_from([0, 3, None, False, True, "", 0.0, -1, ABSURD + 1, {}])
DETAILS = st.none() | st.just(5) | st.dictionaries(st.sampled_from(["cached_tokens", "audio_tokens", "accepted_prediction_tokens"]), COUNT)
USUAL = st.fixed_dictionaries(
    {
        "prompt_tokens": st.just(3) | COUNT, "completion_tokens": st.just(3) | COUNT,
        "total_tokens": st.just(6) | st.sampled_from([3, True, None]),
    },
    optional={
        "prompt_tokens_details": DETAILS, "completion_tokens_details": DETAILS, "input_tokens": COUNT, "cost": st.just(0.5),
        "queue_time": st.just(0.1),
    },
)  # fmt: skip
MORE = st.fixed_dictionaries(
    {"model": st.sampled_from(["m", "m", "", 5, "gpt-5-search-api"])},
    optional={"service_tier": st.sampled_from(["flex", 7, ""]), "output": st.just([]), "status": st.just("queued")},
)
OBJECTS = st.dictionaries(KEYS, COUNTS | st.dictionaries(KEYS, COUNTS | st.dictionaries(KEYS, COUNTS, max_size=3), max_size=4), max_size=6)


@given(st.sampled_from(FORMATS), OBJECTS)
def test_what_is_read_is_what_a_thorough_look_finds(figures, raw):
    assert figures.read(raw) == figures._chosen(raw)


@given(USUAL, MORE)
def test_a_usual_usage_is_read_as_a_thorough_look_reads_it(usage, more):
    openai, doc = dialect_of("openai"), {"usage": usage, **more}
    op = openai.operation("POST", "/v1/chat/completions", "")
    assert openai.usage(op, doc) == openai_usage.read_usage(op, openai_usage.raw_usage(doc), doc)


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
