"""`match:` compiled once into closures over `Facts`. Parses nothing per call and reads no policy key but match, per and allow."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from proxy.exchange import Allow
from proxy.policy.plan import Facts, Target

if TYPE_CHECKING:
    from proxy.policy.model_match import Match

Test = Callable[[Facts], bool]
Names = Callable[[str], bool]
Models = Callable[[str, str], bool]  # (provider, model)

# The forms of a dated snapshot: -2024-08-06, -20250929, -0613, -08-2024, -05-20, @20250514, @2025-05-14; and -latest.
SNAPSHOT = re.compile(r"-latest|@latest|[-@]\d{4}-\d\d-\d\d|[-@]\d{8}|-\d{4}|-\d\d-\d{4}|-\d\d-\d\d")
INDEXED = ("caller", "key", "team", "tier", "model")  # what limits are looked up by, the most telling first


def glob(pattern: str) -> Names:
    """`*` stands for any characters; all else for itself, case and all. Linear in the name."""
    head, *middle = pattern.split("*")
    if not middle:
        return pattern.__eq__
    tail = middle.pop()
    if not middle and not tail:
        return lambda name: name.startswith(head)

    def test(name: str) -> bool:
        at, end = len(head), len(name) - len(tail)
        if at > end or not name.startswith(head) or not name.endswith(tail):
            return False
        for piece in middle:
            if (found := name.find(piece, at, end)) < 0:
                return False
            at = found + len(piece)
        return True

    return test


def names(patterns: Iterable[str]) -> Names:
    """Any of several globs."""
    patterns = tuple(patterns)
    exact = frozenset(pattern for pattern in patterns if "*" not in pattern)
    globs = tuple(glob(pattern) for pattern in patterns if "*" in pattern)
    if not globs:
        return exact.__contains__
    return lambda name: name in exact or any(test(name) for test in globs)


def covers(pattern: str) -> Names:
    """A name covers the model, its dated snapshots and -latest; a glob covers what it spells."""
    if "*" in pattern:
        return glob(pattern)
    start = len(pattern)
    return lambda model: model == pattern or (model.startswith(pattern) and SNAPSHOT.fullmatch(model, start) is not None)


def covering(model: str) -> set[str]:
    """The names that cover this model: its own, and what is left without a snapshot's tail."""
    return {model, *(model[:at] for at, char in enumerate(model) if char in "-@" and SNAPSHOT.fullmatch(model, at))}


def models(patterns: Iterable[str]) -> Models:
    """Any of several; `provider/model` asks for both (or for a model that is itself spelt with a slash)."""
    patterns = tuple(patterns)
    bare = tuple(covers(pattern) for pattern in patterns)
    parted = [pattern.partition("/") for pattern in patterns if "/" in pattern]
    targets = tuple((glob(provider), covers(model)) for provider, _, model in parted)

    def test(provider: str, model: str) -> bool:
        return any(cover(model) for cover in bare) or any(here(provider) and cover(model) for here, cover in targets)

    return test


@dataclass(frozen=True, slots=True)
class Matcher:
    """`reads`: which facts it asks for, by the keys of `match`. `only`: a key and the exact names it must have, to index by."""

    test: Test
    reads: frozenset[str]
    only: tuple[str, frozenset[str]] | None = None


def compile_match(match: Match) -> Matcher:
    """All keys must hold; `not` must not."""
    asked = match.fields_asked
    tests = [_test(key, patterns) for key, patterns in asked.items()]
    reads = set(asked)
    if match.not_ is not None:
        inner = compile_match(match.not_)
        reads |= inner.reads
        tests.append(lambda facts, test=inner.test: not test(facts))  # type: ignore[misc]  # mypy cannot type a default in a lambda
    exact = (key for key in INDEXED if key in asked and not any("*" in one or "/" in one for one in asked[key]))
    only = next(((key, frozenset(asked[key])) for key in exact), None)
    return Matcher(_all(tests), frozenset(reads), only)


def _all(tests: list[Test]) -> Test:
    if not tests:
        return lambda facts: True
    if len(tests) == 1:
        return tests[0]
    every = tuple(tests)
    return lambda facts: all(test(facts) for test in every)


def _test(key: str, patterns: tuple[str, ...]) -> Test:
    if key == "model":
        has_model = models(patterns)
        return lambda facts: facts.model is not None and has_model(facts.provider, facts.model)
    if key == "ip":
        return _addresses(patterns)
    test = names(patterns)
    if key.startswith("claim:"):
        claim = key[6:]
        return lambda facts: any(test(value) for value in claim_values(facts.caller.claims, claim))
    read = fact(key)
    return lambda facts: (value := read(facts)) is not None and test(value)


def fact(key: str) -> Callable[[Facts], str | None]:
    """The getter of one thing that a limit may be counted per."""
    if key.startswith("header:"):
        header = key[7:].lower()
        return lambda facts: facts.headers.get(header)
    if key.startswith("claim:"):
        claim = key[6:]
        return lambda facts: ",".join(claim_values(facts.caller.claims, claim)) or None
    return FACTS[key]


FACTS: Mapping[str, Callable[[Facts], str | None]] = {
    "caller": lambda facts: facts.caller.name,
    "key": lambda facts: facts.caller.key or None,
    "team": lambda facts: facts.caller.team,
    "tier": lambda facts: facts.caller.tier,
    "provider": lambda facts: facts.provider,
    "model": lambda facts: facts.model,
    "operation": lambda facts: facts.operation,
    "method": lambda facts: facts.method,
    "path": lambda facts: facts.path,
    "ip": lambda facts: facts.ip,
    "end_user": lambda facts: facts.end_user,
}


def claim_values(claims: Mapping[str, object], name: str) -> list[str]:
    """A claim as texts: a list gives its items, true and numbers their JSON form."""
    value = claims.get(name)
    items = value if isinstance(value, list | tuple) else [value]
    return [str(item).lower() if isinstance(item, bool) else str(item) for item in items if isinstance(item, str | int | float)]


def _addresses(patterns: tuple[str, ...]) -> Test:
    literal = names(pattern for pattern in patterns if "*" in pattern or pattern == "unix")
    networks = tuple(ipaddress.ip_network(one, strict=False) for one in patterns if "*" not in one and one != "unix")

    def test(facts: Facts) -> bool:
        if literal(facts.ip):
            return True
        try:
            address = ipaddress.ip_address(facts.ip)
        except ValueError:
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in networks)

    return test


class Allowed:
    """One `allow:` compiled."""

    __slots__ = ("_models", "_providers", "_regions", "_tiers")

    def __init__(self, allow: Allow) -> None:
        self._models = None if allow.models is None else models(allow.models)
        self._providers, self._regions, self._tiers = (
            None if patterns is None else names(patterns) for patterns in (allow.providers, allow.regions, allow.tiers)
        )

    def denies(self, target: Target, operation: str, tier: str | None, *, is_billed: bool = True) -> str | None:
        """What of this target is not allowed: model, provider, region, tier; None if nothing.

        Where models are restricted, who does not say which model is to work gets none; a path that we do not know needs none.
        """
        provider = target.provider
        if self._providers is not None and not self._providers(provider.name):
            return "provider"
        if self._regions is not None and not (provider.region is not None and self._regions(provider.region)):
            return "region"
        if self._tiers is not None and not (tier is not None and self._tiers(tier)):
            return "tier"
        if self._models is None or (target.model is None and (not is_billed or operation == "other")):
            return None
        return None if target.model is not None and self._models(provider.name, target.model) else "model"

    def lists(self, model: str) -> bool:
        """May this model be seen in a list of models?"""
        return self._models is None or self._models("", model)


@lru_cache(maxsize=4096)
def allowed(allow: Allow) -> Allowed:
    """Compiled once per distinct `allow:`; those of keys minted into the state come at run time."""
    return Allowed(allow)
