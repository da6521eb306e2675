"""How commands print: tables on a terminal, aligned text elsewhere. Never lets a name drive the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

Cell = str | int | Sequence[str]  # a sequence is one line each
GAP = "  "


def fail(message: str, code: int = 1) -> int:
    """The one line of a command that cannot go on, and its exit code."""
    print(f"sluice: {printable(message)}", file=sys.stderr)
    return code


def hint(message: str) -> None:
    """What a person wants to know and a pipe does not."""
    print(f"sluice: {printable(message)}", file=sys.stderr)


def printable(text: object) -> str:
    """Names come from callers and files: whatever is no printable character becomes "?"."""
    return "".join(char if char.isprintable() else "?" for char in str(text))


def section(title: str, sentences: Iterable[str]) -> None:
    """A heading and its sentences, one a line; nothing where there are none."""
    lines = [f"  {printable(sentence)}" for sentence in sentences]
    if lines:
        print("\n".join(["", title, *lines]))


def table(titles: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """Integers stand right, everything else left."""
    right = [bool(rows) and all(isinstance(row[at], int) for row in rows) for at in range(len(titles))]
    cells = [[_lines(cell) for cell in row] for row in rows]
    if sys.stdout.isatty():
        _drawn(titles, cells, right)
    else:
        print("\n".join(aligned(titles, cells, right)))


def aligned(titles: Sequence[str], rows: Sequence[Sequence[list[str]]], right: Sequence[bool]) -> list[str]:
    """Plain lines, each column as wide as its widest cell."""
    widths = [max(len(line) for row in rows for line in (title, *row[at])) if rows else len(title) for at, title in enumerate(titles)]
    out = [_row([[title] for title in titles], widths, right), [GAP.join("-" * width for width in widths)]]
    out += [_row(row, widths, right) for row in rows]
    return [line for lines in out for line in lines]


def _row(cells: Sequence[list[str]], widths: Sequence[int], right: Sequence[bool]) -> list[str]:
    height = max(len(lines) for lines in cells)
    return [
        GAP.join(
            (text.rjust if is_right else text.ljust)(width)
            for lines, width, is_right in zip(cells, widths, right, strict=True)
            for text in (lines[at] if at < len(lines) else "",)
        ).rstrip()
        for at in range(height)
    ]


def _lines(cell: Cell) -> list[str]:
    if isinstance(cell, int):
        return [f"{cell:,}"]
    return [printable(cell)] if isinstance(cell, str) else [printable(line) for line in cell] or ["-"]


def _drawn(titles: Sequence[str], rows: Sequence[Sequence[list[str]]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(show_lines=any(len(lines) > 1 for row in rows for lines in row))
    for title, is_right in zip(titles, right, strict=True):
        drawn.add_column(title, justify="right" if is_right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text("\n".join(lines)) for lines in row))
    Console().print(drawn)
