"""Rules that never act: they set nothing, or an earlier rule names all they set for all their calls. Evaluates no call."""

from __future__ import annotations

from collections.abc import Iterator

from proxy.policy.exceptions import named
from proxy.policy.model_match import Match
from proxy.policy.model_rules import Rule
from proxy.policy.problems import Path


def idle_rules(rules: tuple[Rule, ...]) -> Iterator[tuple[Path, str]]:
    """Finds what surely never acts; a rule hidden by several earlier ones together counts if each match covers its own."""
    for index, rule in enumerate(rules):
        settings = set(named(rule))
        if not settings:
            if not (rule.model_fields_set - {"match"}):
                yield ("rules", index), "sets nothing: name allow, send_to, guard, retry, timeouts, fallback or at_limit"
            continue
        hidden: set[str] = set()
        for earlier in rules[:index]:
            if is_within(rule.match, earlier.match):
                hidden |= set(named(earlier))
        if settings <= hidden:
            yield ("rules", index), "never acts: earlier rules match the same calls and set the same; put the more special rule first"


def is_within(narrow: Match, wide: Match) -> bool:
    """Surely every call of `narrow` is one of `wide`: each key of `wide` stands in `narrow` with no more patterns."""
    asked = narrow.fields_asked
    if any(key not in asked or not set(asked[key]) <= set(patterns) for key, patterns in wide.fields_asked.items()):
        return False
    return wide.not_ is None or wide.not_ == narrow.not_
