"""How rows leave Sluice: instants in words, CSV that every reader takes and no spreadsheet runs."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record.rows import csv_text, shown_row

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)


def read(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline=""), strict=True))


def test_a_row_shows_its_instant_in_words_and_no_internal_id():
    assert shown_row({"id": "slu-1/1", "at": 1_790_000_000_123_456_789, "caller": "bot"}) == {
        "at": "2026-09-21T14:13:20.123Z",
        "caller": "bot",
    }
    assert shown_row({"at": "already"}) == {"at": "already"}


def test_csv_has_a_header_crlf_and_quotes_where_needed():
    rows = [{"a": "x, y", "b": None, "c": 10**14 + 1, "d": True, "e": {"k": [1, "v"]}, "f": 1.5, "g": 'say "hi"\n', "h": "not asked for"}]
    assert csv_text("abcdefg", rows) == (
        'a,b,c,d,e,f,g\r\n"x, y",,100000000000001,true,"{""k"":[1,""v""]}",1.5,"say ""hi""\n"\r\n'
    )  # fmt: skip
    assert csv_text("ab", [], has_header=False) == ""


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", '=HYPERLINK("http://evil.example")'])
def test_a_text_that_a_spreadsheet_would_run_is_quoted(text):
    assert read(csv_text(["a", "b"], [{"a": text, "b": -1}])) == [["a", "b"], ["'" + text, "-1"]]


@given(st.lists(st.fixed_dictionaries({"a": TEXTS, "b": TEXTS}), max_size=5))
def test_every_text_is_read_back_as_it_was_but_for_formulas(rows):
    for row, (a, b) in zip(rows, read(csv_text("ab", rows))[1:], strict=True):
        for told, was in ((a, row["a"]), (b, row["b"])):
            assert told in (was.replace("\0", ""), "'" + was.replace("\0", "")) and not told.startswith(("=", "+", "-", "@", "\t", "\r"))
