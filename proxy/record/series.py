"""The series of a metric: where each is counted, by labels, and their text for Prometheus. The event loop's alone; decides no label."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from math import inf, isfinite

from proxy.record.figures import PREFIX, Figure

OTHER = "other"
SLICE = 150  # lines that are made without a pause: well below a millisecond
MOST_WAITING = 256  # seconds of a histogram that are sorted into their buckets at once

Labels = tuple[str, ...]
Cell = list[float]  # where a series is counted: of a counter or gauge, its value alone (ints stay exact)
Reading = Callable[[Cell], Sequence[float]]  # the numbers that the lines of a series show


class Spread(Cell):
    """The cell of a histogram: seconds that wait to be sorted into buckets, all at once for a tenth of the price."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def sort_in(self) -> None:
        ordered = sorted(self)
        if ordered and ordered[0] < 0.0:  # what is left of a time is no less than nothing
            self[:] = [max(0.0, it) for it in self]
            ordered = sorted(self)
        self._sum = sum(self, self._sum)
        done = 0
        for number, bound in enumerate(self._bounds):
            upto = bisect_right(ordered, bound, done)
            self._counts[number] += upto - done
            done = upto
        self._counts[-1] += len(ordered) - done
        self.clear()

    def numbers(self) -> list[float]:
        """How many were no greater than each bound, how many there were, their sum."""
        self.sort_in()
        below = list(accumulate(self._counts))
        return [*below, below[-1], self._sum]


class Series:
    """`most`: series that have labels of their own; beyond it all labels read `other`. `empty` and `read`: of cells that are not plain."""

    __slots__ = ("_empty", "_forms", "_most", "_order", "_read", "cells", "figure", "head")

    def __init__(self, figure: Figure, most: int, empty: Cell | None = None, read: Reading | None = None) -> None:
        self.figure, self._most = figure, most
        self._empty, self._read = empty or [0], read or list
        self._order = sorted(range(len(figure.labels)), key=figure.labels.__getitem__)
        self._forms = _forms(figure)
        help_ = figure.help.replace("\\", r"\\").replace("\n", r"\n")
        self.head = f"# HELP {PREFIX}{figure.name} {help_}\n# TYPE {PREFIX}{figure.name} {figure.type}\n"
        self.cells: dict[Labels, Cell] = {}
        if not figure.labels:
            self.cell(())

    def cell(self, labels: Labels) -> Cell:
        """Where these labels are counted; made when first asked for."""
        found = self.cells.get(labels)
        if found is None:
            if len(self.cells) >= self._most:
                labels = (OTHER,) * len(labels)
            fresh = Spread(self.figure.buckets) if self.figure.buckets else self._empty.copy()
            found = self.cells.setdefault(labels, fresh)
        return found

    @property
    def is_full(self) -> bool:
        """No labels get a series of their own any more."""
        return len(self.cells) >= self._most

    def add(self, labels: Labels, amount: int = 1) -> None:
        self.cell(labels)[0] += amount

    def set(self, labels: Labels, value: float) -> None:
        self.cell(labels)[0] = value

    def lines(self, labels: Labels) -> list[str]:
        values = tuple([_escaped(labels[at]) for at in self._order])
        cell = self.cells[labels]
        numbers = cell.numbers() if isinstance(cell, Spread) else self._read(cell)
        return [f"{form % values} {number_text(it)}\n" for form, it in zip(self._forms, numbers, strict=True)]


def text_of(every: Iterable[Series]) -> Iterator[bytes]:
    """In slices (format 0.0.4). What is counted between two of them may or may not show; the lines of one series are of one instant."""
    lines: list[str] = []
    for series in every:
        lines.append(series.head)
        for labels in list(series.cells):
            lines += series.lines(labels)
            if len(lines) >= SLICE:
                yield "".join(lines).encode()
                lines.clear()
    yield "".join(lines).encode()


def number_text(value: float) -> str:
    """As Go writes it, which Prometheus' own libraries do: an exponent from a million on."""
    value = float(value)
    if not isfinite(value):
        return {inf: "+Inf", -inf: "-Inf"}.get(value, "NaN")
    text = repr(value)
    dot = text.find(".")
    if value <= 0 or dot <= 6:
        return text
    return f"{text[0]}.{text[1:dot]}{text[dot + 1 :]}".rstrip("0.") + f"e+{dot - 1:02d}"


def _forms(figure: Figure) -> list[str]:
    """Each line of a series but for its number, with a %s for each label, labels in the order of their names."""
    name = PREFIX + figure.name
    plain = {label: "%s" for label in figure.labels}
    if not figure.buckets:
        return [name + _braced(plain)]
    bounds = [*map(str, figure.buckets), "+Inf"]
    buckets = [f"{name}_bucket{_braced(plain | {'le': bound})}" for bound in bounds]
    return [*buckets, f"{name}_count{_braced(plain)}", f"{name}_sum{_braced(plain)}"]


def _braced(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{name}="{labels[name]}"' for name in sorted(labels)) + "}" if labels else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
