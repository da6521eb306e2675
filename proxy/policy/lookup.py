"""What of a long policy could concern a call, found by names and not by trying all of it. Decides nothing: the tests of `match` do."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Generic, TypeVar

from proxy.policy.match import Matcher, covering, models
from proxy.policy.plan import Facts

T = TypeVar("T")

_NAMES: Mapping[str, Callable[[Facts], Collection[str | None]]] = {  # of `match.INDEXED`
    "caller": lambda facts: (facts.caller.name,),
    "key": lambda facts: (facts.caller.key,),
    "team": lambda facts: (facts.caller.team,),
    "tier": lambda facts: (facts.caller.tier,),
    "model": lambda facts: () if facts.model is None else covering(facts.model),
}


class Index(Generic[T]):
    """Entries in the order they were added, found by the exact names that their matchers ask for."""

    def __init__(self) -> None:
        self._entries: list[T] = []
        self._unnamed: list[int] = []
        self._always: list[T] = []
        self._named: dict[str, dict[str | None, list[int]]] = {}

    def __iter__(self) -> Iterator[T]:
        return iter(self._entries)

    def add(self, matcher: Matcher, entry: T) -> None:
        number = len(self._entries)
        self._entries.append(entry)
        if matcher.only is None:
            self._unnamed.append(number)
            self._always.append(entry)
            return
        key, names = matcher.only
        for name in names:
            self._named.setdefault(key, {}).setdefault(name, []).append(number)

    def candidates(self, facts: Facts) -> Collection[T]:
        """Those that could match, each once."""
        numbers: list[int] = []
        for key, table in self._named.items():
            for name in _NAMES[key](facts):
                numbers += table.get(name, ())
        if not numbers:
            return self._always
        return [self._entries[number] for number in sorted({*numbers, *self._unnamed})]


class Table(Generic[T]):
    """What a policy says by model: exact names first, then those that cover it, in their order."""

    def __init__(self, said: Mapping[str, T]) -> None:
        self._said = said
        self._order = {name: number for number, name in enumerate(said)}
        self._globs = [(self._order[name], models((name,)), value) for name, value in said.items() if "*" in name]

    def __bool__(self) -> bool:
        return bool(self._said)

    def of(self, provider: str, model: str) -> T | None:
        found = self._said.get(f"{provider}/{model}") or self._said.get(model)
        if found or not self._said:
            return found
        names = [name for one in covering(model) for name in (one, f"{provider}/{one}") if name in self._order]
        first = min(names, key=self._order.__getitem__, default=None)
        for number, test, value in self._globs:
            if first is not None and self._order[first] < number:
                break
            if test(provider, model):
                return value
        return None if first is None else self._said[first]
