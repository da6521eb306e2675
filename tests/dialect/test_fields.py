"""The accessors of unknown JSON, and the matcher of surface patterns against a second reading of the same grammar."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.dialect.fields import at, merged, texts_at

KEYS = st.sampled_from(["a", "b", "text"])
DOCS = st.recursive(
    st.text(max_size=3) | st.integers() | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)
PATTERNS = st.lists(st.lists(KEYS | st.sampled_from(["*", "**"]), min_size=1, max_size=4).map(".".join), max_size=3)


@given(doc=DOCS, patterns=PATTERNS)
def test_the_matcher_reaches_what_the_grammar_says(doc, patterns, reached):
    found = texts_at(tuple(patterns), doc)
    assert {at(doc, *path) for path, _ in found} == reached(patterns, doc)
    assert len({path for path, _ in found}) == len(found)


def test_a_pattern_may_say_that_a_string_is_json():
    assert texts_at(("a.*!json", "b"), {"a": ["{}"], "b": "x"}, ("root",)) == ((("root", "a", 0), True), (("root", "b"), False))


def test_a_document_of_any_depth_is_survived():
    deep: object = "x"
    for _ in range(5000):
        deep = {"a": deep}
    assert texts_at(("**",), deep) == ()
    assert set(merged({"a": {}}, deep)) == {"a"}


def test_the_last_figure_wins_and_null_takes_nothing_back():
    assert merged({"a": 1, "b": {"c": 1, "d": 2}}, {"a": 2, "b": {"c": None, "d": 3}, "e": None}) == {"a": 2, "b": {"c": 1, "d": 3}}


def test_a_path_that_leads_nowhere_is_none():
    assert at({"a": [1]}, "a", 5) is None
    assert at({"a": 1}, "a", "b") is None
    assert at([{"a": 1}], 0, "a") == 1
