from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.tree import MAX_BYTES, read_tree
from proxy.policy.values import Trap


def flaws(text):
    return [message for *_, message in read_tree(text.encode()).flaws]


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("", None),
        ("# only a comment\n", None),
        ("---\n", None),
        ("a: 1", {"a": 1}),
        ("a: 1_000", {"a": 1000}),
        ("a: 1e3", {"a": 1000}),
        ("a: 0.10", {"a": Decimal("0.10")}),
        ("a: -5", {"a": -5}),
        ("a: 0x1F", {"a": "0x1F"}),
        ("a: 2027-03-01", {"a": "2027-03-01"}),
        ("a: 2025-04-01-preview", {"a": "2025-04-01-preview"}),
        ("a: 127.0.0.1:8080", {"a": "127.0.0.1:8080"}),
        ("a: true", {"a": True}),
        ("a: '012'", {"a": "012"}),
        ("a: ~\nb: null\nc:", {}),
        ("a: [1, two]", {"a": (1, "two")}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_yaml_is_read_by_the_core_rules_of_1_2(text, data):
    tree = read_tree(text.encode())
    assert (tree.data, tree.flaws) == (data, [])


def test_off_is_text_that_only_a_feature_may_take():
    assert isinstance(read_tree(b"retry: off").data["retry"], Trap)
    assert not isinstance(read_tree(b"retry: 'off'").data["retry"], Trap)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: &x 1\nb: *x", "anchors and aliases"),  # Y1
        ("a: &a [*a]", "anchors and aliases"),  # Y2
        ("a: 1\na: 2", "duplicate key, first on line 1"),  # Y3
        ("no: 1", "put it in quotes"),  # Y5
        ("true: 1", "put it in quotes"),
        ("a: 012", "leading zero"),  # Y6
        ("a: 12:30:45", "base-60"),
        ("a: 1:30", "base-60"),
        ("a: .inf", "not-a-number"),  # Y7
        ("a: -.INF", "not-a-number"),
        ("a: .nan", "not-a-number"),
        ("a: !!python/object:os.system x", "tags"),  # Y9
        ("a: !!binary aGk=", "tags"),
        ("a: !!set {x}", "tags"),
        ("a: !!timestamp 2020-01-01", "tags"),
        ("!!map\na: 1", "tags"),
        ("a: 1\n---\nb: 2", "one YAML document"),  # Y10
        ("a:\n\tb: 1", "spaces"),
        ("a: \x00", "control character"),
        ("a: [", "not YAML"),
        ("? [a]\n: 1", "a key is plain text"),
        ("? {a: 1}\n: 1", "a key is plain text"),
        ("<<: {a: 1}", "merge keys"),
        ("a: sk-proj-abcdefghijkl", "inline secret"),  # Y13
        ("a: 'Bearer slk-abcdefghijkl'", "inline secret"),
        ("a: redis://user:hunter2@host/0", "inline secret"),
        ("a: " + "[" * 60 + "]" * 60, "levels deep"),
    ],
)
def test_a_trap_is_refused(text, says):
    assert any(says in flaw for flaw in flaws(text)), flaws(text)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_only_utf_8_is_read(encoding):
    assert "UTF-8" in read_tree("a: 1".encode(encoding)).flaws[0][-1]  # Y16


def test_bytes_that_are_no_utf_8_are_refused():
    assert "byte 3 is not" in read_tree(b"a: \xff").flaws[0][-1]


def test_a_file_above_one_mebibyte_is_not_parsed():
    tree = read_tree(b"a: 1\n" + b"#" * MAX_BYTES)
    assert tree.data is None and "1 MiB" in tree.flaws[0][-1]  # Y12


def test_no_template_language_is_expanded():
    assert read_tree(b"${HOME}: ${USER}").data == {"${HOME}": "${USER}"}  # Y14


def test_all_traps_of_a_file_come_out_at_once_with_their_places():
    tree = read_tree(b"a: 012\nb: {c: .inf}\na: 1\n")
    assert [(line, col, path) for line, col, path, _ in tree.flaws] == [(1, 4, ("a",)), (2, 8, ("b", "c")), (3, 1, ("a",))]


def test_a_place_is_that_of_the_nearest_thing_known():
    tree = read_tree(b"a:\n  - b: 1\n")
    assert tree.at(("a", 0, "b")) == (2, 8)
    assert tree.at(("a", 0, "b"), key=True) == (2, 5)
    assert tree.at(("a", 0, "missing")) == (2, 5)
    assert tree.at(("zzz",)) == (1, 1)


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(raw):
    tree = read_tree(raw)
    assert tree.data is not None or tree.data is None
    assert all(line >= 1 and col >= 1 for line, col, *_ in tree.flaws)
