"""Where calls are counted: what those of one sort have in common, and what is its callers' own. Decides no label."""

from __future__ import annotations

from proxy.exchange import Usage
from proxy.record.series import OTHER, Cell, Labels, Series, Spread

BEYOND: Labels = ("",) * 5  # no series has these labels: where there is no room for one more, they read `other` throughout


class Cells:
    """What one caller's calls of one sort are counted in. A series is made when something is first counted in it."""

    __slots__ = (
        "_how", "_series", "_where", "cache_write", "cached_input", "cost", "input", "output", "reasoning", "requests", "usual",
    )  # fmt: skip

    def __init__(self, series: dict[str, Series], where: Labels, how: Labels = ()) -> None:
        """`where`: provider, model, caller, team, tier; `how`: operation, end, status, asked for by `requests` alone."""
        self._series, self._where, self._how = series, where, how
        self.requests: Cell | None = None
        self.cost: Cell | None = None
        self.input: Cell | None = None
        self.cached_input: Cell | None = None
        self.cache_write: Cell | None = None
        self.output: Cell | None = None
        self.reasoning: Cell | None = None
        self.usual: tuple[Cell, Cell, Cell, Cell] | None = None  # requests, cost, input, output, once there are all of them

    @property
    def who(self) -> Labels:
        """Caller, team, tier."""
        return self._where[2:]

    def of(self, name: str) -> Cell:
        """The cell of that name, made now."""
        if name == "requests":
            cell = self._series["requests_total"].cell(self._where + self._how)
        elif name == "cost":
            cell = self._series["cost_usd_total"].cell(self._where)
        else:
            cell = self._series["tokens_total"].cell((*self._where, name))
        setattr(self, name, cell)
        if self.requests and self.cost and self.input and self.output:
            self.usual = self.requests, self.cost, self.input, self.output
        return cell

    def count(self, usage: Usage, nanousd: int, is_read_back: bool) -> None:
        """What an attempt has used; of a read-back its money alone."""
        if nanousd:
            (self.cost or self.of("cost"))[0] += nanousd
        if is_read_back:
            return
        if usage.input:
            (self.input or self.of("input"))[0] += usage.input
        if usage.cached_input:
            (self.cached_input or self.of("cached_input"))[0] += usage.cached_input
        if usage.cache_write:
            (self.cache_write or self.of("cache_write"))[0] += usage.cache_write
        if usage.output:
            (self.output or self.of("output"))[0] += usage.output
        if usage.reasoning:
            (self.reasoning or self.of("reasoning"))[0] += usage.reasoning


class Sort:
    """What calls that differ in their caller alone have in common; `callers`: the cells of those at hand, by name."""

    __slots__ = ("_group", "_how", "_series", "_target", "_waits", "callers", "durations", "nobody", "overheads", "strangers")

    def __init__(self, series: dict[str, Series], target: Labels, group: Labels, how: Labels) -> None:
        """`target`: provider and model; `group`: team and tier; `how`: operation, end, status."""
        self._series, self._target, self._group, self._how = series, target, group, how
        self.callers: dict[str, Cells] = {}
        self.nobody, self.strangers = self.of(""), self.of(OTHER)
        self.durations, self.overheads = self._times("request_duration_seconds"), self._times("overhead_seconds")
        self._waits: Spread | None = None

    def of(self, caller: str) -> Cells:
        """The cells of a caller, as its name shows."""
        return Cells(self._series, (*self._target, caller, *self._group), self._how)

    def waits(self) -> Spread:
        """Made when it is first asked for."""
        if self._waits is None:
            self._waits = self._times("first_byte_seconds")
        return self._waits

    def sort_in(self) -> None:
        self.durations.sort_in()
        self.overheads.sort_in()
        waits = self._series["first_byte_seconds"].cells.get((self._target[0], self._how[0]))  # also those of other sorts
        if isinstance(waits, Spread):
            waits.sort_in()

    def _times(self, name: str) -> Spread:
        cell = self._series[name].cell((self._target[0], self._how[0]))
        assert isinstance(cell, Spread)
        return cell


class Left:
    """How callers stood on the same terms: rows (`Standings.row`) that wait to be looked at, all at once for a part of the price."""

    __slots__ = ("_cells", "rows")

    def __init__(self, cells: list[tuple[Cell, int, int]]) -> None:
        """Of each term, where the least share that was left is kept, what it is a share of, and where a row has what was left."""
        self._cells = cells
        self.rows: list[list[int]] = []

    def sort_in(self) -> None:
        if not self.rows:
            return
        figures = list(zip(*self.rows, strict=True))
        for cell, allowed, at in self._cells:
            cell[0] = min(cell[0], max(0, min(figures[at])) / allowed if allowed else 0.0)
        self.rows.clear()
