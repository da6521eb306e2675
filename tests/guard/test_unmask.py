"""Placeholders come back wherever a text is cut, and nothing is held longer than a placeholder."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.guard.unmask import Pieces, Swap, quoted
from proxy.guard.vault import MAX_DIGITS, Vault


@pytest.fixture(scope="module")
def vault():
    vault = Vault()
    for entity, value in (("email", "bob@x.org"), ("email", "jürgen@x.org"), ("credit_card", "4111 1111 1111 1111")):
        vault.placeholder(entity, value)
    return vault


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("to [EMAIL_1].", "to bob@x.org."),
        ("[EMAIL_1][EMAIL_2]", "bob@x.orgjürgen@x.org"),
        (r"\[EMAIL_1\]", "bob@x.org"),
        (r"\\[CREDIT_CARD_1\\]", "4111 1111 1111 1111"),
        (r"C:\[EMAIL_1]", r"C:\bob@x.org"),
        (
            "[EMAIL_3] [EMAIL_10] [PHONE_1] [email_1] EMAIL_1 [EMAIL_1 [[EMAIL_1]]",
            "[EMAIL_3] [EMAIL_10] [PHONE_1] [email_1] EMAIL_1 [EMAIL_1 [bob@x.org]",
        ),
        ("", ""),
    ],
)
def test_exact_placeholders_are_swapped_and_nothing_else(vault, text, swapped):
    assert Swap(vault).swapped(text) == swapped


def test_in_json_source_a_value_is_quoted():
    vault = Vault()
    vault.placeholder("email", 'a"b\\c@x.org')
    source = Swap(vault).swapped('{"to":"[EMAIL_1]"}', is_json=True)
    assert json.loads(source) == {"to": 'a"b\\c@x.org'}
    assert quoted('"\n') == '\\"\\n'


PARTS = st.sampled_from(
    [
        "[EMAIL_1]",
        "[EMAIL_2]",
        "[CREDIT_CARD_1]",
        "[EMAIL_3]",
        r"\[EMAIL_1\]",
        r"\\[EMAIL_1\\]",
        "[EMA",
        "[",
        "]",
        "\\",
        "_",
        "1",
        "E",
        "é",
        "😀",
        " text ",
        "[C",
    ]
)


@given(st.lists(PARTS, max_size=10).map("".join), st.data())
def test_any_cut_gives_the_same_text_as_no_cut(vault, text, data):
    swap = Swap(vault)
    pieces = Pieces(swap, is_json=False)
    edges = [0, *sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8))), len(text)]
    said = ""
    for begin, end in pairwise(edges):
        said += pieces.feed(text[begin:end])
        assert len(pieces.held) <= len("[CREDIT_CARD_]") + MAX_DIGITS + 4
    assert said + pieces.end() == swap.swapped(text)
    assert pieces.held == ""


@pytest.mark.parametrize(
    ("text", "held"),
    [
        ("a [EMAIL_1", "[EMAIL_1"),
        ("a [", "["),
        ("a \\", "\\"),
        ("a [X", ""),
        ("[EMAIL_x", ""),
        ("[EMAIL_12345678", ""),
        ("a [EMAIL_1]", ""),
        ("[table", ""),
    ],
)
def test_only_what_may_become_a_placeholder_is_held(vault, text, held):
    pieces = Pieces(Swap(vault), is_json=False)
    pieces.feed(text)
    assert pieces.held == held


def test_placeholders_of_other_kinds_are_told_apart(vault):
    other = Vault()
    other.placeholder("phone", "+1 415-555-0132")
    text = "[EMAIL_1] [PHONE_1]"
    assert (Swap(vault).swapped(text), Swap(other).swapped(text)) == ("bob@x.org [PHONE_1]", "[EMAIL_1] +1 415-555-0132")
