"""How commands print: aligned, and never driven by what they print."""

from __future__ import annotations

from proxy.cli.terminal import fail, printable, section, table


def test_columns_are_as_wide_as_their_widest_line_and_numbers_stand_right(capsys):
    table(("who", "calls", "limits"), [("ada", 12, ("tier a", "team b")), ("bob-the-long", 1200, "none")])
    assert capsys.readouterr().out.splitlines() == [
        "who           calls  limits",
        "------------  -----  ------",
        "ada              12  tier a",
        "                     team b",
        "bob-the-long  1,200  none",
    ]


def test_a_table_without_rows_is_its_titles(capsys):
    table(("who", "calls"), [])
    assert capsys.readouterr().out == "who  calls\n---  -----\n"


def test_names_cannot_drive_the_terminal(capsys):
    hostile = "a\x1b[2Jb\r\n\u202ec\x07[bold]d"
    assert printable(hostile) == "a?[2Jb???c?[bold]d"
    table(("who",), [(hostile,)])
    section("title", [hostile])
    code = fail(hostile)
    said = capsys.readouterr()
    assert said.out == f"who\n{'-' * 18}\na?[2Jb???c?[bold]d\n\ntitle\n  a?[2Jb???c?[bold]d\n"
    assert (code, said.err) == (1, "sluice: a?[2Jb???c?[bold]d\n")


def test_a_section_without_sentences_is_not_there(capsys):
    section("title", [])
    assert capsys.readouterr().out == ""
